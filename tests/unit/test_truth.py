"""The exact-truth test: its measures against known answers, faces that are not found, and a run where the head model is at hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from mien.bench import truth_heads, truth_judge
from mien.bench.frame_rgb import rgb_of
from mien.bench.truth import Row, ends, line, run, warp_alone
from mien.bench.truth_heads import MODEL, TRUTHS, Change, Heads, Take, talk
from mien.bench.truth_measure import MOST_DB, frame_of, motion, psnr
from mien.engine.bundle import Bundle
from mien.engine.types import Array
from mien.export.render import picture
from mien.export.render.person import Act
from mien.export.render.picture import FACE

FACE_DRAWER = Path(picture.__file__)


def test_psnr_of_a_known_difference_counts_the_mask_only() -> None:
    a, b = np.full((8, 8, 3), 100.0, np.float32), np.full((8, 8, 3), 110.0, np.float32)
    mask = np.zeros((8, 8), bool)
    mask[2:5] = True
    b[~mask] = 255.0
    assert psnr([a], [b], [mask]) == pytest.approx(20 * math.log10(255 / 10))
    # 24 pixels that differ by 10 with 24 that do not: half the squared error
    assert psnr([a, a], [b, a], [mask, mask]) == pytest.approx(20 * math.log10(255 / 10) + 10 * math.log10(2))


def test_psnr_of_identical_pictures_is_the_largest_there_is() -> None:
    a, mask = np.full((4, 4, 3), 7.0, np.float32), np.ones((4, 4), bool)
    assert psnr([a], [a.copy()], [mask]) == MOST_DB
    assert math.isnan(psnr([a], [a], [np.zeros((4, 4), bool)]))


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0, -1.0])
def test_share_of_the_motion(part: float) -> None:
    rng = np.random.default_rng(1)
    true = np.zeros((3, 68, 2))
    true[:, 48:60] = rng.uniform(0.02, 0.1, (3, 12, 2))
    measured = part * true
    measured[:, :20] = 5.0  # points that do not truly move do not count
    share, cosine = motion(true, measured)
    assert share == pytest.approx(part)
    assert math.isnan(cosine) if part == 0 else cosine == pytest.approx(np.sign(part))


def test_a_motion_at_right_angles_has_no_share() -> None:
    true = np.zeros((1, 68, 2))
    true[0, 8] = (0.0, 0.1)
    share, cosine = motion(true, true[..., ::-1])
    assert (share, cosine) == (0.0, 0.0)
    assert math.isnan(motion(np.zeros((1, 68, 2)), true)[0])


def test_pictures_survive_the_frame() -> None:
    y, x = np.mgrid[:64, :96]
    rgb = np.stack([100 + 60 * np.sin(x / 15), 120 + 50 * np.cos(y / 13), 90 + 0.5 * x], 2).astype(np.uint8)
    assert psnr([rgb_of(frame_of(rgb, 0))], [rgb.astype(np.float32)], [np.ones((64, 96), bool)]) > 45


def test_changes_stay_within_the_model() -> None:
    shut = Act({"eyeBlink": 1.0, "jawOpen": 0.8})
    assert Change({"eyeWide": 0.9, "jawOpen": 0.4}).on(shut).expression == {
        "eyeBlink": 1.0,
        "jawOpen": 1.0,
        "eyeWide": 0.0,
    }
    assert Change({"eyeBlink": 0.4}).on(Act({"eyeBlink": 0.5})).expression["eyeBlink"] == pytest.approx(0.7)
    plan = talk(3, 20)
    assert max(act.expression["eyeBlink"] for act in plan) > 0.9 and np.ptp([act.pose.yaw for act in plan]) > 2
    assert all(0 <= v <= 1 for act in plan for v in act.expression.values())


class Blobs:
    """A renderer of a bright disc in the place of a head; a change lowers it."""

    def clip(self, head: int, count: int, change: Change | None = None) -> Sequence[Take]:
        takes = []
        for i in range(count):
            parts = np.zeros((128, 128), np.uint8)
            middle = (60 + i, 64 + (4 if change else 0))
            cv2.circle(parts, middle, 40, FACE, -1)
            angle = np.linspace(0, 2 * np.pi, 68, endpoint=False)
            points: Array = np.stack([np.cos(angle), np.sin(angle)], 1) * 40 + middle
            rgb = np.repeat(np.where(parts > 0, 200, 60)[..., None], 3, 2).astype(np.uint8)
            takes.append(Take(rgb, parts, points.astype(np.float32)))
        return takes


def test_faces_that_are_not_found_are_counted(
    blank_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(Bundle.open(blank_bundle), Blobs(), [], 2, 3, tmp_path)
    up, down = whole["rows"]
    assert (up["strength"], down["strength"]) == (1.0, -1.0)  # the bundle's range is wider
    assert up["missed"] == up["frames"] == 6 and up["heads"] == []
    assert "no face was found" in capsys.readouterr().out
    assert json.loads((tmp_path / "truth.json").read_text()) == whole
    assert not list(tmp_path.glob("*.png"))


def test_the_warp_alone_and_the_ends(blank_bundle: Path) -> None:
    bundle = Bundle.open(blank_bundle)
    alone = warp_alone(bundle, "smile")
    assert alone is not None and alone.edit("smile").direction is None and alone.edit("smile").template
    assert warp_alone(alone, "smile") is None and bundle.edit("smile").direction == "smile"
    assert [s for s, _ in ends(bundle, "smile")] == [1.0, -1.0]


def test_a_row_is_the_mean_of_its_heads() -> None:
    row = Row("smile", 1.0, 6, 1)
    for db in (30.0, 34.0):
        figures = {
            "face_db": db,
            "share": math.nan,
            "face_db_at_0.5": db + 1,
            "face_db_at_0.75": db,
            "face_db_at_1": db,
        }
        row.heads.append(figures)
    summary = row.summary()
    assert (summary["face_db"], summary["best_share"], summary["best_face_db"]) == (32.0, 0.5, 33.0)
    assert summary["share"] is None and "smile=1" in line(summary) and "32.00" in line(summary)


def test_one_head_end_to_end(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assets = shared_data / "assets3d"
    if not (assets / MODEL).exists():
        pytest.skip(f"no head model at {assets / MODEL}")
    bundle = Bundle.open("tiny")
    if "smile" not in bundle.edits:
        pytest.skip("the bundle tiny has no smile")
    monkeypatch.setitem(TRUTHS, "smile", (TRUTHS["smile"][0], None))
    whole = run(
        bundle, Heads(assets, tmp_path / "kept", atlas=256), ["smile", *set(bundle.edits) & {"age"}], 1, 3, tmp_path
    )
    (row,) = whole["rows"]
    assert (row["frames"], row["missed"], row["strength"]) == (3, 0, 1.0)
    assert row["face_db"] > row["source_face_db"] > 20 and row["error"] < row["source_error"]
    assert 0.1 < row["share"] < 1.5 and 0.4 < row["seen"] < 1.5 and row["cosine"] > 0.5
    assert row["outside_db"] > row["source_outside_db"] - 1 and row["background"] < 0.5
    assert whole["not_measurable"] == sorted(set(bundle.edits) & {"age"})
    assert len(list((tmp_path / "kept").glob("*.npz"))) == 6
    sheet = cv2.imread(str(tmp_path / "smile_up.png"))
    assert sheet is not None and sheet.shape == (2 * 320, 5 * 300, 3)


def test_drawings_are_kept_for_one_model_and_one_renderer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def render(*_: object) -> Take:
        drawn.append(1)
        return Take(np.full((4, 4, 3), 90, np.uint8), np.zeros((4, 4), np.uint8), np.zeros((68, 2), np.float32))

    monkeypatch.setattr(truth_heads, "render", render)
    monkeypatch.setattr(Heads, "_person", lambda self, head: (None, None, None))
    renderer, model = tmp_path / "render.py", tmp_path / MODEL
    assert FACE_DRAWER in truth_heads.SOURCES and len(truth_heads.SOURCES) == 1 + len(
        list(FACE_DRAWER.parent.glob("*.py"))
    )
    monkeypatch.setattr(truth_heads, "SOURCES", (renderer,))

    def drawings(renderer_text: str, model_text: str) -> int:
        """How many of three frames are drawn anew."""
        renderer.write_text(renderer_text)
        model.write_text(model_text)
        before = len(drawn)
        takes = Heads(tmp_path, tmp_path / "kept").clip(0, 3)
        assert len(takes) == 3 and (takes[0].rgb == 90).all()
        return len(drawn) - before

    assert [drawings(*texts) for texts in (("a", "m"), ("a", "m"), ("b", "m"), ("b", "n"), ("a", "m"))] == [
        3,
        0,
        3,
        3,
        0,
    ]


def test_what_a_judge_sees_is_set_beside_what_it_sees_of_the_truth() -> None:
    still = {"_neutral": 0.9, "jawOpen": 0.1, "cheekPuff": 0.0, **{f"mouthSmile{s}": 0.0 for s in ("Left", "Right")}}

    def frames(smile: float, puff: float, jaws: tuple[float, ...]) -> list[dict[str, float]]:
        return [
            {
                **still,
                "_neutral": 0.0,
                "jawOpen": j,
                "cheekPuff": puff,
                "mouthSmileLeft": smile,
                "mouthSmileRight": smile,
            }
            for j in jaws
        ]

    moving, head = (0.1, 0.3, 0.2), frames(0.0, 0.0, (0.1, 0.3, 0.2))
    heads = [truth_judge.Head(head, frames(0.5, -0.1, moving), frames(0.4, 0.2, (0.3, 0.1, 0.2)))] * 2
    found = truth_judge.figures("smile", heads)
    assert found["true_response"] == pytest.approx(0.5) and found["edit_response"] == pytest.approx(0.4)
    assert (found["true_leak"], found["edit_leak"]) == ("cheekPuff", "cheekPuff")
    assert found["true_leakage"] == pytest.approx(0.2) and found["edit_leakage"] == pytest.approx(0.5)
    assert found["true_jaw_r"] == pytest.approx(1.0) and found["edit_jaw_r"] == pytest.approx(-1.0)
    assert "+0.500 +0.400" in truth_judge.line("smile=1", found)
    still_jaw = [truth_judge.Head(frames(0.0, 0.0, (0.1,) * 3), head, head)]
    assert truth_judge.figures("smile", still_jaw)["true_jaw_r"] is None, "a jaw that is still says nothing"
    assert truth_judge.figures("hair_red", heads) == {}, "a colour is no blendshape"


def test_a_judge_that_sees_no_face_is_left_out() -> None:
    def judge(rgb: Array) -> dict[str, float] | None:
        return {"jawOpen": float(rgb.mean())} if rgb.mean() > 10 else None

    bright, dark = np.full((4, 4, 3), 200.0), np.zeros((4, 4, 3))
    head = truth_judge.watch(judge, [bright, bright], [bright, dark], [bright, bright])
    assert len(head.source) == len(head.truth) == len(head.result) == 1
