"""Both compositions against their float64 definitions, known answers, and the samples they must not touch."""

from __future__ import annotations

import numpy as np
import pytest

from mien.kernels.composite_yuv import (
    composite_delta_yuv,
    composite_delta_yuv_ref,
    composite_replace_yuv,
    composite_replace_yuv_ref,
)
from mien.kernels.crop_yuv import crop_yuv

IDENTITY = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
COLOUR = dict(matrix="bt709", color_range="limited", bit_depth=8)


def fields(size, grid, seed=1):
    """Random delta, mask (half of it zero) and warp (half of it zero), up to the crop's border."""
    rng = np.random.default_rng(seed)
    delta = rng.normal(0, 0.4, (3, size, size)).astype(np.float32)
    mask = rng.random((size, size), dtype=np.float32)
    mask[:, : size // 2] = 0
    warp = rng.normal(0, 1.5, (grid, grid, 2)).astype(np.float32)
    warp[: grid // 2] = 0
    return delta, mask, warp


def guided(grid, seed=2):
    """A random guide (grid, grid, 4), which leaves nothing of the mask here, all of it there and some elsewhere."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(0, 0.6, (grid, grid, 3)), rng.normal(0.5, 0.4, (grid, grid, 1))], 2).astype(
        np.float32
    )


def assert_planes_close(actual, expected, share):
    """Equal but for `share` of the samples, which float32 rounds to the neighbouring code."""
    for got, want in zip(actual, expected, strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
        difference = np.abs(got.astype(int) - want.astype(int))
        assert difference.max() <= 1
        assert (difference > 0).mean() <= share


# width, height, size, grid, centre x, centre y, frame pixels per crop pixel, degrees, share of samples one code off
PLACES = [
    (64, 48, 16, 4, 31.0, 23.0, 1.0, 0.0, 1e-3),
    (64, 48, 32, 32, 30.3, 22.7, 0.4, 17.0, 1e-3),
    (641, 481, 33, 8, 320.2, 240.9, 4.7, -33.0, 1e-3),
    (123, 5, 19, 5, 60.0, 2.0, 2.3, 91.0, 4e-3),
    (7, 41, 16, 2, 3.0, 20.0, 3.1, 180.0, 4e-3),
    (64, 48, 130, 16, 2.0, 1.0, 1.1, 45.0, 1e-3),
    (64, 49, 16, 8, 63.0, 47.0, 2.0, 12.0, 1e-3),
    (64, 48, 16, 8, -500.0, 9000.0, 1.5, 5.0, 0.0),
    (1, 1, 8, 4, 0.0, 0.0, 1.0, 30.0, 0.0),
    (2, 1, 8, 4, 0.5, 0.0, 0.25, 0.0, 0.0),
    (3, 3, 2, 2, 1.0, 1.0, 1.0, 0.0, 0.0),
]


@pytest.mark.parametrize("bit_depth", [8, 10])
@pytest.mark.parametrize("use_warp", [False, True])
@pytest.mark.parametrize("use_guide", [False, True])
@pytest.mark.parametrize("width, height, size, grid, x, y, scale, degrees, share", PLACES)
def test_delta_matches_definition(
    path, noise_frame, placed, bit_depth, use_warp, use_guide, width, height, size, grid, x, y, scale, degrees, share
):
    planes, affine = noise_frame(width, height, bit_depth), placed(size, x, y, scale, degrees)
    delta, mask, warp = fields(size, grid)
    options = dict(matrix="bt601", color_range="limited", bit_depth=bit_depth)
    guide = guided(max(2, size // 2)) if use_guide else None
    arguments = (planes, affine, delta, mask, warp if use_warp else None, guide)
    share = max(share, 4e-3) if (bit_depth == 10 or use_guide) and share else share
    assert_planes_close(
        composite_delta_yuv(*arguments, **options), composite_delta_yuv_ref(*arguments, **options), share
    )


@pytest.mark.parametrize("bit_depth", [8, 10])
@pytest.mark.parametrize("color_range", ["limited", "full"])
def test_a_guided_mask_ends_where_the_frame_does(path, bit_depth, color_range):
    """At an edge within a crop pixel, and there alone; the guide is of RGB, whatever the codes are."""
    top = 2**bit_depth - 1
    dark, light = (0.3 * top, 0.7 * top)
    luma = np.full((40, 48), light, np.uint8 if bit_depth == 8 else np.uint16)
    luma[:, :21] = dark
    chroma = np.full((20, 24), 2 ** (bit_depth - 1), luma.dtype)
    planes = (luma, chroma, chroma)
    affine = np.array([[4.0, 0.0, 4.0], [0.0, 4.0, 4.0]])
    delta = np.full((3, 8, 8), 0.2, np.float32)
    guide = np.zeros((4, 4, 4), np.float32)
    guide[..., :3], guide[..., 3] = -10.0 / 3, 0.5  # all of it where grey is below -0.05
    options = dict(matrix="bt709", color_range=color_range, bit_depth=bit_depth)
    after = composite_delta_yuv(planes, affine, delta, np.ones((8, 8), np.float32), None, guide, **options)
    changed = after[0].astype(int) - luma
    assert (changed[8:30, 8:21] > 0.06 * top).all() and not changed[:, 21:].any()
    assert np.ptp(changed[8:30, 8:21]) <= 1


def test_a_guide_is_of_the_frame_and_not_of_earlier_faces(path, noise_frame, placed):
    """So that faces of one frame may come in any order."""
    frame, affine = noise_frame(64, 48), placed(16, 31.0, 23.0, 2.0, 5.0)
    edited = tuple(255 - plane for plane in frame)
    delta, mask, _ = fields(16, 4)
    arguments = (edited, affine, delta, mask, None, guided(8))
    after = composite_delta_yuv(*arguments, frame=frame, **COLOUR)
    assert_planes_close(after, composite_delta_yuv_ref(*arguments, frame=frame, **COLOUR), 4e-3)
    assert (after[0] != composite_delta_yuv(*arguments, **COLOUR)[0]).any()
    with pytest.raises(ValueError, match="as large"):
        composite_delta_yuv(*arguments, frame=noise_frame(66, 48), **COLOUR)


def test_guide_is_checked(noise_frame, placed):
    planes, affine = noise_frame(64, 48), placed(16, 31.0, 23.0, 1.0, 0.0)
    delta, mask, _ = fields(16, 4)
    for guide in (np.zeros((4, 4, 3), np.float32), np.zeros((1, 1, 4), np.float32), np.zeros((4, 5, 4), np.float32)):
        with pytest.raises(ValueError, match="guide must be"):
            composite_delta_yuv(planes, affine, delta, mask, None, guide, **COLOUR)
    with pytest.raises(ValueError, match="float32"):
        composite_delta_yuv(planes, affine, delta, mask, None, np.zeros((4, 4, 4)), **COLOUR)


@pytest.mark.parametrize("bit_depth", [8, 10])
@pytest.mark.parametrize("width, height, size, grid, x, y, scale, degrees, share", PLACES)
def test_replace_matches_definition(
    path, noise_frame, placed, bit_depth, width, height, size, grid, x, y, scale, degrees, share
):
    planes, affine = noise_frame(width, height, bit_depth), placed(size, x, y, scale, degrees)
    delta, mask, _ = fields(size, grid)
    options = dict(matrix="bt2020", color_range="full", bit_depth=bit_depth)
    share = max(share, 4e-3) if bit_depth == 10 and share else share
    arguments = (planes, affine, np.clip(delta, -1, 1), mask)
    assert_planes_close(
        composite_replace_yuv(*arguments, **options), composite_replace_yuv_ref(*arguments, **options), share
    )


@pytest.mark.parametrize("size, grid", [(40, 10), (64, 64), (33, 5)])
@pytest.mark.parametrize("degrees", [0.0, 4.0, -37.0, 90.0, 135.0])
def test_islands_of_mask_and_warp_match_definition(path, noise_frame, placed, size, grid, degrees):
    """Masks and warps that are zero but for a few pixels and nodes, apart from each other and at the crop's borders."""
    planes, affine = noise_frame(170, 141), placed(size, 80.3, 70.2, 70.7 / size, degrees)
    rng = np.random.default_rng(size + int(abs(degrees)))
    for row, column in ((0, 0), (size - 1, size // 2), (size // 3, size // 3), (size // 2, size - 1)):
        delta, mask, warp = fields(size, grid)
        mask[:], warp[:] = 0, 0
        mask[row, column : column + 2] = rng.random()
        warp[grid * (size - 1 - column) // size, grid * row // size] = rng.normal(0, 1.5, 2)
        for values in ((mask, warp), (mask, None), (mask * 0, warp), (mask * np.float32(1e-3), warp)):
            arguments = (planes, affine, delta, *values)
            assert_planes_close(
                composite_delta_yuv(*arguments, **COLOUR), composite_delta_yuv_ref(*arguments, **COLOUR), 1e-3
            )
        arguments = (planes, affine, np.clip(delta, -1, 1), mask * np.float32(0.01))
        assert_planes_close(
            composite_replace_yuv(*arguments, **COLOUR), composite_replace_yuv_ref(*arguments, **COLOUR), 1e-3
        )


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("color_range", ["limited", "full"])
@pytest.mark.parametrize("bit_depth", [8, 10])
def test_both_match_definition_in_every_colour(path, noise_frame, placed, matrix, color_range, bit_depth):
    planes, affine = noise_frame(90, 71, bit_depth), placed(24, 44.0, 35.0, 1.3, 8.0)
    delta, mask, warp = fields(24, 8)
    options = dict(matrix=matrix, color_range=color_range, bit_depth=bit_depth)
    arguments = (planes, affine, delta, mask, warp)
    assert_planes_close(
        composite_delta_yuv(*arguments, **options), composite_delta_yuv_ref(*arguments, **options), 4e-3
    )
    arguments = (planes, affine, delta, mask)
    assert_planes_close(
        composite_replace_yuv(*arguments, **options), composite_replace_yuv_ref(*arguments, **options), 4e-3
    )


@pytest.mark.parametrize("bit_depth", [8, 10])
def test_outside_box_and_crop_is_untouched(path, noise_frame, placed, bit_depth):
    planes, affine = noise_frame(97, 83, bit_depth), placed(32, 50.0, 40.0, 1.5, 25.0)
    delta, _, warp = fields(32, 8)
    box = (30, 20, 60, 64)
    options = dict(matrix="bt709", color_range="limited", bit_depth=bit_depth, box=box)
    full = np.ones((32, 32), np.float32)
    results = [
        composite_delta_yuv(planes, affine, delta, full, warp + 1, **options),
        composite_replace_yuv(planes, affine, delta, full, **options),
    ]
    square = np.linalg.inv(np.vstack([affine, [0, 0, 1]]))
    for result in results:
        for channel, (after, before) in enumerate(zip(result, planes, strict=True)):
            step, shift = (1, 0.0) if channel == 0 else (2, 0.5)
            j, i = np.indices(before.shape)
            cx, cy, _ = np.einsum("ij,jvu->ivu", square, np.stack([i * step, j * step + shift, np.ones_like(i)]))
            is_inside = (cx >= -0.5) & (cx <= 31.5) & (cy >= -0.5) & (cy <= 31.5)
            is_inside &= (i * step >= box[0]) & (i * step < box[2]) & (j * step >= box[1]) & (j * step < box[3])
            assert np.array_equal(after[~is_inside], before[~is_inside])
            assert (after[is_inside] != before[is_inside]).mean() > 0.8


@pytest.mark.parametrize("bit_depth", [8, 10])
def test_zero_mask_and_warp_copy_exactly(path, noise_frame, placed, bit_depth):
    planes, affine = noise_frame(97, 83, bit_depth), placed(32, 50.0, 40.0, 1.5, 25.0)
    delta, mask, warp = fields(32, 8)
    options = dict(matrix="bt709", color_range="limited", bit_depth=bit_depth)
    for result in (
        composite_delta_yuv(planes, affine, delta, mask * 0, warp * 0, **options),
        composite_delta_yuv(planes, affine, delta, mask * 0, None, **options),
        composite_delta_yuv(planes, affine, delta * 0, mask, None, **options),
        composite_replace_yuv(planes, affine, delta, mask * 0, **options),
    ):
        for after, before in zip(result, planes, strict=True):
            assert np.array_equal(after, before) and not np.may_share_memory(after, before)


def test_untouched_samples_keep_illegal_codes(path, noise_frame, placed):
    """A 10-bit plane with codes above 1023 keeps them where nothing is edited, even beside edited samples."""
    planes = tuple(plane | np.uint16(0xF000) for plane in noise_frame(64, 48, 10))
    affine = placed(16, 31.0, 23.0, 2.0)
    delta, mask, _ = fields(16, 4)
    mask[:] = 0
    mask[8, 8] = 1
    result = composite_delta_yuv(planes, affine, delta, mask, None, matrix="bt709", color_range="full", bit_depth=10)
    assert result[0].max() > 1023 and (result[0] != planes[0]).any()
    assert (result[0] != planes[0]).sum() <= 16


def test_known_difference(path):
    """A difference of +0.2 grey at mask 1/2 is 0.05 of the range more luma, and no chroma."""
    planes = (np.full((16, 16), 100, np.uint8), np.full((8, 8), 90, np.uint8), np.full((8, 8), 200, np.uint8))
    delta, mask = np.full((3, 16, 16), 0.2, np.float32), np.full((16, 16), 0.5, np.float32)
    y, u, v = composite_delta_yuv(planes, IDENTITY, delta, mask, None, **COLOUR)
    assert (y == 111).all()  # 100 + 0.05 * 219 = 110.95
    assert (u == 90).all() and (v == 200).all()


def test_known_replacement(path):
    """White, half transparent, over black; chroma codes of red where opaque."""
    planes = (np.full((16, 16), 16, np.uint8), np.full((8, 8), 128, np.uint8), np.full((8, 8), 128, np.uint8))
    white, half = np.ones((3, 16, 16), np.float32), np.full((16, 16), 0.5, np.float32)
    assert (composite_replace_yuv(planes, IDENTITY, white, half, **COLOUR)[0] == 126).all()  # 125.5 rounds up
    red = np.stack([white[0], -white[0], -white[0]])
    result = composite_replace_yuv(planes, IDENTITY, red, half * 2, **COLOUR)
    assert [int(plane[0, 0]) for plane in result] == [63, 102, 240]


@pytest.mark.parametrize("bit_depth", [8, 10])
def test_codes_are_clipped(path, noise_frame, bit_depth):
    planes = noise_frame(16, 16, bit_depth)
    full = np.ones((16, 16), np.float32)
    options = dict(matrix="bt709", color_range="full", bit_depth=bit_depth)
    for sign, code in ((9.0, 2**bit_depth - 1), (-9.0, 0)):
        delta = np.full((3, 16, 16), sign, np.float32)
        assert (composite_delta_yuv(planes, IDENTITY, delta, full, None, **options)[0] == code).all()


@pytest.mark.parametrize("bit_depth", [8, 10])
def test_whole_pixel_warp_moves_samples_exactly(path, noise_frame, bit_depth):
    """Catmull-Rom and bilinear pass through the samples: fetching from (4, -2) away is a shifted copy."""
    planes = noise_frame(64, 48, bit_depth)
    warp = np.broadcast_to(np.array([4, -2], np.float32), (6, 6, 2)).copy()
    delta, mask = np.zeros((3, 48, 48), np.float32), np.zeros((48, 48), np.float32)
    options = dict(matrix="bt709", color_range="limited", bit_depth=bit_depth)
    y, u, v = composite_delta_yuv(planes, IDENTITY, delta, mask, warp, **options)
    assert np.array_equal(y[2:48, :48], planes[0][0:46, 4:52])
    assert np.array_equal(u[1:24, :24], planes[1][0:23, 2:26])
    assert np.array_equal(v[1:24, :24], planes[2][0:23, 2:26])


def test_warp_is_in_crop_pixels_and_turns_with_the_crop(path, placed):
    """On a ramp of luma a warp of (1, 0) crop pixels fetches J (1, 0) away."""
    j, i = np.indices((80, 80))
    planes = (
        (60 + i + j // 2 * 0).astype(np.uint8),
        np.full((40, 40), 128, np.uint8),
        np.full((40, 40), 128, np.uint8),
    )
    affine = placed(16, 40.0, 40.0, 3.0, 60.0)
    warp = np.broadcast_to(np.array([2, 0], np.float32), (4, 4, 2)).copy()
    zero = np.zeros((3, 16, 16), np.float32)
    y, _, _ = composite_delta_yuv(planes, affine, zero, zero[0], warp, **COLOUR)
    assert int(y[40, 40]) - int(planes[0][40, 40]) == 3  # 2 * 3 cos 60


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("color_range", ["limited", "full"])
@pytest.mark.parametrize("bit_depth", [8, 10])
def test_round_trip_within_one_code(path, matrix, color_range, bit_depth):
    """A smooth picture, cropped to RGB and put back whole: every sample within one code."""
    j, i = np.indices((64, 64))
    unit, dtype = 2 ** (bit_depth - 8), np.uint8 if bit_depth == 8 else np.uint16
    planes = (
        (unit * (90 + 0.5 * i + 0.3 * j)).astype(dtype),
        (unit * (118 + 0.2 * i[:32, :32] + 0.1 * j[:32, :32])).astype(dtype),
        (unit * (138 - 0.1 * i[:32, :32] - 0.2 * j[:32, :32])).astype(dtype),
    )
    options = dict(matrix=matrix, color_range=color_range, bit_depth=bit_depth)
    crop = crop_yuv(planes, IDENTITY, 64, **options)
    assert np.abs(crop).max() < 1  # nothing was clipped
    result = composite_replace_yuv(planes, IDENTITY, crop, np.ones((64, 64), np.float32), **options)
    for after, before in zip(result, planes, strict=True):
        assert np.abs(after.astype(int) - before.astype(int)).max() <= 1


@pytest.mark.parametrize("threads", [2, 3, 7, 64])
def test_thread_count_does_not_matter(path, noise_frame, placed, threads):
    planes, affine = noise_frame(201, 151), placed(48, 100.0, 75.0, 2.9, 20.0)
    delta, mask, warp = fields(48, 12)
    for function, arguments in ((composite_delta_yuv, (delta, mask, warp)), (composite_replace_yuv, (delta, mask))):
        alone = function(planes, affine, *arguments, **COLOUR)
        shared = function(planes, affine, *arguments, threads=threads, **COLOUR)
        assert all(np.array_equal(a, b) for a, b in zip(alone, shared, strict=True))
        assert any((a != b).any() for a, b in zip(alone, planes, strict=True))


def test_rows_may_be_padded_and_out_is_used(path, noise_frame, placed):
    planes, affine = noise_frame(65, 49), placed(24, 32.0, 24.0, 1.2, 5.0)
    padded = tuple(np.pad(plane, ((0, 0), (0, 13)))[:, : plane.shape[1]] for plane in planes)
    delta, mask, warp = fields(24, 8)
    expected = composite_delta_yuv(planes, affine, delta, mask, warp, **COLOUR)
    out = tuple(np.full((plane.shape[0], plane.shape[1] + 7), 77, np.uint8)[:, : plane.shape[1]] for plane in planes)
    result = composite_delta_yuv(padded, affine, delta, mask, warp, out=out, **COLOUR)
    assert all(a is b for a, b in zip(result, out, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(result, expected, strict=True))
    assert all((a.base[:, a.shape[1] :] == 77).all() for a in out)


def test_source_planes_are_never_written(path, noise_frame, placed):
    planes = noise_frame(65, 49)
    before = [plane.copy() for plane in planes]
    for plane in planes:
        plane.setflags(write=False)
    delta, mask, warp = fields(24, 8)
    composite_delta_yuv(planes, placed(24, 32.0, 24.0, 1.2, 5.0), delta, mask, warp, **COLOUR)
    assert all(np.array_equal(a, b) for a, b in zip(planes, before, strict=True))
