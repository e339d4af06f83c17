"""The fading of edits on faces that turn away."""

import numpy as np
import pytest

from mien.engine.face.gate import LAST_TURN, SURE_TURN, turn, turn_weight
from mien.engine.types import Array


def face(yaw_deg: float, roll_deg: float = 0.0, scale: float = 40.0) -> Array:
    """68 points of which only the eyes' outer corners and the nose's tip matter: a head turned about its vertical axis."""
    head = np.zeros((68, 3))
    head[36], head[45], head[30] = (-1, 0, 0), (1, 0, 0), (0, 0.8, 0.9)
    c, s = np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg))
    flat = np.stack([head[:, 0] * c + head[:, 2] * s, head[:, 1]], 1)
    cr, sr = np.cos(np.radians(roll_deg)), np.sin(np.radians(roll_deg))
    return np.asarray(flat @ np.array([[cr, sr], [-sr, cr]]) * scale + 200)


@pytest.mark.parametrize("yaw", [-50.0, -20.0, 0.0, 35.0])
def test_turn_is_the_tangent_and_knows_no_roll(yaw: float) -> None:
    wanted = 0.9 * abs(np.tan(np.radians(yaw)))
    for roll in (0.0, 30.0, -90.0):
        assert turn(face(yaw, roll)) == pytest.approx(wanted, abs=1e-6)


def test_the_weight_falls_once_and_smoothly() -> None:
    weights = [turn_weight(face(yaw)) for yaw in range(80)]
    assert weights[0] == weights[35] == 1.0 and weights[55] == weights[79] == 0.0
    steps = -np.diff(weights)
    assert steps.min() >= 0 and steps.max() < 0.15
    assert SURE_TURN < LAST_TURN


def test_eyes_that_fall_together_count_as_turned_away() -> None:
    points = np.zeros((68, 2))
    points[30] = (5.0, 0.0)
    points[45] = (1e-3, 0.0)
    assert turn_weight(points) == 0.0
