"""The regions of the embedded bundle's edits."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from mien.engine.errors import EditError
from mien.engine.face.mask import BODY, FACE, GRID_PX, HAIR, FaceMasks, around, edge_guide, guided
from mien.engine.types import Array
from mien.export.tiny.paint import EDITS_FILE
from mien.kernels.color import LUMA

SIZE = 256


@pytest.fixture
def points(face: Array) -> Array:
    """The face in crop pixels: eyes 60 px apart."""
    return face - [160.0, 110.0] + [128.0, 110.0]


def masks_of(points: Array, face: float = 1.0, hair: float = 0.0, body: float = 0.0) -> FaceMasks:
    p = np.zeros((4, GRID_PX, GRID_PX), np.float32)
    p[FACE], p[HAIR], p[BODY], p[0] = face, hair, body, 1 - face - hair - body
    return FaceMasks(p, points, SIZE)


def at(masks: FaceMasks, region: str, where: Array) -> float:
    x, y = where.round().astype(int)
    return float(masks.united([region], None)[y, x])


def test_every_edit_names_regions_that_exist(points: Array) -> None:
    masks = masks_of(points)
    for edit in json.loads(EDITS_FILE.read_text()).values():
        mask = masks.united(edit["regions"], None)
        assert mask.shape == (SIZE, SIZE) and 0 <= mask.min() and 0.25 < mask.max() <= 1
        assert not mask[[0, -1]].any() and not mask[:, [0, -1]].any()
    with pytest.raises(EditError):
        masks.region("wings")


def test_regions_lie_where_their_edits_act(points: Array) -> None:
    masks = masks_of(points)
    eye, cheek, chin = points[36:42].mean(0), points[33] + [28, 0], points[8] - [0, 6]
    brow, lower_lip = points[17:22].mean(0) - [0, 12], points[[57, 66]].mean(0)
    assert at(masks, "locks", brow) > 0.6 and at(masks, "locks", points[33]) < 0.3
    assert at(masks, "lips", lower_lip) > 0.5 and at(masks, "lips", cheek) < 0.01
    assert at(masks, "complexion", cheek) > 0.9 and at(masks, "complexion", eye) < 0.4
    assert at(masks, "complexion", lower_lip) > 0.6, "lips tan with the skin"
    assert at(masks, "beard", chin) > 0.9 and at(masks, "beard", lower_lip) < 0.5 and at(masks, "beard", eye) < 0.01


def test_hair_is_in_locks_and_clothes_are_not_complexion(points: Array) -> None:
    hair, body = masks_of(points, 0.0, 1.0), masks_of(points, 0.0, 0.0, 1.0)
    assert hair.region("locks")[: round(0.75 * GRID_PX)].min() > 0.9
    aside = points[8] + [105, 20]
    assert at(body, "complexion", points[8] + [0, 20]) > 0.5 and at(body, "complexion", aside) < 0.1


@pytest.mark.parametrize("region", ["hair", "head", "locks"])
def test_long_hair_fades_out_towards_the_foot_of_the_crop(points: Array, region: str) -> None:
    """Over a fifth of the crop at its foot and nowhere else; the face does not fade."""
    foot = masks_of(points, 0.0, 1.0).united([region], None)[:, 60]
    assert foot[190] > 0.9 and 0.3 < foot[228] < 0.7 and foot[250] < 0.1
    assert (np.diff(foot[190:]) <= 0).all() and np.diff(foot).min() > -0.04
    assert foot[20] > 0.9
    if region != "hair":
        assert masks_of(points).united([region], None)[228, 60] > 0.9


def test_lips_spare_the_open_mouth(points: Array) -> None:
    opened = points.copy()
    opened[[65, 66, 67]] += [0, 20]
    opened[[55, 56, 57, 58, 59]] += [0, 20]
    between = opened[[62, 66]].mean(0)
    assert at(masks_of(opened), "lips", between) < 0.4


def test_a_hair_mask_is_drawn_to_the_pictures_edge() -> None:
    picture: Array = np.full((3, 128, 128), 0.6, np.float32)
    picture[:, :, :64] = -0.6  # dark hair up to column 64
    blunt: Array = np.repeat(np.clip((70 - np.arange(128)) / 12, 0, 1)[None], 128, 0).astype(np.float32)
    sharp = guided(edge_guide(blunt, picture), picture)
    assert sharp[64, 40] == pytest.approx(1.0, abs=0.02) and sharp[64, 90] == pytest.approx(0.0, abs=0.02)
    step, blunt_step = sharp[64, 63] - sharp[64, 64], blunt[64, 63] - blunt[64, 64]
    assert step > 3 * blunt_step > 0
    hued: Array = np.zeros_like(picture)
    hued[0], hued[2] = (
        np.where(np.arange(128) < 64, 0.3, -0.3),
        np.where(np.arange(128) < 64, -0.3, 0.3) * LUMA[0] / LUMA[2],
    )
    assert np.ptp(np.tensordot(LUMA, hued, 1)) < 1e-6, "brown before grey: as bright"
    by_hue = guided(edge_guide(blunt, hued), hued)
    assert by_hue[64, 63] - by_hue[64, 64] > 3 * blunt_step
    nothing: Array = np.zeros((3, 128, 128), np.float32)
    flat = guided(edge_guide(blunt, nothing), nothing)
    assert np.abs(np.diff(flat[64])).max() < 0.15, "without an edge there is nothing to draw it to"


def test_a_guide_draws_a_larger_picture_finer() -> None:
    """The same edge, within a pixel of the grid: 4 times as large, it is found to a pixel."""
    fine: Array = np.full((3, 512, 512), 0.6, np.float32)
    fine[:, :, :255] = -0.6
    picture = cv2.resize(fine.transpose(1, 2, 0), (128, 128), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
    blunt: Array = np.repeat(np.clip((70 - np.arange(128)) / 12, 0, 1)[None], 128, 0).astype(np.float32)
    guide = edge_guide(blunt, picture)
    larger = guided(cv2.resize(guide, (512, 512)), fine)[256]
    enlarged = cv2.resize(guided(guide, picture), (512, 512))[256]
    assert larger[254] - larger[255] > 3 * np.abs(np.diff(enlarged)).max()
    assert np.abs(np.delete(np.diff(larger), 254)).max() < 0.05, "there, and nowhere else"


def test_locks_are_drawn_by_their_guide(points: Array) -> None:
    p: Array = np.zeros((4, GRID_PX, GRID_PX), np.float32)
    p[HAIR, :50], p[FACE, 50:] = 1.0, 1.0
    picture = np.random.default_rng(0).uniform(-1, 1, (3, GRID_PX, GRID_PX)).astype(np.float32)
    masks = FaceMasks(p, points, SIZE, picture)
    drawn = masks.region("locks")
    np.testing.assert_array_equal(drawn, np.clip(guided(masks.guide(["locks"]), picture), 0, 1))
    assert drawn[:40, 20:-20].mean() > 0.95 and drawn[70:80, 55:70].max() < 0.2
    both = np.clip(guided(masks.guide(["locks", "complexion"]), picture), 0, 1)
    np.testing.assert_allclose(both[:40], drawn[:40], atol=0.05)
    assert both[70:80, 55:70].mean() > 0.9, "with the skin beside them"


def test_a_guided_mask_has_room_beyond_the_crops_and_ends_at_its_border() -> None:
    mask: Array = np.zeros((256, 256), np.float32)
    mask[:, 100:] = np.clip((np.arange(156) + 1) / 8, 0, 1)
    wide = around(mask)
    assert (wide[128, 103:240] == 1).all() and wide[128, 98] > 0.3 and not wide[128, :90].any()
    assert wide.max() == 1 and not wide[0].any() and not wide[:, -1].any()
