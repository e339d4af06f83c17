"""Teeth: how many a mouth shows, the light on them, and a lip that rises off them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mien.engine.bundle import Bundle
from mien.engine.face.lips import LOWER_LIP, part_lips
from mien.engine.face.points import LEFT_EYE, RIGHT_EYE, face_axes
from mien.engine.face.seam import MIDDLE, NODES, Mouth
from mien.engine.face.teeth import TEETH, light_of, teeth_shown, tooth_colours
from mien.engine.face.warp import Motions, motions, scaled
from mien.engine.types import Array
from tests.painted_mouth import OWN, SIZE, UPPER, mouth, moved, painted, rows_of

ENAMEL, TONGUE, CAVITY = (0.55, 0.45, 0.35), (0.1, -0.6, -0.6), (-0.85, -0.9, -0.9)


@pytest.fixture(scope="module")
def grin() -> Motions:
    edit = Bundle.open("tiny").manifest.edits["grin"]
    assert edit.parts_lips
    return motions([(edit.template, 1.0)])


def parted(points: Array, colour: tuple[float, float, float]) -> Array:
    """The painted mouth, whose inside is of a colour."""
    crop = painted(points)
    crop[:, (np.abs(crop.transpose(1, 2, 0) - OWN) < 1e-3).all(2)] = np.array(colour, np.float32)[:, None]
    return crop


def test_a_rising_lip_shows_teeth_for_as_far_as_it_rises(face: Array, grin: Motions) -> None:
    points = mouth(face)
    crop, middle = painted(points), points[62, 0] + 3
    after = moved(grin, points, crop).of_crop(crop)
    before_rows, after_rows = rows_of(crop, UPPER, middle), rows_of(after, UPPER, middle)
    risen = before_rows[-1] - after_rows[-1]
    assert risen > 3 and abs(len(before_rows) - len(after_rows)) <= 2, "the lip keeps its thickness"
    teeth = after[:, after_rows[-1] + 3 : before_rows[-1], round(middle)]
    assert teeth.mean(0).min() > 0.1 and np.ptp(teeth, axis=0).max() < 0.6, "bright and without colour"


def test_the_strength_moves_the_corners_and_the_opening_together(face: Array, grin: Motions) -> None:
    points = mouth(face)
    crop, unit = painted(points), float(np.hypot(*face_axes(points)[1]))
    openings, corners = [], []
    for strength in (0.25, 0.5, 0.75, 1.0):
        after = moved(scaled(grin, strength), points, crop).of_points(points, SIZE)
        openings.append((after[66, 1] - after[62, 1]) / unit)
        corners.append((points[[48, 54], 1] - after[[48, 54], 1]).mean() / unit)
    assert openings == sorted(openings) and corners == sorted(corners)
    assert openings[-1] > 0.05 and corners[-1] > 0.08


def test_what_an_open_mouth_shows_stays_where_it_is(face: Array, grin: Motions) -> None:
    """The skull does not smile: the lip rises off what lies behind it, and teeth that it hid come between the two."""
    points = mouth(face, gap_px=8.0)
    crop, middle = parted(points, TONGUE), points[62, 0] + 3
    motion = moved(grin, points, crop)
    after, behind = motion.of_crop(crop), rows_of(crop, TONGUE, middle)
    lip = round(motion.of_points(points, SIZE)[62, 1])
    np.testing.assert_allclose(after[:, behind[2:-2], round(middle)], crop[:, behind[2:-2], round(middle)], atol=0.1)
    assert behind[0] - lip > 3 and after[:, lip + 2 : behind[0] - 1, round(middle)].mean(0).max() > 0.3


def test_a_lip_rises_less_off_teeth_that_show_already(face: Array, grin: Motions) -> None:
    points = mouth(face, gap_px=8.0)
    risen = {}
    for name, colour in (("teeth", ENAMEL), ("cavity", CAVITY), ("tongue", TONGUE)):
        after = moved(grin, points, parted(points, colour)).of_points(points, SIZE)
        risen[name] = float(points[62, 1] - after[62, 1])
        assert points[48, 1] - after[48, 1] > 3, "the corners rise all the same"
    assert risen["teeth"] < 0.3 * risen["cavity"] and abs(risen["tongue"] - risen["cavity"]) < 0.1 * risen["cavity"]


@pytest.mark.parametrize("gap_px", [0.0, 8.0])
def test_nothing_is_folded_but_a_crease_beside_the_nose(face: Array, grin: Motions, gap_px: float) -> None:
    """Above a mouth's corners skin folds in smiles: in one of 500 nodes at most here, between nose and lip."""
    points = mouth(face, gap_px)
    sides = part_lips(grin, points, painted(points), lambda _, value: value).sides
    rows = np.arange(len(sides[0]))[:, None] * SIZE / len(sides[0])
    for side, here in zip(sides, (rows <= points[62, 1], rows >= points[62, 1]), strict=True):
        (x_down, x_across), (y_down, y_across) = (np.gradient(side[..., a], SIZE / len(side)) for a in (0, 1))
        folded = here & ((1 + x_across) * (1 + y_down) - x_down * y_across < 0.05)
        found = np.flatnonzero(folded.any(1)) * SIZE / len(side)
        assert folded.mean() < 0.002 and ((found > points[33, 1]) & (found < points[51, 1])).all()
    after = moved(grin, points, painted(points)).of_points(points, SIZE)
    for lip, sign in (
        (range(48, 55), 1),
        ((54, *range(55, 60), 48), -1),
        (range(60, 65), 1),
        ((64, 65, 66, 67, 60), -1),
    ):
        assert (sign * np.diff(after[list(lip), 0]) > 0).all(), "landmarks keep their order"
    assert (after[list(LOWER_LIP[-3:]), 1] > after[[63, 62, 61], 1]).all()


def test_own_teeth_go_on_in_their_own_colour(face: Array, grin: Motions) -> None:
    points = mouth(face, gap_px=4.0)
    for colour in (ENAMEL, (0.5, 0.35, -0.1)):
        crop = parted(points, colour)
        gap = part_lips(grin, points, crop, lambda _, value: value).gap
        assert gap is not None and gap.lifted
        np.testing.assert_allclose(2 * gap.beside[len(gap.beside) // 2] - 1, colour, atol=0.15)
        after, middle = moved(grin, points, crop).of_crop(crop), points[62, 0] + 3
        row = rows_of(after, UPPER, middle)[-1] + 3
        shade = after[:, row, round(middle)]
        assert (shade[2] - shade[0]) == pytest.approx(colour[2] - colour[0], abs=0.2)


@pytest.mark.parametrize("light", [1.0, 0.5])
def test_teeth_are_told_from_tongue_and_cavity(face: Array, light: float) -> None:
    points = mouth(face, gap_px=12.0)
    found = []
    for colour in (ENAMEL, TONGUE, CAVITY):
        dim = (0.5 + 0.5 * parted(points, colour)) * light
        seen = Mouth.seen(2 * dim - 1, points)
        found.append(teeth_shown(seen, np.full(3, light, np.float32)))
    height = (seen.lower - seen.upper)[MIDDLE, 1].mean()
    assert found[0] == pytest.approx(height, rel=0.15) and found[1] < 0.5 and found[2] < 0.5


def test_eyes_tell_the_light_on_dark_skin(face: Array) -> None:
    points = mouth(face)
    light, dark, dim = (np.full((3, SIZE, SIZE), v, np.float32) for v in (0.1, -0.6, -0.6))
    for eye in (LEFT_EYE, RIGHT_EYE):
        outline = cv2.convexHull(np.round(points[list(eye)]).astype(np.int32))
        for crop, white in ((light, 0.4), (dark, 0.4), (dim, -0.5)):
            for plane in crop:
                cv2.fillPoly(plane, [outline], white)
    strengths = [light_of(crop, points).mean() for crop in (light, dark, dim)]
    assert strengths[1] > 0.8 * strengths[0] and strengths[2] < 0.6 * strengths[0]


def test_a_mouth_outside_of_the_crop_has_a_light(face: Array) -> None:
    for shift in (-400.0, 400.0):
        assert np.isfinite(light_of(np.zeros((3, SIZE, SIZE), np.float32), mouth(face) + shift)).all()


def test_uncovered_teeth_have_the_colour_of_the_brightest_that_show(face: Array) -> None:
    """Others lie in the shadow of a lip, or are blurred with what is beside them; redness of a tongue is no tooth's."""
    points, light = mouth(face, gap_px=12.0), np.ones(3, np.float32)
    crop = parted(points, TONGUE)
    rows, columns = round(points[62, 1]), slice(round(points[61, 0]), round(points[63, 0]))
    crop[:, rows + 1 : rows + 3, columns] = np.array(ENAMEL)[:, None, None] - 0.5
    crop[:, rows + 3 : rows + 6, columns] = np.array(ENAMEL)[:, None, None]
    middle = tooth_colours(Mouth.seen(crop, points), light, teeth=0.1)[NODES // 2]
    np.testing.assert_allclose(2 * middle - 1, ENAMEL, atol=0.1)
    none = Mouth.seen(parted(points, TONGUE), points)
    assert np.abs(tooth_colours(none, light, teeth=0.0) - TEETH).max() < 0.1, "a common tooth's"
