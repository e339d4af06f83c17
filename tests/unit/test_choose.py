"""Which faces are edited."""

from __future__ import annotations

import numpy as np

from mien.engine.choose import Presence, RunningChoice, choose_tracks
from mien.engine.survey import contiguous_runs, ramp, smooth_run
from mien.engine.types import Array, Face


def presence(track_id: int, start: int, stop: int, side: float, scene: int = 1) -> Presence:
    return Presence(track_id, scene, tuple(range(start, stop)), (stop - start) * side**2)


def face(track_id: int, side: float) -> Face:
    return Face(track_id, (0.0, 0.0, side, side), np.zeros((68, 2), np.float32), 0.9)


def test_largest_over_the_clip_and_its_successors() -> None:
    tracks = [
        presence(1, 0, 50, 100),
        presence(2, 0, 100, 60),  # a bystander
        presence(3, 52, 100, 100),  # the first face, lost and found under a new number
        presence(4, 100, 130, 20, scene=2),  # the only face of the next scene
    ]
    assert choose_tracks(tracks, "largest") == {1, 3, 4}
    assert choose_tracks(tracks, 2) == {1, 2, 3, 4}
    assert choose_tracks(tracks, "all") == {1, 2, 3, 4}
    assert choose_tracks([*tracks, presence(5, 0, 100, 30)], 2) == {1, 2, 3, 4}


def test_running_choice_holds_on_to_its_face() -> None:
    choice, alive = RunningChoice("largest"), frozenset({1, 2})
    assert choice([face(1, 100)], alive) == {1}
    for _ in range(60):  # 1.2 times as wide, 1.44 times as large: not enough to take over
        assert choice([face(1, 100), face(2, 120)], alive) == {1}
    assert choice([face(2, 120)], alive) == {1}, "a face that may come back keeps its place"
    assert choice([face(2, 120)], frozenset({2})) == {2}
    switched = [choice([face(1, 300), face(2, 120)], alive) for _ in range(30)]
    assert switched[0] == {1} or switched[-1] == {1}


def test_runs_fill_short_gaps_and_split_at_long_ones() -> None:
    positions = [0, 1, 4, 5, 12, 13]
    points = np.asarray(positions, float)[:, None, None] * np.ones((1, 68, 2))
    first, second = contiguous_runs(positions, points)
    assert first[0] == [0, 1, 2, 3, 4, 5] and second[0] == [12, 13]
    np.testing.assert_allclose(first[1][:, 0, 0], first[0])
    np.testing.assert_allclose(second[1][:, 5, 1], second[0])
    ((only, values),) = contiguous_runs([7], points[:1])
    assert only == [7] and values.shape == (1, 68, 2)


def test_ramp() -> None:
    assert ramp(6, rises=False, falls=False) == [1.0] * 6
    np.testing.assert_allclose(ramp(6, rises=True, falls=True), [0.2, 0.4, 0.6, 0.6, 0.4, 0.2])


def test_nothing_is_smoothed_across_a_leap(face: Array) -> None:
    way = np.repeat([0.0, 1.0], 8)[:, None, None] * [np.ptp(face[:, 0]), 0.0]
    for leap in (1.0, 0.2):
        quads, points = smooth_run(face + leap * way)
        assert quads.shape == (16, 3, 2) and points.shape == (16, 68, 2)
        assert np.allclose(points, face + leap * way, atol=1e-9) == (leap == 1.0)
        assert np.allclose(np.ptp(quads[:8], 0), 0.0, atol=1e-9) == (leap == 1.0)
