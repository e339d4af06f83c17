"""The paste box, and what the compositions refuse."""

from __future__ import annotations

import numpy as np
import pytest

from mien.kernels import cpp
from mien.kernels.composite_yuv import composite_delta_yuv
from mien.kernels.planes import paste_box

IDENTITY = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
COLOUR = dict(matrix="bt709", color_range="limited", bit_depth=8)


@pytest.mark.parametrize(
    "scale, degrees, x, y",
    [(1.0, 0.0, 20.0, 20.0), (2.3, 31.0, 5.0, 70.0), (9.0, -80.0, 40.0, 30.0), (2.0, -20.0, 40.0, 31.0)],
)
def test_paste_box_holds_every_sample_of_the_square(placed, scale, degrees, x, y):
    affine, size, width, height = placed(16, x, y, scale, degrees), 16, 79, 61
    j, i = np.indices((height, width))
    square = np.linalg.inv(np.vstack([affine, [0, 0, 1]]))
    cx, cy, _ = np.einsum("ij,jvu->ivu", square, np.stack([i, j, np.ones_like(i)]))
    is_inside = (np.abs(cx - 7.5) <= 8) & (np.abs(cy - 7.5) <= 8)
    x0, y0, x1, y1 = paste_box(affine, size, width, height)
    assert x0 % 2 == 0 and y0 % 2 == 0 and (x1 % 2 == 0 or x1 == width) and (y1 % 2 == 0 or y1 == height)
    columns, rows = np.flatnonzero(is_inside.any(axis=0)), np.flatnonzero(is_inside.any(axis=1))
    assert x0 <= columns[0] and columns[-1] < x1
    assert y0 <= rows[0] and rows[-1] < y1
    if 0 < x0 and x1 < width and 0 < y0 and y1 < height:  # nothing cut off: the box is tight
        assert columns[0] <= x0 + 2 and x1 - 3 <= columns[-1]
        assert rows[0] <= y0 + 2 and y1 - 3 <= rows[-1]


def test_paste_box_outside_the_frame_is_empty(placed):
    assert paste_box(placed(16, -900.0, 20.0, 1.0), 16, 79, 61) == (0, 0, 0, 0)


@pytest.mark.skipif(cpp.native is None, reason="no C++ module in this installation")
@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 100, 4096])
def test_extent_is_the_lowest_and_the_highest_or_nan(count):
    numbers = np.random.default_rng(count).normal(0, 9, count).astype(np.float32)
    assert cpp.native.extent(numbers) == (numbers.min(), numbers.max())
    for bad in (np.nan, -np.nan, np.inf, -np.inf):
        for place in {0, count // 2, count - 1}:
            spoilt = numbers.copy()
            spoilt[place] = bad
            assert np.isnan(cpp.native.extent(spoilt)).all()


def _bad_arguments() -> list[tuple[str, dict]]:
    y, c = np.zeros((8, 8), np.uint8), np.zeros((4, 4), np.uint8)
    field, mask, warp = np.zeros((3, 4, 4), np.float32), np.zeros((4, 4), np.float32), np.zeros((2, 2, 2), np.float32)
    return [
        (r"delta must be \(3, 4, 4\)", {"delta": field[:, :3]}),
        ("delta must be float32", {"delta": field.astype(np.float64)}),
        ("delta must be finite", {"delta": field + np.nan}),
        (r"mask must be \(S, S\)", {"mask": mask[0]}),
        (r"mask must be \(4, 4\)", {"mask": np.zeros((4, 5), np.float32)}),
        (r"mask must be in \[0, 1\]", {"mask": mask + 2}),
        ("mask must be finite", {"mask": mask + np.nan}),
        (r"warp must be \(G, G, 2\)", {"warp": warp[:1]}),
        (r"warp must be \(2, 2, 2\)", {"warp": warp[..., 0]}),
        ("warp must be finite", {"warp": warp + np.inf}),
        ("must lie in the frame 8x8", {"box": (0, 0, 10, 8)}),
        ("even pixels", {"box": (1, 0, 8, 8)}),
        ("even pixels", {"box": (0, 0, 8, 5)}),
        ("invertible", {"crop_to_frame": np.ones((2, 3))}),
        ("threads", {"threads": 0}),
        (
            "out plane Y must be",
            {"out": (np.zeros((8, 6), np.uint8), np.zeros((4, 3), np.uint8), np.zeros((4, 3), np.uint8))},
        ),
        ("out plane U must not share", {"out": (y.copy(), c, c.copy())}),
    ]


@pytest.mark.parametrize("message, change", _bad_arguments())
def test_bad_arguments_raise_one_line(path, message, change):
    arguments = dict(
        planes=(np.zeros((8, 8), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)),
        crop_to_frame=IDENTITY,
        delta=np.zeros((3, 4, 4), np.float32),
        mask=np.zeros((4, 4), np.float32),
        warp=np.zeros((2, 2, 2), np.float32),
        **COLOUR,
    )
    composite_delta_yuv(**arguments)
    if message == "out plane U must not share":
        change = {"out": (np.zeros((8, 8), np.uint8), arguments["planes"][1], np.zeros((4, 4), np.uint8))}
    with pytest.raises(ValueError, match=message) as caught:
        composite_delta_yuv(**(arguments | change))
    assert "\n" not in str(caught.value)
