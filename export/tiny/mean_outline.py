"""What an edit that hides puts on a face, on average over the training faces: the `outline` of its entry in the manifest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from mien.engine.outline import mean_to_crop
from mien.engine.types import Array
from mien.export.tiny.dataset import Prepared
from mien.export.tiny.draw_glasses import glasses_front
from mien.export.tiny.prepare import CROP_PX, MARGIN_PX
from mien.export.tiny.teachers import MESH_TO_68

FACES = 300
PX, FINER, TOLERANCE_PX = 128, 8, 2.0

SOLIDS: dict[str, Callable[[Array, tuple[int, int]], Array]] = {"sunglasses": glasses_front}
"""By edit: what it puts on a mesh (478, 3) in a picture (H, W), as a share (H, W)."""


def outlines(runs: Path) -> dict[str, list[list[float]]]:
    """The outline of every edit in SOLIDS."""
    prepared = Prepared.open(runs)
    return {name: mean_outline(name, prepared) for name in SOLIDS}


def mean_outline(name: str, prepared: Prepared, *, faces: int = FACES, seed: int = 0) -> list[list[float]]:
    """Corners [x, y] of the polygon within which the edit's object lies on more than half of the faces, alike left and right."""
    total = np.zeros((PX, PX))
    for i in np.random.default_rng(seed).choice(prepared.train_ids, faces, replace=False):
        mesh = np.array(prepared.points[i], np.float64) - (MARGIN_PX, MARGIN_PX, 0)
        drawn = SOLIDS[name](mesh, (CROP_PX, CROP_PX))
        to_crop = mean_to_crop(mesh[MESH_TO_68, :2], PX)
        total += cv2.warpAffine(drawn, to_crop, (PX, PX), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    mean = (total + total[:, ::-1]) / (2 * faces)
    fine = cv2.resize(mean, (FINER * PX, FINER * PX), interpolation=cv2.INTER_CUBIC)
    contours, _ = cv2.findContours((fine > 0.5).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    corners = cv2.approxPolyDP(max(contours, key=cv2.contourArea), TOLERANCE_PX, True)[:, 0]
    return [[round(float(v + 0.5) / (FINER * PX), 3) for v in corner] for corner in corners]
