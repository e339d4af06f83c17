"""Are the face and its speech kept: distances of landmarks, source to result, our own definitions.

Points are (68, 2) in pixels, iBUG 300-W order; distances are over the source's inter-ocular distance.
"""

from __future__ import annotations

import numpy as np

from mien.engine.face.points import INNER_MOUTH, OUTER_MOUTH, inter_ocular, transform
from mien.engine.networks.arcface_align import similarity
from mien.engine.types import Array

INNER = slice(17, 68)  # all but the jaw, whose points slide along the outline
MOUTH = list(OUTER_MOUTH + INNER_MOUTH)
_UPPER, _LOWER = [61, 62, 63], [67, 66, 65]


def landmark_error(source: Array, result: Array) -> float:
    """Mean distance of the 51 inner points (300-W's inner-point error with the source as the truth)."""
    return _distance(source[INNER], result[INNER]) / inter_ocular(source)


def lip_error(source: Array, result: Array) -> float:
    """Mean distance of the mouth's 20 points after the similarity that brings the result's closest to the source's.

    So neither motion of the head nor of the whole mouth counts, nor its size: only the lips' shape.
    """
    before, after = source[MOUTH], result[MOUTH]
    return _distance(before, transform(similarity(after, before), after)) / inter_ocular(source)


def mouth_opening(points: Array) -> float:
    """Mean distance of the three pairs of inner lip points that lie over each other, over the inter-ocular distance."""
    return _distance(points[_UPPER], points[_LOWER]) / inter_ocular(points)


def _distance(a: Array, b: Array) -> float:
    return float(np.hypot(*(a - b).T).mean())
