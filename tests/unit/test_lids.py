"""Lids that close: the skin above comes down over the eye, and hides it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mien.engine.bundle import Bundle
from mien.engine.face.face_motion import FaceMotion, MotionPlan, face_motion
from mien.engine.face.lids import UPPER_LIDS, close_lids
from mien.engine.face.points import LEFT_EYE, RIGHT_EYE
from mien.engine.face.warp import motions
from mien.engine.manifest import LandmarkShift
from mien.engine.types import Array

SIZE = 256
ONES = np.ones((SIZE, SIZE), np.float32)
SKIN, EYE = (0.4, 0.1, 0.0), (0.2, 0.9, 0.9)


@pytest.fixture
def points(face: Array) -> Array:
    """The face in crop pixels, its eyes 8 px open."""
    out = face - [160.0, 110.0] + [128.0, 110.0]
    for ring in (LEFT_EYE, RIGHT_EYE):
        first = out[ring[0]].copy()
        out[list(ring)] = first + np.array([(0, 0), (8, -4), (16, -4), (24, 0), (16, 4), (8, 4)])
    return np.asarray(out)


def painted(points: Array, eye: tuple[float, float, float] = EYE) -> Array:
    """A crop (3, S, S) of skin with eyes of one colour."""
    picture = np.full((SIZE, SIZE, 3), SKIN, np.float32)
    for ring in (LEFT_EYE, RIGHT_EYE):
        cv2.fillPoly(picture, [np.round(points[list(ring)] * 16).astype(np.int32)], eye, cv2.LINE_AA, shift=4)
    return np.ascontiguousarray(picture.transpose(2, 0, 1))


def closed(
    points: Array, crop: Array, lids: float, support: Array = ONES, plan: MotionPlan | None = None
) -> FaceMotion:
    whole = MotionPlan(plan.templates if plan else {}, lids=lids)
    motion = face_motion(whole, points, crop, support, 1.0, lambda _, value: value)
    assert motion is not None
    return motion


def seen(crop: Array) -> int:
    """Pixels that show an eye."""
    return int((np.abs(crop - np.array(EYE, np.float32)[:, None, None]).max(0) < 0.3).sum())


def test_the_eye_is_hidden_bit_by_bit(points: Array) -> None:
    crop = painted(points)
    shown = [seen(crop), *(seen(closed(points, crop, s).of_crop(crop)) for s in (0.25, 0.5, 0.75, 1.0))]
    assert shown == sorted(shown, reverse=True) and shown[2] < 0.7 * shown[0] and shown[-1] < 0.1 * shown[0]


def test_what_is_above_comes_down_and_the_rest_stays(points: Array) -> None:
    crop = painted(points)
    x, y = (points[37] + points[38]) / 2
    crop[:, round(y) - 5 : round(y) - 3, :] = 0.9  # a bright line
    after = closed(points, crop, 1.0).of_crop(crop)
    line = np.flatnonzero(after[0, :, round(x)] > 0.65)
    assert 3 < line.mean() - (y - 4) < 10
    np.testing.assert_array_equal(after[:, : round(y) - 30], crop[:, : round(y) - 30])
    np.testing.assert_array_equal(after[:, round(y) + 20 :], crop[:, round(y) + 20 :])


def test_a_shadow_above_the_eye_does_not_become_a_dark_lid(points: Array) -> None:
    crop = painted(points)
    x, y = (points[37] + points[38]) / 2
    crop[:, round(y) - 8 : round(y) - 1, :] = -0.6
    after = closed(points, crop, 1.0).of_crop(crop)
    lid = after[0, round(y) : round(y) + 4, round(x)]
    assert lid.min() > -0.3 and crop[0, round(y) - 5, round(x)] < -0.5
    pale = painted(points)
    np.testing.assert_allclose(closed(points, pale, 1.0).of_crop(pale)[0, round(y), round(x)], SKIN[0], atol=0.03)


def test_the_lower_lid_meets_the_upper_one(points: Array) -> None:
    crop = painted(points)
    after = closed(points, crop, 1.0).of_points(points, SIZE)
    lower = [41, 40, 47, 46]
    assert (points[lower, 1] - after[lower, 1] > 0.8).all()


def test_the_upper_lids_points_go_down(points: Array) -> None:
    crop = painted(points)
    after = closed(points, crop, 1.0).of_points(points, SIZE)
    upper, lower = after[list(UPPER_LIDS)], after[[41, 40, 47, 46]]
    assert np.abs(upper - lower)[:, 1].max() < 2.5 and (upper[:, 1] - points[list(UPPER_LIDS), 1]).min() > 4
    others = [i for i in range(68) if i not in UPPER_LIDS and i not in range(17, 27)]
    np.testing.assert_allclose(after[others], points[others], atol=1.5)


def test_eyes_that_are_to_open_less_close() -> None:
    edits = Bundle.open("tiny").manifest.edits
    wide, shut = edits["eyes_open"], edits["eyes_closed"]
    narrowed = MotionPlan.of([(wide, -1.0)])
    assert 0.2 < narrowed.lids < 0.6 and max(dy for _, dy, _ in narrowed.templates.values()) > 0
    widened = MotionPlan.of([(wide, 0.7)])
    assert widened.lids == 0 and min(dy for _, dy, _ in widened.templates.values()) < 0
    assert MotionPlan.of([(shut, 1.0), (wide, -1.0)]).lids == 1.0, "no further than shut"


def test_dark_lenses_and_hidden_eyes_stay(points: Array) -> None:
    dark = painted(points, (-0.95, -0.95, -0.95))
    np.testing.assert_array_equal(closed(points, dark, 1.0).of_crop(dark), dark)
    crop = painted(points)
    np.testing.assert_array_equal(closed(points, crop, 1.0, np.zeros((SIZE, SIZE), np.float32)).of_crop(crop), crop)


def test_lids_close_where_a_template_has_moved_the_eyes(points: Array) -> None:
    shift = LandmarkShift((*LEFT_EYE, *RIGHT_EYE), 0.0, 0.15, 0.2)
    crop, plan = painted(points), MotionPlan(motions([((shift,), 1.0)]))
    moved = face_motion(plan, points, crop, ONES, 1.0, lambda _, value: value)
    assert moved is not None and seen(moved.of_crop(crop)) > 0.7 * seen(crop)
    both = closed(points, crop, 1.0, plan=plan)
    assert seen(both.of_crop(crop)) < 0.1 * seen(crop)
    lids = both.of_points(points, SIZE)[list(UPPER_LIDS), 1]
    assert (lids > closed(points, crop, 1.0).of_points(points, SIZE)[list(UPPER_LIDS), 1] + 4).all()


def test_faces_beyond_the_crop_are_no_error(points: Array) -> None:
    crop = painted(points)
    for shifted in (-400.0, -100.0, 400.0):
        closing = close_lids(points + shifted, crop, 1.0, 1.0, lambda _, value: value)
        assert np.isfinite(closing.field).all() and 0 <= closing.drawn[1].min() <= closing.drawn[1].max() <= 1
