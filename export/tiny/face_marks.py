"""Where age and smiles mark a face: lines, forms and spots over the mesh, and the canvas on which they are drawn.

They lie on the mesh and do not vary from draw to draw: the network learns them in one pass, at an eighth of the picture's
resolution, so that no mark is narrower than about three pixels of a 256 px crop. Points as in strokes.py; a unit is `size_of` them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mien.engine.types import Array
from mien.export.tiny.strokes import FaceAxes, lines_of, side_weights, size_of, spot, stroke

Line = tuple[int, ...]

FOLDS: tuple[Line, ...] = ((129, 203, 206, 216, 212), (358, 423, 426, 436, 432))  # nose wing to outside the mouth
CORNERS: tuple[Line, ...] = ((61, 146), (291, 375))
MARIONETTE: tuple[Line, ...] = ((61, 43, 211), (291, 273, 431))
CROWS: tuple[Line, ...] = (
    (130, 113, 156),
    (130, 226, 35, 143),
    (25, 31, 111, 116),
    (359, 342, 383),
    (359, 446, 265, 372),
    (255, 261, 340, 345),
)
BAGS: tuple[Line, ...] = ((232, 231, 230, 229, 228), (452, 451, 450, 449, 448))
BAG_RIMS: tuple[Line, ...] = ((244, 121, 120, 119, 118), (464, 350, 349, 348, 347))
LIDS: tuple[Line, ...] = ((56, 28, 27, 29, 30, 247, 226), (286, 258, 257, 259, 260, 467, 446))
JAW: tuple[Line, ...] = ((172, 136, 150, 149), (397, 365, 379, 378))
CHIN: tuple[Line, ...] = ((182, 83, 18, 313, 406),)
# Rows of the mesh across the forehead, from the brows to the hairline.
_BROW_ROW: Line = (63, 105, 66, 107, 9, 336, 296, 334, 293)
_MIDDLE_ROW: Line = (68, 104, 69, 108, 151, 337, 299, 333, 298)
_TOP_ROW: Line = (54, 103, 67, 109, 10, 338, 297, 332, 284)
CHEEKS = (50, 280)


class Crease(NamedTuple):
    """Lines with their depth and the light of the bulge beside them in stops; width and the bulge's place (out, down) in units."""

    lines: tuple[Line, ...]
    depth: float
    width: float
    light: float = 0.0
    bulge: tuple[float, float] = (0.0, 0.0)


CREASES = (
    Crease(FOLDS, 0.68, 0.048, 0.25, (0.07, -0.03)),
    Crease(MARIONETTE, 0.50, 0.050, 0.20, (0.06, 0.0)),
    Crease(CROWS, 0.52, 0.038),
    Crease(BAG_RIMS, 0.52, 0.046, 0.16, (0.0, 0.055)),
    Crease(LIDS, 0.40, 0.042, 0.14, (0.0, -0.07)),
    Crease(CHIN, 0.38, 0.055),
    Crease(JAW, 0.44, 0.090, 0.08, (0.0, -0.13)),
)
# Mesh points whose mean is the middle of a hollow or swelling: image-left, image-right, radius in units, stops.
FORMS = (
    ((147, 187), (376, 411), 0.16, -0.22),  # cheeks
    ((71, 139), (301, 368), 0.12, -0.22),  # temples
    ((149, 170), (378, 395), 0.08, -0.24),  # before the jowls
    ((135, 214), (364, 434), 0.10, 0.07),  # jowls
    ((117, 123), (346, 352), 0.10, 0.12),  # cheekbones
)
# Age spots and blotches: a mesh point, another towards which it lies, how far; radius in units; stops of green.
SPOTS = (
    (54, 104, 0.4, 0.045, -0.30),
    (68, 71, 0.5, 0.055, -0.26),
    (333, 298, 0.3, 0.050, -0.30),
    (299, 297, 0.5, 0.040, -0.24),
    (116, 123, 0.4, 0.050, -0.30),
    (345, 280, 0.3, 0.045, -0.30),
    (383, 301, 0.5, 0.045, -0.26),
    (117, 50, 0.4, 0.040, -0.24),
    (346, 345, 0.5, 0.040, -0.24),
    (50, 205, 0.5, 0.12, -0.06),
    (280, 425, 0.2, 0.10, -0.06),
    (101, 36, 0.5, 0.07, 0.06),
    (330, 347, 0.5, 0.07, 0.06),
    (151, 108, 0.5, 0.11, -0.06),
    (333, 332, 0.5, 0.10, 0.06),
)


class Canvas(NamedTuple):
    """A face's axes, size and mesh, the (H, W) it is drawn on, and how much of each half is seen there (H, W)."""

    axes: FaceAxes
    unit: float
    points: Array
    shape: tuple[int, int]
    seen: Array

    @classmethod
    def of(cls, points: Array, shape: tuple[int, int]) -> Canvas:
        """The canvas of a mesh."""
        axes, unit = FaceAxes.of(points), size_of(points)
        left, right = side_weights(points)
        y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
        across = ((x - points[168, 0]) * axes.right[0] + (y - points[168, 1]) * axes.right[1]) / unit
        seen = left + (right - left) * np.clip(across / 0.5 + 0.5, 0, 1)
        return cls(axes, unit, points, shape, np.asarray(seen, np.float32))

    def draw(self, lines: tuple[Line, ...], width: float, out: float = 0.0, down: float = 0.0) -> Array:
        """Soft strokes along mesh lines, moved outwards and down by units; (H, W) in [0, 1]."""
        nose = self.points[168, :2]
        moved = []
        for line in lines_of(self.points, lines):
            side = np.sign((line.mean(0) - nose) @ self.axes.right)
            moved.append(line + self.unit * (side * out * self.axes.right + down * self.axes.down))
        return self.draw_free(moved, width)

    def draw_free(self, lines: list[Array], width: float) -> Array:
        """Soft strokes along lines (k, 2) in pixels; (H, W) in [0, 1]."""
        return self.seen * stroke(self.shape, lines, width * self.unit, 0.45 * width * self.unit)

    def spot(self, centre: Array, radius: float) -> Array:
        """A Gaussian spot of a radius in units; (H, W) in [0, 1]."""
        return self.seen * spot(self.shape, centre, radius * self.unit)

    def forehead(self, width: float) -> tuple[Array, Array]:
        """Lines across the forehead, curved as the brows are, and between the brows; the bulges under them."""
        brow, middle, top = (self.points[list(row), :2] for row in (_BROW_ROW, _MIDDLE_ROW, _TOP_ROW))
        rows = [brow + 0.45 * (middle - brow), middle + 0.10 * (top - middle), middle + 0.58 * (top - middle)]
        lines = [row[k : len(row) - k] for row, k in zip(rows, (0, 1, 2), strict=True)]
        frown = [p[[107, 55], :2] * 0.62 + p[[9, 8], :2] * 0.38 for p in (self.points,)]
        frown += [p[[336, 285], :2] * 0.62 + p[[9, 8], :2] * 0.38 for p in (self.points,)]
        below = [line + 0.05 * self.unit * self.axes.down for line in lines]
        return np.maximum(self.draw_free(lines, width), self.draw_free(frown, width)), self.draw_free(below, width)
