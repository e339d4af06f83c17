"""The orientation a camera wrote into a picture's EXIF block: the one tag without which pixels are the wrong way up."""

from __future__ import annotations

import struct

import numpy as np

from mien.engine.types import Array

_ORIENTATION = 0x0112
_SEARCHED_BYTES = 1 << 20


def _tiff_block(data: bytes) -> bytes:
    """The TIFF structure inside a JPEG's APP1, a PNG's eXIf or a WebP's EXIF chunk; empty where there is none."""
    if data.startswith((b"II*\0", b"MM\0*")):
        return data
    head = data[:_SEARCHED_BYTES] if data.startswith(b"\xff\xd8") else data
    if data.startswith(b"\xff\xd8"):
        place, skip = head.find(b"Exif\0\0"), 6
    elif data.startswith(b"\x89PNG"):
        place, skip = head.find(b"eXIf"), 4
    elif data.startswith(b"RIFF"):
        place, skip = head.find(b"EXIF"), 8
    else:
        return b""
    if place < 0:
        return b""
    block = head[place + skip :]
    return block[6:] if block.startswith(b"Exif\0\0") else block


def orientation(data: bytes) -> int:
    """EXIF orientation 1..8 of a picture file's bytes; 1 where none is stated or the block is damaged."""
    block = _tiff_block(data)
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        for entry in range(count):
            tag, _, _, value = struct.unpack_from(order + "HHIH", block, start + 2 + 12 * entry)
            if tag == _ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def upright(pixels: Array, value: int) -> Array:
    """Pixels (H, W, C) turned and mirrored as orientation 1..8 asks, without loss."""
    if value in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if value in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if value in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
