"""`crop_yuv` in Triton against its definition in float64: many faces of many frames in a launch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mien.kernels.gpu import crop_yuv as kernel_file
from mien.kernels.gpu.crop_yuv import crop_yuv_surfaces
from mien.kernels.gpu.surfaces import Surfaces
from tests.surface_frames import COLOUR, NoOperations, Recorded, assert_crops_close, noise_pool, on, placed_faces

# Half an ulp at 1, and float32's error; a whole ulp of bfloat16, which the interpreter truncates to.
TOLERANCES = {torch.float32: 2e-5, torch.float16: 2.7e-4, torch.bfloat16: 4e-3}

# frame, centre x and y in shares of the frame, frame pixels per crop pixel, degrees: with 97x81 frames, inside the frame and beyond
FACES = [
    (2, 0.45, 0.48, 0.8, 7.0),
    (0, 0.5, 0.5, 1.0, 0.0),
    (1, 0.4, 0.6, 1.6, -40.0),
    (2, 0.5, 0.5, 2.6, 91.0),
    (0, 0.9, 0.1, 4.5, 180.0),
    (1, -9.0, 99.0, 1.5, 5.0),
]


@pytest.fixture(autouse=True)
def whole_tiles(request, monkeypatch):
    """A tile in one piece: the interpreter takes its time for each strip, and they compute alike."""
    if request.node.originalname != "test_strips":
        monkeypatch.setattr(kernel_file, "STRIP_V", 32)


@pytest.mark.parametrize(
    "layout, matrix, color_range",
    [
        ("nv12", "bt709", "limited"),
        ("p010", "bt2020", "limited"),
        ("planar", "bt601", "full"),
        ("planar 10 bit", "bt2020", "full"),
    ],
)
def test_matches_definition(placed, layout, matrix, color_range):
    surfaces = noise_pool(layout, 3, 97, 81)
    frames, affines, _ = placed_faces(placed, surfaces, 20, FACES)
    options = dict(matrix=matrix, color_range=color_range)
    out = crop_yuv_surfaces(surfaces, on(frames), on(affines), 20, dtype=torch.float32, **options)
    assert out.dtype == torch.float32 and out.shape == (6, 3, 20, 20)
    assert_crops_close(out, surfaces, frames, affines, 2e-5, **options)


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("color_range", ["limited", "full"])
def test_matches_definition_in_every_colour(placed, matrix, color_range):
    surfaces = noise_pool("p010", 1, 9, 8)
    options = dict(matrix=matrix, color_range=color_range)
    frames, affines, _ = placed_faces(placed, surfaces, 4, [(0, 0.5, 0.5, 1.0, 30.0)])
    out = crop_yuv_surfaces(surfaces, on(frames), on(affines), 4, dtype=torch.float32, **options)
    assert_crops_close(out, surfaces, frames, affines, 2e-5, **options)


@pytest.mark.parametrize("width, height, size", [(1, 1, 8), (2, 1, 2), (7, 41, 16), (123, 5, 19), (3, 2, 5)])
def test_matches_definition_on_weird_shapes(placed, width, height, size):
    surfaces = noise_pool("nv12", 2, width, height)
    faces = [(1, 0.5, 0.5, 1.7, 33.0), (0, 0.2, 0.6, 0.3, -100.0)]
    frames, affines, _ = placed_faces(placed, surfaces, size, faces)
    out = crop_yuv_surfaces(surfaces, on(frames), on(affines), size, dtype=torch.float32, **COLOUR)
    assert_crops_close(out, surfaces, frames, affines, 2e-5, **COLOUR)


def test_positions_are_as_exact_at_column_8000(placed):
    """float32 alone would be off by 1/4000 of a pixel there: by 6e-4 of the range."""
    surfaces = noise_pool("nv12", 1, 8064, 48)
    frames, affines, _ = placed_faces(placed, surfaces, 12, [(0, 8001.3 / 8064, 0.5, 0.9, 21.0)])
    out = crop_yuv_surfaces(surfaces, on(frames), on(affines), 12, dtype=torch.float32, **COLOUR)
    assert_crops_close(out, surfaces, frames, affines, 2e-5, **COLOUR)


def test_strips(placed):
    """As shipped: tiles in strips, of a crop with whole and broken ones; and what lies about the crop is left."""
    surfaces = noise_pool("nv12", 1, 97, 81)
    frames, affines, _ = placed_faces(placed, surfaces, 35, [(0, 0.55, 0.5, 1.3, 12.0)])
    whole = torch.full((1, 3, 36, 40), 7.0)
    out = whole[:, :, :35, 2:37]
    assert crop_yuv_surfaces(surfaces, on(frames), on(affines), 35, out=out, **COLOUR) is out
    assert_crops_close(out, surfaces, frames, affines, 2e-5, **COLOUR)
    out[:] = 7.0
    assert bool((whole == 7.0).all())


@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_types_and_layouts_of_the_crop(placed, dtype):
    surfaces = noise_pool("planar", 1, 97, 81)
    frames, affines, _ = placed_faces(placed, surfaces, 9, [(0, 0.5, 0.5, 2.0, 3.0), (0, 0.3, 0.4, 1.0, 3.0)])
    out = crop_yuv_surfaces(surfaces, on(frames), on(affines), 9, dtype=dtype, **COLOUR)
    assert out.dtype == dtype
    assert_crops_close(out, surfaces, frames, affines, TOLERANCES[dtype], **COLOUR)
    last = torch.empty((2, 3, 9, 9), dtype=dtype, memory_format=torch.channels_last)
    assert crop_yuv_surfaces(surfaces, on(frames), on(affines), 9, out=last, **COLOUR) is last
    assert last.is_contiguous(memory_format=torch.channels_last) and torch.equal(last, out)


@pytest.mark.parametrize("supersample", [1, 3])
def test_supersampling_can_be_set(placed, supersample):
    surfaces = noise_pool("nv12", 1, 60, 50)
    frames, affines, _ = placed_faces(placed, surfaces, 9, [(0, 0.5, 0.5, 1.9, 3.0)])
    options = dict(supersample=supersample, **COLOUR)
    out = crop_yuv_surfaces(surfaces, on(frames), on(affines), 9, dtype=torch.float32, **options)
    assert_crops_close(out, surfaces, frames, affines, 2e-5, **options)


def test_supersampling_steps_up_at_whole_scales(placed):
    """One pixel wide stripes, seen at 1, 2, 3 times and a little more: the count of samples is that of the definition."""
    y = np.broadcast_to(np.arange(64, dtype=np.uint8) % 2 * 255, (1, 48, 64)).copy()
    grey = np.full((1, 24, 32), 128, np.uint8)
    surfaces = Surfaces(on(y), on(grey), on(grey.copy()), 8)
    faces = [(0, 0.51, 0.5, scale, turn) for scale, turn in ((1, 0), (2, 0), (3, 90), (1.00001, 0), (2.00001, 90))]
    frames, affines, _ = placed_faces(placed, surfaces, 6, faces)
    out = crop_yuv_surfaces(surfaces, on(frames), on(affines), 6, dtype=torch.float32, **COLOUR)
    assert_crops_close(out, surfaces, frames, affines, 2e-5, **COLOUR)


def test_faces_without_a_frame_are_left_out(placed):
    surfaces = noise_pool("nv12", 2, 30, 20)
    _, affines, _ = placed_faces(placed, surfaces, 8, FACES[:4])
    frames = np.array([-1, 1, 2, 0], np.int32)
    out = torch.full((4, 3, 8, 8), 7.0)
    crop_yuv_surfaces(surfaces, on(frames), on(affines), 8, out=out, **COLOUR)
    assert bool((out[0] == 7.0).all()) and bool((out[2] == 7.0).all())
    assert_crops_close(out[1::2], surfaces, frames[1::2], affines[1::2], 2e-5, **COLOUR)


def test_no_faces():
    surfaces = noise_pool("nv12", 2, 30, 20)
    out = crop_yuv_surfaces(surfaces, torch.zeros(0, dtype=torch.int32), torch.zeros(0, 2, 3), 8, **COLOUR)
    assert out.shape == (0, 3, 8, 8) and out.dtype == torch.float16


def test_a_launch_neither_allocates_nor_waits(monkeypatch):
    """No operation of torch's between the checks and the launch, and a grid that depends on shapes alone."""
    kernel = Recorded()
    monkeypatch.setattr(kernel_file, "_crop_yuv_kernel", kernel)
    surfaces, frames = noise_pool("nv12", 2, 30, 20), torch.zeros(5, dtype=torch.int32)
    affines, out = torch.zeros(5, 2, 3), torch.empty(5, 3, 70, 70, dtype=torch.float16)
    with NoOperations():
        crop_yuv_surfaces(surfaces, frames, affines, 70, out=out, **COLOUR)
    assert kernel.grid == (9, 5)


def _bad_arguments():
    affines = torch.zeros(2, 2, 3)
    return [
        (r"frames must be \(faces,\)", {"frames": torch.zeros(2, 1, dtype=torch.int32)}),
        ("frames must be torch.int32", {"frames": torch.zeros(2, dtype=torch.int64)}),
        ("frames must be contiguous", {"frames": torch.zeros(4, dtype=torch.int32)[::2]}),
        (r"crop_to_frame must be \(2, 2, 3\)", {"crop_to_frame": torch.zeros(3, 2, 3)}),
        ("crop_to_frame must be torch.float32", {"crop_to_frame": affines.double()}),
        ("crop_to_frame must be contiguous", {"crop_to_frame": torch.zeros(2, 3, 2).transpose(1, 2)}),
        ("size", {"size": 1}),
        ("supersample", {"supersample": 5}),
        ("matrix", {"matrix": "smpte240m"}),
        (r"out must be \(2, 3, 4, 4\)", {"out": torch.zeros(2, 3, 4, 5)}),
        ("out must be torch.float16 or", {"out": torch.zeros(2, 3, 4, 4, dtype=torch.float64)}),
        ("out must lie on cpu", {"out": torch.zeros(2, 3, 4, 4, device="meta")}),
    ]


@pytest.mark.parametrize("message, change", _bad_arguments())
def test_bad_arguments_raise_one_line(message, change):
    arguments = dict(
        surfaces=noise_pool("nv12", 1, 8, 8),
        frames=torch.zeros(2, dtype=torch.int32),
        crop_to_frame=torch.zeros(2, 2, 3),
        size=4,
        **COLOUR,
    )
    with pytest.raises(ValueError, match=message) as caught:
        crop_yuv_surfaces(**(arguments | change))
    assert "\n" not in str(caught.value)
