"""The outline of what an edit puts on: where it lies on most faces, whatever way they are turned, told on the mean face."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mien.engine.face.coordinates import MEAN_FACE
from mien.engine.types import Array
from mien.export.tiny import mean_outline
from mien.export.tiny.dataset import Prepared
from mien.export.tiny.teachers import MESH_TO_68

CORNERS = np.array([(0.25, 0.4), (0.75, 0.4), (0.75, 0.6), (0.25, 0.6)])


def test_a_square_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    meshes = []
    for _ in range(12):
        turn = cv2.getRotationMatrix2D((128, 128), rng.uniform(-15, 15), rng.uniform(0.8, 1.0))
        mesh = np.zeros((478, 3))
        places = np.concatenate([MEAN_FACE * 256 - 0.5, CORNERS * 256 - 0.5]) @ turn[:, :2].T + turn[:, 2] + 32
        mesh[MESH_TO_68, :2], mesh[:4, 2] = places[:68], places[68:, 0]
        mesh[4:8, 2] = places[68:, 1]  # where the painter below finds its corners
        meshes.append(mesh)

    def square(mesh: Array, shape: tuple[int, int]) -> Array:
        corners = np.stack([mesh[:4, 2], mesh[4:8, 2]], 1) - 32
        mask: Array = np.zeros(shape, np.float32)
        return cv2.fillPoly(mask, [np.round(corners * 16).astype(np.int32)], 1.0, cv2.LINE_AA, 4)

    monkeypatch.setitem(mean_outline.SOLIDS, "square", square)
    none = np.zeros((0, 320, 320, 3), np.uint8)
    prepared = Prepared(none, none, none, none, np.stack(meshes), none, [], np.arange(12), np.arange(0))
    outline = np.array(mean_outline.mean_outline("square", prepared, faces=12))
    drawn = cv2.fillPoly(np.zeros((512, 512), np.uint8), [np.round(outline * 512).astype(np.int32)], 1)
    wanted = cv2.fillPoly(np.zeros((512, 512), np.uint8), [np.round(CORNERS * 512).astype(np.int32)], 1)
    assert (drawn & wanted).sum() > 0.94 * (drawn | wanted).sum()
