"""How far a face may turn before its edit fades: beyond the networks' range no edit is better than a broken one."""

from __future__ import annotations

import numpy as np

from mien.engine.types import Array

NOSE_TIP, OUTER_CORNERS = 30, (36, 45)
# Turns between which the edit fades out. The nose stands out by about nine tenths of half the distance of the eyes' outer
# corners, so .75 is 40 degrees and 1.15 is 52. People who talk to a camera stay below .55.
SURE_TURN, LAST_TURN = 0.75, 1.15


def turn(points: Array) -> float:
    """How far the nose's tip stands beside the middle of the eyes' outer corners, along their line, in halves of their
    distance: 0 for a frontal face, grows with yaw as its tangent; it does not depend on roll. points: (68, 2) pixels.
    """
    left, right = points[list(OUTER_CORNERS)].astype(np.float64)
    across = right - left
    return abs(float((points[NOSE_TIP] - (left + right) / 2) @ across)) * 2.0 / max(float(across @ across), 1e-9)


def turn_weight(points: Array) -> float:
    """Weight of an edit in [0, 1] for that turn: 1 up to SURE_TURN, 0 from LAST_TURN, a smooth step between."""
    share = np.clip((LAST_TURN - turn(points)) / (LAST_TURN - SURE_TURN), 0.0, 1.0)
    return float(share * share * (3.0 - 2.0 * share))
