"""crop_yuv against its float64 definition and against known answers."""

from __future__ import annotations

import numpy as np
import pytest

from mien.kernels.color import rgb_to_yuv, yuv_to_rgb
from mien.kernels.crop_yuv import crop_yuv, crop_yuv_ref

IDENTITY = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])

# width, height, size, centre x, centre y, frame pixels per crop pixel, degrees, supersample, tolerance on [-1, 1]
PLACES = [
    (64, 48, 16, 31.0, 23.0, 1.0, 0.0, None, 1e-4),
    (64, 48, 32, 30.3, 22.7, 0.4, 17.0, None, 1e-4),
    (641, 481, 33, 320.2, 240.9, 1.7, -33.0, None, 1e-4),
    (123, 5, 19, 60.0, 2.0, 2.3, 91.0, None, 2e-4),
    (7, 41, 16, 3.0, 20.0, 3.1, 180.0, None, 2e-4),
    (200, 150, 24, 100.0, 75.0, 7.5, 4.0, None, 2e-4),
    (64, 48, 130, 2.0, 1.0, 1.1, 45.0, 1, 1e-4),
    (64, 48, 16, 63.0, 47.0, 2.0, 12.0, 3, 1e-4),
    (64, 48, 16, -500.0, 9000.0, 1.5, 5.0, None, 1e-4),
    (1, 1, 8, 0.0, 0.0, 1.0, 30.0, None, 1e-4),
    (2, 1, 8, 0.5, 0.0, 0.25, 0.0, None, 1e-4),
]


@pytest.mark.parametrize("bit_depth", [8, 10])
@pytest.mark.parametrize("width, height, size, x, y, scale, degrees, supersample, tolerance", PLACES)
def test_matches_definition(
    path, noise_frame, placed, bit_depth, width, height, size, x, y, scale, degrees, supersample, tolerance
):
    planes = noise_frame(width, height, bit_depth)
    affine = placed(size, x, y, scale, degrees)
    options = dict(matrix="bt709", color_range="limited", bit_depth=bit_depth, supersample=supersample)
    crop = crop_yuv(planes, affine, size, **options)
    assert crop.dtype == np.float32 and crop.shape == (3, size, size)
    np.testing.assert_allclose(crop, crop_yuv_ref(planes, affine, size, **options), rtol=0, atol=tolerance)


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("color_range", ["limited", "full"])
@pytest.mark.parametrize("bit_depth", [8, 10])
def test_matches_definition_in_every_colour(path, noise_frame, placed, matrix, color_range, bit_depth):
    planes, affine = noise_frame(90, 71, bit_depth), placed(24, 44.0, 35.0, 1.3, 8.0)
    options = dict(matrix=matrix, color_range=color_range, bit_depth=bit_depth)
    np.testing.assert_allclose(
        crop_yuv(planes, affine, 24, **options), crop_yuv_ref(planes, affine, 24, **options), rtol=0, atol=1e-4
    )


# ITU-R BT.601 and BT.709 100 % colour bars, and the grey axis: matrix, range, bits, (Y, Cb, Cr), RGB on [0, 1]
KNOWN = [
    ("bt709", "limited", 8, (235, 128, 128), (1, 1, 1)),
    ("bt709", "limited", 8, (16, 128, 128), (0, 0, 0)),
    ("bt601", "limited", 8, (81, 90, 240), (1, 0, 0)),
    ("bt601", "limited", 8, (145, 54, 34), (0, 1, 0)),
    ("bt601", "limited", 8, (41, 240, 110), (0, 0, 1)),
    ("bt709", "limited", 8, (63, 102, 240), (1, 0, 0)),
    ("bt709", "limited", 8, (173, 42, 26), (0, 1, 0)),
    ("bt709", "limited", 8, (32, 240, 118), (0, 0, 1)),
    ("bt709", "limited", 10, (940, 512, 512), (1, 1, 1)),
    ("bt2020", "limited", 10, (294, 387, 960), (1, 0, 0)),
    ("bt2020", "limited", 10, (658, 189, 100), (0, 1, 0)),
    ("bt2020", "limited", 10, (116, 960, 476), (0, 0, 1)),
    ("bt601", "full", 8, (76, 85, 255), (1, 0, 0)),
    ("bt601", "full", 8, (255, 128, 128), (1, 1, 1)),
    ("bt2020", "full", 10, (1023, 512, 512), (1, 1, 1)),
]


@pytest.mark.parametrize("matrix, color_range, bit_depth, codes, rgb", KNOWN)
def test_known_colours(path, matrix, color_range, bit_depth, codes, rgb):
    dtype = np.uint8 if bit_depth == 8 else np.uint16
    planes = tuple(np.full(shape, code, dtype) for shape, code in zip([(6, 6), (3, 3), (3, 3)], codes, strict=True))
    crop = crop_yuv(planes, IDENTITY, 4, matrix=matrix, color_range=color_range, bit_depth=bit_depth)
    step = 2 / 219 * 2.5 if bit_depth == 8 else 2 / 876 * 2.5  # a rounded code is half a step off in each of Y, Cb, Cr
    expected = np.broadcast_to(2.0 * np.array(rgb)[:, None, None] - 1, crop.shape)
    np.testing.assert_allclose(crop, expected, rtol=0, atol=1e-6 if len(set(rgb)) == 1 else step)


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("color_range", ["limited", "full"])
@pytest.mark.parametrize("bit_depth", [8, 10])
def test_matrices_invert_each_other(matrix, color_range, bit_depth):
    forward, offset = rgb_to_yuv(matrix, color_range, bit_depth)
    backward, shift = yuv_to_rgb(matrix, color_range, bit_depth)
    np.testing.assert_allclose(backward @ forward, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(backward @ offset + shift, np.zeros(3), atol=1e-12)
    assert forward[1:].sum(axis=1) == pytest.approx([0, 0], abs=1e-9)  # grey has no chroma


def test_a_difference_is_linear_in_the_matrix():
    """Grey differences have no chroma in any matrix, and the rows sum to the luma range."""
    for matrix in ("bt601", "bt709", "bt2020"):
        linear, _ = rgb_to_yuv(matrix, "limited", 8)
        np.testing.assert_allclose(linear.sum(axis=1), [219 / 2, 0, 0], atol=1e-9)


def test_identity_reads_the_luma_samples_themselves(path, noise_frame):
    y, u, v = noise_frame(32, 32)
    planes = (y, np.full_like(u, 128), np.full_like(v, 128))
    crop = crop_yuv(planes, IDENTITY, 32, matrix="bt601", color_range="full", bit_depth=8)
    np.testing.assert_allclose((crop[1] + 1) / 2 * 255, y, atol=2e-3)


def test_chroma_sits_left(path):
    """A ramp of chroma in luma positions: sample (i, j) holds what lies at (2 i, 2 j + 0.5)."""
    i, j = np.meshgrid(np.arange(16), np.arange(16))
    cr = (64 + 2 * (2 * i) + 2 * (2 * j + 0.5)).astype(np.uint8)
    planes = (np.full((32, 32), 128, np.uint8), np.full((16, 16), 128, np.uint8), cr)
    crop = crop_yuv(planes, IDENTITY, 32, matrix="bt709", color_range="full", bit_depth=8)
    u, v = np.meshgrid(np.arange(32), np.arange(32))
    red = (crop[0] + 1) / 2 * 255 - 128
    inner = (slice(2, 28), slice(2, 28))
    np.testing.assert_allclose(red[inner] / (2 * (1 - 0.2126)), (64 + 2 * u + 2 * v - 128)[inner], atol=1e-2)


def test_minification_averages(path):
    """A one-pixel checkerboard seen at a quarter of its size is grey, not a moire."""
    y = np.indices((256, 256)).sum(axis=0).astype(np.uint8) % 2 * 255
    grey = np.full((128, 128), 128, np.uint8)
    affine = np.array([[4.0, 0.0, 1.5], [0.0, 4.0, 1.5]])
    crop = crop_yuv((y, grey, grey), affine, 64, matrix="bt709", color_range="full", bit_depth=8)
    assert np.abs(crop).max() < 1e-5
    aliased = crop_yuv(
        (y, grey, grey), affine - [[0, 0, 0.5]] * 2, 64, matrix="bt709", color_range="full", bit_depth=8, supersample=1
    )
    assert np.abs(aliased).max() > 0.9


@pytest.mark.parametrize("threads", [2, 3, 7, 64])
def test_thread_count_does_not_matter(path, noise_frame, placed, threads):
    planes, affine = noise_frame(200, 150), placed(96, 100.0, 75.0, 1.4, 20.0)
    options = dict(matrix="bt709", color_range="limited", bit_depth=8)
    alone = crop_yuv(planes, affine, 96, **options)
    assert np.array_equal(alone, crop_yuv(planes, affine, 96, threads=threads, **options))


def test_rows_may_be_padded_and_out_is_used(path, noise_frame, placed):
    planes, affine = noise_frame(65, 49), placed(24, 32.0, 24.0, 1.2, 5.0)
    padded = tuple(np.pad(plane, ((0, 0), (0, 13)))[:, : plane.shape[1]] for plane in planes)
    out = np.empty((3, 24, 24), np.float32)
    options = dict(matrix="bt709", color_range="limited", bit_depth=8)
    assert crop_yuv(padded, affine, 24, out=out, **options) is out
    assert np.array_equal(out, crop_yuv(planes, affine, 24, **options))


def _bad_arguments() -> list[tuple[str, dict]]:
    y, c = np.zeros((8, 8), np.uint8), np.zeros((4, 4), np.uint8)
    return [
        ("3 planes|Y, U and V", {"planes": (y, c)}),
        ("uint8 for 8 bit", {"planes": (y.astype(np.uint16), c, c)}),
        ("uint16 for 10 bit", {"bit_depth": 10}),
        ("bit_depth", {"bit_depth": 12}),
        (r"\(4, 4\) for 4:2:0", {"planes": (y, c, c[:3])}),
        ("rows, columns", {"planes": (y[0], c, c)}),
        ("contiguous rows", {"planes": (np.zeros((8, 16), np.uint8)[:, ::2], c, c)}),
        ("whole number of samples", {"planes": (y[::-1], c, c)}),
        (r"must be \(2, 3\)", {"crop_to_frame": np.eye(3)}),
        ("finite", {"crop_to_frame": IDENTITY * np.nan}),
        ("invertible", {"crop_to_frame": IDENTITY * 0}),
        ("size", {"size": 0}),
        ("threads", {"threads": 0}),
        ("supersample", {"supersample": 9}),
        ("matrix", {"matrix": "smpte240m"}),
        ("color_range", {"color_range": "tv"}),
        ("out must be", {"out": np.zeros((3, 4, 4))}),
    ]


@pytest.mark.parametrize("message, change", _bad_arguments())
def test_bad_arguments_raise_one_line(path, message, change):
    y, c = np.zeros((8, 8), np.uint8), np.zeros((4, 4), np.uint8)
    arguments = dict(planes=(y, c, c), crop_to_frame=IDENTITY, size=4, matrix="bt709", color_range="full", bit_depth=8)
    crop_yuv(**arguments)
    with pytest.raises(ValueError, match=message) as caught:
        crop_yuv(**(arguments | change))
    assert "\n" not in str(caught.value)
