"""`mien bench quality --bundle`: each figure against an answer worked out by hand, the report's files, and a run without a judge."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from mien.bench.clips import clips_in
from mien.bench.frame_rgb import lab, rgb8_of
from mien.bench.quality import Quality, Series, parse_strengths
from mien.bench.quality_measure import (
    FramePair,
    Place,
    Run,
    background_change,
    changed_outside,
    cosine_distance,
    mean_by_name,
)
from mien.bench.quality_report import contact_sheet, write_report
from mien.bench.quality_scores import (
    ANY,
    SCORES,
    AnyColour,
    Blend,
    Colour,
    Extent,
    score_of,
)
from mien.bench.quality_statistics import correlation, is_monotone, spearman, strengths_of
from mien.bench.quality_table import digits, rows_of, text_of, worst_of
from mien.bench.quality_teacher import Seen, load_judge, luma_of, touching, window_of
from mien.engine.errors import EditError, MediaError, UnavailableError
from mien.engine.types import Array, Frame
from mien.runtime.app import run

ROOT = Path(__file__).resolve().parents[2]
CLIP = ROOT / "examples" / "sample.mp4"


def frame(luma: Array | int, size: int = 32, index: int = 0) -> Frame:
    y = np.full((size, size), luma, np.uint8) if isinstance(luma, int) else luma
    half = np.full((y.shape[0] // 2, y.shape[1] // 2), 128, np.uint8)
    return Frame((y, half, half.copy()), "yuv420p", "bt601", "full", index, index, Fraction(1, 25))


def test_monotone_is_a_rise_without_a_step_back() -> None:
    assert is_monotone([-1, 0, 0, 2]) and not is_monotone([0, 0, 0]) and not is_monotone([2, 1, 0])
    assert not is_monotone([0, 1, 0.99, 2]) and is_monotone([0, 1, 0.99, 2], 0.02), "0.01 back of a rise of 2"
    assert not is_monotone([0, 1, 0.9, 2], 0.02)


def test_rank_correlation_takes_ties_at_their_mean_rank() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 1000]) == pytest.approx(1.0)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    assert spearman([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]) == pytest.approx(0.8)  # 1 - 6 * 4 / (5 * 24)
    assert spearman([1, 2, 3], [1, 1, 2]) == pytest.approx(np.sqrt(3) / 2)  # ranks 0.5, 0.5, 2
    assert spearman([1, 2, 3], [5, 5, 5]) is None


def test_correlation_says_nothing_of_what_does_not_move() -> None:
    assert correlation([0, 1, 2], [1, 3, 5]) == pytest.approx(1.0)
    assert correlation([0, 0.001], [0, 1], least_std=0.01) is None and correlation([1], [1]) is None


def test_strengths_follow_the_range() -> None:
    assert strengths_of(None, -1.0, 1.0) == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert strengths_of(None, -1.0, 0.7) == [-1.0, -0.5, 0.0, 0.35, 0.7]
    assert strengths_of(None, 0.0, 2.0) == [0.4, 0.8, 1.2, 1.6, 2.0]
    assert strengths_of(None, -1.0, 0.0) == [-1.0, -0.8, -0.6, -0.4, -0.2]
    assert strengths_of((-1, 0, 0.5), 0.0, 1.0) == [0.0, 0.5], "no side, no strength"
    assert parse_strengths("-1, 0.5") == (-1.0, 0.5)
    for text in ("much", "1", "0,2", "1,1"):
        with pytest.raises(EditError):
            parse_strengths(text)


def pair(source: Array, result: Array, where: Array | None = None, **blend: tuple[float, float]) -> FramePair:
    mesh = np.zeros((478, 3))
    seen = Seen((0, 0, 4, 4), np.zeros(5), mesh, 0.0, {}, np.ones(source.shape[:2], bool), (slice(4), slice(4)))
    seen.hair, seen.blend = where, {k: v[0] for k, v in blend.items()}
    return FramePair(source, result, seen, mesh.copy(), {k: v[1] for k, v in blend.items()})


BLACK = np.zeros((8, 8, 3), np.uint8)


def test_a_blendshape_score_is_the_change_of_its_means() -> None:
    both = {"mouthSmileLeft": (0.1, 0.5), "mouthSmileRight": (0.3, 0.5)}
    assert SCORES["smile"].change(pair(BLACK, BLACK, **both), 1) == pytest.approx(0.3)
    less = Blend(("eyeWideLeft",), ("eyeBlinkLeft",))
    assert less.change(pair(BLACK, BLACK, eyeWideLeft=(0, 0.2), eyeBlinkLeft=(0.4, 0.1)), 1) == pytest.approx(0.5)
    assert "mouthFrownLeft" in SCORES["smile"].own and "jawOpen" not in SCORES["smile"].own


def test_an_extent_is_width_over_height() -> None:
    both = pair(BLACK, BLACK)
    assert both.seen is not None and both.mesh is not None
    both.seen.mesh[[234, 454, 172, 397, 10, 152], :2] = [[0, 0], [8, 0], [1, 5], [7, 5], [4, 0], [4, 10]]
    both.mesh[:] = both.seen.mesh
    both.mesh[454, 0] = 10  # widths 8 and 6 become 10 and 6 over a height of 10
    assert SCORES["face_width"].change(both, 1) == pytest.approx(0.1)
    assert isinstance(SCORES["face_width"], Extent)


def test_a_colour_score_reads_its_region_only_and_its_direction() -> None:
    source, where = np.full((8, 8, 3), 119, np.uint8), np.zeros((8, 8), bool)
    where[:4] = True
    result = source.copy()
    result[:4], result[4:] = 0, 255  # L of about 50 falls to 0 inside; outside does not count
    light = float(lab(source[0])[0, 0])
    assert Colour("hair", (-1, 0, 0, 0)).change(pair(source, result, where), 1) == pytest.approx(light, abs=1e-3)
    assert Colour("hair", (3, 0, 4, 0)).change(pair(source, result, where), 1) == pytest.approx(-0.6 * light, abs=0.05)
    assert Colour("hair", (-1, 0, 0, 0)).change(pair(source, result, np.zeros((8, 8), bool)), 1) is None
    assert Colour("hair", (-1, 0, 0, 0)).change(pair(source, result), 1) is None, "no teacher, no answer"


def test_an_edit_without_an_entry_gets_the_mean_change_of_what_changed() -> None:
    assert score_of("nobody_knows", judged=True) is ANY and score_of("smile", judged=False) is ANY
    result = BLACK.copy()
    result[0, 0] = 255  # one pixel from black to white: L from 0 to 100
    assert AnyColour().change(FramePair(BLACK, result), -1) == pytest.approx(-100, abs=0.01)
    assert AnyColour().change(FramePair(BLACK, BLACK + 1), 1) == 0.0, "one level is no change"


def test_outside_the_boxes_samples_are_counted_in_all_planes() -> None:
    before, after = frame(100), frame(100)
    after.planes[0][0, 0] = after.planes[0][9, 9] = 7
    after.planes[1][15, 15] = 7
    assert changed_outside(before, after, ((8, 8, 16, 16),)) == 2
    assert changed_outside(before, after, ((0, 0, 32, 32),)) == 0 and changed_outside(before, before, ()) == 0


def test_background_and_distance() -> None:
    result, where = BLACK.copy(), np.zeros((8, 8), bool)
    result[0, :2], where[0, :4] = 6, True
    assert background_change(BLACK, result, where) == 3.0
    assert background_change(BLACK, result, np.zeros((8, 8), bool)) is None
    assert cosine_distance(np.array([1, 0]), np.array([0, 2])) == pytest.approx(1.0)
    assert cosine_distance(np.array([[1, 1]]), np.array([[3, 3]])) == pytest.approx(0.0)
    assert mean_by_name([{"a": 0.1, "b": 0}, {"a": 0.3, "b": 0}]) == pytest.approx({"a": 0.2, "b": 0})


def test_windows_and_their_pictures() -> None:
    grey = frame(np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1)))
    assert window_of((10, 10, 20, 20), grey) == (8, 8, 22, 22) and window_of((0, 0, 32, 32), grey) == (0, 0, 32, 32)
    np.testing.assert_array_equal(rgb8_of(grey, (4, 2, 10, 8))[..., 0], grey.planes[0][2:8, 4:10])
    limited = dataclasses.replace(frame(235), color_range="limited")
    assert luma_of(limited, (0, 0, 2, 2)).tolist() == [[255, 255]] * 2
    mask, core = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    mask[2:6, 2:6] = mask[30:34, 30:34] = core[6:9, 2:6] = True
    assert touching(mask, core)[3, 3] and not touching(mask, core)[31, 31], "a neighbour's hair is left out"


def test_flicker_is_the_results_motion_over_the_sources() -> None:
    measured = Run(ANY, 1.0, None)
    place = Place((0, 0, 32, 32), np.array([[1.0, 0, 0], [0, 1.0, 0]]), empty=np.ones((32, 32), bool))
    for index, (before, after) in enumerate([(100, 100), (110, 115), (100, 100)]):
        whole = ((0, 0, 32, 32),)
        measured.add(frame(before, index=index), frame(after, index=index), whole, place, None)
    figures = measured.figures()
    assert figures["flicker"] == pytest.approx(1.5) and figures["outside"] == 0 and figures["frames"] == 3
    assert figures["background"] == pytest.approx(5 / 3, abs=0.05), "5 levels in one frame of three"
    assert figures["jaw_r"] is figures["leakage"] is figures["drift"] is figures["warp_ratio"] is None


def series(clip: str, responses: list[float], held_out: bool = False, flicker: float = 1.0) -> Series:
    out = Series("smile", clip, held_out, strip=picture())
    for strength, response in zip([-1.0, 0.0, 1.0], responses, strict=True):
        figures = {"frames": 5, "response": response, "jaw_r": 0.9, "background": 0.1, "outside": 0, "own_drift": 1e-4}
        figures |= {"flicker": flicker * (1 + abs(strength)), "warp_ratio": 1.0, "face_lost": 0}
        figures |= {"leakage": {"cheekPuff": 0.1 * abs(strength), "jawOpen": 0.01}, "drift": dict.fromkeys(
            ("eyes", "brows", "nose", "oval", "mouth"), 0.01)}  # fmt: skip
        out.runs[strength] = figures
    return out


def picture() -> bytes:
    import cv2

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
    assert here["leakage"] == {"blendshape": "cheekPuff", "change": pytest.approx(0.1)}
    assert here["leak_share"] == pytest.approx(0.1 / 0.3)
    assert here["flicker"] == {"mean": pytest.approx(2.2), "worst": pytest.approx(2.4), "clip": "b<b.mp4"}
    assert worst_of(quality.series[0], "jawOpen r") == 0.9 and here["own-embedder drift"]["mean"] == pytest.approx(1e-4)
    assert text_of([["a", "bb"], ["ccc", "d"]]) == ["a    bb", "ccc  d"]
    assert [digits(v) for v in (None, 0, 0.12345, 12345.6, 1e-5)] == ["-", "0", "0.123", "12346", "1.0e-05"]


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


def test_an_interrupt_leaves_nothing(quality: Quality, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mien.bench.quality_report.contact_sheet", stop)
    with pytest.raises(KeyboardInterrupt):
        write_report(quality, {}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_clips_are_found_and_wrong_paths_said(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.MKV", "notes.txt"):
        (tmp_path / name).touch()
    assert [p.name for p in clips_in([tmp_path, tmp_path / "b.mp4"])] == ["a.MKV", "b.mp4"]
    with pytest.raises(MediaError, match="no such clip"):
        clips_in([tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(MediaError, match="no clips"):
        clips_in([tmp_path / "empty"])


def test_a_judge_that_is_none_is_refused(tmp_path: Path) -> None:
    for text, kind in (("x = 1", MediaError), ("import not_there", UnavailableError), ("1 +", MediaError)):
        (tmp_path / "judge.py").write_text(text)
        with pytest.raises(kind):
            load_judge(tmp_path / "judge.py")
    with pytest.raises(MediaError, match="no such judge"):
        load_judge(tmp_path / "other.py")


def test_a_run_without_a_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "bench",
        "quality",
        str(CLIP),
        "--bundle",
        "tiny",
        "--edit",
        "smile",
        "--frames",
        "6",
        "--strengths",
        "-1,0,1",
    ]
    assert run([*words, "--threads", "1", "--out", str(tmp_path / "q")]) == 0
    said = capsys.readouterr().out
    assert "no --judge: missing are" in said and "own-embedder drift" in said and "jawOpen r" in said
    told = json.loads((tmp_path / "q" / "report.json").read_text())
    runs = told["series"][0]["runs"]
    assert runs["1.0"]["frames"] == runs["-1.0"]["frames"] == 6 and runs["1.0"]["outside"] == 0
    assert runs["-1.0"]["response"] < runs["0.0"]["response"] == 0.0 < runs["1.0"]["response"]
    assert 0 <= runs["1.0"]["own_drift"] < 0.1 and 0.9 < runs["1.0"]["flicker"] < 1.5


@pytest.mark.parametrize(
    "more, word",
    [
        (["--edit", "smil"], "smile"),
        (["--strengths", "3"], "--strengths"),
        (["--frames", "0"], "--frames"),
        (["--judge", "none.py"], "no such judge"),
        (["--bundle", "nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], word: str
) -> None:
    words = ["bench", "quality", str(CLIP), "--bundle", "tiny", "--out", str(tmp_path / "q")]
    assert run([*words, *more]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mien: error: ") and word in said and said.count("\n") == 1
    assert not (tmp_path / "q").exists()


def test_a_clip_without_a_face_is_skipped(
    blank_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "bench",
        "quality",
        str(CLIP),
        "--bundle",
        str(blank_bundle),
        "--frames",
        "2",
        "--out",
        str(tmp_path / "q"),
    ]
    assert run(words) == 2
    said = capsys.readouterr()
    assert "skipped sample.mp4: no face to edit" in said.out and "nothing to report" in said.err
