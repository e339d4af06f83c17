"""Poisson blending in crop space, after Perez, Gangnet and Blake, "Poisson Image Editing" (SIGGRAPH 2003), equation 3.

What is pasted keeps its gradients and meets the picture below at the rim of the mask. Its solution is what was to be pasted
minus a membrane: the harmonic function with the difference at the rim as its boundary values (Farbman et al., "Coordinates
for Instant Image Cloning", SIGGRAPH 2009, section 2).
"""

from __future__ import annotations

import cv2
import numpy as np

from mien.engine.edits import Answer
from mien.engine.types import Array

INSIDE = 0.5  # of the mask: where it is greater the equation is solved
COARSEST_PX, COARSEST_SWEEPS, SWEEPS, OVER = 8, 16, 10, 1.8
_NEIGHBOURS = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32) / 4


def membrane(values: Array, inside: Array) -> Array:
    """`values` (H, W, C) float32 with each pixel of `inside` (H, W) bool replaced by the mean of its four neighbours.

    By relaxation from coarse to fine (a cascadic multigrid), which is within 3 % of the boundary's range of the exact
    solution. The picture's own edge is free (Neumann). With every pixel inside nothing is fixed, and the answer is 0.
    """
    if inside.all():
        return np.zeros_like(values)
    height, width = inside.shape
    if min(height, width) <= COARSEST_PX or not inside.any():
        start, sweeps = values * ~inside[..., None], COARSEST_SWEEPS
    else:
        fixed = cv2.resize((~inside).astype(np.float32), (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        summed = cv2.resize(values * ~inside[..., None], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        mean = summed.reshape(*fixed.shape, -1) / np.maximum(fixed, np.float32(1e-6))[..., None]
        coarse = membrane(mean, fixed == 0)
        start, sweeps = cv2.resize(coarse, (width, height)).reshape(values.shape), SWEEPS
    out: Array = np.where(inside[..., None], start, values)
    chequered = (np.add.outer(np.arange(height), np.arange(width)) % 2).astype(bool)
    weights = [(np.float32(OVER) * (inside & (chequered == odd)))[..., None] for odd in (False, True)]
    for _ in range(sweeps if inside.any() else 0):
        for weight in weights:
            around = cv2.filter2D(out, -1, _NEIGHBOURS, borderType=cv2.BORDER_REPLICATE)
            out += weight * (around.reshape(values.shape) - out)
    return out


def seamless(difference: Array, mask: Array) -> Array:
    """A difference (3, S, S) without what it has at the rim of the mask (S, S); 0 outside of it."""
    inside = mask > INSIDE
    values = np.ascontiguousarray(difference.transpose(1, 2, 0))
    return np.ascontiguousarray(((values - membrane(values, inside)) * inside[..., None]).transpose(2, 0, 1))


def poisson(answer: Answer, crop: Array, mask: Array) -> Answer:
    """A method's answer for a crop (3, S, S), made to meet it at the rim of the mask (S, S) and of what it covers."""
    difference, cover = answer.difference, answer.cover
    if difference is not None:
        difference = seamless(difference, mask)
    if cover is not None:
        picture, share = cover
        below = crop if difference is None else crop + difference * mask
        cover = (below + seamless(picture - below, share), share)
    return Answer(difference, cover)
