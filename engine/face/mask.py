"""Region masks in crop space, from the parser's probabilities and landmark polygons.

All masks are drawn on the parser's grid (P = 128 over the whole crop), where a pixel is cheap, and enlarged to the
crop once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import cv2
import numpy as np

from mien.engine.errors import EditError
from mien.engine.face.points import INNER_MOUTH, LEFT_BROW, LEFT_EYE, OUTER_MOUTH, RIGHT_BROW, RIGHT_EYE, face_axes
from mien.engine.types import Array

GRID_PX = 128
BORDER_SHARE = 0.06
HAIR_FADE_SHARE = 0.22  # long hair runs out of the crop at its foot; over less than this its new colour ends in a line
FEATHER_SHARE, HAIR_FEATHER_SHARE = 0.02, 0.003
HAIR_CONTRAST = 1.7  # of the guided filter's mask around one half: it is softer than hair ends, and a light colour beyond it is a halo
GUIDE_PX, GUIDE_NOISE = 9, 1e-3
AROUND_SHARE = 0.012  # of the crop: a pixel and a half of the grid, as far as a mask by the frame's edges lies beyond one by the crop's
DOUBT = 0.01  # of a mask counts as none, and as much below 1 as all: a softmax never says either
BACKGROUND, FACE, HAIR, BODY = range(4)


def border_ramp(size: int, share: float = BORDER_SHARE) -> Array:
    """(size, size) float32: 0 on the outermost pixels, 1 from `share` of the side inwards, a smooth step between."""
    step = smooth_step(np.minimum(np.arange(size), np.arange(size)[::-1]) / max(share * size, 1e-6))
    return np.asarray(np.minimum(step[:, None], step[None, :]), np.float32)


def smooth_step(values: Array) -> Array:
    """3 v^2 - 2 v^3 with v clipped to [0, 1]."""
    step = np.clip(values, 0.0, 1.0)
    return np.asarray(step * step * (3.0 - 2.0 * step))


def polygon(points: Array, grow_px: float = 0.0) -> Array:
    """(P, P) float32 in [0, 1]: the convex hull of points (n, 2) in grid pixels, grown (or shrunk) by so many pixels,
    with antialiased edge.
    """
    mask: Array = np.zeros((GRID_PX, GRID_PX), np.uint8)
    hull = cv2.convexHull(points.astype(np.float32))
    shift = 4
    cv2.fillConvexPoly(mask, np.round(hull * (1 << shift)).astype(np.int32), 255, cv2.LINE_AA, shift)
    side = 2 * round(abs(grow_px)) + 1
    if side > 1:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        mask = cv2.dilate(mask, kernel) if grow_px > 0 else cv2.erode(mask, kernel)
    return np.asarray(mask, np.float32) * np.float32(1 / 255)


def blur(mask: Array, sigma_px: float) -> Array:
    """Gaussian blur of a (P, P) mask."""
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), sigma_px, borderType=cv2.BORDER_REPLICATE))


def edge_guide(mask: Array, picture: Array) -> Array:
    """(P, P, 4): gains of R, G and B and a constant, by which the colours of a picture (3, P, P) on [-1, 1], or of the same picture
    larger, make a (P, P) mask that ends at its edges: the guided filter with a colour guide (He et al. 2013, section 3.5), to
    which hair ends also before a wall that is as bright.
    """

    def mean(values: Array) -> Array:
        return np.asarray(cv2.boxFilter(values, -1, (GUIDE_PX, GUIDE_PX), borderType=cv2.BORDER_REPLICATE))

    r, g, b = picture
    mean_r, mean_g, mean_b, mean_mask = mean(r), mean(g), mean(b), mean(mask)
    rr, gg, bb = (mean(c * c) - m * m + GUIDE_NOISE for c, m in ((r, mean_r), (g, mean_g), (b, mean_b)))
    rg, rb, gb = mean(r * g) - mean_r * mean_g, mean(r * b) - mean_r * mean_b, mean(g * b) - mean_g * mean_b
    to_r, to_g, to_b = (mean(c * mask) - m * mean_mask for c, m in ((r, mean_r), (g, mean_g), (b, mean_b)))
    # The gains solve a symmetric system of three, here by its adjugate.
    a_rr, a_rg, a_rb = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    a_gg, a_gb, a_bb = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    scale = 1 / (rr * a_rr + rg * a_rg + rb * a_rb)
    gain_r = scale * (a_rr * to_r + a_rg * to_g + a_rb * to_b)
    gain_g = scale * (a_rg * to_r + a_gg * to_g + a_gb * to_b)
    gain_b = scale * (a_rb * to_r + a_gb * to_g + a_bb * to_b)
    rest = mean_mask - gain_r * mean_r - gain_g * mean_g - gain_b * mean_b
    return np.stack([mean(gain_r), mean(gain_g), mean(gain_b), mean(rest)], 2).astype(np.float32)


def guided(guide: Array, picture: Array) -> Array:
    """(P, P): the mask that a guide makes of a picture (3, P, P)."""
    r, g, b = picture
    return np.asarray(guide[..., 0] * r + guide[..., 1] * g + guide[..., 2] * b + guide[..., 3], np.float32)


def around(mask: Array) -> Array:
    """(S, S): 1 where a mask (S, S) is not nearly 0, and a little around it, where one by the frame's finer edges may be more."""
    size = len(mask)
    side = 2 * round(AROUND_SHARE * size) + 1
    wide = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    return np.asarray(np.minimum(4.0 * wide, 1.0) * border_ramp(size), np.float32)


class FaceMasks:
    """The masks of one face in one frame, each made when it is first asked for.

    probabilities: (4, P, P) background, face, hair, body. points: 68 landmarks in pixels of the crop of side `size`.
    picture: (3, P, P) RGB in [-1, 1] that hair edges are drawn to; without it they are the parser's.
    """

    def __init__(self, probabilities: Array, points: Array, size: int, picture: Array | None = None) -> None:
        self._p = probabilities
        self._picture = picture
        self._points = (points + 0.5) * (GRID_PX / size) - 0.5
        self._size = size
        axis_x, axis_y = face_axes(self._points)
        self._across, self._down = axis_x, axis_y
        self._unit = float(np.hypot(*axis_y))
        self._covered: Array | None = None
        self._guide: Array | None = None

    def region(self, name: str) -> Array:
        """(P, P) float32 in [0, 1], not yet feathered, without what covers the face.

        Raises EditError for an unknown name.
        """
        if name not in _REGIONS:
            raise EditError(f"unknown region {name!r}; accepted: {', '.join(_REGIONS)}")
        return _REGIONS[name](self)

    def united(self, names: Iterable[str], within: str | None) -> Array:
        """(S, S) float32 mask of regions united, cut by `within`, feathered, zero at the crop's border."""
        return self.enlarged(self.soft(names, within))

    def soft(self, names: Iterable[str], within: str | None) -> Array:
        """The same on the parser's grid (P, P), before `enlarged`."""
        names = set(names)
        mask = self._joined(names)
        if within is not None:
            mask = mask * self.region(within)
        feather_share = HAIR_FEATHER_SHARE if names == {"locks"} else FEATHER_SHARE
        return blur(mask, feather_share * GRID_PX) * border_ramp(GRID_PX)

    def guide(self, names: Iterable[str]) -> Array:
        """(P, P, 4): the guide of "locks" united with other regions, which keep their feathered edges, see `edge_guide`; what it makes
        of a picture is to be clipped to [0, 1].
        """
        guide = self._locks_guide()
        if others := set(names) - {"locks"}:
            guide = guide.copy()
            full = 0.5 + 0.5 * HAIR_CONTRAST  # where there is no hair the guide is as far below 0 as this is above 1
            guide[..., 3] += full * blur(self._joined(others), FEATHER_SHARE * GRID_PX)
        return guide

    def _joined(self, names: Iterable[str]) -> Array:
        mask = np.zeros((GRID_PX, GRID_PX), np.float32)
        for name in names:
            np.maximum(mask, self.region(name), out=mask)
        return mask

    def enlarged(self, soft: Array) -> Array:
        """A soft (P, P) mask in the crop's size, (S, S) in [0, 1]."""
        large = cv2.resize(soft, (self._size, self._size), interpolation=cv2.INTER_LINEAR)
        np.multiply(large, np.float32(1.0 + 2.0 * DOUBT), out=large)
        np.subtract(large, np.float32(DOUBT), out=large)
        return np.clip(large, 0.0, 1.0, out=large)

    def support(self) -> Array:
        """(P, P) float32: where landmark motion may act: the face with a soft edge beyond the jaw, without what
        covers it, 0 at the border.
        """
        reach = np.concatenate([self._points, self._points[17:27] - 0.7 * self._down])
        inside = blur(polygon(reach, 0.12 * self._unit), 0.09 * self._unit)
        return inside * (1.0 - self.covered()) * border_ramp(GRID_PX)

    def covered(self) -> Array:
        """(P, P) float32: how far something that is neither face nor hair lies over the face, well inside its
        outline; feathered.
        """
        if self._covered is None:
            inner = polygon(self._points[:27], -0.08 * self._unit)
            other = np.clip((self._p[BACKGROUND] + self._p[BODY]) * inner * 2.0 - 0.6, 0.0, 1.0)
            kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
            self._covered = blur(cv2.dilate(cv2.erode(other, kernel), kernel), FEATHER_SHARE * GRID_PX)
        return self._covered

    def _face(self) -> Array:
        return np.asarray(self._p[FACE], np.float32)

    def _hair(self) -> Array:
        return self._fading(self._p[HAIR])

    def _fading(self, hair: Array) -> Array:
        """A (P, P) mask of hair, to 0 towards the crop's lower edge."""
        from_edge = np.arange(GRID_PX)[::-1, None] / (HAIR_FADE_SHARE * GRID_PX)
        return np.asarray(hair * smooth_step(from_edge), np.float32)

    def _all(self) -> Array:
        return np.ones((GRID_PX, GRID_PX), np.float32)

    def _part(self, *groups: tuple[int, ...], grow: float) -> Array:
        drawn = [polygon(self._points[list(group)], grow * self._unit) for group in groups]
        return np.asarray(np.maximum.reduce(drawn) * (self._p[FACE] + 0.5 * self._p[HAIR]).clip(0, 1), np.float32)

    def _mouth(self) -> Array:
        return self._part(OUTER_MOUTH + INNER_MOUTH, grow=0.12)

    def _eyes(self) -> Array:
        return self._part(LEFT_EYE, RIGHT_EYE, grow=0.16)

    def _brows(self) -> Array:
        return self._part(LEFT_BROW, RIGHT_BROW, grow=0.06)

    def _nose(self) -> Array:
        return self._part((27, 31, 33, 35), grow=0.06)

    def _skin(self) -> Array:
        holes = np.maximum.reduce([self._mouth(), self._eyes(), self._brows()])
        return np.asarray(self._p[FACE] * (1.0 - holes), np.float32)

    def _lower_face(self) -> Array:
        below_eyes = self._points[[40, 41, 46, 47]] + 0.3 * self._down
        lower = np.concatenate([self._points[2:15], below_eyes, self._points[[33]]])
        return np.asarray(polygon(lower, 0.05 * self._unit) * self._p[FACE], np.float32)

    def _glasses(self) -> Array:
        """What glasses may cover: a band across the eyes and the temples, past the face's outline by a rim."""
        # A turned head's glasses stand out like its nose.
        middles = np.stack([self._points[36:48].mean(0), self._points[27]])
        corners = [middles + x * self._across + y * self._down for x in (-1.02, 1.02) for y in (-0.36, 0.58)]
        spread = np.concatenate([*corners, self._points[[0, 16]]])
        rim = 2 * round(0.12 * self._unit) + 1
        head = np.clip(self._p[FACE] + self._p[HAIR], 0.0, 1.0)
        worn = cv2.dilate(head, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (rim, rim)))
        return np.asarray(polygon(spread) * worn * (1.0 - self.covered()), np.float32)

    def _head(self) -> Array:
        return np.asarray(np.clip(self._p[FACE] + self._hair(), 0.0, 1.0), np.float32)

    def _portrait(self) -> Array:
        """The person, without the background."""
        return np.asarray(1.0 - self._p[BACKGROUND], np.float32)

    def _locks(self) -> Array:
        """The hair, and where it may fall over the face: all of it but its middle from the eyes down."""
        if self._picture is not None:
            return np.clip(guided(self._locks_guide(), self._picture), 0.0, 1.0)
        hair = cv2.dilate(np.asarray(self._p[HAIR], np.float32), np.ones((5, 5), np.uint8))  # single hairs
        return np.asarray(np.clip(self._fading(hair) + self._under_locks(), 0.0, 1.0), np.float32)

    def _locks_guide(self) -> Array:
        if self._guide is None:
            assert self._picture is not None
            guide = HAIR_CONTRAST * edge_guide(np.ascontiguousarray(self._p[HAIR], np.float32), self._picture)
            guide[..., 3] += 0.5 - 0.5 * HAIR_CONTRAST
            self._guide = guide * self._fading(np.ones((GRID_PX, 1), np.float32))[..., None]
            self._guide[..., 3] += self._under_locks()
        return self._guide

    def _under_locks(self) -> Array:
        inner = np.concatenate([self._points[36:48], self._points[[3, 5, 8, 11, 13]], self._points[27:36]])
        middle = blur(polygon(inner, 0.02 * self._unit), 0.10 * self._unit)
        return np.asarray(self._p[FACE] * (1.0 - middle), np.float32)

    def _lips(self) -> Array:
        """The lips, without what an open mouth shows between them."""
        outer = polygon(self._points[list(OUTER_MOUTH)], 0.06 * self._unit)
        inner = polygon(self._points[list(INNER_MOUTH)], -0.02 * self._unit)
        parted = np.hypot(*(self._points[62] - self._points[66])) > 0.05 * self._unit
        return np.asarray(outer * (1.0 - inner * parted) * self._p[FACE], np.float32)

    def _complexion(self) -> Array:
        """Face with lips and eyelids, ears and neck; neither the eyes nor what an open mouth shows."""
        centre = self._points[[33]]
        wide = centre + 1.25 * (self._points[:17] - centre)
        neck = self._points[4:13] + self._down
        near = blur(polygon(np.concatenate([wide, neck, self._points[17:27] - 0.9 * self._down])), 0.1 * self._unit)
        holes = [polygon(self._points[list(g)]) for g in (LEFT_EYE, RIGHT_EYE, INNER_MOUTH)]
        skin = self._p[FACE] + self._p[BODY] * near + 0.5 * self._p[HAIR] * near
        return np.asarray(np.clip(skin, 0.0, 1.0) * (1.0 - np.maximum.reduce(holes)), np.float32)

    def _beard(self) -> Array:
        """Where a beard grows, a little of the throat too, without lips and mouth."""
        chin = self._points[5:12] + 0.16 * self._down
        area = polygon(np.concatenate([self._points[2:15], chin, self._points[31:36]]), 0.05 * self._unit)
        for side, inwards in (((1, 2, 3), self._across), ((15, 14, 13), -self._across)):
            edge = self._points[list(side)]
            area = np.maximum(area, polygon(np.concatenate([edge, edge + 0.15 * inwards]), 0.05 * self._unit))
        worn = np.clip(self._p[FACE] + self._p[BODY] + self._p[HAIR], 0.0, 1.0) * (1.0 - self.covered())
        mouth = polygon(self._points[list(OUTER_MOUTH)], -0.03 * self._unit)
        return np.asarray(area * worn * (1.0 - mouth), np.float32)


_REGIONS: dict[str, Callable[[FaceMasks], Array]] = {
    "face": FaceMasks._face,
    "skin": FaceMasks._skin,
    "hair": FaceMasks._hair,
    "mouth": FaceMasks._mouth,
    "eyes": FaceMasks._eyes,
    "brows": FaceMasks._brows,
    "nose": FaceMasks._nose,
    "glasses": FaceMasks._glasses,
    "lower_face": FaceMasks._lower_face,
    "head": FaceMasks._head,
    "portrait": FaceMasks._portrait,
    "all": FaceMasks._all,
    "locks": FaceMasks._locks,
    "lips": FaceMasks._lips,
    "complexion": FaceMasks._complexion,
    "beard": FaceMasks._beard,
}
