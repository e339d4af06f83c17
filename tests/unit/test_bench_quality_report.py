"""What `mien bench quality --bundle` makes of its runs: rows, tables and files, against answers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mien.bench.quality import Quality, Series
from mien.bench.quality_report import contact_sheet, write_report
from mien.bench.quality_scores import SCORES
from mien.bench.quality_table import digits, rows_of, tables, text_of, worst_of


def series(clip: str, responses: list[float], held_out: bool = False, flicker: float = 1.0) -> Series:
    out = Series("smile", clip, held_out, strip=picture())
    for strength, response in zip([-1.0, 0.0, 1.0], responses, strict=True):
        figures = {"frames": 5, "response": response, "jaw_r": 0.9, "lips_r": 0.99, "background": 0.1, "outside": 0}
        figures |= {"flicker": flicker * (1 + abs(strength)), "warp_ratio": 1.0, "face_lost": 0, "own_drift": 1e-4}
        figures |= {"leakage": {"cheekPuff": 0.1 * abs(strength), "jawOpen": 0.01}, "drift": dict.fromkeys(
            ("eyes", "brows", "nose", "oval", "mouth"), 0.01)}  # fmt: skip
        out.runs[strength] = figures
    return out


def picture() -> bytes:
    return bytes(cv2.imencode(".jpg", np.zeros((224, 4 * 224, 3), np.uint8))[1].tobytes())


@pytest.fixture
def quality() -> Quality:
    whole = Quality({"smile": SCORES["smile"]}, {"smile": [-1.0, 0.0, 1.0]}, True)
    whole.series = [series("a.mp4", [-0.2, 0, 0.4]), series("b<b.mp4", [0.1, 0, 0.2], flicker=1.2)]
    whole.series.append(series("c.mp4", [0, 0, 0.3], held_out=True))
    whole.skipped = {"empty.mp4": "no face to edit"}
    return whole


def test_a_row_holds_means_and_the_worst_clip(quality: Quality) -> None:
    here, apart = rows_of(quality)
    assert (here["set"], here["clips"], apart["set"], apart["clips"]) == ("at hand", 2, "held out", 1)
    assert here["response"] == pytest.approx({"-1.0": -0.05, "0.0": 0.0, "1.0": 0.3})
    assert here["monotone"] == 0.5 and apart["monotone"] == 1.0
    assert here["spearman"] == pytest.approx((1 + 0.5) / 2)
    leak = {"blendshape": "cheekPuff", "change": pytest.approx(0.1), "clips": 2}
    assert here["leakage"] == {
        "1.0": {**leak, "share": pytest.approx(0.1 / 0.3)},
        "-1.0": {**leak, "share": pytest.approx(0.1 / 0.05)},
    }
    assert here["flicker"] == {"mean": pytest.approx(2.2), "worst": pytest.approx(2.4), "clip": "b<b.mp4", "clips": 2}
    assert worst_of(quality.series[0], "jawOpen r") == 0.9 and here["own-embedder drift"]["mean"] == pytest.approx(1e-4)
    assert text_of([["a", "bb"], ["ccc", "d"]]) == ["a    bb", "ccc  d"]
    assert [digits(v) for v in (None, 0, 0.12345, 12345.6, 1e-5)] == ["-", "0", "0.123", "12346", "1.0e-05"]


def test_leakage_is_of_each_end(quality: Quality) -> None:
    for one in quality.series:
        one.runs[-1.0]["leakage"] = {"cheekPuff": 0.0, "jawOpen": 0.04}
    assert rows_of(quality)[0]["leakage"]["-1.0"] == {
        "blendshape": "jawOpen",
        "change": pytest.approx(0.04),
        "share": pytest.approx(0.04 / 0.05),
        "clips": 2,
    }
    rest = tables(quality)[1][1]
    assert rest[1][2:4] == ["+1: 0.100 cheekPuff  -1: 0.040 jawOpen", "+1: 33 %  -1: 80 %"]
    quality.strengths["smile"] = [0.5, 1.0]
    for one in quality.series:
        one.runs = {0.5: one.runs[1.0], 1.0: one.runs[1.0]}
    assert rows_of(quality)[0]["leakage"].keys() == {"1.0"}, "a range of one side has one end"


def test_figures_say_of_how_many_clips_they_are(quality: Quality) -> None:
    for figures in quality.series[0].runs.values():
        figures["jaw_r"] = None
    head, here = tables(quality)[1][1][:2]
    by = dict(zip(head, here, strict=True))
    assert by["jawOpen r"] == "0.9 (n 1)" and by["flicker"] == "2.2"
    quality.series[0].runs[1.0]["leakage"] = None
    assert "cheekPuff (n 1)" in tables(quality)[1][1][1][2]


def test_a_score_that_goes_the_wrong_way_at_once_does_not_grow(quality: Quality) -> None:
    quality.strengths["smile"] = [0.5, 1.0]
    for one in quality.series:
        one.runs = {s: one.runs[1.0] | {"response": r} for s, r in ((0.5, -2.0), (1.0, -1.0))}
    here = rows_of(quality)[0]
    assert here["monotone"] == 0.0 and here["response"] == {"0.5": -2.0, "1.0": -1.0} and here["spearman"] == -0.5


def test_the_report_is_whole_and_stands_by_itself(quality: Quality, tmp_path: Path) -> None:
    paths = write_report(quality, {"bundle": "tiny 1"}, tmp_path / "out")
    assert [p.name for p in paths] == ["report.html", "report.json", "sheet_smile.png"]
    text = paths[0].read_text()
    assert text.count("data:image/jpeg;base64,") == 3 and "http" not in text and "own-embedder drift" in text
    assert "<td>a.mp4</td>" in text and "b&lt;b.mp4" in text and "b<b" not in text and "c.mp4 (held out)" in text
    assert "skipped empty.mp4: no face to edit" in text
    told = json.loads(paths[1].read_text())
    assert len(told["series"]) == 3 and told["series"][0]["runs"]["1.0"]["response"] == 0.4
    sheet = contact_sheet(quality.series, [-1.0, 0.0, 1.0])
    assert sheet.shape == (26 + 3 * 224, 190 + 4 * 224, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_report_leaves_no_sheet_of_an_earlier_run(quality: Quality, tmp_path: Path) -> None:
    for name in ("sheet_age.png", "sheet_smile.png", "notes.txt"):
        (tmp_path / name).write_text("old")
    write_report(quality, {}, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt", "report.html", "report.json", "sheet_smile.png"]
    assert (tmp_path / "sheet_smile.png").read_bytes() != b"old"


def test_an_interrupt_leaves_nothing(quality: Quality, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mien.bench.quality_report.contact_sheet", stop)
    with pytest.raises(KeyboardInterrupt):
        write_report(quality, {}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
