"""Source and result side by side, as one frame twice as wide: for eyes, not for measuring."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mien.engine.types import Array, Frame, Rotation
from mien.runtime.video_info import VideoInfo

# Which axis of the stored planes is the viewer's horizontal one, and whether the source comes first along it.
_AXIS: dict[Rotation, int] = {0: 1, 90: 0, 180: 1, 270: 0}
_SOURCE_FIRST: dict[Rotation, bool] = {0: True, 90: False, 180: False, 270: True}


def side_by_side(source: Frame, result: Frame) -> Frame:
    """One frame with the source on the viewer's left; an odd last row or column is cut off."""
    axis, first = _AXIS[source.rotation], _SOURCE_FIRST[source.rotation]
    height, width = source.height_px // 2, source.width_px // 2

    def joined(plane: int, rows: int, columns: int) -> Array:
        pair = [frame.planes[plane][:rows, :columns] for frame in ((source, result) if first else (result, source))]
        return np.concatenate(pair, axis=axis)

    planes = (joined(0, 2 * height, 2 * width), joined(1, height, width), joined(2, height, width))
    return replace(result, planes=planes)


def side_by_side_info(info: VideoInfo) -> VideoInfo:
    """The stream that such frames make."""
    width, height = info.width // 2 * 2, info.height // 2 * 2
    wide = _AXIS[info.rotation] == 1
    return replace(info, width=width * 2 if wide else width, height=height if wide else height * 2)
