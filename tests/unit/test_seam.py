"""The seam between lips: where they touch, where they part, and whether they do."""

from __future__ import annotations

import numpy as np
import pytest

from mien.engine.face.seam import ENDS_CLOSED, NODES, REDDENED, Mouth, darkest_line, find_seam
from mien.engine.types import Array
from tests.painted_mouth import LOWER, OWN, SIZE, UPPER, mouth, painted, rows_of

TEETH, CAVITY, DOWN = (0.6, 0.5, 0.4), (-0.85, -0.9, -0.9), np.array([0.0, 1.0])


def as_it_is(_: str, value: Array) -> Array:
    return value


def test_lips_that_touch_are_torn_along_the_dark_line_near_the_landmarks() -> None:
    luma = np.full((SIZE, SIZE), 0.6, np.float32)
    line = np.stack([np.linspace(100, 160, NODES), np.full(NODES, 150.0)], 1)
    inwards, reach = np.array([0.0, -1.0]), 3.0

    def found(furthest: float = SIZE) -> Array:
        return darkest_line(luma, line, inwards, reach, np.full(NODES, furthest), ENDS_CLOSED)

    assert not found().any(), "nothing to see: the landmarks hold"
    luma[147:149] = 0.4
    np.testing.assert_allclose(found()[8:-8], 2.5, atol=0.6)
    assert np.abs(np.diff(found())).max() < 0.6
    assert np.abs(found(1.0)).max() <= 1, "teeth lie further in"
    luma[:] = 0.6
    luma[144] = 0.1
    assert np.abs(found()).max() <= reach, "a nostril is not a seam"


def inside_seen(face: Array, gap_px: float, colour: tuple[float, float, float]) -> float:
    """What counts as shown of an inside of a colour."""
    points = mouth(face, gap_px)
    crop = painted(points)
    crop[:, (np.abs(crop.transpose(1, 2, 0) - OWN) < 1e-3).all(2)] = np.array(colour, np.float32)[:, None]
    return Mouth.seen(crop, points).shown


@pytest.mark.parametrize("error_px", [-2.0, 0.0, 2.0])
@pytest.mark.parametrize("lifted", [True, False])
def test_lips_that_part_are_torn_where_they_end(face: Array, lifted: bool, error_px: float) -> None:
    """Not along the darkest line, which runs behind the teeth, and not where the landmarks are."""
    points = mouth(face, gap_px=10.0)
    crop = painted(points)
    inside = np.flatnonzero((np.abs(crop[:, :, round(points[62, 0])].T - OWN) < 1e-3).all(1))
    crop[:, (np.abs(crop.transpose(1, 2, 0) - OWN) < 1e-3).all(2)] = np.array(TEETH, np.float32)[:, None]
    crop[:, inside[4] : inside[-4], round(points[61, 0]) : round(points[63, 0])] = np.array(CAVITY)[:, None, None]
    lips = Mouth.seen(crop, points + [0.0, error_px])
    seam, opening = find_seam(crop, lips, DOWN, lifted, as_it_is)
    middle = slice(NODES // 3, 2 * NODES // 3)
    rim = REDDENED * lips.unit
    end = (
        rows_of(crop, UPPER, points[62, 0])[-1] + 0.5 if lifted else rows_of(crop, LOWER, points[62, 0])[0] - 0.5 - rim
    )
    np.testing.assert_allclose(seam[middle, 1], end, atol=1.0)
    other = points[66, 1] if lifted else points[62, 1]
    np.testing.assert_allclose(opening[middle], abs(other + error_px - end), atol=2.0)


def test_a_mouth_is_open_where_its_inside_is_seen(face: Array) -> None:
    """Landmarks that stand apart on lips that touch do not open a mouth."""
    assert Mouth.seen(painted(mouth(face)), mouth(face)).shown == 0
    assert inside_seen(face, 8.0, TEETH) == inside_seen(face, 8.0, CAVITY) == inside_seen(face, 8.0, OWN) == 1
    points = mouth(face, gap_px=8.0)
    crop = painted(points)
    for colour in (LOWER, OWN):
        crop[:, (np.abs(crop.transpose(1, 2, 0) - colour) < 1e-3).all(2)] = np.array(UPPER, np.float32)[:, None]
    assert Mouth.seen(crop, points).shown == 0


@pytest.mark.parametrize("colour", [TEETH, CAVITY])
def test_an_open_mouth_closes_by_and_by(face: Array, colour: tuple[float, float, float]) -> None:
    """What counts as open grows with the gap, without a jump."""
    shares = [inside_seen(face, gap_px, colour) for gap_px in np.arange(1.2, 8.0, 0.4)]
    assert shares == sorted(shares) and shares[-1] == 1 and max(np.diff(shares)) < 0.4
    assert shares[0] < 0.6 if colour == TEETH else shares[0] == 0


def test_teeth_tell_that_a_mouth_is_open_sooner_than_a_dark_line(face: Array) -> None:
    assert inside_seen(face, 2.0, TEETH) > 0.5 > 0.1 > inside_seen(face, 2.0, CAVITY)
