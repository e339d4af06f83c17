"""Frames and faces as values: what is equal, and the bits of a sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from mien.engine.compose import Placement
from mien.engine.errors import ShapeError
from mien.engine.face.align import ffhq_quad
from mien.engine.frame_crop import bit_depth
from mien.engine.types import Array, Face, Frame


def test_what_holds_arrays_is_equal_to_itself_alone(face: Array, frame_of: Callable[..., Frame]) -> None:
    made: tuple[Callable[[], Any], ...] = (
        lambda: frame_of(0),
        lambda: Face(1, (0.0, 0.0, 1.0, 1.0), face, 0.9),
        lambda: Placement(1, ffhq_quad(face), face),
    )
    for make in made:
        one, other = make(), make()
        assert one == one and one != other and other in [one, other] and len({one, other}) == 2


def test_bit_depth(frame_of: Callable[..., Frame]) -> None:
    frame = frame_of(0)
    deep = replace(
        frame, pixel_format="yuv420p10le", planes=cast(Any, tuple(plane.astype(np.uint16) for plane in frame.planes))
    )
    assert (bit_depth(frame), bit_depth(deep)) == (8, 10)
    with pytest.raises(ShapeError, match="pixel format is 'nv12'; accepted: yuv420p, yuv420p10le"):
        bit_depth(replace(frame, pixel_format=cast(Any, "nv12")))
