"""What the templates of edits do to a face's crop: its pixels move, its landmarks go along, and a mouth that opens shows its inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mien.engine.face.lips import LOWER_LIP, part_lips
from mien.engine.face.mouth_inside import draw_inside
from mien.engine.face.warp import Motions, held_still, moved_points, sample_field, warp_crop, warp_field
from mien.engine.types import Array


@dataclass(frozen=True, slots=True)
class FaceMotion:
    """field: (G, G, 2) backward, in crop pixels, see warp.py.

    inside: a picture (3, S, S) in [-1, 1] and its share (S, S), which stands over the moved pixels; None where no mouth opens.
    lower: (G, G, 2) forward, of what hangs on the lower lip where `field` is torn; None where it is smooth.
    """

    field: Array
    inside: tuple[Array, Array] | None = None
    lower: Array | None = None

    def of_crop(self, crop: Array) -> Array:
        """A crop (3, S, S), moved."""
        out = warp_crop(crop, self.field)
        if self.inside is not None:
            picture, share = self.inside
            out += share * (picture - out)
        return out

    def of_points(self, points: Array, size: int, lower_lip: Sequence[int] = LOWER_LIP) -> Array:
        """Points (n, 2) of a crop of side `size`, moved alike; lower_lip: which of them lie on that lip."""
        out = moved_points(points, self.field, size)
        if self.lower is not None:
            lip = points[list(lower_lip)]
            out[list(lower_lip)] = lip + sample_field(self.lower, lip, size)
        return out


def face_motion(moved: Motions, points: Array, size: int, support: Array) -> FaceMotion | None:
    """The motion of smooth templates; None where nothing moves. support: (P, P) in [0, 1], where the face may move."""
    field = warp_field(moved, points, support, size)
    return None if field is None else FaceMotion(field)


def parting_motion(
    moved: Motions,
    points: Array,
    crop: Array,
    support: Array,
    share: Array,
    pixel: float,
    steady: Callable[[Array], Array],
) -> FaceMotion:
    """The motion of templates that part the lips. share: the support in the crop's size, (S, S). pixel, steady: see `draw_inside`
    and `part_lips`.
    """
    parting = part_lips(moved, points, crop, steady)
    inside = None
    if parting.gap is not None:
        picture, shown = draw_inside(crop, parting.gap, pixel)
        inside = picture, shown * share
    return FaceMotion(held_still(parting.field, support), inside, parting.lower)
