"""Both compositions in Triton against their float64 definitions and the numpy path: many faces of many frames in a launch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mien.kernels import composite_yuv as definition
from mien.kernels.gpu import composite_yuv as kernel_file
from mien.kernels.gpu.composite_yuv import composite_delta_yuv_surfaces, composite_replace_yuv_surfaces
from tests.surface_frames import (
    COLOUR,
    KINDS,
    LAYOUTS,
    NoOperations,
    Recorded,
    assert_as_defined,
    composite,
    defined,
    fields,
    noise_pool,
    on,
    placed_faces,
    planes_of,
    samples_of,
)

IDENTITY = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], np.float32)

# frame, centre in shares of the frame, frame pixels per crop pixel, degrees
FACES = [(2, 0.45, 0.48, 1.3, 7.0), (0, 0.6, 0.5, 0.8, -40.0), (1, 0.95, 0.9, 2.0, 100.0)]


@pytest.fixture(autouse=True)
def numpy_path_and_whole_tiles(request, monkeypatch):
    """The numpy path to compare with; a tile in one piece, as the interpreter takes its time for each strip, and they compute alike."""
    monkeypatch.setattr(definition, "native", None)
    if request.node.originalname != "test_strips":
        monkeypatch.setattr(kernel_file, "STRIP_Y", {"plain": 32, "warp": 32})


@pytest.mark.parametrize(
    "layout, kind",
    [*((layout, kind) for layout in LAYOUTS[:2] for kind in KINDS), *((layout, "warp") for layout in LAYOUTS[2:])],
)
def test_matches_definition(placed, layout, kind):
    surfaces, source = (noise_pool(layout, 4, 65, 49) for _ in range(2))
    where, values = placed_faces(placed, surfaces, 16, FACES), fields(3, 16, 4)
    composite(kind, surfaces, where, values, source)
    changed = [(planes_of(surfaces, frame)[0] != planes_of(source, frame)[0]).sum() for frame in range(4)]
    assert min(changed[:3]) > 30 and changed[3] == 0
    assert_as_defined(kind, surfaces, source, where, values)


@pytest.mark.parametrize(
    "kind, matrix, color_range",
    [
        ("replace", "bt601", "full"),
        ("delta", "bt601", "limited"),
        ("replace", "bt709", "limited"),
        ("delta", "bt709", "full"),
        ("delta", "bt2020", "limited"),
        ("replace", "bt2020", "full"),
    ],
)
def test_matches_definition_in_every_colour(placed, kind, matrix, color_range):
    surfaces, source = (noise_pool("p010", 1, 24, 24) for _ in range(2))
    where, values = placed_faces(placed, surfaces, 16, [(0, 0.5, 0.5, 1.2, 8.0)]), fields(1, 16, 4)
    colour = dict(matrix=matrix, color_range=color_range)
    composite(kind, surfaces, where, values, source, **colour)
    assert_as_defined(kind, surfaces, source, where, values, 4e-3, **colour)


@pytest.mark.parametrize("width, height, size, grid", [(1, 1, 8, 4), (2, 1, 2, 2), (7, 41, 16, 2), (123, 5, 19, 19)])
def test_matches_definition_on_weird_shapes(placed, width, height, size, grid):
    surfaces, source = (noise_pool("nv12", 2, width, height) for _ in range(2))
    where = placed_faces(placed, surfaces, size, [(1, 0.5, 0.5, 2.3, 33.0), (0, 0.2, 0.6, 0.6, -100.0)])
    values = fields(2, size, grid)
    composite("warp", surfaces, where, values, source)
    assert_as_defined("warp", surfaces, source, where, values)


def test_positions_are_as_exact_at_column_8000(placed):
    surfaces, source = (noise_pool("nv12", 1, 8064, 40) for _ in range(2))
    where = placed_faces(placed, surfaces, 16, [(0, 8001.3 / 8064, 0.5, 1.1, 21.0)])
    values = fields(1, 16, 4)
    composite("warp", surfaces, where, values, source)
    assert_as_defined("warp", surfaces, source, where, values, 1e-5)


def test_strips(placed, monkeypatch):
    """As shipped: tiles in strips, several to a program, of a box that is larger than was said."""
    monkeypatch.setattr(kernel_file, "MAX_PROGRAMS", 2)
    surfaces, source = (noise_pool("nv12", 1, 50, 35) for _ in range(2))
    where, values = placed_faces(placed, surfaces, 24, [(0, 0.5, 0.6, 1.2, 12.0)]), fields(1, 24, 8)
    composite("warp", surfaces, where, values, source)
    assert_as_defined("warp", surfaces, source, where, values)


@pytest.mark.parametrize("kind", KINDS)
def test_outside_box_and_crop_nothing_is_written(placed, kind):
    """Not even the bits below P010's codes, right beside samples that are edited."""
    surfaces = noise_pool("p010", 1, 65, 49)
    for plane in (surfaces.y, surfaces.u, surfaces.v):
        plane.numpy()[...] |= 5
    source, before = noise_pool("p010", 1, 65, 49), samples_of(surfaces)
    frames, affines, _ = placed_faces(placed, surfaces, 32, [(0, 0.5, 0.5, 1.1, 25.0)])
    box = np.array([[20, 12, 48, 40]], np.int32)
    picture, mask, warp = fields(1, 32, 8)
    composite(kind, surfaces, (frames, affines, box), (picture, np.ones_like(mask), warp + 1), source)
    inverse = np.linalg.inv(np.vstack([affines[0].astype(np.float64), [0, 0, 1]]))
    for channel, (after, at_first) in enumerate(zip(samples_of(surfaces), before, strict=True)):
        step, shift = (1, 0.0) if channel == 0 else (2, 0.5)
        j, i = np.indices(after.shape[1:])
        cx, cy, _ = np.einsum("ij,jvu->ivu", inverse, np.stack([i * step, j * step + shift, np.ones_like(i)]))
        inside = (cx >= -0.5) & (cx <= 31.5) & (cy >= -0.5) & (cy <= 31.5)
        inside &= (i * step >= 20) & (i * step < 48) & (j * step >= 12) & (j * step < 40)
        assert np.array_equal(after[0][~inside], at_first[0][~inside])
        assert inside.sum() > 80 and (after[0][inside] & 63 == 0).all()


@pytest.mark.parametrize("layout", ["nv12", "p010"])
def test_zero_mask_and_warp_write_nothing(placed, layout):
    surfaces, source = (noise_pool(layout, 3, 65, 49) for _ in range(2))
    before, where = samples_of(surfaces), placed_faces(placed, surfaces, 16, FACES)
    picture, mask, warp = fields(3, 16, 4)
    for kind, values in [("replace", (picture, mask * 0, warp)), ("warp", (picture, mask * 0, warp * 0))]:
        composite(kind, surfaces, where, values, source)
        assert all(np.array_equal(a, b) for a, b in zip(samples_of(surfaces), before, strict=True))


@pytest.mark.parametrize("bits", [8, 10])
def test_codes_are_clipped(bits):
    surfaces = noise_pool("nv12" if bits == 8 else "p010", 1, 16, 16)
    where = np.zeros(1, np.int32), IDENTITY[None], np.array([[0, 0, 16, 16]], np.int32)
    _, _, warp = fields(1, 16, 4)
    for sign, code in ((9.0, 2**bits - 1), (-9.0, 0)):
        values = np.full((1, 3, 16, 16), sign, np.float32), np.ones((1, 16, 16), np.float32), warp
        composite("delta", surfaces, where, values)
        assert (planes_of(surfaces, 0)[0] == code).all()


@pytest.mark.parametrize("layout", ["nv12", "p010"])
def test_whole_pixel_warp_moves_samples_exactly(layout):
    """Catmull-Rom and bilinear pass through the samples, right up to the frame's edge."""
    surfaces, source = (noise_pool(layout, 1, 40, 36) for _ in range(2))
    warp = np.broadcast_to(np.array([4, -2], np.float32), (1, 6, 6, 2)).copy()
    picture, mask = np.zeros((1, 3, 40, 40), np.float32), np.zeros((1, 40, 40), np.float32)
    where = np.zeros(1, np.int32), IDENTITY[None], np.array([[0, 0, 40, 36]], np.int32)
    composite("warp", surfaces, where, (picture, mask, warp), source)
    for plane, was, (dx, dy) in zip(
        planes_of(surfaces, 0), planes_of(source, 0), [(4, -2), (2, -1), (2, -1)], strict=True
    ):
        rows, columns = np.indices(was.shape)
        rows, columns = np.clip(rows + dy, 0, was.shape[0] - 1), np.clip(columns + dx, 0, was.shape[1] - 1)
        assert np.array_equal(plane, was[rows, columns])


# Of two frames: boxes of the first three faces overlap in frame 1, the last one's too in frame 0, but with none there.
CROWD = [
    (1, 0.42, 0.5, 1.0, 10.0),
    (1, 0.5, 0.55, 0.9, -15.0),
    (0, 0.5, 0.5, 1.0, 3.0),
    (1, 0.45, 0.4, 0.8, 0.0),
]


@pytest.mark.parametrize("kind", ["replace", "delta"])
def test_faces_of_a_frame_are_composited_in_their_order(placed, kind):
    """As by one call after another, and pictures otherwise in another order."""
    surfaces, turned, source = (noise_pool("nv12", 2, 60, 50) for _ in range(3))
    frames, affines, boxes = placed_faces(placed, surfaces, 24, CROWD)
    values = fields(4, 24, 4)
    composite(kind, surfaces, (frames, affines, boxes), values)
    composite(kind, turned, [a[::-1].copy() for a in (frames, affines, boxes)], [f[::-1].copy() for f in values])
    for frame in (0, 1):
        want = planes_of(source, frame)
        for i in np.flatnonzero(frames == frame):
            want = defined(kind, want, affines[i], boxes[i], [field[i] for field in values], False, 8)
        for plane, other, codes in zip(planes_of(surfaces, frame), planes_of(turned, frame), want, strict=True):
            assert np.abs(plane.astype(int) - codes.astype(int)).max() <= 1
            assert (plane != codes).mean() <= 1e-3
            assert kind == "delta" or np.array_equal(plane, other) == (frame == 0)


def test_what_earlier_faces_changed_is_kept_where_a_later_one_moves_samples(placed):
    """fetched + (theirs - source), to the code: the first face adds, the second one only moves."""
    surfaces, source = (noise_pool("nv12", 2, 60, 50) for _ in range(2))
    frames, affines, boxes = placed_faces(placed, surfaces, 24, CROWD[:2])
    picture, mask, warp = fields(2, 24, 6)
    picture[0], warp[0], mask[1] = np.array([0.1, 0.0, -0.1])[:, None, None], 0, 0
    composite("warp", surfaces, (frames, affines, boxes), (picture, mask, warp), source)
    was = planes_of(source, 1)
    added = defined("delta", was, affines[0], boxes[0], (picture[0], mask[0], warp[0]), False, 8)
    moved = defined("warp", was, affines[1], boxes[1], (picture[1], mask[1], warp[1]), False, 8)
    for plane, first, second, before in zip(planes_of(surfaces, 1), added, moved, was, strict=True):
        want = np.clip(second.astype(int) + first.astype(int) - before, 0, 255)
        both = (first != before) & (second != before)
        assert both.sum() > 10
        assert np.abs(plane.astype(int) - want)[both].max() <= 1 and (plane != want).mean() < 0.01


def test_faces_without_a_frame_or_a_box_are_left_out(placed):
    surfaces, source = (noise_pool("nv12", 2, 60, 50) for _ in range(2))
    frames, affines, boxes = placed_faces(placed, surfaces, 16, [(0, 0.5, 0.5, 1.0, 10.0)] * 5)
    frames[:] = [-1, 1, 2, 0, 0]
    boxes[3] = [30, 30, 30, 40]
    boxes[4] = [500, 300, 520, 310]
    values = fields(5, 16, 4)
    composite("replace", surfaces, (frames, affines, boxes), values)
    one = [a[1:2] for a in (frames, affines, boxes)]
    assert_as_defined("replace", surfaces, source, one, [f[1:2] for f in values])


def test_no_faces():
    surfaces = noise_pool("nv12", 1, 20, 20)
    before = samples_of(surfaces)
    where = np.zeros(0, np.int32), np.zeros((0, 2, 3), np.float32), np.zeros((0, 4), np.int32)
    for kind in ("replace", "delta"):
        composite(kind, surfaces, where, fields(0, 8, 4))
    assert all(np.array_equal(a, b) for a, b in zip(samples_of(surfaces), before, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_layouts_of_the_fields(placed, dtype):
    """The same as float32 fields of the same values, to the code; the picture in channels-last memory."""
    surfaces, others, source = (noise_pool("nv12", 1, 60, 50) for _ in range(3))
    where = [on(a) for a in placed_faces(placed, surfaces, 16, [(0, 0.5, 0.5, 1.2, 10.0)])]
    picture, mask, warp = (on(field).to(dtype) for field in fields(1, 16, 4))
    options = dict(source=source, box_px=(32, 32), **COLOUR)
    last = picture.to(memory_format=torch.channels_last)
    composite_delta_yuv_surfaces(surfaces, *where, last, mask, warp, **options)
    composite_delta_yuv_surfaces(others, *where, picture.float(), mask.float(), warp.float(), **options)
    got, want, before = (samples_of(pool) for pool in (surfaces, others, source))
    assert not np.array_equal(want[0], before[0])
    assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))


def test_a_launch_neither_allocates_nor_waits(monkeypatch):
    """No operation of torch's, and a grid that depends on shapes and on the largest box that is expected alone."""
    kernel = Recorded()
    monkeypatch.setattr(kernel_file, "_composite_yuv_kernel", kernel)
    surfaces, source = (noise_pool("nv12", 2, 400, 300) for _ in range(2))
    frames, boxes, affines = (
        torch.zeros(5, dtype=torch.int32),
        torch.zeros(5, 4, dtype=torch.int32),
        torch.zeros(5, 2, 3),
    )
    where = surfaces, frames, affines, boxes
    picture, mask, warp = torch.zeros(5, 3, 16, 16), torch.zeros(5, 16, 16), torch.zeros(5, 4, 4, 2)
    with NoOperations():
        composite_replace_yuv_surfaces(*where, picture, mask, box_px=(100, 64), **COLOUR)
        assert kernel.grid == (10, 5)
        composite_delta_yuv_surfaces(*where, picture, mask, warp, source=source, box_px=(9000, 9000), **COLOUR)
        assert kernel.grid == (140, 5)


def _bad_arguments():
    mask, small = torch.zeros(2, 4, 4), torch.zeros(2, 3, 3)
    warp, other = torch.zeros(2, 2, 2, 2), noise_pool("nv12", 1, 8, 8, seed=3)
    return [
        ("boxes must be torch.int32", {"boxes": torch.zeros(2, 4)}),
        (r"boxes must be \(2, 4\)", {"boxes": torch.zeros(2, 2, dtype=torch.int32)}),
        (r"mask must be \(F, S, S\)", {"mask": mask[0]}),
        (r"mask must be \(2, 4, 4\)", {"mask": mask[:1]}),
        ("mask must be contiguous", {"mask": mask.transpose(1, 2)}),
        ("mask must be torch.float16 or", {"mask": mask.double()}),
        (r"delta must be \(2, 3, 3, 3\)", {"mask": small}),
        ("box_px", {"box_px": (0, 9)}),
        ("matrix", {"matrix": "smpte240m"}),
        (r"warp must be \(F, G, G, 2\)", {"warp": torch.zeros(2, 5, 5, 2), "source": other}),
        (r"warp must be \(2, 2, 2, 2\)", {"warp": warp[:1], "source": other}),
        ("give them as source", {"warp": warp}),
        ("form of the surfaces", {"warp": warp, "source": noise_pool("nv12", 1, 8, 10)}),
        ("form of the surfaces", {"warp": warp, "source": noise_pool("planar", 1, 8, 8)}),
    ]


@pytest.mark.parametrize("message, change", _bad_arguments())
def test_bad_arguments_raise_one_line(message, change):
    arguments = dict(
        surfaces=noise_pool("nv12", 1, 8, 8),
        frames=torch.zeros(2, dtype=torch.int32),
        crop_to_frame=torch.zeros(2, 2, 3),
        boxes=torch.zeros(2, 4, dtype=torch.int32),
        delta=torch.zeros(2, 3, 4, 4),
        mask=torch.zeros(2, 4, 4),
        box_px=(8, 8),
        **COLOUR,
    )
    with pytest.raises(ValueError, match=message) as caught:
        composite_delta_yuv_surfaces(**(arguments | change))
    assert "\n" not in str(caught.value)


def test_the_source_itself_cannot_be_written_to_where_samples_move():
    surfaces = noise_pool("nv12", 1, 8, 8)
    where = torch.zeros(1, dtype=torch.int32), torch.zeros(1, 2, 3), torch.zeros(1, 4, dtype=torch.int32)
    fields_of = torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4), torch.zeros(1, 2, 2, 2)
    with pytest.raises(ValueError, match="nothing is written to"):
        composite_delta_yuv_surfaces(surfaces, *where, *fields_of, source=surfaces, box_px=(8, 8), **COLOUR)
