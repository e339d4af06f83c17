"""What a difference of latents makes of a picture: only what can show is decoded, and what it hides is covered."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from mien.engine.types import Array

# Latents decoded beyond the mask. Measured on the embedded bundle, 40 edits of held-out faces: 5 leave at most 1.2 grey levels to the
# whole decode by difference_decoder (0.15 on average of the worst pixels) and 0.3 by the decoder, 4 leave 3.8 and 1.
HALO = 5
# Latents that change by less, further than this from the others, are not decoded: they would add less than a grey level.
LEAST_CHANGE, REACH = 0.03, 3
# Below this share of the mask no difference reaches a fifth of a 10-bit code: what is left of a mask averaged over frames.
LEAST_SHARE = 1 / 4096
# Of the [-1, 1] scale: a difference from which the source begins to count as hidden, and from which it is; low, because a lid
# differs little from the eye that it hides. The share of the crop's side by which gaps are closed (dark brows under dark glass
# differ less still), and that of the edge's softness.
COVERS_FROM, COVERS_WHOLLY, CLOSE_SHARE, SOFT_SHARE = 0.06, 0.18, 0.05, 0.006


Drawing = Callable[[Array, Array, Array], tuple[Array, Array]]
"""Latents z and edited (1, C, h, w) and what z was encoded from (3, H, W) -> the difference (3, H, W), and the picture with it."""


def two_rows(decode: Callable[[Array], Array]) -> Drawing:
    """By a decoder (2, C, h, w) -> (2, 3, H, W): edited minus plain; the picture is the decoded one."""

    def draw(z: Array, edited: Array, crop: Array) -> tuple[Array, Array]:
        rows = decode(np.concatenate([edited, z]))
        return rows[0] - rows[1], rows[0]

    return draw


def decode_difference(
    draw: Drawing, z: Array, edited: Array, crop: Array, mask: Array, *, whole: bool = False
) -> tuple[Array, Array]:
    """Difference (3, S, S) that the latents z and edited (1, C, h, w) make of a crop (3, S, S), and the edited picture; 0 where
    neither shows.

    mask: (S, S) in [0, 1]. whole: decode all of it, whatever shows.
    """
    rows = columns = slice(0, z.shape[2])
    if not whole:
        change = np.abs(edited - z).max((0, 1))
        rows, columns = (_window(mask.max(axis), change.max(axis)) for axis in (1, 0))
    factor = mask.shape[0] // z.shape[2]
    at = tuple(slice(s.start * factor, s.stop * factor) for s in (rows, columns))
    difference: Array = np.zeros((3, *mask.shape), np.float32)
    picture: Array = np.zeros(difference.shape, np.float32)
    difference[:, *at], picture[:, *at] = draw(z[:, :, rows, columns], edited[:, :, rows, columns], crop[:, *at])
    return difference, picture


def _window(used: Array, changed: Array) -> slice:
    """The span of latents to decode, for a mask's largest values by row or column (n,) and the latents' changes (m,): where
    both meet, each grown by what a pixel sees around it.
    """
    masked = np.flatnonzero(used > LEAST_SHARE) * len(changed) // len(used)
    moved = np.flatnonzero(changed > LEAST_CHANGE)
    if not len(masked) or not len(moved):
        return slice(0, 1)
    first = max(0, int(masked[0]) - HALO, int(moved[0]) - REACH)
    last = min(len(changed) - 1, int(masked[-1]) + HALO, int(moved[-1]) + REACH)
    return slice(first, last + 1) if first <= last else slice(0, 1)


def covered_share(difference: Array) -> Array:
    """(S, S) in [0, 1]: how far a difference (3, S, S) is so strong that something new stands there; gaps are closed."""
    strength = np.abs(difference).max(0)
    share = np.clip((strength - COVERS_FROM) / (COVERS_WHOLLY - COVERS_FROM), 0.0, 1.0).astype(np.float32)
    side = max(3, round(CLOSE_SHARE * len(share)) | 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    closed = cv2.morphologyEx(share, cv2.MORPH_CLOSE, kernel)
    return np.minimum(cv2.GaussianBlur(closed, (0, 0), SOFT_SHARE * len(share)), np.float32(1.0))
