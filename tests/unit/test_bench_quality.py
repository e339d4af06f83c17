"""`mien bench quality --bundle`: each figure against an answer worked out by hand, and runs without a judge."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from mien.bench.clips import clips_in
from mien.bench.frame_rgb import lab, rgb8_of
from mien.bench.quality import Bench, Wishes, parse_strengths
from mien.bench.quality_measure import (
    FramePair,
    Place,
    Run,
    background_change,
    changed_outside,
    cosine_distance,
    mean_by_name,
)
from mien.bench.quality_scores import (
    ANY,
    SCORES,
    AnyColour,
    Blend,
    Colour,
    Extent,
    score_of,
)
from mien.bench.quality_statistics import correlation, from_nothing, is_monotone, motion_kept, spearman, strengths_of
from mien.bench.quality_teacher import Seen, Teacher, load_judge, luma_of, start_judge, touching, window_of
from mien.engine.bundle import Bundle
from mien.engine.config import EngineConfig
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
    assert correlation([0, 1], [2, 2]) is None and correlation([1], [1]) is None
    assert motion_kept([0, 0.001], [0, 1], 0.01) is None and motion_kept([1], [1], 0.0) is None
    assert motion_kept([0, 1, 2], [3, 2, 1], 0.01) == pytest.approx(-1.0)
    assert motion_kept([0, 1, 2], [5, 5, 5], 0.01) == 0.0, "what an edit has frozen is not left out"


def test_strength_zero_belongs_to_a_series() -> None:
    assert from_nothing([0.5, 1.0], [2.0, 3.0]) == ([0.0, 0.5, 1.0], [0.0, 2.0, 3.0])
    assert from_nothing([-1.0, -0.5], [-3.0, 2.0]) == ([-1.0, -0.5, 0.0], [-3.0, 2.0, 0.0])
    assert from_nothing([-1.0, 0.0, 1.0], [-3.0, 0.0, 2.0]) == ([-1.0, 0.0, 1.0], [-3.0, 0.0, 2.0])
    assert not is_monotone(from_nothing([0.5, 1.0], [-2.0, -1.0])[1]), "the wrong way at once, and back"


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


def test_the_gap_between_the_lips_is_followed_whatever_jaw_open_says() -> None:
    def mesh(gap: float) -> np.ndarray:
        points = np.zeros((478, 3))
        points[[33, 133], 0], points[[263, 362], 0] = -10, 10
        points[14, 1] = gap
        return points

    def run(gaps: list[float]) -> dict[str, object]:
        results = iter(gaps)
        teacher = SimpleNamespace(regions={"nose": [1]}, again=lambda *_: (mesh(next(results)), 5.0, {"jawOpen": 0.3}))
        measured = Run(ANY, 1.0, cast(Teacher, teacher))
        for index, gap in enumerate([0.0, 4.0, 8.0]):
            seen = SimpleNamespace(
                window=(0, 0, 32, 32), background=lambda: None, hull=np.ones((32, 32), bool), flow=None, presence=5.0,
                blend={"jawOpen": gap / 10}, mesh=mesh(gap), region=lambda _: None,
            )  # fmt: skip
            place = Place((0, 0, 32, 32), np.eye(2, 3), seen=cast(Seen, seen))
            measured.add(frame(9, index=index), frame(9, index=index), (), place, None)
        return measured.figures()

    followed = run([0.0, 3.0, 6.0])
    assert followed["lips_r"] == pytest.approx(1.0) and followed["jaw_r"] == 0.0
    assert run([5.0, 5.0, 5.0])["lips_r"] == 0.0 and run([8.0, 4.0, 0.0])["lips_r"] == pytest.approx(-1.0)


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


def test_a_judge_that_cannot_start_says_why(tmp_path: Path) -> None:
    path, rest = (
        tmp_path / "judge.py",
        "BLEND_NAMES = REGIONS = OVAL = WEIGHTS = ()\nclass Judge:\n    def __init__(self):\n",
    )
    path.write_text(f"{rest}        import not_there")
    with pytest.raises(UnavailableError, match="needs not_there"):
        start_judge(path)
    path.write_text(f"{rest}        raise OSError('no weights')")
    with pytest.raises(UnavailableError, match="cannot start: OSError: no weights"):
        start_judge(path)
    path.write_text(f"{rest}        self.word = 7")
    module, judge = start_judge(path)
    assert judge.word == 7 and isinstance(judge, module.Judge)


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


def test_the_order_of_the_edits_changes_nothing() -> None:
    """Hair is edited in a wider crop than a smile; each is measured in its own."""
    bundle = Bundle.open("tiny")
    assert bundle.edit("smile").crop_scale != bundle.edit("hair_blond").crop_scale

    def measured(*names: str) -> dict[str, Any]:
        bench = Bench(bundle, EngineConfig(threads=1), Wishes(names, (0.0, 1.0), frames=2), None)
        return {s.edit: (s.runs, s.strip) for s in bench.run([CLIP], lambda line: None).series}

    both, reverse = measured("smile", "hair_blond"), measured("hair_blond", "smile")
    assert both == reverse and both["smile"] != both["hair_blond"]


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
