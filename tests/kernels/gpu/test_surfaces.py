"""Pools of frames on a device: views of a decoder's layouts, and mistakes in one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mien.kernels.gpu.surfaces import Surfaces


@pytest.mark.parametrize("width, height", [(8, 6), (7, 5), (1, 1)])
def test_nv12_and_p010_are_views_of_the_pool(width, height):
    rows, columns = (height + 1) // 2, (width + 1) // 2
    for make, dtype, shift in ((Surfaces.nv12, np.uint8, 0), (Surfaces.p010, np.uint16, 6)):
        pool = (np.arange(3 * (height + 2 + rows) * 24).reshape(3, -1, 24) % 199 << shift).astype(dtype)
        surfaces = make(torch.from_numpy(pool), width, height, chroma_row=height + 2)
        assert (len(surfaces), surfaces.width, surfaces.height, surfaces.pixel) == (3, width, height, 2)
        assert surfaces.shift == shift and surfaces.bit_depth == (10 if shift else 8)
        pairs = pool[:, height + 2 : height + 2 + rows, : 2 * columns].reshape(3, rows, columns, 2)
        np.testing.assert_array_equal(surfaces.y.numpy(), pool[:, :height, :width])
        np.testing.assert_array_equal(surfaces.u.numpy(), pairs[..., 0])
        np.testing.assert_array_equal(surfaces.v.numpy(), pairs[..., 1])
        surfaces.v[2, rows - 1, columns - 1] = 7
        assert pool[2, height + 1 + rows, 2 * columns - 1] == 7


def test_repr_names_the_form_and_no_samples():
    surfaces = Surfaces.p010(torch.zeros((2, 6, 8), dtype=torch.uint16), 8, 4)
    assert repr(surfaces) == "Surfaces(2 of 8x4, 10 bit << 6, interleaved, cpu)"


def _bad_planes():
    y, c = torch.zeros((2, 4, 6), dtype=torch.uint8), torch.zeros((2, 2, 3), dtype=torch.uint8)
    pairs = torch.zeros((2, 2, 6), dtype=torch.uint8)
    return [
        ("bit_depth", (y, c, c, 12)),
        ("shift", (y, c, c, 8, 1)),
        ("frames, rows, columns", (y[0], c, c, 8)),
        ("uint16 for 10 bit", (y, c, c, 10)),
        ("4:2:0", (y, c[:, :1], c, 8)),
        ("4:2:0", (y, c[:1], c[:1], 8)),
        ("same strides", (y, c, pairs[:, :, ::2], 8)),
        ("same strides", (y.transpose(1, 2), c.transpose(1, 2), c.transpose(1, 2), 8)),
        ("behind its u", (y, pairs[:, :, 1::2], pairs[:, :, ::2], 8)),
    ]


@pytest.mark.parametrize("message, planes", _bad_planes())
def test_bad_planes_raise_one_line(message, planes):
    with pytest.raises(ValueError, match=message) as caught:
        Surfaces(*planes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("width, height, row", [(9, 4, None), (8, 5, None), (8, 4, 3), (8, 4, 5)])
def test_a_pool_that_is_too_small_is_refused(width, height, row):
    pool = torch.zeros((2, 6, 8), dtype=torch.uint8)
    Surfaces.nv12(pool, 8, 4)
    with pytest.raises(ValueError, match="pool must be"):
        Surfaces.nv12(pool, width, height, chroma_row=row)
