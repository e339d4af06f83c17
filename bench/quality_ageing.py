"""How old the skin of a face looks: the score of an edit that adds lines or smoothes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from mien.bench.frame_rgb import lab
from mien.engine.types import Array
from mien.export.tiny.face_marks import BAG_RIMS, CROWS, FOLDS, MARIONETTE, Canvas

if TYPE_CHECKING:  # which has a place for this score in its table
    from mien.bench.quality_scores import Pair

LINE_WIDTH = 0.045  # of the face's size
AROUND = 0.05  # standard deviation of a place's surroundings, over the square root of the skin's area


class Ageing:
    """Older: how much darker than the skin around them the places are where faces fold (nose to mouth, mouth to chin, eyes,
    forehead), by the source's mesh. Younger: how much the skin varies, the RMS of its light less its surroundings'.

    Both in units of CIE L, result less source, and 0 for no edit. Neither alone can tell both ways: a young face has no folds
    to lose, and new lines on lit skin leave its RMS as it was. Of painted pairs, whose strength is known, the RMS follows the
    strength on 86 % of the faces, below 0 alone on 93 %; the folds follow it above 0 on all.
    """

    judged = True
    own: frozenset[str] = frozenset()
    unit = "depth of folds, contrast of skin (L)"

    def change(self, pair: Pair, sign: float) -> float | None:
        """Change in the direction that the strength's sign says; None where no skin is seen."""
        skin = pair.region("skin")
        if skin is None or int(skin.sum()) < 16:
            return None
        places = skin.astype(np.float32)
        if sign < 0:
            return _contrast(pair.result_rgb, places) - _contrast(pair.source_rgb, places)
        folds = _folds(pair.meshes[0], places)
        if not folds.any():
            return None
        return _depth(pair.result_rgb, places, folds) - _depth(pair.source_rgb, places, folds)


def _folds(mesh: Array, skin: Array) -> Array:
    face = Canvas.of(mesh, (skin.shape[0], skin.shape[1]))
    lines = [face.draw(line, LINE_WIDTH) for line in (FOLDS, MARIONETTE, CROWS, BAG_RIMS)]
    return np.asarray(np.clip(np.maximum.reduce([*lines, face.forehead(LINE_WIDTH)[0]]), 0, 1) * skin)


def _depth(rgb: Array, skin: Array, folds: Array) -> float:
    light = _light(rgb)
    return float(((_around(light, skin * (1 - folds)) - light) * folds).sum() / folds.sum())


def _contrast(rgb: Array, skin: Array) -> float:
    light = _light(rgb)
    return float(np.sqrt(np.square(light - _around(light, skin))[skin > 0].mean()))


def _light(rgb: Array) -> Array:
    return lab(rgb.reshape(-1, 3))[:, 0].reshape(rgb.shape[:2])


def _around(light: Array, where: Array) -> Array:
    """Mean light of the surroundings, of `where` only."""
    sigma = AROUND * float(np.sqrt(where.sum()))
    weight = np.maximum(cv2.GaussianBlur(where, (0, 0), sigma), 1e-3)
    return np.asarray(cv2.GaussianBlur(light * where, (0, 0), sigma) / weight)
