"""The score of age: folds that darken, skin that evens out, and light that means neither."""

from dataclasses import dataclass

import numpy as np
import pytest

from mien.bench.frame_rgb import lab
from mien.bench.quality_ageing import Ageing
from mien.engine.types import Array
from mien.export.tiny.face_marks import FOLDS, Canvas

SIZE = 128


@dataclass
class Portrait:
    """A pair of pictures of one face whose skin is the middle of the picture."""

    source_rgb: Array
    result_rgb: Array
    mesh: Array
    skin: Array | None

    @property
    def meshes(self) -> tuple[Array, Array]:
        return self.mesh, self.mesh

    def region(self, name: str) -> Array | None:
        return self.skin if name == "skin" else None


def portrait(source: Array, result: Array, *, skin: bool = True) -> Portrait:
    mesh = np.concatenate([np.random.default_rng(0).uniform(24, 104, (478, 2)), np.zeros((478, 1))], 1)
    places = {33: (40, 50), 133: (54, 50), 263: (88, 50), 362: (74, 50), 168: (64, 50), 164: (64, 80), 234: (22, 64)}
    places |= {454: (106, 64), 1: (64, 70), 2: (64, 76)}
    for index, at in places.items():
        mesh[index, :2] = at
    where = np.zeros((SIZE, SIZE), bool)
    where[16:112, 16:112] = True
    return Portrait(source, result, mesh, where if skin else None)


def grey(level: Array | int) -> Array:
    return np.broadcast_to(np.asarray(level, np.uint8)[..., None], (SIZE, SIZE, 3)).copy()


def test_folds_that_darken_are_older_and_even_light_is_not() -> None:
    flat = grey(np.full((SIZE, SIZE), 150))
    folds = Canvas.of(portrait(flat, flat).mesh, (SIZE, SIZE)).draw(FOLDS, 0.045)
    scores = [Ageing().change(portrait(flat, grey(np.rint(150 - depth * folds))), 1.0) for depth in (0, 10, 20, 40)]
    assert scores[0] == pytest.approx(0.0, abs=1e-6)
    assert all(a + 0.2 < b for a, b in zip(scores, scores[1:], strict=False))  # type: ignore[operator]
    assert Ageing().change(portrait(flat, flat - 40), 1.0) == pytest.approx(0.0, abs=1e-3)


def test_skin_that_evens_out_is_younger() -> None:
    flat = grey(np.full((SIZE, SIZE), 119))
    lined = flat.copy()
    lined[::2] = 136  # L of about 50 and 57, line by line: 3.3 from their mean
    light = float(np.ptp(lab(lined[:2, 0])[:, 0]))
    assert Ageing().change(portrait(lined, flat), -1.0) == pytest.approx(-light / 2, rel=0.05)
    assert Ageing().change(portrait(flat, flat - 40), -1.0) == pytest.approx(0.0, abs=1e-3)


def test_without_skin_there_is_no_answer() -> None:
    flat = grey(np.full((SIZE, SIZE), 119))
    assert Ageing().change(portrait(flat, flat, skin=False), 1.0) is None
