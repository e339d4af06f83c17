"""Points, alignment, boxes and the detector's reading of its heads, with known answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mien.engine.face.align import crop_pixel, crop_to_frame, enlarged, ffhq_quad, paste_box
from mien.engine.face.detect import Detector, decode, small_luma, stored_box, suppress, upright
from mien.engine.face.landmarks import samples_per_axis
from mien.engine.face.points import box_crop, face_box, invert, iou, landmark_crop, roll, transform
from mien.engine.types import Array, Frame


def turned(points: Array, angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    return (points - 150) @ np.array([[c, s], [-s, c]]) + 150


def test_ffhq_quad_of_an_upright_face(face: Array) -> None:
    centre, x, y = ffhq_quad(face)
    down = (face[48] + face[54]) / 2 - [160, 110]
    np.testing.assert_allclose(centre, [160, 110 + 0.1 * down[1]])
    np.testing.assert_allclose(x, [max(2 * 60, 1.8 * down[1]), 0], atol=1e-9)
    np.testing.assert_allclose(y, [0, x[0]], atol=1e-9)


def test_quad_turns_with_the_face(face: Array) -> None:
    straight, tilted = ffhq_quad(face), ffhq_quad(turned(face, 0.4))
    np.testing.assert_allclose(tilted[0], turned(straight[0], 0.4))
    np.testing.assert_allclose(tilted[1:], turned(straight[1:] + 150, 0.4) - 150)
    assert roll(turned(face, 0.4)) == pytest.approx(0.4)


def test_crop_to_frame_puts_the_quad_on_the_crop_s_edges(face: Array) -> None:
    quad = ffhq_quad(face)
    affine = crop_to_frame(quad, 256)
    corners = transform(affine, np.array([[-0.5, -0.5], [255.5, 255.5], [127.5, 127.5]]))
    np.testing.assert_allclose(corners, [quad[0] - quad[1] - quad[2], quad[0] + quad[1] + quad[2], quad[0]])
    np.testing.assert_allclose(transform(invert(affine), transform(affine, face)), face)


@pytest.mark.parametrize("width", [200, 201])
def test_paste_box_is_even_and_within_quad_and_frame(face: Array, width: int) -> None:
    quad = ffhq_quad(face)
    reach = np.abs(quad[1]) + np.abs(quad[2])
    x0, y0, x1, y1 = paste_box(quad, width, 256)
    assert x0 >= quad[0, 0] - reach[0] and y0 >= quad[0, 1] - reach[1]
    assert x1 == width, "a quad beyond the frame's end reaches the frame's end"
    assert y1 - 1 <= quad[0, 1] + reach[1] and 0 == x0 % 2 == y0 % 2 == y1 % 2
    assert quad[0, 0] - reach[0] > x0 - 2 and quad[0, 1] + reach[1] < y1 + 2
    assert paste_box(quad + [[1000, 0], [0, 0], [0, 0]], width, 256) == (0, 0, 0, 0)


def test_a_crop_of_more_pixels_lies_where_the_crop_lies(face: Array) -> None:
    """Its edges, not the centres of its pixels, are those of the smaller one."""
    quad = ffhq_quad(face)
    np.testing.assert_allclose(enlarged(crop_to_frame(quad, 64), 3), crop_to_frame(quad, 192), atol=1e-9)
    assert crop_pixel(crop_to_frame(quad, 64)) == pytest.approx(32 / math.hypot(*quad[1]))


def test_landmark_crop_is_upright_and_margined(face: Array) -> None:
    tilted = turned(face, -0.7)
    seen = transform(invert(landmark_crop(tilted, 128)), tilted)
    assert abs(roll(seen)) < 1e-9
    low, high = seen.min(0), seen.max(0)
    np.testing.assert_allclose((low + high) / 2, [63.5, 63.5])
    assert (high - low).max() == pytest.approx(128 / 1.6)


def test_box_crop_of_a_rotated_recording() -> None:
    affine = box_crop((100, 50, 200, 150), 128, -np.pi / 2)
    np.testing.assert_allclose(transform(affine, np.array([[63.5, 63.5]])), [[150, 100]])
    np.testing.assert_allclose(affine[:, 0], [0, -160 / 128], atol=1e-12)


def test_face_box_holds_the_points_and_the_forehead(face: Array) -> None:
    x0, y0, x1, y1 = face_box(face)
    assert x0 <= face[:, 0].min() and x1 >= face[:, 0].max() and y1 >= face[:, 1].max()
    assert y0 < face[:, 1].min() - 20
    rotated = face_box(face, np.pi)
    assert rotated[3] > face[:, 1].max() + 20 and rotated[1] == pytest.approx(face[:, 1].min())


def heads(height: int, width: int) -> dict[str, Array]:
    out: dict[str, Array] = {}
    for s in (8, 16, 32):
        out[f"score_{s}"] = np.zeros((1, 1, height // s, width // s), np.float32)
        out[f"box_{s}"] = np.zeros((1, 4, height // s, width // s), np.float32)
    return out


def plant(out: dict[str, Array], s: int, i: int, j: int, score: float, box: tuple[float, ...]) -> None:
    out[f"score_{s}"][0, 0, i, j] = score
    centre = np.array([(j + 0.5) * s - 0.5, (i + 0.5) * s - 0.5])
    out[f"box_{s}"][0, :, i, j] = np.concatenate([centre - box[:2], np.array(box[2:]) - centre]) / s


def test_decode_and_suppress() -> None:
    out = heads(96, 128)
    plant(out, 16, 2, 3, 0.9, (30.0, 20.0, 70.0, 60.0))
    plant(out, 16, 2, 4, 0.8, (32.0, 21.0, 71.0, 62.0))  # the same face, from the next cell
    plant(out, 8, 10, 14, 0.7, (108.0, 76.0, 120.0, 90.0))
    plant(out, 32, 0, 0, 0.3, (0.0, 0.0, 9.0, 9.0))  # below the threshold
    boxes = suppress(decode(out, 0.5))
    np.testing.assert_allclose(boxes, [[30, 20, 70, 60, 0.9], [108, 76, 120, 90, 0.7]], atol=1e-4)


def test_suppress_drops_a_part_of_a_face() -> None:
    boxes = np.array([[0, 0, 100, 100, 0.9], [30, 50, 70, 90, 0.8], [90, 0, 190, 100, 0.6]])
    assert suppress(boxes)[:, 4].tolist() == [0.9, 0.6]


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_stored_box_undoes_upright(rotation: int) -> None:
    picture = np.zeros((40, 60), np.uint8)
    picture[5:9, 20:31] = 1
    rows, columns = np.nonzero(upright(picture, rotation))
    box = (float(columns.min()), float(rows.min()), float(columns.max()), float(rows.max()))
    assert stored_box(box, rotation, 60, 40) == (20, 5, 30, 8)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("long_side", [160, 640])
def test_detector_answers_in_luma_pixels(
    frame_of: Callable[..., Frame], network_of: Any, rotation: int, long_side: int
) -> None:
    """A network that boxes the bright rectangle it sees must give that rectangle's place in the stored frame."""
    frame = frame_of(0, width=320, height=256, rotation=rotation)
    frame.planes[0][:] = 16
    frame.planes[0][64:128, 96:192] = 235

    def see(luma: Array) -> dict[str, Array]:
        assert luma.dtype == np.float32 and luma.shape[2] % 32 == 0 == luma.shape[3] % 32
        assert luma.min() == 0.0 and luma.max() == pytest.approx(1.0)
        rows, columns = np.nonzero(luma[0, 0] > 0.5)
        out = heads(*luma.shape[2:])
        box = (columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5)
        plant(out, 8, 3, 3, 0.9, box)
        return out

    (found,) = Detector(network_of(see))(frame, long_side)
    np.testing.assert_allclose(found.box, (95.5, 63.5, 191.5, 127.5), atol=1e-3)


def test_small_luma_of_ten_bits_is_that_of_eight(frame_of: Callable[..., Frame]) -> None:
    from dataclasses import replace

    eight = frame_of(0)
    ten = replace(eight, planes=tuple(p.astype(np.uint16) * 4 for p in eight.planes), pixel_format="yuv420p10le")
    a, b = small_luma(eight, 160)[0], small_luma(ten, 160)[0]
    assert np.abs(a - b).max() < 0.006


def test_iou() -> None:
    assert iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert iou((0, 0, 1, 1), (1, 0, 2, 1)) == 0.0


@pytest.mark.parametrize(("ratio", "samples"), [(0.4, 1), (1.0, 1), (1.2, 2), (2.0, 2), (4.0, 2), (5.0, 3), (30.0, 4)])
def test_the_landmark_crop_averages_few_samples(ratio: float, samples: int) -> None:
    c, s = ratio * math.cos(0.7), ratio * math.sin(0.7)
    assert samples_per_axis(np.array([[c, -s, 5.0], [s, c, 9.0]])) == samples
