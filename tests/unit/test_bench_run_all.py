"""One run on a GPU machine: how time is shared, and that every part's results stay whatever becomes of the others."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from mien.bench import run_all
from mien.bench.run_all import Part, gpu_tests, main, parts, run, share

ROOT = Path(__file__).resolve().parents[2]


def python(code: str) -> object:
    return lambda seconds: ["-c", f"seconds = {seconds}\n{code}"]


def test_what_is_left_is_shared_by_weight() -> None:
    assert share(100.0, [30, 10, 60]) == 30.0 and share(-5.0, [1, 2]) == 0.0
    left, spent = 500.0, []
    for weights in ([5, 3, 2], [3, 2], [2]):
        allowed = share(left, weights)
        spent.append(allowed / 2)  # each takes half of what it may
        left -= spent[-1]
    assert spent[1] > 0.3 * 500 / 2 and spent[2] > 0.2 * 500 / 2, "what is spared goes to the later ones"


def test_parts_run_in_order_and_leave_what_they_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_all, "SHORT_S", 0.2)
    row = {
        "bench": "networks",
        "case": {"network": "unet", "rows": 1, "form": "graph"},
        "failed": "RuntimeError: broke",
        "device": "x",
    }
    chosen = [
        Part(
            "writes",
            1,
            python(f"open({str(tmp_path / 'x.jsonl')!r}, 'w').write({json.dumps(row)!r})\nprint('first words')"),
        ),  # type: ignore[arg-type]
        Part("breaks", 1, python("print('a word'); raise SystemExit(7)")),  # type: ignore[arg-type]
        Part("hangs", 0.1, python("import time\nprint('begun', flush=True)\ntime.sleep(600)")),  # type: ignore[arg-type]
        Part("last", 1, python("import os\nprint('the', os.environ['END'])"), settings={"END": "end"}),  # type: ignore[arg-type]
    ]
    tiles = {"entries": [{"width": 64, "size": "large", "tiles": {"128x64": 1.0, "64x64": 1.25}}]}
    (tmp_path / "attention_tiles.json").write_text(json.dumps(tiles))
    lines: list[str] = []
    ended = run(chosen, tmp_path, 40.0, lines.append)
    assert [(part.name, part.status) for part in ended] == [("writes", 0), ("breaks", 7), ("hangs", None), ("last", 0)]
    assert ended[2].seconds < 20 and ended[2].last_line == "begun" and ended[3].last_line == "the end"
    summary = (tmp_path / "summary.md").read_text()
    assert (
        "| writes | ok |" in summary
        and "| breaks | exit code 7 |" in summary
        and "| hangs | its time was up |" in summary
    )
    assert "- networks: unet 1 graph: RuntimeError: broke" in summary and "a word" in (tmp_path / "log.txt").read_text()
    assert "- 64 large: 128x64 1.000, 64x64 1.250" in summary
    assert run(chosen[:1], tmp_path, 0.0, lines.append)[0].last_line == "not begun"


def test_tests_that_run_out_of_time_tell_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_all, "SHORT_S", 0.2)
    code = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
print("..F.", flush=True)
try:
    time.sleep(600)
except KeyboardInterrupt:
    print("1 failed, 3 passed")
"""
    (ended,) = run([Part("tests", 1, python(code), tells_at_end=True)], tmp_path, 3.0, lambda line: None)  # type: ignore[arg-type]
    assert ended.status is None and ended.last_line == "1 failed, 3 passed", "as pytest does where it is interrupted"


def test_what_was_spent_before_is_taken_off(tmp_path: Path) -> None:
    main([str(tmp_path), "--minutes", "1", "--spent", "55", "--only", "peers"])
    assert "| peers | its time was up | 0 | 5 | not begun |" in (tmp_path / "summary.md").read_text()


def test_every_part_is_a_command_of_a_module_that_exists(tmp_path: Path) -> None:
    made = parts(tmp_path, "cuda", "sd15")
    assert [part.name for part in made] == [
        "tests", "kernels", "networks", "attention tiles", "throughput", "latency", "profile", "peers"
    ]  # fmt: skip
    for part in made:
        words = part.command(60.0)
        assert words[0] == "-m" and (
            words[1] == "pytest" or (ROOT / "bench" / f"{words[1].rpartition('.')[2]}.py").exists()
        )
        assert words[1] != "pytest" or words[words.index("-m", 2) + 1] == "gpu", (
            "what decides that kernels are compiled"
        )


def test_gpu_tests_are_found_and_those_that_need_pyav_only_with_it() -> None:
    found = gpu_tests(ROOT, has_av=True)
    assert "tests/kernels/gpu/test_cross_frame_attention.py" in found and "tests/unit/test_bench_paced.py" not in found
    assert not [name for name in gpu_tests(ROOT, has_av=False) if name.startswith("tests/pipeline/")]


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words, said in ((["--only", "nothing"], "no part is called nothing"), (["--minutes", "0"], "above 0")):
        with pytest.raises(SystemExit) as ended:
            main([str(tmp_path), *words])
        assert ended.value.code == 2 and said in capsys.readouterr().err
    done = subprocess.run(["bash", "scripts/gpu", "trian"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "scripts/gpu [all [OUT]]" in done.stderr
