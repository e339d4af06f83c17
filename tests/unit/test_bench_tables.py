"""Tables of results: what a page shows of rows, and that the page of this repository shows its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mien.bench import tables
from mien.bench.kernels_ahead import DEVICE, by_kernel
from mien.bench.tables import fill, grid, main, number, table, with_share
from mien.engine.errors import InputError

ABOUT = {"name": "A GPU", "driver": "580.1", "power_limit_w": 700.0}


def row(bench: str, case: dict[str, Any], **figures: Any) -> dict[str, Any]:
    made = {
        "bench": bench,
        "case": case,
        "device": "A GPU",
        "about": ABOUT,
        "versions": {"torch": "2.11"},
        "commit": "abc",
    }
    made |= {"state": {"sm_mhz": 1980.0, "power_w": 650.0, "temperature_c": 60.0}}
    return made | {"peaks": {"matmul_tflops": {"float16": 790.0}, "copy_gb_per_s": 4300.0}, **figures}


def cells(text: str) -> list[list[str]]:
    """Of the table's rows, without its head."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ][2:]


def test_numbers_are_short() -> None:
    assert [number(v) for v in (123456, 12.345, 0.0012345, 100.0, 0, None)] == [
        "123456",
        "12.3",
        "0.00123",
        "100",
        "0",
        "",
    ]
    assert with_share(316.0, 0.4) == "316 (40 %)" and with_share(316.0, None) == "316" and with_share(None, 0.4) == ""
    assert grid(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"


def test_throughput_has_a_column_for_each_number_of_steps() -> None:
    case = {"composition": "replace", "streams": 8, "rows": 8, "frame": "1280x720"}
    rows = [
        row("throughput", {**case, "steps": n, "form": "mien"}, frames_per_s=fps, share_of_matmul=share)
        for n, fps, share in ((1, 310.0, 0.42), (2, 175.0, 0.41))
    ]
    rows.append(
        row(
            "throughput",
            {**case, "composition": "delta", "steps": 2, "form": "mien"},
            frames_per_s=80.0,
            share_of_matmul=0.4,
        )
    )
    text = table("throughput", rows)
    assert cells(text) == [
        ["replace", "1280x720", "8", "8", "310 (42 %)", "175 (41 %)"],
        ["delta", "1280x720", "8", "8", "", "80 (40 %)"],
    ]
    assert "A GPU, 700 W, driver 580.1, torch 2.11, commit abc" in text


def test_peers_say_how_many_times_as_fast_mien_is() -> None:
    rows = [
        row("peers", {"rows": 8, "steps": 2, "form": form}, p50_ms=ms, frames_per_s=8e3 / ms)
        for form, ms in (("mien", 40.0), ("diffusers", 130.0))
    ]
    rows += [row("peers", {"rows": 8, "steps": 2, "form": "streamdiffusion"}, left_out="not installed")]
    assert cells(table("peers", rows)) == [
        ["8", "2", "mien", "200", "", ""],
        ["8", "2", "diffusers", "61.5", "", "3.25"],
    ]


def test_networks_kernels_latency_and_peaks() -> None:
    network = {"network": "unet", "model": "sd15", "rows": 8, "dtype": "float16"}
    rows = [
        row("networks", {**network, "form": form}, p50_ms=ms, tflops=t, share_of_matmul=s)
        for form, ms, t, s in (("torch", 40.0, 160, 0.2), ("graph", 20.0, 320, 0.41))
    ]
    assert cells(table("networks", rows)) == [["unet", "8", "40", "20", "320 (41 %) graph"]]
    attention = {"op": "attention", "shape": "1024 of d80 x 8", "keys": "1024+1024", "rows": 8}
    figures = {
        "p50_ms": 0.05,
        "p95_ms": 0.06,
        "tflops": 400.0,
        "share_of_matmul": 0.5,
        "error": 4e-4,
        "ratio": 1.2,
        "ratio_to": "torch",
    }
    rows = [
        row("kernels", {**attention, "form": "mien"}, **figures),
        row("kernels", {**attention, "form": "torch"}, **figures),
    ]
    assert cells(table("kernels", rows)) == [
        [
            "attention",
            "1024 of d80 x 8 keys 1024+1024 rows 8",
            "0.05",
            "0.06",
            "400 (50 %)",
            "",
            "0.0004",
            "1.20 x torch",
        ]
    ]
    assert cells(table("peaks", rows)) == [["kernels", "790 float16", "4300", "1980 MHz, 650 W, 60 C"]]
    paced = {"streams": 8, "fps": 30.0, "frame": "1280x720", "steps": 2, "composition": "replace", "form": "mien"}
    rows = [row("latency", paced, p50_ms=20.0, p95_ms=30.0, p99_ms=45.0, drops=0, frames=2400, rows_per_batch=3.2)]
    rows[0]["includes"] = "the surface"
    encode = {"encode_p50_ms": 5.0, "encode_p99_ms": 9.0, "encode_cores": 1.25, "encoder": "x264 veryfast crf 23"}
    figures = {"p50_ms": 26.0, "p95_ms": 37.0, "p99_ms": 55.0, "drops": 1, "frames": 2400, "rows_per_batch": 3.2}
    rows.append(row("latency", {**paced, "encode": "x264"}, **figures, **encode, includes="the packet"))
    shown = table("latency", rows)
    assert cells(shown) == [
        ["8", "30.0", "1280x720", "2", "replace", "20", "30", "45", "0 of 2400", "3.2", "", "", "", ""],
        ["8", "30.0", "1280x720", "2", "replace", "26", "37", "55", "1 of 2400", "3.2"]
        + ["x264 veryfast crf 23", "5", "9", "1.25"],
    ]
    assert "; the surface; or the packet.\n" in shown


def test_the_plain_way_has_a_row_for_each_bundle_and_clip() -> None:
    def made(sha: str, clip: str, commit: str, ratio: float) -> dict[str, Any]:
        bundle = {"name": "tiny", "version": "0.7.0", "sha256": sha * 16}
        figures = {"engine_fps": 10 * ratio, "plain_fps": 10.0, "ratio": ratio, "time": "2026-11-21T10:00"}
        whole = {"bench": "plain", "bundle": bundle, "clip": clip, "edits": {"smile": 1.0}, "steps": 1, **figures}
        return {**whole, "device": "A GPU", "commit": commit}

    rows = [made("aaaa", "a.mp4", "1" * 40, 2.0), made("aaaa", "a.mp4", "2" * 40 + "+", 3.0)]
    rows += [made("bbbb", "a.mp4", "2" * 40, 4.0), made("bbbb", "b.mp4", "3" * 40, 5.0)]
    text = table("plain", rows)
    assert [[row[1], row[2], row[5], row[7], row[8]] for row in cells(text)] == [
        ["aaaaaaaa", "a.mp4", "30", "3.00", "2222222222+"],
        ["bbbbbbbb", "a.mp4", "40", "4.00", "2222222222"],
        ["bbbbbbbb", "b.mp4", "50", "5.00", "3333333333"],
    ]
    assert "commit" not in text.splitlines()[0], "they are of several"


def test_a_page_is_filled_between_its_marks() -> None:
    page = "# A\n<!-- table latency -->\nold\n<!-- end -->\ntext\n<!-- table peers -->\n<!-- end -->\n"
    filled = fill(page, [])
    assert "old" not in filled and filled.count("No rows yet; `mien bench latency") == 1 and "\ntext\n" in filled
    assert fill(filled, []) == filled, "again changes nothing"
    with pytest.raises(InputError, match="no table is called 'nothing'"):
        fill("<!-- table nothing -->\n<!-- end -->", [])


def test_the_page_of_this_repository_shows_its_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doc = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
    results = doc.parents[1] / "bench" / "results"
    main(["--check", "--doc", str(doc), "--results", str(results)])
    stale = tmp_path / "page.md"
    stale.write_text(doc.read_text(encoding="utf-8").replace("| tiny 0.4.0 |", "| tiny 0.4 |"), encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["--check", "--doc", str(stale), "--results", str(results)])
    assert ended.value.code == 1
    main(["--doc", str(stale), "--results", str(results)])
    assert stale.read_text(encoding="utf-8") == doc.read_text(encoding="utf-8")
    shown = {found[2] for found in tables.MARKED.finditer(stale.read_text(encoding="utf-8"))}
    assert shown == set(tables.TABLES)


def test_kernels_compiled_ahead_show_the_most_of_their_forms() -> None:
    compiled = [
        {"kernel": "_a_", "capability": 90, "registers": r, "shared_bytes": s, "scratch_bytes": 0, "spill_bytes": p}
        for r, s, p in ((64, 2048, 0), (128, 1024, 24))
    ] + [{"kernel": "_a_", "capability": 80, "registers": 72, "shared_bytes": 0, "scratch_bytes": 0, "spill_bytes": 8}]
    rows = [{**row, "device": DEVICE, "commit": "c"} for row in by_kernel(compiled)]
    assert rows[0]["forms"] == 2 and rows[0]["registers"] == 128 and rows[0]["shared_bytes"] == 2048
    assert "| a | 2 | 72, 0 | 128, 2 | 32 |" in table("ahead", rows)
