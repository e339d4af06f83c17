"""The warp field and the region masks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mien.engine.bundle import Bundle
from mien.engine.errors import EditError
from mien.engine.face.mask import BODY, FACE, GRID_PX, HAIR, FaceMasks, border_ramp
from mien.engine.face.points import face_axes
from mien.engine.face.warp import (
    GRID,
    STILL_PX,
    backward_field,
    forward_field,
    motions,
    moved_points,
    node_positions,
    warp_crop,
    warp_field,
)
from mien.engine.manifest import LandmarkShift
from mien.engine.spec import REGIONS
from mien.engine.types import Array

SIZE = 256
ONES = np.ones((GRID_PX, GRID_PX), np.float32)
LIFT = (LandmarkShift((48, 54), 0.0, -0.1, 0.15), LandmarkShift((27, 36, 45), 0.0, 0.0, 0.1))


@pytest.fixture
def points(face: Array) -> Array:
    """The face in crop pixels: eyes 60 px apart."""
    return face - [160.0, 110.0] + [128.0, 110.0]


def parsed(face: float = 1.0) -> Array:
    p = np.zeros((4, GRID_PX, GRID_PX), np.float32)
    p[FACE], p[0] = face, 1 - face
    return p


def test_no_motion_is_no_field(points: Array) -> None:
    assert warp_field({}, points, ONES, SIZE) is None
    assert warp_field(motions([(LIFT, 0.0)]), points, ONES, SIZE) is None
    field = np.zeros((GRID, GRID, 2), np.float32)
    image = np.random.default_rng(0).standard_normal((3, SIZE, SIZE)).astype(np.float32)
    np.testing.assert_array_equal(warp_crop(image, field), image)


def test_forward_field_is_its_definition(points: Array) -> None:
    """Against a direct float64 sum over landmarks, on a face with roll."""
    c, s = np.cos(0.3), np.sin(0.3)
    rolled = (points - 128) @ np.array([[c, s], [-s, c]]) + 128
    template = (LandmarkShift((48, 54, 57), 0.05, -0.1, 0.3), LandmarkShift((8,), -0.02, 0.04, 0.2))
    got = forward_field(motions([(template, 1.5)]), rolled, SIZE, 16)
    across, down = face_axes(rolled)
    unit, nodes = np.hypot(*down), node_positions(SIZE, 16)
    for i, j in ((3, 8), (9, 7), (12, 10), (15, 0)):
        q, total, field = np.array([nodes[j], nodes[i]]), 0.0, np.zeros(2)
        for shift in template:
            for k in shift.points:
                weight = np.exp(-((q - rolled[k]) ** 2).sum() / (2 * (shift.sigma * unit) ** 2))
                total += weight
                field += weight * 1.5 * (shift.dx * across + shift.dy * down)
        np.testing.assert_allclose(got[i, j], field / max(1.0, total), atol=1e-12)


def test_the_warp_moves_the_picture_as_the_template_says(points: Array) -> None:
    """A dot drawn on the corner of the mouth rises by about a tenth of the eyes' distance; one between the eyes stays."""
    image = np.zeros((1, SIZE, SIZE), np.float32)
    for k in (48, 27):
        cv2.circle(image[0], tuple(int(v) for v in points[k].round()), 3, 1.0, -1)
    field = warp_field(motions([(LIFT, 1.0)]), points, ONES, SIZE)
    assert field is not None and field.dtype == np.float32
    rows, columns = np.mgrid[:SIZE, :SIZE]
    after = warp_crop(image, field)[0]
    for k, rise in ((48, 0.1 * float(np.hypot(*face_axes(points)[1]))), (27, 0.0)):
        near = (np.abs(rows - points[k, 1]) < 16) & (np.abs(columns - points[k, 0]) < 12)
        centre = (after * rows)[near].sum() / after[near].sum(), (after * columns)[near].sum() / after[near].sum()
        assert centre[0] == pytest.approx(round(points[k, 1]) - rise, abs=1.0)
        assert centre[1] == pytest.approx(round(points[k, 0]), abs=0.3)


def test_far_from_the_motion_nothing_moves(points: Array) -> None:
    """Tails that cannot be seen are zero; a crop keeps its samples there, whatever is around the nodes that move."""
    field = warp_field(motions([(LIFT, 1.0)]), points, ONES, SIZE)
    assert field is not None
    length = np.hypot(field[..., 0], field[..., 1])
    assert length[length > 0].min() >= STILL_PX and 0.05 < (length > 0).mean() < 0.5
    image = np.random.default_rng(1).standard_normal((3, SIZE, SIZE)).astype(np.float32)
    fine = cv2.resize(field, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    columns, rows = np.meshgrid(np.arange(SIZE, dtype=np.float32), np.arange(SIZE, dtype=np.float32))
    maps = columns + fine[..., 0], rows + fine[..., 1]
    whole = [cv2.remap(c, *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE) for c in image]
    np.testing.assert_array_equal(warp_crop(image, field), np.stack(whole))


def undone(forward: Array, back: Array) -> Array:
    """(G, G) how far F at where a node comes from is from taking it back, crop pixels."""
    rows, columns = np.mgrid[:GRID, :GRID].astype(np.float32)
    step = np.float32(GRID / SIZE)
    there = cv2.remap(forward.astype(np.float32), columns + back[..., 0] * step, rows + back[..., 1] * step, 1)
    return np.hypot(*(there + back).transpose(2, 0, 1))


def test_backward_undoes_forward(points: Array) -> None:
    forward = forward_field(motions([(LIFT, 1.0)]), points, SIZE)
    assert undone(forward, backward_field(forward, SIZE)).max() < 0.05 < np.abs(forward).max()


def shipped_ends() -> list[tuple[str, float]]:
    edits = Bundle.open("tiny").manifest.edits
    smooth = {name: edit for name, edit in edits.items() if edit.template and not edit.parts_lips}
    return [(name, end) for name, edit in smooth.items() for end in edit.range if end]


@pytest.mark.parametrize(("name", "strength"), shipped_ends())
def test_every_shipped_template_can_be_undone(points: Array, name: str, strength: float) -> None:
    """At both ends of its range no template folds the picture, and landmarks move with it; of parting lips see test_lips."""
    moved = motions([(Bundle.open("tiny").manifest.edits[name].template, strength)])
    forward = forward_field(moved, points, SIZE)
    gradients = [np.gradient(forward[..., a], SIZE / GRID) for a in (0, 1)]
    (x_down, x_across), (y_down, y_across) = gradients
    assert ((1 + x_across) * (1 + y_down) - x_down * y_across).min() > 0.05
    back = backward_field(forward, SIZE)
    assert undone(forward, back).max() < 0.5
    x, y = (((points[:, None, a] + 0.5) * GRID / SIZE - 0.5).astype(np.float32) for a in (0, 1))
    wanted = points + cv2.remap(forward.astype(np.float32), x, y, 1)[:, 0]
    after = moved_points(points, back, SIZE)
    np.testing.assert_allclose(after, wanted, atol=1.0)
    x, y = (((after[:, None, a] + 0.5) * GRID / SIZE - 0.5).astype(np.float32) for a in (0, 1))
    np.testing.assert_allclose(after + cv2.remap(back, x, y, 1)[:, 0], points, atol=0.3)


def test_templates_add_and_backwards_is_shorter() -> None:
    lift, open_ = (LandmarkShift((48,), 0.0, -0.1, 0.1),), (LandmarkShift((48, 57), 0.02, 0.1, 0.2),)
    assert motions([(lift, 1.0), (open_, 0.5)]) == {48: (0.01, pytest.approx(-0.05), 0.2), 57: (0.01, 0.05, 0.2)}
    back = (LandmarkShift((48,), 0.1, -0.1, 0.1, back=(0.2, 0.5)),)
    assert motions([(back, -1.0)])[48][:2] == pytest.approx((-0.02, 0.05))
    assert motions([(lift, -1.0)])[48][1] == pytest.approx(0.06), "by default a negative strength goes less far"


def test_border_ramp() -> None:
    ramp = border_ramp(128)
    assert not ramp[[0, -1]].any() and not ramp[:, [0, -1]].any()
    assert (ramp[8:-8, 8:-8] == 1).all() and (np.diff(ramp[64, :9]) > 0)[:7].all()


@pytest.mark.parametrize("region", REGIONS)
def test_every_region_is_a_soft_mask_that_ends_before_the_border(points: Array, region: str) -> None:
    p = parsed(0.7)
    p[HAIR] = 0.3
    masks = FaceMasks(p, points, SIZE)
    mask = masks.united([region], None)
    assert mask.shape == (SIZE, SIZE) and mask.dtype == np.float32
    assert 0.25 < mask.max() <= 1.0 and mask.min() >= 0.0
    for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]):
        assert not edge.any()
    assert np.abs(np.diff(mask, axis=0)).max() < 0.25, "feathered"


def test_regions_lie_where_they_say(points: Array) -> None:
    masks = FaceMasks(parsed(), points, SIZE)

    def at(region: str, where: Array) -> float:
        x, y = where.round().astype(int)
        return float(masks.united([region], None)[y, x])

    mouth, eye, chin = points[48:68].mean(0), points[36:42].mean(0), points[8] - [0, 8]
    assert at("mouth", mouth) > 0.9 and at("mouth", eye) == 0.0
    assert at("eyes", eye) > 0.9 and at("eyes", mouth) == 0.0
    assert at("glasses", eye) > 0.9 and at("glasses", mouth) == 0.0
    assert at("lower_face", mouth) > 0.9 and at("lower_face", chin) > 0.5 and at("lower_face", eye) < 0.1
    assert at("skin", mouth) < 0.1 and at("skin", points[33] + [30, 0]) > 0.9
    assert masks.united(["mouth", "eyes"], "eyes").max() > 0.9
    assert not masks.united(["mouth"], "eyes").any()


def test_what_covers_the_face_is_out(points: Array) -> None:
    """A hand over the image-left half of the mouth: no warp and no glasses there, both on the other half."""
    p = parsed()
    hand = np.zeros((GRID_PX, GRID_PX), bool)
    hand[80:110, 40:62] = True  # in grid pixels, half of the crop's
    p[FACE][hand], p[BODY][hand] = 0.0, 1.0
    masks = FaceMasks(p, points, SIZE)
    support = masks.support()
    assert support[88, 52] < 0.02 and support[88, 74] > 0.9
    assert masks.united(["mouth"], None)[176, 106] < 0.05 < masks.united(["mouth"], None)[176, 146]
    assert not support[0].any() and not support[:, -1].any()
    field = warp_field(motions([(LIFT, 1.0)]), points, support, SIZE)
    assert field is not None
    assert np.abs(field[44, 26]).max() < 0.1 < np.abs(field[43, 38]).max()


def test_background_beyond_the_jaw_does_not_cover_the_face(points: Array) -> None:
    p = parsed()
    mask = np.zeros((GRID_PX, GRID_PX), np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull((points / 2).astype(np.int32)), 1)
    p[FACE], p[0] = mask, 1 - mask
    assert FaceMasks(p, points, SIZE).covered().max() < 0.05


def test_unknown_region() -> None:
    with pytest.raises(EditError, match="accepted: face"):
        FaceMasks(parsed(), np.zeros((68, 2)), SIZE).region("ear")
