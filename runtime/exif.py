"""What a picture file says beside its pixels: which way is up, whether alpha is a factor of the colours, whether more follows."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from mien.engine.types import Array

_TIFF = (b"II*\0", b"MM\0*")
_ORDERS = {b"II": "<", b"MM": ">"}
_ORIENTATION, _EXTRA_SAMPLES = 0x0112, 0x0152
_UNASSOCIATED_ALPHA = 2
_WEBP_ANIMATED = 0x02
_SEARCHED_BYTES = 1 << 20


def _tiff_block(data: bytes) -> bytes:
    """The TIFF structure inside a JPEG's APP1, a PNG's eXIf or a WebP's EXIF chunk; empty where there is none."""
    if data.startswith(_TIFF):
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


def _entries(block: bytes) -> Iterator[tuple[int, int, int]]:
    """(tag, where its value is, its value as 16 bits) of a TIFF structure's first folder; raises struct.error where it is cut."""
    order = _ORDERS.get(block[:2])
    if order is None:
        return
    (start,) = struct.unpack_from(order + "I", block, 4)
    (count,) = struct.unpack_from(order + "H", block, start)
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag, _, _, value = struct.unpack_from(order + "HHIH", block, place)
        yield tag, place + 8, value


def orientation(data: bytes) -> int:
    """EXIF orientation 1..8 of a picture file's bytes; 1 where none is stated or the block is damaged."""
    try:
        for tag, _, value in _entries(_tiff_block(data)):
            if tag == _ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def as_stored(data: bytes) -> bytes:
    """A TIFF without the tags by which a decoder turns its pixels or multiplies them by alpha; other files as they are."""
    if not data.startswith(_TIFF):
        return data
    plain = bytearray(data)
    try:
        for tag, place, value in _entries(data):
            if tag == _ORIENTATION or (tag == _EXTRA_SAMPLES and value == _UNASSOCIATED_ALPHA):
                # Upright; alpha that is multiplied in already.
                struct.pack_into(_ORDERS[data[:2]] + "H", plain, place, 1)
    except struct.error:
        return data
    return bytes(plain)


def holds_more(data: bytes) -> bool:
    """Whether a file holds further pictures behind its first: an animated WebP or PNG, a TIFF of several pages."""
    if data.startswith(b"RIFF"):
        return data[12:16] == b"VP8X" and len(data) > 20 and bool(data[20] & _WEBP_ANIMATED)
    if data.startswith(b"\x89PNG"):
        return 0 < data.find(b"acTL", 0, data.find(b"IDAT"))
    if not data.startswith(_TIFF):
        return False
    try:
        order = _ORDERS[data[:2]]
        (start,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, start)
        return bool(struct.unpack_from(order + "I", data, start + 2 + 12 * count)[0])
    except struct.error:
        return False


def upright(pixels: Array, value: int) -> Array:
    """Pixels (H, W, C) turned and mirrored as orientation 1..8 asks, without loss."""
    if value in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if value in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if value in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
