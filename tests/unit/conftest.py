"""A drawn face for the tests of this folder, and networks that see it where the test says it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from mien.engine.types import Array, Frame, TensorSpec


def canonical_face() -> Array:
    """68 points of a frontal face, eyes 60 px apart around (0, 0), the chin 95 px below."""
    jaw = [(-72 * np.cos(a), -10 + 105 * np.sin(a)) for a in np.linspace(-0.1, np.pi + 0.1, 17)]
    brows = [(s * x, y) for s in (-1, 1) for x, y in ((48, -18), (40, -25), (31, -27), (22, -25), (13, -21))[::s]]
    brows[5:] = [(-x, y) for x, y in brows[4::-1]]
    nose = [(0, y) for y in (2, 12, 22, 32)] + [(x, 39) for x in (-13, -6, 0, 6, 13)]
    eye = [(-13, 0), (-5, -5), (5, -5), (13, 0), (5, 5), (-5, 5)]
    eyes = [(x - 30, y) for x, y in eye] + [(x + 30, y) for x, y in eye]
    outer = [(-24, 62), (-15, 57), (-6, 55), (0, 56), (6, 55), (15, 57), (24, 62)]
    outer += [(15, 69), (6, 73), (0, 74), (-6, 73), (-15, 69)]
    inner = [(-19, 62), (-7, 60), (0, 61), (7, 60), (19, 62), (7, 65), (0, 66), (-7, 65)]
    return np.array(jaw + brows + nose + eyes + outer + inner, np.float64)


@pytest.fixture
def face() -> Array:
    """68 points of a face in a frame: eyes 60 px apart, their middle at (160, 110)."""
    return canonical_face() + [160.0, 110.0]


@pytest.fixture
def frame_of() -> Callable[..., Frame]:
    """make_frame(index, shift, width, height, rotation)."""
    return make_frame


@pytest.fixture
def network_of() -> type[FakeNetwork]:
    """FakeNetwork(run, inputs)."""
    return FakeNetwork


def make_frame(index: int, shift: float = 0.0, width: int = 320, height: int = 256, rotation: int = 0) -> Frame:
    """A smooth frame; `shift` moves its content, a large one makes an unrelated picture."""
    y, x = np.mgrid[:height, :width]
    luma = 125 + 60 * np.sin(x / 31 + shift) + 40 * np.cos(y / 23 + 2.3 * shift)
    half = (-(-height // 2), -(-width // 2))
    planes = (luma.astype(np.uint8), np.full(half, 118, np.uint8), np.full(half, 140, np.uint8))
    return Frame(planes, "yuv420p", "bt601", "limited", index, index, Fraction(1, 25), 1, rotation)  # type: ignore[arg-type]


class FakeNetwork:
    """A network out of a function; counts its calls."""

    def __init__(self, run: Callable[..., Mapping[str, Array]], inputs: Mapping[str, TensorSpec] | None = None) -> None:
        self.calls = 0
        self.inputs: Mapping[str, TensorSpec] = inputs or {}
        self.outputs: Mapping[str, TensorSpec] = {}
        self._run = run

    def __call__(self, **arrays: Any) -> Mapping[str, Array]:
        self.calls += 1
        return self._run(**arrays)
