"""What the YUV kernels agree on: the form of their arguments, where chroma sits, and the box an affine crop covers."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt

from mien.kernels.cpp import native

Array = npt.NDArray[Any]
Planes = tuple[Array, Array, Array]
Box = tuple[int, int, int, int]

CHROMA_SHIFT_Y = 0.5
"""Chroma sample (i, j) lies at luma (2 i, 2 j + 0.5): siting "left", the default of MPEG-2, H.264 and HEVC 4:2:0."""

_MOST = 2**31  # the C++ paths count samples in 32 bits
_DTYPES = {8: np.dtype(np.uint8), 10: np.dtype(np.uint16)}


def check_planes(planes: Planes, bit_depth: int) -> None:
    """Raise ValueError unless Y (H, W), U and V (ceil(H/2), ceil(W/2)) have the depth's type and contiguous rows."""
    if bit_depth not in _DTYPES:
        raise ValueError(f"unknown bit_depth {bit_depth!r}; accepted are 8 and 10")
    if len(planes) != 3:
        raise ValueError(f"planes must be Y, U and V, got {len(planes)} planes")
    for name, plane in zip("YUV", planes, strict=True):
        if plane.ndim != 2 or plane.size == 0:
            raise ValueError(f"plane {name} must be a picture (rows, columns), got shape {plane.shape}")
        if plane.dtype != _DTYPES[bit_depth]:
            raise ValueError(f"plane {name} must be {_DTYPES[bit_depth]} for {bit_depth} bit, got {plane.dtype}")
        if plane.shape[1] > 1 and plane.strides[1] != plane.itemsize:
            raise ValueError(f"plane {name} must have contiguous rows, got strides {plane.strides}")
        if plane.shape[0] > 1 and (plane.strides[0] < 0 or plane.strides[0] % plane.itemsize):
            raise ValueError(
                f"plane {name} must have rows a whole number of samples apart, got strides {plane.strides}"
            )
        if plane.shape[0] * plane.strides[0] >= _MOST * plane.itemsize:
            raise ValueError(f"plane {name} must have less than {_MOST} samples, got {plane.shape}")
    height, width = planes[0].shape
    half = ((height + 1) // 2, (width + 1) // 2)
    for name, plane in zip("UV", planes[1:], strict=True):
        if plane.shape != half:
            raise ValueError(f"plane {name} must be {half} for 4:2:0 luma {(height, width)}, got {plane.shape}")


def check_affine(crop_to_frame: Array) -> Array:
    """Return the (2, 3) affine as contiguous float64; raise ValueError unless finite and invertible."""
    affine = np.ascontiguousarray(crop_to_frame, dtype=np.float64)
    if affine.shape != (2, 3):
        raise ValueError(f"crop_to_frame must be (2, 3), got {affine.shape}")
    if not np.isfinite(affine).all():
        raise ValueError("crop_to_frame must be finite")
    if abs(np.linalg.det(affine[:, :2])) < 1e-12:
        raise ValueError("crop_to_frame must be invertible, got a singular linear part")
    return affine


def check_threads(threads: int) -> None:
    """Raise ValueError unless 1 <= threads."""
    if threads < 1:
        raise ValueError(f"threads must be 1 or more, got {threads!r}")


def check_field(name: str, field: Array, shape: tuple[int, ...]) -> Array:
    """Return `field` C-contiguous; raise ValueError unless it is finite float32 of `shape`."""
    return _checked(name, field, shape)[0]


def check_mask(mask: Array, size: int) -> Array:
    """Return `mask` C-contiguous; raise ValueError unless it is float32 (size, size) in [0, 1]."""
    checked, low, high = _checked("mask", mask, (size, size))
    if low < 0 or high > 1:
        raise ValueError(f"mask must be in [0, 1], got {low:g}..{high:g}")
    return checked


def _checked(name: str, field: Array, shape: tuple[int, ...]) -> tuple[Array, float, float]:
    if field.shape != shape:
        raise ValueError(f"{name} must be {shape}, got {field.shape}")
    if field.dtype != np.float32:
        raise ValueError(f"{name} must be float32, got {field.dtype}")
    field = np.ascontiguousarray(field)
    with np.errstate(invalid="ignore"):
        low, high = (float(field.min()), float(field.max())) if native is None else native.extent(field)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"{name} must be finite")
    return field, low, high


def check_box(box: Box | None, crop_to_frame: Array, size: int, planes: Planes) -> Box:
    """Return `box` (x0, y0, x1, y1), x1 and y1 exclusive, or the paste box; raise ValueError unless even and inside."""
    height, width = planes[0].shape
    if box is None:
        return paste_box(crop_to_frame, size, width, height)
    x0, y0, x1, y1 = box
    if not (0 <= x0 <= x1 <= width and 0 <= y0 <= y1 <= height):
        raise ValueError(f"box must lie in the frame {width}x{height}, got {box}")
    if x0 % 2 or y0 % 2 or (x1 % 2 and x1 != width) or (y1 % 2 and y1 != height):
        raise ValueError(f"box must begin and end at even pixels (or the frame's end), got {box}")
    return int(x0), int(y0), int(x1), int(y1)


def paste_box(crop_to_frame: Array, size: int, width: int, height: int) -> Box:
    """Return the smallest even box (x0, y0, x1, y1) in the frame that holds the crop's square; it may be empty."""
    corners = np.array([[-0.5, size - 0.5, size - 0.5, -0.5], [-0.5, -0.5, size - 0.5, size - 0.5], [1, 1, 1, 1]])
    x, y = np.asarray(crop_to_frame, dtype=np.float64) @ corners
    # Pixel 0 covers [-0.5, 0.5], its centre counts.
    x0, x1 = (int(v) for v in np.clip([x.min(), x.max() + 1], 0, width))
    y0, y1 = (int(v) for v in np.clip([y.min(), y.max() + 1], 0, height))
    x0, y0, x1, y1 = x0 - x0 % 2, y0 - y0 % 2, min(x1 + x1 % 2, width), min(y1 + y1 % 2, height)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else (0, 0, 0, 0)


def new_planes(planes: Planes, out: Planes | None, bit_depth: int) -> Planes:
    """Return planes of their own that hold a copy of `planes`: `out` if given, which must not overlap the source."""
    if out is None:
        return cast(Planes, tuple(np.array(plane, order="C") for plane in planes))
    check_planes(out, bit_depth)
    for name, source, target in zip("YUV", planes, out, strict=True):
        if source.shape != target.shape:
            raise ValueError(f"out plane {name} must be {source.shape}, got {target.shape}")
        if not target.flags.writeable:
            raise ValueError(f"out plane {name} must be writeable")
        if any(np.may_share_memory(target, plane) for plane in planes):
            raise ValueError(f"out plane {name} must not share memory with the source planes")
        np.copyto(target, source)
    return out


def supersampling(crop_to_frame: Array, supersample: int | None) -> tuple[int, int]:
    """Return how many samples per axis a crop pixel averages, in luma and in chroma.

    None: ceil(frame pixels per crop pixel), at most 4. Chroma has half the pitch and takes half as many, rounded up.
    """
    if supersample is None:
        ratio = float(np.hypot(crop_to_frame[0, :2], crop_to_frame[1, :2]).max())
        supersample = int(min(max(np.ceil(ratio - 1e-6), 1), 4))
    if not 1 <= supersample <= 4:
        raise ValueError(f"supersample must be in 1..4 or None, got {supersample!r}")
    return supersample, (supersample + 1) // 2
