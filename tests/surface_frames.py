"""Pools of noise in every layout, faces to crop and edit, and what becomes of them by definition: for the tests of surfaces."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mien.kernels import composite_yuv as definition
from mien.kernels.crop_yuv import crop_yuv_ref
from mien.kernels.gpu.composite_yuv import composite_delta_yuv_surfaces, composite_replace_yuv_surfaces
from mien.kernels.gpu.surfaces import Surfaces
from mien.kernels.planes import paste_box

Planes = tuple[np.ndarray, np.ndarray, np.ndarray]
COLOUR: dict[str, Any] = dict(matrix="bt709", color_range="limited")
KINDS = ["replace", "delta", "warp"]
LAYOUTS = ("nv12", "p010", "planar", "planar 10 bit")


def noise_pool(layout: str, frames: int, width: int, height: int, device: str = "cpu", seed: int = 0) -> Surfaces:
    """Frames of random codes, with a few elements more to a row than there are samples."""
    rng = np.random.default_rng(seed)
    rows, columns = (height + 1) // 2, (width + 1) // 2
    bits = 10 if "10" in layout else 8
    dtype: Any = np.uint8 if bits == 8 else np.uint16
    if layout.startswith("planar"):
        y = rng.integers(0, 2**bits, (frames, height, width + 3), dtype=dtype)[:, :, :width]
        u, v = rng.integers(0, 2**bits, (2, frames, rows, columns + 2), dtype=dtype)[:, :, :, :columns]
        return Surfaces(*(on(plane, device) for plane in (y, u, v)), bit_depth=bits)
    pool = rng.integers(0, 2**bits, (frames, height + rows, 2 * columns + 6), dtype=dtype)
    if layout == "nv12":
        return Surfaces.nv12(on(pool, device), width, height)
    return Surfaces.p010(on(pool << 6, device), width, height)


def on(array: np.ndarray, device: str = "cpu") -> torch.Tensor:
    """The array as a tensor there; on the CPU with its strides."""
    return torch.from_numpy(array) if device == "cpu" else torch.from_numpy(np.ascontiguousarray(array)).to(device)


def planes_of(surfaces: Surfaces, frame: int) -> Planes:
    """The codes of one frame."""
    y, u, v = (
        np.ascontiguousarray(plane[frame].cpu().numpy()) >> surfaces.shift
        for plane in (surfaces.y, surfaces.u, surfaces.v)
    )
    return y, u, v


def samples_of(surfaces: Surfaces) -> list[np.ndarray]:
    """All samples as they lie there, codes or not."""
    return [plane.cpu().numpy().copy() for plane in (surfaces.y, surfaces.u, surfaces.v)]


def assert_crops_close(out, surfaces, frames, affines, tolerance, **options):
    """Every crop within `tolerance` of the definition."""
    for i, frame in enumerate(frames):
        want = crop_yuv_ref(
            planes_of(surfaces, frame),
            affines[i].astype(np.float64),
            out.shape[-1],
            bit_depth=surfaces.bit_depth,
            **options,
        )
        np.testing.assert_allclose(out[i].double().cpu().numpy(), want, rtol=0, atol=tolerance, err_msg=f"face {i}")


def fields(faces, size, grid, seed=1):
    """Random pictures, masks (half of each zero) and warps (half of each zero), up to the crops' borders."""
    rng = np.random.default_rng(seed)
    picture = np.clip(rng.normal(0, 0.4, (faces, 3, size, size)), -1, 1).astype(np.float32)
    mask = rng.random((faces, size, size), dtype=np.float32)
    mask[:, :, : size // 2] = 0
    warp = rng.normal(0, 1.5, (faces, grid, grid, 2)).astype(np.float32)
    warp[:, : grid // 2] = 0
    return picture, mask, warp


def placed_faces(placed, surfaces, size, faces):
    """Indices of the frames, affines and paste boxes. faces: frame, centre in shares of the frame, frame pixels per crop pixel, degrees."""
    affines = np.stack(
        [placed(size, x * surfaces.width, y * surfaces.height, scale, turn) for _, x, y, scale, turn in faces]
    ).astype(np.float32)
    boxes = [paste_box(affine, size, surfaces.width, surfaces.height) for affine in affines.astype(np.float64)]
    return np.array([face[0] for face in faces], np.int32), affines, np.array(boxes, np.int32)


def composite(kind, surfaces, where, values, source=None, box_px=(32, 32), **colour):
    """Run one kind on the device of the surfaces. where: frames, affines, boxes. values: picture, mask, warp."""
    device = str(surfaces.device)
    where, (picture, mask, warp) = [on(a, device) for a in where], [on(a, device) for a in values]
    options = {"box_px": box_px, **COLOUR, **colour}
    if kind == "replace":
        composite_replace_yuv_surfaces(surfaces, *where, picture, mask, **options)
    elif kind == "delta":
        composite_delta_yuv_surfaces(surfaces, *where, picture, mask, **options)
    else:
        composite_delta_yuv_surfaces(surfaces, *where, picture, mask, warp, source=source, **options)


def defined(kind, planes, affine, box, values, is_ref, bit_depth, **colour):
    """The planes by the float64 definition, or by the numpy path."""
    picture, mask, warp = values
    operation = getattr(
        definition, f"composite_{'replace' if kind == 'replace' else 'delta'}_yuv" + ("_ref" if is_ref else "")
    )
    more = {"replace": (), "delta": (None,), "warp": (warp,)}[kind]
    options = {"box": tuple(box.tolist()), "bit_depth": bit_depth, **COLOUR, **colour}
    return operation(planes, affine.astype(np.float64), picture, mask, *more, **options)


def assert_as_defined(kind, surfaces, source, where, values, share=1e-3, **colour):
    """Every frame, of one face at most: within one code of the definition, and but for `share` the codes of the numpy path."""
    frames, affines, boxes = where
    for frame in range(len(surfaces)):
        got = before = planes_of(source, frame)
        if frame in frames:
            i = frames.tolist().index(frame)
            face = (kind, before, affines[i], boxes[i], [field[i] for field in values])
            got = planes_of(surfaces, frame)
            bits = surfaces.bit_depth
            for plane, want, near in zip(
                got, defined(*face, True, bits, **colour), defined(*face, False, bits, **colour), strict=True
            ):
                assert np.abs(plane.astype(int) - want.astype(int)).max() <= 1
                assert (plane != near).mean() <= share
        else:
            assert all(np.array_equal(a, b) for a, b in zip(planes_of(surfaces, frame), before, strict=True))


class Recorded:
    """In a kernel's place: remembers what it was launched with."""

    def __getitem__(self, grid):
        self.grid = grid
        return lambda *arguments, **constants: None


class NoOperations(TorchDispatchMode):
    """Fails at any operation of torch's."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        raise AssertionError(f"{function} was called")
