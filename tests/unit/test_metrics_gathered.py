"""Figures gathered over a clip, from frames, faces and embedders that answer what the test says."""

from __future__ import annotations

import math
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mien.bench.metrics_measurer import FollowFace, JudgeMeasurer, MeasuredFace
from mien.bench.metrics_of_face import FaceFigures
from mien.bench.metrics_of_frames import ClipFigures, MotionFigures, OutsideFigures
from mien.bench.metrics_picture import FramePair
from mien.engine.types import Array, Face, Frame
from mien.export.tiny.teachers import MESH_TO_68


def flat(luma: int, size: int = 32, index: int = 0, ten_bit: bool = False) -> Frame:
    kind = np.uint16 if ten_bit else np.uint8
    half = np.full((size // 2, size // 2), 512 if ten_bit else 128, kind)
    planes = (np.full((size, size), luma, kind), half, half.copy())
    name = "yuv420p10le" if ten_bit else "yuv420p"
    return Frame(planes, name, "bt601", "full", index, index, Fraction(1, 25))  # type: ignore[arg-type]


def cosine(degrees: float) -> float:
    return math.cos(math.radians(degrees))


class LumaAsClip:
    """A CLIP of the plane: a picture's grey in degrees; a prompt at 0."""

    by = "a CLIP"

    def image(self, rgb: Array) -> Array:
        angle = np.radians(float(rgb.mean()))
        return np.array([np.cos(angle), np.sin(angle)])

    def text(self, prompt: str) -> tuple[Array, str]:
        return np.array([1.0, 0.0]), prompt[3:]


def test_clip_and_motion_over_pairs() -> None:
    embedder: Any = LumaAsClip()
    texts, motions = ClipFigures(embedder, "cut me"), MotionFigures()
    lumas = [(100, 100), (100, 120), (100, 100)]  # the result's middle frame flickers by 20
    for index, (a, b) in enumerate(lumas):
        pair = FramePair.of(flat(a, index=index), flat(b, index=index))
        texts.add(pair)
        motions.add(pair)
    found = motions.figures()
    assert found["pixel_mse"].value == pytest.approx(400, rel=1e-4) and found["pixel_mse"].source == 0.0
    assert found["warp_error"].value == pytest.approx(20, rel=1e-4) and found["warp_error"].source == 0.0
    figures = texts.figures()
    assert figures["clip_text"].value == pytest.approx((2 * cosine(100) + cosine(120)) / 3, abs=1e-6)
    assert figures["clip_text"].source == pytest.approx(cosine(100), abs=1e-6)
    assert figures["clip_text"].how == "a CLIP, 'cut me', of which ' me' does not fit"
    assert figures["clip_frame"].value == pytest.approx(cosine(20), abs=1e-6)
    assert figures["clip_frame"].source == pytest.approx(1.0)
    assert ClipFigures(None, None).figures()["clip_text"].how == "not measured: no CLIP given (--clip FOLDER)"
    assert MotionFigures().figures()["pixel_mse"].value is None


def test_outside_counts_samples_outside_of_each_frames_boxes() -> None:
    figures = OutsideFigures({1: [(0, 0, 8, 32)]})
    changed = flat(100)
    changed.planes[0][3, :10] = 7  # 10 samples, of which the box of the second frame covers 8
    for _ in range(2):
        figures.add(FramePair.of(flat(100), changed))
    found = figures.figures()["outside_boxes"]
    assert found.value == 10 + 2 and found.more["identical"] is False
    assert found.more["samples"] == 2 * (32 * 32 + 2 * 16 * 16) - (8 * 32 + 2 * 4 * 16)
    other = OutsideFigures({})
    other.add(FramePair.of(flat(100), flat(400, ten_bit=True)))
    assert other.figures()["outside_boxes"].how == "not measured: source and result are yuv420p and yuv420p10le"


class Follower:
    """Sees the tracks it is told, frame by frame, 0 for none; 9 is never confirmed."""

    def __init__(self, tracks: list[int]) -> None:
        self._tracks = iter(tracks)

    def confirmed(self, track_id: int) -> bool:
        return track_id != 9

    def __call__(self, frame: Frame, boxes: Any = ()) -> Face | None:
        track = next(self._tracks)
        return Face(track, (0.0, 0.0, 1.0, 1.0), np.zeros((68, 2)), 1.0) if track else None


class Measurements:
    """Answers what it is told."""

    points_by, background_by = "points", "background"

    def __init__(self, answers: list[MeasuredFace | None]) -> None:
        self._answers = iter(answers)

    def __call__(self, source: Frame, result: Frame, face: Face) -> MeasuredFace | None:
        return next(self._answers)


class LumaAsAngle:
    """An embedder into the plane: the frame's first sample in degrees."""

    by = "embedding"

    def __call__(self, frame: Frame, points: Array) -> Array:
        angle = np.radians(float(frame.planes[0][0, 0]))
        return np.array([np.cos(angle), np.sin(angle)])


def face_figures(tracks: list[int], answers: list[MeasuredFace | None], is_identity: bool = True) -> FaceFigures:
    follow: Any = Follower(tracks)
    return FaceFigures(follow, Measurements(answers), LumaAsAngle(), is_identity=is_identity)


def test_only_the_face_seen_longest_counts(face: Array) -> None:
    opened = [face.copy() for _ in range(3)]
    for points, by in zip(opened, (0, 30, 12), strict=True):
        points[[65, 66, 67], 1] += by
    right, wide = np.zeros((32, 32), bool), face + [3, 4]
    right[:, 16:] = True
    measured = [
        MeasuredFace(opened[0], opened[0] + [6, 8], right),
        MeasuredFace(opened[1], opened[1], right),
        MeasuredFace(opened[2], None, right),  # lost
        MeasuredFace(face, wide, right),  # another person
        None,
        MeasuredFace(face, wide, right),  # never confirmed
        MeasuredFace(opened[2], opened[2], None),
    ]
    figures = face_figures([1, 1, 1, 2, 1, 9, 1], measured)
    angles = [(0, 0), (60, 0), (0, 9), (0, 9), (0, 9), (0, 9), (60, 0)]
    for a, b in angles:
        figures.add(FramePair.of(flat(a), flat(b)))
    found, counts = figures.figures()
    assert counts == {"frames_with_face": 4, "frames_face_lost": 1}
    assert found["tl_id"].value == pytest.approx(2.0)  # frames 0 and 1 are the only neighbours
    assert found["tg_id"].value == pytest.approx((2 + 2 + 1) / 3) and found["tg_id"].how == "embedding"
    assert found["id_drift"].value == pytest.approx((0 + 0.5 + 0.5) / 3)
    assert found["landmark_error"].value == pytest.approx((10 / 60 + 0 + 0) / 3) and found["lip_error"].value < 1e-9
    assert found["mouth_opening_r"].value == pytest.approx(1.0) and "own_embedder_drift" not in found
    # luma 0, 60, 0 against 0, 0, 9 in the right half of three frames, lost or not
    assert found["background_psnr_db"].more["mse"] == pytest.approx((0 + 3600 + 81) / 3, rel=1e-4)


def test_without_a_face_or_an_identity_network_the_figures_say_so() -> None:
    figures = face_figures([0, 0], [], is_identity=False)
    for _ in range(2):
        figures.add(FramePair.of(flat(9), flat(9)))
    found, counts = figures.figures()
    assert counts == {"frames_with_face": 0, "frames_face_lost": 0}
    assert found["tl_id"].how == "not measured: no identity network given (--identity BUNDLE)"
    assert found["own_embedder_local"].how == "not measured: too few frames with the face"
    assert found["lip_error"].how == "not measured: the face was not found"
    assert all(figure.value is None for figure in found.values())


def tracked(points: Array, track: int = 1, score: float = 0.9) -> Face:
    low, high = points.min(0), points.max(0)
    return Face(track, (*low, *high), points.astype(np.float32), score)  # type: ignore[arg-type]


def test_a_face_is_kept_while_it_is_seen(face: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = tracked(face, 1), tracked(face * 2, 2)
    rows = iter([[small], [small, large], [large], [small, large], [small, large], []])
    monkeypatch.setattr("mien.bench.metrics_measurer.Tracker.update", lambda self, frame: next(rows))
    follow = FollowFace(None, None)  # type: ignore[arg-type]
    assert [follow(flat(9)) for _ in range(4)] == [small, small, large, large]
    inside = (int(face[:, 0].mean()) - 20, int(face[:, 1].mean()) - 40, int(face[:, 0].mean()) + 20, 200)
    assert follow(flat(9), [inside]) is small and follow(flat(9)) is None


class FakeTeacher:
    """Answers a mesh at given points and says where it was asked to look."""

    def __init__(self, before: Array, after: Array, presence: tuple[float, float] = (5.0, 4.0)) -> None:
        self._after, self._presence, self.boxes = after, presence, []
        self._mesh = before

    def look(self, frame: Frame, box: Any, last: Any) -> Any:
        self.boxes.append(box)
        window = (0, 0, frame.width_px, frame.height_px)
        return SimpleNamespace(
            mesh=mesh_of(self._mesh), presence=self._presence[0], window=window, background=lambda: None
        )

    def again(self, rgb: Array, seen: Any) -> Any:
        assert rgb.shape == (256, 256, 3)
        return mesh_of(self._after), self._presence[1], {}


def mesh_of(points: Array) -> Array:
    mesh = np.zeros((478, 3))
    mesh[list(MESH_TO_68), :2] = points
    return mesh


def test_the_judge_measures_the_face_that_is_followed(face: Array) -> None:
    frame = flat(100, 256)
    teacher: Any = FakeTeacher(face, face + 2)
    found = JudgeMeasurer("judge.py", teacher)(frame, frame, tracked(face + 1))
    assert found is not None and found.result is not None
    np.testing.assert_allclose(found.result - found.source, 2)
    x0, y0, x1, y1 = teacher.boxes[0]
    assert x0 <= 0 and y0 <= 0 and x1 >= 256 and y1 >= 256, "the whole frame, with the face in its middle"
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((face + 1).min(0) / 2 + (face + 1).max(0) / 2, abs=1)
    other: Any = FakeTeacher(face + 90, face)
    assert JudgeMeasurer("judge.py", other)(frame, frame, tracked(face)) is None, "another face"
    lost: Any = FakeTeacher(face, face, (5.0, 1.0))
    gone = JudgeMeasurer("judge.py", lost)(frame, frame, tracked(face))
    assert gone is not None and gone.result is None
