"""Poisson blending against a dense solution of the same equations."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mien.engine.blend import membrane, poisson, seamless
from mien.engine.edits import Answer
from mien.engine.types import Array


def solved(values: Array, inside: Array) -> Array:
    """The membrane by a dense linear system; a neighbour beyond the picture's edge is the pixel itself."""
    height, width = inside.shape
    number = np.cumsum(inside).reshape(inside.shape) - 1
    system, right = np.zeros((inside.sum(), inside.sum())), np.zeros((inside.sum(), values.shape[2]))
    for y, x in np.argwhere(inside):
        row = number[y, x]
        system[row, row] += 4
        for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            q = min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)
            if inside[q]:
                system[row, number[q]] -= 1
            else:
                right[row] += values[q]
    out = values.astype(np.float64)
    out[inside] = np.linalg.solve(system, right)
    return out


def region(kind: str, size: int) -> Array:
    mask = np.zeros((size, size), np.uint8)
    if kind == "ellipse":
        cv2.ellipse(mask, (size // 2, size // 2), (size // 3, size // 2 - 3), 0, 0, 360, 1, -1)
    elif kind == "edge":  # reaches the picture's edge
        mask[4:, 6:-6] = 1
    else:
        noise = np.random.default_rng(1).normal(size=(size, size))
        mask = (cv2.GaussianBlur(noise, (0, 0), 4) > 0).astype(np.uint8)
    return mask.astype(bool)


@pytest.mark.parametrize("size", [8, 37, 64])
@pytest.mark.parametrize("kind", ["ellipse", "edge", "islands"])
def test_membrane_solves_laplace(kind: str, size: int) -> None:
    values = np.random.default_rng(0).normal(size=(size, size, 3)).astype(np.float32)
    values = cv2.GaussianBlur(values, (0, 0), 3)
    inside = region(kind, size)
    found, wanted = membrane(values, inside), solved(values, inside)
    assert np.array_equal(found[~inside], values[~inside])
    assert np.abs(found - wanted).max() < 0.03 * np.ptp(values[~inside])


def test_nothing_inside_and_nothing_outside() -> None:
    values = np.ones((16, 16, 3), np.float32)
    assert np.array_equal(membrane(values, np.zeros((16, 16), bool)), values)
    assert not membrane(values, np.ones((16, 16), bool)).any()


def test_an_offset_vanishes_and_a_shape_stays() -> None:
    mask = region("ellipse", 64).astype(np.float32)
    bump = np.zeros((64, 64), np.float32)
    cv2.circle(bump, (32, 32), 6, 0.5, -1)
    bump = cv2.GaussianBlur(bump, (0, 0), 1.0)
    out = seamless(np.stack([bump + 0.3] * 3), mask)
    assert np.abs(out - bump).max() < 0.01
    assert not out[:, mask == 0].any()


def test_a_cover_meets_what_lies_below() -> None:
    rng = np.random.default_rng(2)
    crop = cv2.GaussianBlur(rng.normal(size=(64, 64, 3)).astype(np.float32), (0, 0), 8).transpose(2, 0, 1)
    share = region("ellipse", 64).astype(np.float32)
    answer = poisson(Answer(cover=(crop + np.float32(0.2), share)), crop, share)
    assert answer.difference is None and answer.cover is not None
    picture, kept = answer.cover
    assert np.array_equal(kept, share)
    assert np.abs(picture - crop).max() < 0.01, "an offset alone leaves nothing to paste"
