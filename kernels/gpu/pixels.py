"""Pictures whose pixels lie evenly in memory, whether planes or channels last."""

from __future__ import annotations

import torch
from torch import Tensor


def pixel_strides(x: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """x (B, C, H, W) and its strides of rows, channels and pixels in reading order.

    Where the rows of pixels do not follow each other, such as in a part of a picture, it is a channels-last copy of x.
    """
    height, width = x.shape[2:]
    if height > 1 and width > 1 and x.stride(2) != width * x.stride(3):
        x = x.contiguous(memory_format=torch.channels_last)
    return x, (x.stride(0), x.stride(1), x.stride(2) if width == 1 else x.stride(3))
