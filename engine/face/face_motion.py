"""What edits do to a face's crop without a network: templates move its pixels and landmarks, lips part, lids close."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from mien.engine.face.lids import LOWER_LIDS, UPPER_LIDS, close_lids
from mien.engine.face.lips import LOWER_LIP, UPPER_LIP, part_lips
from mien.engine.face.mouth_inside import draw_inside
from mien.engine.face.smooth import Steady
from mien.engine.face.warp import (
    NO_SECOND_MAP,
    Motions,
    held_still,
    motions,
    moved_points,
    node_positions,
    sample_field,
    scaled,
    warp_crop,
    warp_field,
)
from mien.engine.manifest import AttributeEdit
from mien.engine.types import Array

Cover = tuple[Array, Array]
"""A picture (3, S, S) in [-1, 1] and its share (S, S) in [0, 1]."""


@dataclass(frozen=True, slots=True)
class MotionPlan:
    """What a spec's edits move. templates: their motions, added up. parts_lips: whether these tear the lips apart. lids: how far the
    eyes close, 0 to 1.
    """

    templates: Motions = field(default_factory=dict)
    parts_lips: bool = False
    lids: float = 0.0

    @classmethod
    def of(cls, active: Iterable[tuple[AttributeEdit, float]]) -> MotionPlan:
        """The plan of edits with their strengths."""
        edits = list(active)
        templates = motions((edit.template, strength) for edit, strength in edits)
        lids = sum(strength * edit.closes_lids for edit, strength in edits)
        return cls(templates, any(edit.parts_lips for edit, _ in edits), min(max(lids, 0.0), 1.0))

    def __bool__(self) -> bool:
        """Whether anything moves."""
        return bool(self.templates) or self.lids > 0

    def times(self, weight: float) -> MotionPlan:
        """The plan of edits so many times as strong."""
        return replace(self, templates=scaled(self.templates, weight), lids=weight * self.lids)


@dataclass(frozen=True, slots=True)
class FaceMotion:
    """field: (G, G, 2) backward, in crop pixels, see warp.py.

    cover: what stands over the moved pixels: the inside of a mouth that opens, the lashes of eyes that close. lips: (G, G, 2) twice,
    forward, of what hangs on the upper and on the lower lip where `field` is torn. lids: (8, 2) where the lids' points lie then. None
    where not.
    """

    field: Array
    cover: Cover | None = None
    lips: tuple[Array, Array] | None = None
    lids: Array | None = None

    def of_crop(self, crop: Array) -> Array:
        """A crop (3, S, S), moved."""
        out = warp_crop(crop, self.field)
        if self.cover is not None:
            picture, share = self.cover
            out += share * (picture - out)
        return out

    def of_points(self, points: Array, size: int, lips: Sequence[Sequence[int]] = (UPPER_LIP, LOWER_LIP)) -> Array:
        """Points (n, 2) of a crop of side `size`, moved alike; lips: which of them lie on the upper and on the lower one."""
        out = moved_points(points, self.field, size)
        for on_lip, moving in zip(lips, self.lips or (), strict=False):
            at = points[list(on_lip)]
            out[list(on_lip)] = at + sample_field(moving, at, size)
        if self.lids is not None:
            out[[*UPPER_LIDS, *LOWER_LIDS]] = self.lids
        return out


def face_motion(
    plan: MotionPlan, points: Array, crop: Array, support: Array, pixel: float, steady: Steady
) -> FaceMotion | None:
    """The motion of a crop (3, S, S) in [-1, 1] with 68 landmarks in its pixels; None where nothing moves.

    support: (P, P) in [0, 1], where the face may move. pixel: crop pixels a pixel of the frame is wide.
    """
    motion = _template_motion(plan, points, crop, support, pixel, steady)
    if plan.lids <= 0:
        return motion
    size = crop.shape[1]
    if motion is not None:
        crop, points = motion.of_crop(crop), motion.of_points(points, size)
    closing = close_lids(points, crop, plan.lids, pixel, steady)
    lids, (picture, share) = held_still(closing.field, support), closing.drawn
    share = share * _enlarged(support, size)
    if motion is None:
        return FaceMotion(lids, (picture, share), None, closing.edges)
    if motion.cover is not None:
        picture = np.where(share > 0, picture, motion.cover[0])
        share = np.maximum(share, motion.cover[1])
    return FaceMotion(_after(lids, motion.field, size), (picture, share), motion.lips, closing.edges)


def _template_motion(
    plan: MotionPlan, points: Array, crop: Array, support: Array, pixel: float, steady: Steady
) -> FaceMotion | None:
    size = crop.shape[1]
    if not plan.parts_lips:
        smooth = warp_field(plan.templates, points, support, size)
        return None if smooth is None else FaceMotion(smooth)
    parting = part_lips(plan.templates, points, crop, steady)
    cover = None
    if parting.gap is not None:
        picture, share = draw_inside(crop, points, parting.gap, pixel)
        cover = picture, share * _enlarged(support, size)
    upper, lower = (held_still(side, support) for side in parting.sides)
    return FaceMotion(held_still(parting.field, support), cover, (upper, lower))


def _after(second: Array, first: Array, size: int) -> Array:
    """The backward field of two motions one after the other: (G, G, 2), of the second's grid."""
    grid, pitch = len(second), size / len(first)
    nodes = node_positions(size, grid)
    places = np.stack(np.meshgrid(nodes, nodes), 2).astype(np.float32) + second
    at = (places + 0.5) / np.float32(pitch) - 0.5
    return second + cv2.remap(
        first.astype(np.float32), at, NO_SECOND_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )


def _enlarged(support: Array, size: int) -> Array:
    return np.clip(cv2.resize(support, (size, size), interpolation=cv2.INTER_LINEAR), 0.0, 1.0)
