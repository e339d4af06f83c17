"""Still pictures: read as RGB, edited as a YUV frame, and only the difference is put back: the rest stays as it was.

A picture has chroma at full resolution, a Frame at half. So the Frame is what the engine sees and edits, and `apply`
adds what changed in its planes, as RGB, to the picture's own pixels: full-range BT.601, dRGB = A (dY, dU, dV).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from mien.engine.errors import MediaError, RunError
from mien.engine.types import Array, Frame
from mien.runtime.exif import as_stored, holds_more, orientation, upright
from mien.runtime.part_file import PartFile, check_output, write_failure

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
JPEG_QUALITY = 95
_WITHOUT_ALPHA = (".jpg", ".jpeg")
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")

# Full-range BT.601 (JFIF): rows Y, U, V; columns R, G, B.
_TO_YUV = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)
_TO_RGB = np.array([[1.0, 0.0, 1.402], [1.0, -0.344136, -0.714136], [1.0, 1.772, 0.0]], np.float32)


def is_picture(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins like a picture of a kind that can be read; False for what cannot be opened."""
    if not os.path.isfile(path):  # to open a pipe is to wait for it
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


@dataclass(frozen=True, slots=True, repr=False)
class Picture:
    """rgb: (H, W, 3) uint8, upright. alpha: (H, W) uint8 or None. notes: what reading changed. frame: to be edited."""

    rgb: Array
    alpha: Array | None = None
    notes: tuple[str, ...] = ()
    frame: Frame = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame", _frame_of(self.rgb))

    def __repr__(self) -> str:
        return f"Picture({self.rgb.shape[1]}x{self.rgb.shape[0]}, alpha={self.alpha is not None})"

    def apply(self, edited: Frame, boxes: Sequence[tuple[int, int, int, int]]) -> Picture:
        """The picture with what `edited` changed in the boxes (x0, y0, x1, y1, ends exclusive); the rest is kept."""
        rgb = self.rgb.copy()
        height, width = rgb.shape[:2]
        done = np.zeros((height, width), bool)
        for x0, y0, x1, y1 in boxes:
            # Even corners and a margin of two chroma samples, so that the window upsamples as the whole would.
            left, top = max(0, (x0 - 4) // 2 * 2), max(0, (y0 - 4) // 2 * 2)
            right, bottom = min(width, x1 + 4), min(height, y1 + 4)
            luma = (slice(top, bottom), slice(left, right))
            chroma = (slice(top // 2, (bottom + 1) // 2), slice(left // 2, (right + 1) // 2))
            y, u, v = (
                after[where].astype(np.float32) - before[where].astype(np.float32)
                for after, before, where in zip(edited.planes, self.frame.planes, (luma, chroma, chroma), strict=True)
            )
            difference = np.stack([y, _upsampled(u, y.shape), _upsampled(v, y.shape)], -1)
            wanted = difference.any(-1) & ~done[luma]
            inside = np.zeros_like(wanted)
            inside[max(0, y0 - top) : y1 - top, max(0, x0 - left) : x1 - left] = True
            wanted &= inside
            window = rgb[luma]
            added = window[wanted] + difference[wanted] @ _TO_RGB.T
            window[wanted] = np.clip(np.rint(added), 0, 255).astype(np.uint8)
            done[luma] |= wanted
        return replace(self, rgb=rgb)


def _frame_of(rgb: Array) -> Frame:
    """Full-range BT.601 4:2:0 of RGB (H, W, 3); chroma sited left: between two rows, on even columns."""
    yuv = rgb.astype(np.float32) @ _TO_YUV.T
    height, width = rgb.shape[:2]
    planes = [yuv[..., 0]]
    for channel in (1, 2):
        full = np.pad(yuv[..., channel], ((0, height % 2), (1, 1 + width % 2)), mode="edge")
        columns = (full[:, 0:-2:2] + 2 * full[:, 1:-1:2] + full[:, 2::2]) / 4
        planes.append((columns[0::2] + columns[1::2]) / 2 + 128)
    y, u, v = (np.clip(np.rint(plane), 0, 255).astype(np.uint8) for plane in planes)
    return Frame((y, u, v), "yuv420p", "bt601", "full", 0, 0, Fraction(1))


def _upsampled(plane: Array, shape: tuple[int, ...]) -> Array:
    """Chroma (ceil(h/2), ceil(w/2)), sited left, at every luma sample of (h, w): bilinear, edges clamped."""
    rows, columns = (int(n) for n in shape)
    above, below = np.vstack([plane[:1], plane[:-1]]), np.vstack([plane[1:], plane[-1:]])
    tall = np.empty((2 * plane.shape[0], plane.shape[1]), np.float32)
    tall[0::2], tall[1::2] = 0.75 * plane + 0.25 * above, 0.75 * plane + 0.25 * below
    wide = np.empty((tall.shape[0], 2 * tall.shape[1]), np.float32)
    wide[:, 0::2] = tall
    wide[:, 1::2] = (tall + np.hstack([tall[:, 1:], tall[:, -1:]])) / 2
    return wide[:rows, :columns]


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """Read PNG, JPEG, WebP, BMP or TIFF, turned upright by its EXIF orientation. Raises MediaError."""
    name = os.fspath(path)
    if os.path.exists(name) and not (os.path.isfile(name) or os.path.isdir(name)):
        raise MediaError(f"{name} is a device or a pipe, not a file: save the picture first")
    try:
        data = Path(name).read_bytes()
    except FileNotFoundError as error:
        raise MediaError(f"no such file: {name}: give the path of an existing picture") from error
    except IsADirectoryError as error:
        raise MediaError(f"{name} is a folder: give the path of a picture") from error
    except OSError as error:
        raise MediaError(f"cannot read {name}: {error.strerror or error}") from error
    if not data:
        raise MediaError(f"{name} is empty (0 bytes): give a picture")
    if not is_picture(name):
        raise MediaError(f"{name} is not a picture of a known kind: give {', '.join(PICTURE_ENDINGS)}")
    pixels = _decoded(as_stored(data), name)
    notes = []
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
        notes.append("16-bit samples were reduced to 8 bits")
    if pixels.dtype != np.uint8:
        raise MediaError(f"{name} has {pixels.dtype} samples: give 8 or 16 bits")
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
        notes.append("a grey picture becomes a colour one")
    if b"ICC_PROFILE\0" in data[:65536] or b"iCCP" in data[:65536] or b"ICCP" in data[:64]:
        notes.append("its colour profile is not copied")
    if holds_more(data):
        notes.append("it holds several pictures, only the first was edited")
    pixels = upright(pixels, orientation(data))
    alpha = np.ascontiguousarray(pixels[..., 3]) if pixels.shape[2] == 4 else None
    return Picture(np.ascontiguousarray(pixels[..., 2::-1]), alpha, tuple(notes))


def _decoded(data: bytes, name: str) -> Array:
    """Samples as stored: (H, W) or (H, W, 3 or 4), blue first."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the MediaError says it
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise MediaError(f"{name} cannot be decoded: {error.err or 'it is damaged'}") from error
    finally:
        cv2.utils.logging.setLogLevel(level)
    if pixels is None:
        raise MediaError(f"{name} cannot be decoded: it is damaged or cut short")
    return np.asarray(pixels)


def check_picture_output(
    target: str | os.PathLike[str], source: str, picture: Picture | None = None, *, overwrite: bool = False
) -> Path:
    """Refuse an OUT that cannot be written, or cannot hold the picture. Raises MediaError."""
    path = check_output(target, source, overwrite=overwrite)
    ending = path.suffix.lower()
    if ending not in PICTURE_ENDINGS:
        raise MediaError(f"the output's ending {ending or '(none)'} is not a picture: use {', '.join(PICTURE_ENDINGS)}")
    if picture is not None and picture.alpha is not None and ending in _WITHOUT_ALPHA:
        raise MediaError(f"{ending} cannot hold the picture's transparency: write .png or .webp")
    return path


def write_picture(picture: Picture, path: Path, *, overwrite: bool = False) -> None:
    """Encode by the ending: JPEG of quality 95 with full chroma, the others without loss. Raises RunError."""
    pixels = picture.rgb[..., ::-1]
    if picture.alpha is not None:
        pixels = np.concatenate([pixels, picture.alpha[..., None]], axis=2)
    ending = path.suffix.lower()
    options: list[int] = []
    if ending in (".jpg", ".jpeg"):
        options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    elif ending == ".webp":
        options = [cv2.IMWRITE_WEBP_QUALITY, 101]
    try:
        done, data = cv2.imencode(ending, np.ascontiguousarray(pixels), options)
    except cv2.error as error:
        raise RunError(f"cannot encode {path}: {error.err}") from error
    if not done:
        raise RunError(f"cannot encode {path} as {ending}")
    part = PartFile(path, overwrite=overwrite)
    try:
        part.write(data.tobytes())
        part.commit()
    except OSError as error:
        raise write_failure(path, error) from error
    finally:
        part.abort()
