"""What a network puts on a face (dark glasses) ends in a line, at the frame's own detail; the network draws its edge some pixels wide.

How far the object covers a pixel is the share a for which difference = a (object - source) fits best around it: a matte with known
colours (Smith and Blinn, "Blue Screen Matting", SIGGRAPH 1996). Where object and source are alike, as dark glasses are to dark hair,
that tells nothing, and what it covers of a mean face prevails. The line runs where a passes LEVEL. Up to it the object has the colours
it has within, and beyond it the difference is what it is further out (a shadow, say).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

import cv2
import numpy as np

from mien.engine.face.coordinates import MEAN_FACE
from mien.engine.manifest import Outline
from mien.engine.types import Array

LEVEL = 0.65  # the shadow of glasses is a third as dark as they are, and an edge lies half way
# Of the sum of squares over RGB on [-1, 1]: what is known of a mean face weighs as much as a source so much unlike the object.
DOUBT = 0.2
DARKEST = 10.0  # per cent of an object's pixels that are darker than the colour it is known by: of glasses, the rim's
# In pixels of a crop of 256. Networks draw an edge twice EDGE wide; AROUND: what a is fitted over; ROUND: what the line is smoothed by;
# RIM: how far dark colours reach outwards; DEEP and SURE: so far inside the picture, and what is known of a mean face, hold as they are.
AROUND, EDGE, ROUND, RIM, DEEP, SURE, MARGIN = 1.5, 3.0, 1.5, 3.0, 4.0, 9.0, 10.0
SMALLEST = 0.002  # of the crop: islands of less are none
FINEST = 4  # times the crop's resolution
_MEAN_PX = 128
_NEAR = slice(17, 48)


def likely_cover(outlines: Iterable[Outline], points: Array, size: int) -> Array:
    """(S, S) in [0, 1]: how likely polygons on the mean face cover each pixel of a crop with 68 landmarks (68, 2).

    The mean face lies in the crop by the affine map that carries its brows, nose and eyes best to the crop's.
    """
    to_crop = mean_to_crop(points, _MEAN_PX)
    masks = [cv2.warpAffine(_on_mean_face(o), to_crop, (size, size), flags=cv2.INTER_LINEAR) for o in outlines]
    return np.asarray(np.maximum.reduce(masks))


def mean_to_crop(points: Array, side: int) -> Array:
    """(2, 3) affine from pixels of the mean face's crop, `side` pixels wide, to those of a crop with 68 landmarks (68, 2)."""
    there = np.column_stack([MEAN_FACE[_NEAR] * side - 0.5, np.ones(_NEAR.stop - _NEAR.start)])
    return np.asarray(np.linalg.lstsq(there, points[_NEAR], rcond=None)[0].T)


@functools.cache
def _on_mean_face(outline: Outline) -> Array:
    side = 4 * _MEAN_PX  # what is filled is half a pixel larger all around
    mask = np.zeros((side, side), np.uint8)
    cv2.fillPoly(mask, [np.round((np.array(outline) * side - 0.5) * 16).astype(np.int32)], 255, cv2.LINE_8, 4)
    small = cv2.resize(mask, (_MEAN_PX, _MEAN_PX), interpolation=cv2.INTER_AREA)
    return _blurred(small.astype(np.float32) / np.float32(255), 1.5)


def end_in_line(
    crop: Array, difference: Array, likely: Array, room: Array, strength: float, pixel: float
) -> tuple[Array, tuple[Array, Array]]:
    """The difference (3, S, S) without the object's edge, and the object: a picture (3, n, n) and its share (n, n), n >= S.

    crop, difference: (3, S, S) on the [-1, 1] scale. likely: (S, S), see `likely_cover`. room: (S, S) in [0, 1], where the object may be.
    strength: of its edit, in (0, 1], which is the object's opacity. pixel: crop pixels a pixel of the frame is wide; the line is as sharp.
    """
    size = len(room)
    finer = min(max(math.ceil(1 / pixel), 1), FINEST)
    picture, share = np.zeros((3, size * finer, size * finer), np.float32), np.zeros((size * finer,) * 2, np.float32)
    part = _window(room, MARGIN * size / 256)
    if part is None:
        return difference, (picture, share)
    source, change, likely = crop[:, *part], difference[:, *part], likely[part]
    whole = np.clip(source + change / np.float32(strength), -1.0, 1.0)
    scale = size / 256
    cover = _covering(source, whole, likely, AROUND * scale)
    fine = (cover.shape[1] * finer, cover.shape[0] * finer)
    cover = np.maximum(cover, cv2.erode(likely, _disc(SURE * scale)))
    cover = cv2.morphologyEx(cover, cv2.MORPH_CLOSE, _disc(EDGE * scale))
    inside = _filled(cv2.resize(cover, fine, interpolation=cv2.INTER_CUBIC) > LEVEL, SMALLEST * share.size)
    if not inside.any():
        return difference, (picture, share)
    # A blurred step tells how far from it a pixel is.
    soft = ROUND * scale * finer
    distance = (_blurred(inside, soft) - 0.5) * np.float32(soft * math.sqrt(2 * math.pi))
    line = np.clip(distance / np.float32(max(1.0, finer * pixel)) + 0.5, 0.0, 1.0)
    wide = _disc(EDGE * scale)
    coarse = (cv2.resize(inside, cover.shape[::-1], interpolation=cv2.INTER_AREA) > 0.5).astype(np.float32)
    own = _rimmed(whole, coarse, scale)
    rest = difference.copy()
    rest[:, *part] = _carried(change, 1.0 - cv2.dilate(coarse, wide), AROUND * scale) * (1.0 - coarse)
    at = tuple(slice(s.start * finer, s.stop * finer) for s in part)
    for plane, colours in zip(picture, own, strict=True):
        plane[at] = cv2.resize(colours, fine, interpolation=cv2.INTER_LINEAR)
    share[at] = np.float32(strength) * line * cv2.resize(room[part], fine, interpolation=cv2.INTER_LINEAR)
    return rest, (picture, share)


def _window(room: Array, margin: float) -> tuple[slice, slice] | None:
    """Rows and columns around what is not 0."""
    spans = []
    for axis in (1, 0):
        used = np.flatnonzero(room.max(axis) > 0)
        if not len(used):
            return None
        spans.append(slice(max(int(used[0] - margin), 0), min(math.ceil(used[-1] + 1 + margin), len(room))))
    return spans[0], spans[1]


def _covering(source: Array, whole: Array, likely: Array, sigma: float) -> Array:
    """(h, w): the share by which an object covers a source (3, h, w), of which it makes the picture `whole` (3, h, w)."""
    inner = likely > 0.6
    if not inner.any():
        return np.zeros(likely.shape, np.float32)
    colour = np.percentile(whole[:, inner], DARKEST, axis=1).astype(np.float32)
    unlike = colour[:, None, None] - source
    told = _blurred(((whole - source) * unlike).sum(0), sigma)
    weight = _blurred((unlike * unlike).sum(0), sigma)
    return np.asarray((told + DOUBT * likely) / (weight + DOUBT), np.float32)


def _filled(mask: Array, least_px: float) -> Array:
    """(h, w) float32, 1 inside the outer contours of a mask that hold more than `least_px`."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    out = np.zeros(mask.shape, np.float32)
    cv2.drawContours(out, [c for c in contours if cv2.contourArea(c) > least_px], -1, 1.0, cv2.FILLED)
    return out


def _carried(values: Array, known: Array, sigma: float) -> Array:
    """Planes (3, h, w) with those beyond `known` (h, w), near to it, in the colours that lie next to them in it."""
    weight = _blurred(known, sigma)
    own = np.minimum(known, cv2.blur(known, (3, 3)))
    out = np.array(values)
    for plane in out:
        near = _blurred(plane * known, sigma) / np.maximum(weight, np.float32(1e-6))
        near = np.where(weight > 1e-3, near, plane)
        plane[:] = near + own * (plane - near)
    return out


def _rimmed(picture: Array, inside: Array, scale: float) -> Array:
    """A picture (3, h, w) in which the edge of an object is as dark as what lies next to it, wherever the line runs."""
    disc = _disc(RIM * scale)
    rim = np.stack([cv2.erode(plane, disc) for plane in picture])
    deep = _blurred(cv2.erode(inside, _disc(DEEP * scale)), AROUND * scale)
    return np.asarray(rim + deep * (picture - rim))


def _blurred(values: Array, sigma: float) -> Array:
    return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE))


def _disc(radius: float) -> Array:
    side = 2 * round(radius) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
