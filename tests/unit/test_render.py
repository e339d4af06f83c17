"""The software renderer: exact rasterisation, depth, projection; and, where the head model is at hand, a whole picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mien.export.render import picture as picture_of
from mien.export.render.hair import HairStyle
from mien.export.render.model import PIVOT, Pose, follow_head, normals
from mien.export.render.paint import Complexion
from mien.export.render.person import Act, Person, Studio
from mien.export.render.raster import Camera, interpolate, nearest, rasterise, splat
from mien.export.render.shade import Light, Shadow, tone

Floats = NDArray[np.float32]
SIZE = (40, 50)


def screen(*points: tuple[float, float, float]) -> Floats:
    return np.array(points, np.float32)


def covered(points: Floats, triangles: NDArray[np.int32], size: tuple[int, int] = SIZE) -> NDArray[np.bool_]:
    """Pixels whose centre lies in a triangle, tested one by one in float64."""
    out = np.zeros(size, bool)
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    for a, b, c in points[triangles][..., :2].astype(float):
        sides = [(q[0] - p[0]) * (y - p[1]) - (q[1] - p[1]) * (x - p[0]) for p, q in ((a, b), (b, c), (c, a))]
        out |= np.all([s <= 0 for s in sides], 0) | np.all([s >= 0 for s in sides], 0)
    return out


def test_known_triangle_covers_its_pixel_centres() -> None:
    points = screen((2, 2, 1), (2, 7, 1), (7, 2, 1))  # counter-clockwise in a y-up world
    hits = rasterise(points, np.array([[0, 1, 2]], np.int32), SIZE)
    seen = np.zeros(SIZE, bool)
    seen.ravel()[hits.pixel] = True
    expected = np.zeros(SIZE, bool)
    for row in range(2, 8):
        expected[row, 2 : 10 - row] = True
    np.testing.assert_array_equal(seen, expected)
    assert hits.pixel.tolist() == sorted(hits.pixel.tolist())


@pytest.mark.parametrize("seed", range(4))
def test_random_triangles_match_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = np.concatenate([rng.uniform(-15, 60, (30, 2)), rng.uniform(0.5, 2, (30, 1))], 1).astype(np.float32)
    triangles = np.arange(30, dtype=np.int32).reshape(10, 3)
    hits = rasterise(points, triangles, SIZE, both_sides=True)
    seen = np.zeros(SIZE, bool)
    seen.ravel()[hits.pixel] = True
    assert (seen != covered(points, triangles)).sum() <= 2  # centres within rounding of an edge
    np.testing.assert_allclose(hits.weights.sum(1), 1, atol=1e-3)


def test_back_faces_are_dropped() -> None:
    points = screen((2, 2, 1), (2, 7, 1), (7, 2, 1))
    behind = np.array([[0, 2, 1]], np.int32)
    assert len(rasterise(points, behind, SIZE).pixel) == 0
    assert len(rasterise(points, behind, SIZE, both_sides=True).pixel) == 21


def test_neighbours_leave_no_gap() -> None:
    rng = np.random.default_rng(3)
    rows, columns = 9, 11
    y, x = np.meshgrid(np.linspace(-3, 43, rows), np.linspace(-3, 53, columns), indexing="ij")
    grid = np.stack([x, y], -1)
    grid[1:-1, 1:-1] += rng.uniform(-1.9, 1.9, (rows - 2, columns - 2, 2))
    points = np.concatenate([grid.reshape(-1, 2), np.ones((rows * columns, 1))], 1).astype(np.float32)
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(columns - 1), indexing="ij")
    a = (i * columns + j).ravel()
    triangles = np.concatenate(
        [np.stack([a, a + columns, a + 1], 1), np.stack([a + 1, a + columns, a + columns + 1], 1)]
    )
    hits = rasterise(points, triangles.astype(np.int32), SIZE)
    assert len(hits.pixel) == SIZE[0] * SIZE[1]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_nearer_triangle_wins(order: tuple[int, int]) -> None:
    far, near = [(0, 0, 0.1), (0, 39, 0.1), (39, 0, 0.1)], [(5, 5, 0.2), (5, 20, 0.2), (20, 5, 0.2)]
    points = screen(*(far, near)[order[0]], *(far, near)[order[1]])
    hits = rasterise(points, np.arange(6, dtype=np.int32).reshape(2, 3), SIZE)
    owner = np.full(SIZE, -1)
    owner.ravel()[hits.pixel] = hits.triangle
    assert owner[8, 8] == order.index(1)
    assert owner[2, 2] == owner[30, 2] == order.index(0)


def test_interpolation_is_perspective_correct() -> None:
    camera = Camera(focal=60.0, centre=(25.0, 20.0), distance=10.0)
    world = screen((-4, -3, -20), (4, -3, 4), (4, 3, 4), (-4, 3, -20))  # a wall that recedes to the left
    triangles = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    hits = rasterise(camera.project(world), triangles, SIZE)
    found = interpolate(hits, triangles, world)
    np.testing.assert_allclose(found[:, 2], 3 * found[:, 0] - 8, atol=2e-3)  # on the wall's plane
    x, y = hits.pixel % SIZE[1], hits.pixel // SIZE[1]
    seen = camera.project(found)
    np.testing.assert_allclose(seen[:, :2], np.stack([x, y], 1), atol=5e-3)
    np.testing.assert_allclose(seen[:, 2], hits.inverse_depth, rtol=1e-4)


def test_projection_by_hand() -> None:
    camera = Camera(focal=100.0, centre=(30.0, 20.0), distance=10.0)
    np.testing.assert_allclose(camera.project(screen((1, 2, 0), (1, 2, 5))), [[40, 0, 0.1], [50, -20, 0.2]], rtol=1e-6)


def test_nearest_row_of_each_pixel() -> None:
    rng = np.random.default_rng(0)
    pixel, depth = rng.integers(0, 50, 2000), rng.random(2000).astype(np.float32)
    best = nearest(pixel, depth, 60)
    assert sorted(pixel[best]) == sorted(set(pixel.tolist()))
    for row in best:
        assert depth[row] == depth[pixel == pixel[row]].max()


def test_strands_hide_behind_what_is_drawn() -> None:
    line = screen((0, 10, 0.2), (49, 10, 0.2))[None]
    behind = np.zeros(SIZE[0] * SIZE[1], np.float32)
    behind.reshape(SIZE)[:, 20:30] = 0.5
    pixel, curve, along, inverse = splat(line, SIZE, behind)
    seen = set((pixel % SIZE[1]).tolist())
    assert (pixel // SIZE[1] == 10).all() and not seen & set(range(20, 30)) and len(seen) >= 34
    assert (curve == 0).all() and np.allclose(along, pixel % SIZE[1] / 49, atol=0.02) and np.allclose(inverse, 0.2)


def test_head_turns_about_the_neck() -> None:
    nose = PIVOT + screen((0, 0, 10))
    turned = follow_head(nose, Pose(yaw=90).vector(), np.ones(1, np.float32))
    np.testing.assert_allclose(turned, PIVOT + screen((10, 0, 0)), atol=1e-4)
    assert follow_head(nose, Pose(pitch=30).vector(), np.ones(1, np.float32))[0, 1] < nose[0, 1]
    ear = PIVOT + screen((9, 6, 0))
    assert follow_head(ear, Pose(roll=20).vector(), np.ones(1, np.float32))[0, 0] < ear[0, 0] + 2.1
    np.testing.assert_array_equal(follow_head(nose, Pose(40, 10, 5).vector(), np.zeros(1, np.float32)), nose)


def test_normals_point_out_of_a_tetrahedron() -> None:
    points = screen((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    triangles = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)
    n = normals(points, triangles)
    assert ((points - points.mean(0)) * n).sum(1).min() > 0
    np.testing.assert_allclose(np.linalg.norm(n, axis=1), 1, atol=1e-5)


def test_shadow_falls_behind_the_caster_only() -> None:
    grid = np.stack(np.meshgrid(np.linspace(-3, 3, 200), np.linspace(-3, 3, 200)), -1).reshape(-1, 2)
    plate = np.concatenate([grid, np.full((len(grid), 1), 5.0)], 1).astype(np.float32)
    shadow = Shadow(plate, np.array([0, 0, 1], np.float32))
    lit = shadow.visible(screen((0, 0, 0), (6, 6, 0), (0, 0, 7), (90, 0, 0)), bias=0.1)
    np.testing.assert_allclose(lit, [0, 1, 1, 1], atol=1e-6)


def test_tone_rises_and_stays_below_one() -> None:
    shown = tone(np.linspace(0, 30, 300, dtype=np.float32).reshape(-1, 3))
    assert shown[0, 0] == 0 and shown.max() <= 1 and (np.diff(shown.ravel()) >= 0).all()


@pytest.fixture(scope="module")
def person(shared_data: Path) -> Person:
    model = shared_data / "assets3d" / "ict_facekit_f16.npz"
    if not model.exists():
        pytest.skip(f"no head model at {model}")
    style = HairStyle(strands=1500)
    return Person(Studio(model, 256), np.zeros(1, np.float32), Complexion(), style, brow_count=100)


def draw(person: Person, act: Act) -> picture_of.Picture:
    backdrop = np.full((160, 160, 3), 0.3, np.float32)
    return picture_of.render(person, act, picture_of.portrait(5.0, (80.0, 66.0)), (160, 160), Light(), backdrop)


def test_a_whole_picture(person: Person) -> None:
    made = draw(person, Act({"jawOpen": 0.8}))
    marks = made.landmarks
    assert made.rgb.shape == (160, 160, 3) and not made.hidden[27:].any()
    assert set(np.unique(made.parts)) == {0, 1, 2, 3, 4, 5}
    # the model is symmetric: left and right landmarks mirror at the picture's axis
    np.testing.assert_allclose(marks[36, 0] + marks[45, 0], 160, atol=0.5)
    eye, mouth = marks[36:42].mean(0), marks[[62, 66]].mean(0)
    assert made.parts[int(round(eye[1])), int(round(eye[0]))] == picture_of.EYE
    assert made.parts[int(round(mouth[1])), int(round(mouth[0]))] == picture_of.MOUTH
    assert made.parts[5, 5] == picture_of.BACKGROUND and made.alpha[5, 5] == 0 and made.alpha[80, 80] == 1
    skin = made.rgb[made.parts == picture_of.FACE].mean(0)
    assert skin[0] > skin[1] > skin[2]
    again = draw(person, Act({"jawOpen": 0.8}))
    np.testing.assert_array_equal(made.rgb, again.rgb)


def test_expression_and_pose_move_the_landmarks(person: Person) -> None:
    rest, opened = draw(person, Act()).landmarks, draw(person, Act({"jawOpen": 1.0})).landmarks
    assert opened[8, 1] > rest[8, 1] + 4 and abs(opened[27] - rest[27]).max() < 0.5
    turned = draw(person, Act(pose=Pose(yaw=55)))
    assert turned.landmarks[30, 0] > rest[30, 0] + 15  # the nose goes to the subject's left, the picture's right
    assert turned.hidden[[13, 14, 45]].all() and not turned.hidden[36:42].any()
