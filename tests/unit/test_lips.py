"""Lips that part: each keeps its own pixels, and the gap shows the inside of a mouth."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mien.engine.bundle import Bundle
from mien.engine.face.lips import LOWER_LIP, part_lips
from mien.engine.face.mouth_inside import BLACK, draw_inside
from mien.engine.face.points import face_axes
from mien.engine.face.seam import NODES
from mien.engine.face.warp import Motions, motions, scaled
from mien.engine.types import Array
from tests.painted_mouth import LOWER, OWN, SIZE, UPPER, mouth, moved, painted, rows_of


@pytest.fixture(scope="module")
def opens() -> Motions:
    edit = Bundle.open("tiny").manifest.edits["mouth_open"]
    assert edit.parts_lips
    return motions([(edit.template, 1.0)])


def test_each_lip_keeps_its_thickness(face: Array, opens: Motions) -> None:
    points = mouth(face)
    crop = painted(points)
    motion = moved(opens, points, crop)
    assert motion.cover is not None
    after, middle = motion.of_crop(crop), points[62, 0]
    for colour in (UPPER, LOWER):
        before_rows, after_rows = (rows_of(c, colour, middle) for c in (crop, after))
        assert len(before_rows) > 4 and abs(len(after_rows) - len(before_rows)) <= 2
    assert rows_of(after, LOWER, middle)[0] - rows_of(after, UPPER, middle)[-1] > 8
    assert np.abs(after - crop)[:, :90].max() < 0.02, "the upper face does not move"


def test_the_gap_is_dark_below_and_shows_teeth_above(face: Array, opens: Motions) -> None:
    points = mouth(face)
    crop = painted(points)
    after, middle = moved(opens, points, crop).of_crop(crop), points[62, 0]
    gap = slice(rows_of(after, UPPER, middle)[-1] + 2, rows_of(after, LOWER, middle)[0] - 1)
    levels = after[:, gap, round(middle) + 2].mean(0)
    assert levels[: len(levels) // 2].max() > 0.1 > -0.3 > levels[len(levels) // 2 :].min()


def test_the_gap_is_no_darker_than_black_is_in_the_picture(face: Array, opens: Motions) -> None:
    points = mouth(face)
    crop = painted(points)
    y = round(points[36:48, 1].mean())
    crop[:, y - 3 : y + 4, round(points[37, 0]) : round(points[44, 0])] = -0.95  # pupils
    gap = part_lips(opens, points, crop, lambda _, value: value).gap
    assert gap is not None
    clear, hazy = (draw_inside(picture, points, gap, 1.0)[0] for picture in (crop, 0.5 + 0.5 * crop))
    inside = draw_inside(crop, points, gap, 1.0)[1] == 1
    black = 2 * (0.75 + 0.25 * -0.95 - BLACK) - 1  # how much brighter the pupils are than black, on the scale
    assert clear[:, inside].mean(0).min() < -0.75 and black < hazy[:, inside].mean(0).min() < 0.0


def test_points_go_with_the_lips(face: Array, opens: Motions) -> None:
    points = mouth(face)
    motion, unit = moved(opens, points, painted(points)), float(np.hypot(*face_axes(points)[1]))
    after = motion.of_points(points, SIZE)
    assert np.abs(after[61:64] - points[61:64]).max() < 0.03 * unit
    assert (after[[65, 66, 67], 1] - points[[65, 66, 67], 1]).min() > 0.15 * unit
    assert (after[56:59, 1] - points[56:59, 1]).min() > 0.2 * unit
    np.testing.assert_allclose(after[:3], points[:3], atol=0.02 * unit)


def test_what_a_parted_mouth_shows_hangs_from_the_upper_lip(face: Array, opens: Motions) -> None:
    points = mouth(face, gap_px=7.0)
    crop = painted(points)
    before, after = (rows_of(c, OWN, points[62, 0]) for c in (crop, moved(opens, points, crop).of_crop(crop)))
    assert abs(after[0] - before[0]) <= 1 and abs(len(after) - len(before)) <= 3, "neither stretched nor lost"


def test_a_wide_open_mouth_is_not_torn(face: Array, opens: Motions) -> None:
    points = mouth(face, gap_px=26.0)
    motion = moved(opens, points, painted(points))
    assert motion.cover is None and np.abs(motion.field).max() > 3


@pytest.mark.parametrize("gap_px", [0.0, 7.0])
def test_what_hangs_on_the_lower_lip_is_not_folded(face: Array, opens: Motions, gap_px: float) -> None:
    """Its motion can be undone, and is: what arrives below the lip came from where the forward field leads there."""
    points = mouth(face, gap_px)
    parting = part_lips(opens, points, painted(points), lambda _, value: value)
    pitch = SIZE / len(parting.field)
    (x_down, x_across), (y_down, y_across) = (np.gradient(parting.sides[1][..., a], pitch) for a in (0, 1))
    assert ((1 + x_across) * (1 + y_down) - x_down * y_across).min() > 0.05
    columns, rows = np.meshgrid(*2 * [np.arange(len(parting.field), dtype=np.float32)])
    x, y = columns + parting.field[..., 0] / pitch, rows + parting.field[..., 1] / pitch
    left = cv2.remap(parting.sides[1].astype(np.float32), x, y, cv2.INTER_LINEAR) + parting.field
    assert parting.gap is not None
    middle = parting.gap.origin[1] + 0.5 * (parting.gap.top + parting.gap.bottom).max()
    below = (rows * pitch > max(points[57, 1], middle)) & (rows * pitch < SIZE - 16)
    assert np.hypot(*left[below].T).max() < 0.5 < np.hypot(*parting.field[below].T).max()


def test_the_opening_grows_with_the_strength(face: Array, opens: Motions) -> None:
    points = mouth(face)
    crop = painted(points)
    openings = []
    for strength in (0.0, 0.3, 0.6, 1.0):
        gap = part_lips(scaled(opens, strength), points, crop, lambda _, value: value).gap
        openings.append(0.0 if gap is None else float((gap.bottom - gap.top).max()))
        if gap is not None:
            assert (gap.bottom >= gap.top).all() and (np.diff(gap.across) > 0).all()
            assert gap.bottom[0] - gap.top[0] < 0.15 * openings[-1] > gap.bottom[-1] - gap.top[-1], (
                "closed at the corners"
            )
    assert openings[0] == 0 and openings == sorted(openings) and openings[-1] > 8


@pytest.mark.parametrize("wider", [1.0, 1.35])
def test_a_mouth_opens_in_one_arc_however_wide_it_is(face: Array, opens: Motions, wider: float) -> None:
    """As the jaw of the face model opens it: the opening is a parabola from corner to corner, within 15 % of its middle."""
    points = mouth(face)
    points[48:, 0] = 128 + wider * (points[48:, 0] - 128)
    gap = part_lips(opens, points, painted(points), lambda _, value: value).gap
    assert gap is not None
    opening = gap.bottom - gap.top
    side = 2 * gap.across / (points[54, 0] - points[48, 0])
    assert opening[NODES // 2] > 8
    np.testing.assert_allclose(opening / opening.max(), np.maximum(1 - side**2, 0), atol=0.15)
    top = opening.argmax()
    assert (np.diff(opening[: top + 1]) > -0.1).all() and (np.diff(opening[top:]) < 0.1).all()


def test_the_inside_stays_in_the_gap(face: Array, opens: Motions) -> None:
    points = mouth(face)
    crop = painted(points)
    gap = part_lips(opens, points, crop, lambda _, value: value).gap
    assert gap is not None
    picture, share = draw_inside(crop, points, gap, 1.0)
    assert -1 <= picture.min() and picture.max() <= 1 and 0 <= share.min() and share.max() == 1
    rows, columns = np.nonzero(share > 0.01)
    assert points[48, 0] - 2 < columns.min() and columns.max() < points[54, 0] + 2
    assert points[62, 1] - 4 < rows.min() and rows.max() < points[57, 1] + 0.3 * 60
    blurred = draw_inside(crop, points, gap, 4.0)[1]
    assert np.abs(np.diff(blurred, axis=0)).max() < 0.5 * np.abs(np.diff(share, axis=0)).max(), "as soft as the frame"
    for shifted in (-400.0, 400.0):
        outside = part_lips(opens, points + shifted, crop, lambda _, value: value).gap
        assert outside is None or not draw_inside(crop, points + shifted, outside, 1.0)[1].any()


def test_a_small_crop_has_a_small_field(face: Array, opens: Motions) -> None:
    points = mouth(face)
    crop = cv2.resize(painted(points).transpose(1, 2, 0), (64, 64), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
    assert part_lips(opens, points / 4, np.ascontiguousarray(crop), lambda _, value: value).field.shape == (64, 64, 2)


def test_nothing_is_drawn_over_a_hand(face: Array, opens: Motions) -> None:
    points = mouth(face)
    crop = painted(points)
    motion = moved(opens, points, crop, np.zeros((SIZE, SIZE), np.float32))
    np.testing.assert_array_equal(motion.of_crop(crop), crop)
    np.testing.assert_allclose(motion.of_points(points, SIZE), points, atol=1e-6)


def test_lower_lip_points_are_the_lower_lips() -> None:
    assert set(LOWER_LIP) == {55, 56, 57, 58, 59, 65, 66, 67}
