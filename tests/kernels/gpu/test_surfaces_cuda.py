"""`crop_yuv` and `composite_yuv` in Triton on a GPU: against their definitions, with 4K frames, and in CUDA graphs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mien.kernels import composite_yuv as definition
from mien.kernels.gpu.composite_yuv import composite_delta_yuv_surfaces
from mien.kernels.gpu.crop_yuv import crop_yuv_surfaces
from tests.surface_frames import (
    COLOUR,
    KINDS,
    LAYOUTS,
    assert_as_defined,
    assert_crops_close,
    composite,
    defined,
    fields,
    noise_pool,
    on,
    placed_faces,
    planes_of,
)

# Half an ulp at 1, and float32's error.
TOLERANCES = {torch.float32: 2e-5, torch.float16: 2.7e-4, torch.bfloat16: 2.1e-3}

# frame, centre in shares of the frame, frame pixels per crop pixel, degrees
FACES = [(2, 0.45, 0.48, 1.3, 7.0), (0, 0.6, 0.5, 0.8, -40.0), (1, 0.95, 0.9, 2.0, 100.0)]


@pytest.fixture(autouse=True)
def numpy_path(monkeypatch):
    """What the compositions are compared with."""
    monkeypatch.setattr(definition, "native", None)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("layout", ["nv12", "p010", "planar", "planar 10 bit"])
def test_crops_match_definition(placed, layout, dtype):
    surfaces = noise_pool(layout, 3, 641, 483, "cuda")
    for size in (2, 35, 128):
        frames, affines, _ = placed_faces(placed, surfaces, size, FACES)
        for channels in (torch.contiguous_format, torch.channels_last):
            out = torch.empty((6, 3, size, size), dtype=dtype, device="cuda").to(memory_format=channels)
            crop_yuv_surfaces(surfaces, on(frames, "cuda"), on(affines, "cuda"), size, out=out, **COLOUR)
            assert_crops_close(out, surfaces, frames, affines, TOLERANCES[dtype], **COLOUR)


@pytest.mark.gpu
def test_crops_of_4k_frames_in_a_graph(placed):
    """Captured once, without a wait or an allocation; replayed for faces that have moved to other frames."""
    surfaces = noise_pool("nv12", 16, 3840, 2160, "cuda")
    faces = [(15 - i, 0.2 + 0.04 * i, 0.3 + 0.03 * i, 0.9 + 0.1 * i, 11.0 * i) for i in range(16)]
    frames, affines, _ = placed_faces(placed, surfaces, 512, faces)
    index, affine = torch.full((16,), -1, dtype=torch.int32, device="cuda"), torch.zeros((16, 2, 3), device="cuda")
    out = torch.zeros((16, 3, 512, 512), dtype=torch.float16, device="cuda")
    crop_yuv_surfaces(surfaces, index, affine, 512, out=out, **COLOUR)
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        crop_yuv_surfaces(surfaces, index, affine, 512, out=out, **COLOUR)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        crop_yuv_surfaces(surfaces, index, affine, 512, out=out, **COLOUR)
    graph.replay()
    assert not bool(out.any())
    index.copy_(on(frames))
    affine.copy_(on(affines))
    graph.replay()
    for i in (0, 7, 15):
        assert_crops_close(out[i : i + 1], surfaces, frames[i : i + 1], affines[i : i + 1], 2.7e-4, **COLOUR)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_compositions_match_definition(placed, layout, kind):
    surfaces, source = (noise_pool(layout, 4, 641, 483, "cuda") for _ in range(2))
    for size, grid in ((16, 4), (130, 32)):
        where, values = placed_faces(placed, surfaces, size, FACES), fields(3, size, grid)
        composite(kind, surfaces, where, values, source)
        assert_as_defined(kind, surfaces, source, where, values, 2e-3)
        for plane, was in zip((surfaces.y, surfaces.u, surfaces.v), (source.y, source.u, source.v), strict=True):
            plane.copy_(was)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["replace", "delta"])
def test_overlapping_faces(placed, kind):
    """A crowd in one frame, each face over its neighbours, as by one call after another."""
    surfaces, source = (noise_pool("nv12", 2, 640, 480, "cuda") for _ in range(2))
    faces = [(i % 2, 0.3 + 0.02 * i, 0.4 + 0.01 * i, 1.5, 5.0 * i) for i in range(16)]
    frames, affines, boxes = placed_faces(placed, surfaces, 96, faces)
    values = fields(16, 96, 8)
    composite(kind, surfaces, (frames, affines, boxes), values)
    for frame in (0, 1):
        want = planes_of(source, frame)
        for i in np.flatnonzero(frames == frame):
            want = defined(kind, want, affines[i], boxes[i], [field[i] for field in values], False, 8)
        for plane, codes in zip(planes_of(surfaces, frame), want, strict=True):
            assert np.abs(plane.astype(int) - codes.astype(int)).max() <= 2 and (plane != codes).mean() <= 5e-3


@pytest.mark.gpu
def test_compositions_of_4k_frames_in_a_graph(placed):
    """Captured once, without a wait or an allocation; replayed for faces that have moved to other frames."""
    surfaces, source = (noise_pool("nv12", 16, 3840, 2160, "cuda") for _ in range(2))
    faces = [(15 - i, 0.2 + 0.04 * i, 0.3 + 0.03 * i, 0.9 + 0.1 * i, 11.0 * i) for i in range(16)]
    where, values = placed_faces(placed, surfaces, 512, faces), fields(16, 512, 64)
    now = [torch.zeros_like(on(a, "cuda")) for a in where]
    picture, mask, warp = (on(field, "cuda") for field in values)
    options = dict(source=source, box_px=(1400, 1400), **COLOUR)
    now[0].fill_(-1)
    composite_delta_yuv_surfaces(surfaces, *now, picture, mask, warp, **options)
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        composite_delta_yuv_surfaces(surfaces, *now, picture, mask, warp, **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        composite_delta_yuv_surfaces(surfaces, *now, picture, mask, warp, **options)
    graph.replay()
    assert torch.equal(surfaces.y, source.y)
    for tensor, array in zip(now, where, strict=True):
        tensor.copy_(on(array))
    graph.replay()
    for i in (0, 15):
        one = planes_of(source, 15 - i), where[1][i], where[2][i], [field[i] for field in values]
        for plane, codes in zip(planes_of(surfaces, 15 - i), defined("warp", *one, False, 8), strict=True):
            assert np.abs(plane.astype(int) - codes.astype(int)).max() <= 1 and (plane != codes).mean() <= 1e-3
