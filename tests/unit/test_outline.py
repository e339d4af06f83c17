"""What hides ends in a line: where it runs, how sharp it is, and what is left on either side of it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mien.engine.face.coordinates import MEAN_FACE
from mien.engine.outline import end_in_line, likely_cover
from mien.engine.types import Array

SIZE = 256
CENTRE, RADIUS = np.array([120.0, 110.0]), 40.0
BLUR = 2.5  # of what a network draws, in crop pixels
SKIN, DARK = 0.4, -0.9


def disc(size: int = SIZE, radius: float = RADIUS) -> Array:
    """(n, n): 1 within so many crop pixels of the centre, antialiased."""
    at = (np.arange(size) + 0.5) * (SIZE / size) - 0.5
    distance = radius - np.hypot(at[None] - CENTRE[0], at[:, None] - CENTRE[1])
    return np.clip(distance * (size / SIZE) + 0.5, 0, 1).astype(np.float32)


def picture(value: float) -> Array:
    return np.full((3, SIZE, SIZE), value, np.float32)


def drawn(source: Array) -> Array:
    """The difference of a network that draws a dark disc with blurred edges and half of a shadow around it."""
    share = cv2.GaussianBlur(disc(), (0, 0), BLUR)
    shadow = 0.3 * disc(radius=RADIUS + 30)
    shaded = source - shadow * (source + 1)
    return np.asarray(shaded + share * (DARK - shaded) - source, np.float32)


EVERYWHERE = np.ones((SIZE, SIZE), np.float32)


def edge_of(share: Array, row: int) -> tuple[float, float]:
    """Where a row of a share falls through one half to the right of the middle, and over how much it falls, in crop pixels."""
    scale = len(share) / SIZE
    line = share[round((row + 0.5) * scale - 0.5), round(CENTRE[0] * scale) :]
    fallen = np.interp([0.1, 0.5, 0.9], line[::-1], np.arange(len(line))[::-1])
    place = (round(CENTRE[0] * scale) + fallen[1] + 0.5) / scale - 0.5
    return place, (fallen[0] - fallen[2]) / scale


@pytest.mark.parametrize("pixel", [0.25, 0.5, 1.0, 2.0])
def test_it_ends_where_it_is_half_drawn_as_sharply_as_the_frame_can_show(pixel: float) -> None:
    source = picture(SKIN)
    rest, (colours, share) = end_in_line(source, drawn(source), disc(), EVERYWHERE, 1.0, pixel)
    assert share.shape == ((256, 256) if pixel >= 1 else (round(256 / pixel),) * 2) and colours.shape[1:] == share.shape
    place, width = edge_of(share, 110)
    assert abs(place - (CENTRE[0] + RADIUS)) < 1.0
    assert width < 1.2 * max(pixel, 0.5), "where the network's own edge takes six"
    assert share[0].max() == 0
    inside = share > 0.5
    assert colours[:, inside].max() < DARK + 0.15, "no skin shines through its edge"
    ring = (disc(radius=RADIUS + 12) > 0.5) & (disc(radius=RADIUS + 1) < 0.5)
    halo, left = (np.abs(d[:, ring] + 0.3 * (SKIN + 1)).max() for d in (drawn(source), rest))
    assert left < 0.4 * halo, "beyond the line the shadow alone stays"


def test_a_source_as_dark_as_it_tells_nothing_and_the_mean_face_does() -> None:
    source = picture(SKIN)
    source[..., 120:] = DARK + 0.05
    _, (_, share) = end_in_line(source, drawn(source), disc(), EVERYWHERE, 1.0, 0.5)
    left, right = edge_of(share[:, ::-1], 110)[0], edge_of(share, 110)[0]
    assert abs(right - (CENTRE[0] + RADIUS)) < 2.0
    assert abs(SIZE - 1 - left - (CENTRE[0] - RADIUS)) < 1.0
    elsewhere = np.roll(disc(), 8, 1)  # what is told of it prevails where it is seen
    _, (_, share) = end_in_line(picture(SKIN), drawn(picture(SKIN)), elsewhere, EVERYWHERE, 1.0, 0.5)
    assert abs(edge_of(share, 110)[0] - (CENTRE[0] + RADIUS)) < 2.0


def test_half_as_strong_is_half_as_opaque() -> None:
    source = picture(SKIN)
    source[:, ::7] -= 0.2  # detail, which stays to be seen
    whole = end_in_line(source, drawn(source), disc(), EVERYWHERE, 1.0, 0.5)
    half = end_in_line(source, drawn(source) / 2, disc(), EVERYWHERE, 0.5, 0.5)
    np.testing.assert_allclose(half[1][1], whole[1][1] / 2, atol=1e-3)
    np.testing.assert_allclose(half[1][0], whole[1][0], atol=1e-3)
    np.testing.assert_allclose(half[0], whole[0] / 2, atol=1e-3)


def test_it_stays_within_its_room() -> None:
    source, room = picture(SKIN), np.zeros((SIZE, SIZE), np.float32)
    difference = drawn(source)
    rest, (_, share) = end_in_line(source, difference, disc(), room, 1.0, 0.5)
    assert rest is difference and not share.any()
    room[:, 130:] = 1.0
    _, (_, share) = end_in_line(source, difference, disc(), room, 1.0, 0.5)
    assert not share[:, :258].any() and share[:, 262:].max() == 1.0


def test_no_object_is_no_cover() -> None:
    nothing = picture(0.0)
    rest, (_, share) = end_in_line(picture(SKIN), nothing, np.zeros((SIZE, SIZE), np.float32), EVERYWHERE, 1.0, 0.5)
    assert not rest.any() and not share.any()


def test_the_outline_lies_on_the_face() -> None:
    outline = ((0.25, 0.4), (0.75, 0.4), (0.75, 0.6), (0.25, 0.6))
    straight = likely_cover([outline], MEAN_FACE * SIZE - 0.5, SIZE)
    inside = (slice(110, 146), slice(72, 184))
    assert straight[inside].min() > 0.95 and straight[128, 50] < 0.05 and straight[90, 128] < 0.05
    assert straight.sum() == pytest.approx(0.1 * SIZE**2, rel=0.02)
    turn = cv2.getRotationMatrix2D((128, 128), 20, 0.8)
    turned = (MEAN_FACE * SIZE - 0.5) @ turn[:, :2].T + turn[:, 2]
    there = likely_cover([outline], turned, SIZE)
    np.testing.assert_allclose(there, cv2.warpAffine(straight, turn, (SIZE, SIZE)), atol=0.05)
    both = likely_cover([outline, ((0.4, 0.7), (0.6, 0.7), (0.5, 0.9))], MEAN_FACE * SIZE - 0.5, SIZE)
    assert both[200, 128] > 0.9 and both[128, 128] > 0.95
