"""How the published 68-point networks (cunjian/pytorch_face_landmark) see mien's landmark crop, and what they answer in it.

They were run on an upright square of 1.2 times the shorter side of a detector's box. mien's crop is 1.6 times the
points' extent, turned upright and centred on the points; the box reaches higher than they do, by a forehead.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

N_LANDMARKS = 68
# Of the crop's side: the side of the square that the network sees, and how far its centre lies above the crop's.
VIEW_SHARE, RISE_SHARE = 0.75, 10 / 128
# These networks find a face in anything. The tracker then has to go by its detector: this is enough to begin a track and
# to go on, but below TrackerOptions.sure, so that only a second detection confirms a track and missed ones end it.
PRESENCE = 0.8


def view_square(size: int) -> tuple[int, int, int]:
    """left, top and side, in crop pixels, of what the network sees of a crop of that size."""
    side = round(size * VIEW_SHARE)
    left = (size - side) // 2
    return left, left - round(size * RISE_SHARE), side


def face_view(image: Tensor, px: int, *, rgb: bool) -> Tensor:
    """Crop (B, 3, P, P) RGB in [-1, 1] -> (B, 3, px, px) in [0, 1], in OpenCV's BGR order unless `rgb`."""
    left, top, side = view_square(image.shape[-1])
    seen = image[:, :, top : top + side, left : left + side]
    seen = (F.interpolate(seen, size=(px, px), mode="bilinear", align_corners=False) + 1.0) / 2.0
    return seen if rgb else seen.flip(1)


def crop_landmarks(answer: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The network's (B, 136), x and y in turns as shares of what it saw -> landmarks (B, 68, 2) in crop pixels, and
    the presence (B, 1), which is always PRESENCE.
    """
    left, top, side = view_square(size)
    points = answer.reshape(-1, N_LANDMARKS, 2) * side
    landmarks = torch.stack([points[:, :, 0] + left, points[:, :, 1] + top], -1)
    return landmarks, torch.full_like(answer[:, :1], PRESENCE)
