"""The metrics of an edited clip, each against an answer worked out by hand or a direct float64 transcription of its formula."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import cv2
import numpy as np
import pytest

from mien.bench.frame_rgb import rgb8_of, rgb_of
from mien.bench.metrics import METRICS, Figure, psnr_figure, table_of
from mien.bench.metrics_face import landmark_error, lip_error, mouth_opening
from mien.bench.metrics_identity import id_drift, tg_id, tl_id
from mien.bench.metrics_motion import FlowOfSource, Motion, pixel_mse, warp, warp_error
from mien.bench.metrics_picture import psnr_db, squared_error
from mien.bench.metrics_text import clip_frame, clip_text
from mien.engine.errors import ShapeError
from mien.engine.types import Array, Frame


def at(*degrees: float) -> Array:
    """Unit embeddings in the plane."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def test_tl_id_and_tg_id_by_hand() -> None:
    source, edited = at(0, 60, 0), at(0, 0, 90)
    # cosines of neighbours: .5, .5 and 1, 0; of the ends: 1 and 0
    assert tl_id(source, edited) == pytest.approx((1 / 0.5 + 0 / 0.5) / 2)
    assert tg_id(source, edited) == pytest.approx((1 / 0.5 + 0 / 0.5 + 0 / 1) / 3)
    assert id_drift(source, edited) == pytest.approx((0 + 0.5 + 1) / 3)


def test_identity_is_the_formula_in_float64() -> None:
    rng = np.random.default_rng(0)
    source, edited = (rng.random((300, 16)) * rng.uniform(0.1, 9, (300, 1)) for _ in range(2))
    before, after = (np.array([row / math.sqrt(sum(row**2)) for row in rows]) for rows in (source, edited))
    s, e = before @ before.T, after @ after.T
    assert tl_id(source, edited) == pytest.approx(np.mean([e[i, i + 1] / s[i, i + 1] for i in range(299)]), rel=1e-12)
    pairs = [e[i, j] / s[i, j] for i in range(300) for j in range(300) if i != j]
    assert tg_id(source, edited) == pytest.approx(np.mean(pairs), rel=1e-12)
    single = tg_id(source.astype(np.float32), edited.astype(np.float32))
    assert single == pytest.approx(np.mean(pairs), rel=1e-6)


def test_a_clip_is_as_consistent_as_itself() -> None:
    source = np.random.default_rng(1).random((9, 4)).astype(np.float32)
    assert tl_id(source, source) == tg_id(source, source) == 1.0 and id_drift(source, source) == 0.0


def test_frames_without_a_face_take_their_pairs_with_them() -> None:
    source, edited = at(0, 60, 0, 60), at(0, 0, 0, 0)
    edited[2] = np.nan
    assert tl_id(source, edited) == pytest.approx(2.0)  # the first pair only
    assert tg_id(source, edited) == pytest.approx((1 / 0.5 + 1 / 0.5 + 1 / 1) / 3)  # of the frames 0, 1, 3
    assert id_drift(source, edited) == pytest.approx((0 + 0.5 + 0.5) / 3)
    nothing = np.full((4, 2), np.nan)
    assert tl_id(source, nothing) is tg_id(source, nothing) is id_drift(source, nothing) is None
    assert tl_id(source[:1], source[:1]) is tg_id(source[:1], source[:1]) is None


def test_embeddings_that_are_none_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(3, 2\) and \(2, 2\)"):
        tl_id(at(0, 1, 2), at(0, 1))
    with pytest.raises(ShapeError, match="2 zeros has no direction"):
        tg_id(at(0, 1), np.array([[0.0, 0.0], [1.0, 0.0]]))
    with pytest.raises(ShapeError, match="give"):
        clip_text(at(0, 1), np.ones(3))
    with pytest.raises(ShapeError, match="give"):
        clip_frame(np.ones(3))


def test_clip_scores_by_hand() -> None:
    frames = at(0, 60, 120) * [[1], [5], [0.1]]
    assert clip_text(frames, np.array([7.0, 0.0])) == pytest.approx((1 + 0.5 - 0.5) / 3)
    assert clip_frame(frames) == pytest.approx(0.5)
    assert clip_frame(frames[[0, 1, 1]]) == pytest.approx(0.75) and clip_frame(frames[:1]) is None


def textured(height: int = 120, width: int = 160) -> Array:
    """A smooth picture (height, width, 3), 0 to 255, with something to follow everywhere."""
    noise = np.random.default_rng(2).random((height, width, 3)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), 3)
    return np.asarray((soft - soft.min()) / (soft.max() - soft.min()) * 255)


def still(height: int, width: int) -> Motion:
    nothing = np.zeros((height, width, 2), np.float32)
    return Motion.of(nothing, nothing)


def shifted(dx: float, dy: float, shape: tuple[int, int] = (12, 16)) -> Motion:
    forward = np.full((*shape, 2), (dx, dy), np.float32)
    return Motion.of(forward, -forward)


def test_a_picture_that_moves_with_its_source_has_no_error() -> None:
    large = textured(40, 40)
    previous, current = large[5:17, 6:22], large[3:15, 3:19]  # everything goes 3 px right and 2 down
    motion = shifted(3, 2)
    assert warp_error(previous, current, motion) == pixel_mse(previous, current, motion) == 0.0
    assert int(motion.inside.sum()) == int(motion.visible.sum()) == (12 - 2) * (16 - 3)
    assert (warp(previous, motion.backward)[motion.inside] == current[motion.inside]).all()
    wrong = shifted(-3, -2)
    assert (pixel_mse(previous, current, wrong) or 0) > 100


def test_an_edit_that_is_translated_alike_has_hardly_any_by_dis() -> None:
    large = textured()
    grey = cv2.cvtColor(np.rint(large).astype(np.uint8), cv2.COLOR_RGB2GRAY)
    edit = np.asarray(255 - large[..., ::-1])  # another picture that moves with it
    a, b = (slice(10, 106), slice(10, 138)), (slice(7, 103), slice(8, 136))
    motion = FlowOfSource()(np.ascontiguousarray(grey[a]), np.ascontiguousarray(grey[b]))
    assert np.median(motion.backward, (0, 1)) == pytest.approx([-2, -3], abs=0.05)
    assert motion.visible.mean() > 0.9
    moved, stayed = (pixel_mse(edit[a], edit[k], motion) for k in (b, a))
    assert moved is not None and stayed is not None and moved < 1 < 200 < stayed
    error = warp_error(edit[a], edit[b], motion)
    assert error is not None and error < 0.5


@pytest.mark.parametrize("c", [7.5, 245.0])
def test_a_flicker_by_a_constant_is_its_square(c: float) -> None:
    source = textured(48, 64)
    grey = cv2.cvtColor(np.rint(source).astype(np.uint8), cv2.COLOR_RGB2GRAY)
    motion = FlowOfSource()(grey, grey)
    assert pixel_mse(source, source + np.float32(c), motion) == pytest.approx(c**2, rel=1e-5)
    assert warp_error(source + np.float32(c), source, motion) == pytest.approx(c, rel=1e-5)


def test_what_is_hidden_counts_for_pixel_mse_only() -> None:
    previous, current = np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 3), np.float32)
    current[:, :4] = 10
    forward, backward = np.zeros((8, 8, 2), np.float32), np.zeros((8, 8, 2), np.float32)
    forward[:, :4, 0] = 2  # where the left half comes from goes elsewhere
    motion = Motion.of(forward, backward)
    assert motion.inside.all() and motion.visible.sum() == 32
    assert warp_error(previous, current, motion) == 0.0 and pixel_mse(previous, current, motion) == 50.0


@pytest.mark.parametrize("forward, seen", [(-0.6, True), (-0.45, False), (-1.53, False), (-1.52, True)])
def test_the_occlusion_threshold(forward: float, seen: bool) -> None:
    # |1 + f| against .01 (1 + |f|) + .5: .4 < .516, .55 > .5145, .53 > .5253, .52 < .5252
    f, b = (np.zeros((4, 6, 2), np.float32) for _ in range(2))
    f[..., 0], b[..., 0] = forward, 1.0
    assert bool(Motion.of(f, b).visible[2, 2]) is seen


def test_the_forward_flow_is_read_where_the_backward_one_points() -> None:
    f, b = (np.zeros((4, 8, 2), np.float32) for _ in range(2))
    b[2, 5, 0], f[2, 2, 0] = -3, 3  # the pixel at 5 was at 2, and what was at 2 goes to 5
    visible = Motion.of(f, b).visible
    assert visible[2, 5] and not visible[2, 2]


def test_a_frame_with_nothing_to_compare_says_so() -> None:
    motion = shifted(99, 0)
    picture = np.zeros((12, 16, 3), np.float32)
    assert warp_error(picture, picture, motion) is pixel_mse(picture, picture, motion) is None
    assert still(3, 3).visible.all()


def moved(points: Array, angle: float = 0.4, scale: float = 1.3) -> Array:
    c, s = math.cos(angle) * scale, math.sin(angle) * scale
    return np.asarray(points @ np.array([[c, s], [-s, c]]) + [31.0, -9.5])


def test_landmark_error_is_over_the_eyes_distance(face: Array) -> None:
    result = face.copy()
    result[17:] += [3, 4]
    result[:17] += 50  # the jaw does not count
    assert landmark_error(face, result) == pytest.approx(5 / 60)
    one = face.copy()
    one[30] += [0, 51]
    assert landmark_error(face, one) == pytest.approx(1 / 60)


def test_lips_are_compared_without_their_motion(face: Array) -> None:
    assert lip_error(face, moved(face)) == pytest.approx(0, abs=1e-12)
    other = face.copy()
    other[48:] = moved(face[48:] + [0, 4], 0.1, 1.1)  # the whole mouth opens nothing, goes elsewhere
    assert lip_error(face, other) == pytest.approx(0, abs=1e-12)
    rng = np.random.default_rng(3)
    result = moved(face) + rng.standard_normal((68, 2)) * 3
    # x' = a x - b y + e, y' = b x + a y + f brings the result's mouth onto the source's: linear in (a, b, e, f)
    p, q = result[48:], face[48:]
    rows = np.zeros((40, 4))
    rows[0::2] = np.stack([p[:, 0], -p[:, 1], np.ones(20), np.zeros(20)], 1)
    rows[1::2] = np.stack([p[:, 1], p[:, 0], np.zeros(20), np.ones(20)], 1)
    answer = np.linalg.lstsq(rows, q.reshape(-1), rcond=None)[0]
    apart = (rows @ answer).reshape(20, 2) - q
    assert lip_error(face, result) == pytest.approx(np.hypot(*apart.T).mean() / 60, rel=1e-9)


def test_the_mouth_opens_by_its_inner_lips(face: Array) -> None:
    assert mouth_opening(face) == pytest.approx(5 / 60)  # 65 - 60 and twice 66 - 61 px
    assert mouth_opening(moved(face)) == pytest.approx(5 / 60)
    wide = face.copy()
    wide[[65, 66, 67], 1] += 9
    assert mouth_opening(wide) == pytest.approx(14 / 60)


def test_psnr_by_hand() -> None:
    assert psnr_db(1.0) == pytest.approx(48.1308, abs=1e-4) and psnr_db(255.0**2) == 0.0 and psnr_db(0.0) == math.inf
    a, b, where = np.zeros((2, 2, 3), np.float32), np.zeros((2, 2, 3), np.float32), np.eye(2, dtype=bool)
    b[0, 0], b[0, 1] = [3, 0, 4], 200
    assert squared_error(a, b, where) == (25.0, 6)
    figure = psnr_figure(25.0, 6, "us")
    assert figure.value == pytest.approx(10 * math.log10(255**2 * 6 / 25)) and figure.more["identical"] is False
    assert psnr_figure(0.0, 6, "us").as_dict() == {"value": None, "mse": 0.0, "identical": True, "how": "us"}


@pytest.mark.parametrize("height, width", [(30, 44), (45, 31)])
@pytest.mark.parametrize("ten_bit", [False, True])
def test_rgb_of_whole_frames(height: int, width: int, ten_bit: bool) -> None:
    rng, half = np.random.default_rng(4), (-(-height // 2), -(-width // 2))
    kind, top = (np.uint16, 1024) if ten_bit else (np.uint8, 256)
    planes = tuple(rng.integers(0, top, shape).astype(kind) for shape in ((height, width), half, half))
    pixel_format = "yuv420p10le" if ten_bit else "yuv420p"
    frame = Frame(planes, pixel_format, "bt709", "limited", 0, 0, Fraction(1, 25))  # type: ignore[arg-type]
    found = rgb_of(frame)
    assert found.shape == (height, width, 3) and found.dtype == np.float32 and (found % 1).any()
    window = (4, 2, 30, 29)
    np.testing.assert_allclose(rgb_of(frame, window), found[2:29, 4:30], atol=1e-3)
    assert rgb8_of(frame, window).dtype == np.uint8 and (rgb8_of(frame) == np.rint(found)).all()


def test_a_grey_frame_is_its_luma(frame_of: Callable[..., Frame]) -> None:
    half = np.full((8, 8), 128, np.uint8)
    frame = Frame((np.full((16, 16), 77, np.uint8), half, half), "yuv420p", "bt601", "full", 0, 0, Fraction(1, 25))
    np.testing.assert_allclose(rgb_of(frame), 77.0, atol=1e-4)


def test_the_table_has_what_was_measured_in_order() -> None:
    figures = {
        "background_psnr_db": psnr_figure(0.0, 9, "a parser"),
        "pixel_mse": Figure("a flow", 12.345, 11.0),
        "tl_id": Figure.none("no network"),
        "outside_boxes": Figure("planes", 20130401),
        "id_drift": Figure("a network", 1e-17),
    }
    rows = table_of(figures)
    assert [row[0] for row in rows[1:]] == ["TL-ID", "ID drift", "PixelMSE", "background PSNR, dB", "outside boxes"]
    assert [row[1] for row in rows[1:]] == ["-", "0", "12.35", "identical", "20130401"]
    assert (
        rows[1][4] == "not measured: no network"
        and rows[3][2] == "11"
        and figures["pixel_mse"].as_dict()
        == {
            "value": 12.345,
            "source": 11.0,
            "how": "a flow",
        }
    )
    assert len({title for title, _ in METRICS.values()}) == len(METRICS)
