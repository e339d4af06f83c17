"""Pair generators: lipstick, and the tone of the skin. Pictures and points as in strokes.py."""

from __future__ import annotations

import cv2
import numpy as np

from mien.engine.types import Array
from mien.export.tiny.matte import hair_matte, skin_mask
from mien.export.tiny.recolour import lightness_of, stops
from mien.export.tiny.strokes import INNER_LOWER, INNER_UPPER, OUTER_LOWER, OUTER_UPPER, fill, lines_of, size_of

_LIPSTICK = (37.0, 50.0, 20.0)  # CIE Lab
TAN_STOPS, PALE_STOPS = -0.62, 0.50
LIPS_SHARE = 0.5


def lips(points: Array, shape: tuple[int, int]) -> Array:
    """Soft mask of the lips without what the open mouth shows between them."""
    unit = size_of(points)
    outer = fill(shape, lines_of(points, (OUTER_UPPER + OUTER_LOWER[::-1],)), 0.014 * unit)
    inner = fill(shape, lines_of(points, (INNER_UPPER + INNER_LOWER[::-1],)), 0.010 * unit)
    return np.asarray(np.clip(outer - 1.15 * inner, 0, 1))


def lipstick(rgb: Array, points: Array, person: Array, strength: float) -> Array:
    """Rose red on the lips, their light and grain kept; strength in [0, 1]."""
    alpha = lips(points, (rgb.shape[0], rgb.shape[1])) * person
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)
    weight = alpha**2
    total = float(weight.sum()) + 1e-6
    mean = (lab * weight[..., None]).sum((0, 1)) / total
    # teeth and gums inside a careless outline: far brighter and paler than these lips
    tooth = np.clip((lab[..., 0] - mean[0] - 16) / 12, 0, 1) * np.clip((mean[1] - lab[..., 1] - 3) / 6, 0, 1)
    alpha = alpha * (1 - cv2.GaussianBlur(tooth, (0, 0), 0.8))
    goal = 0.55 * _LIPSTICK[0] + 0.45 * min(float(mean[0]), 60.0)
    goal = min(goal, float(mean[0]) + 6)
    deviation = np.clip(lab[..., 0] - mean[0], -30, 30)
    level = np.clip(goal + np.where(deviation > 0, 1.15, 0.95) * deviation, 3, 92)
    chroma = np.clip(level / _LIPSTICK[0], 0.25, 1.0) * np.clip(1.25 - level / 130, 0.5, 1)
    target = np.dstack([level, _LIPSTICK[1] * chroma, _LIPSTICK[2] * chroma]).astype(np.float32)
    change = cv2.cvtColor(target, cv2.COLOR_LAB2RGB) - rgb
    return np.asarray(np.clip(rgb + (0.85 * strength * alpha)[..., None] * change, 0, 1), np.float32)


def skin_tone(rgb: Array, points: Array, hair: Array, person: Array, strength: float) -> Array:
    """Tanned (strength > 0) or paler (< 0) skin of face, ears and neck, the lips with it by half; strength in [-1, 1]."""
    alpha = skin_mask(rgb, points, hair_matte(rgb, hair), person)
    alpha = np.maximum(alpha, LIPS_SHARE * lips(points, (rgb.shape[0], rgb.shape[1])) * person)
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)
    light = lab[..., 0]
    shift: Array
    a: Array
    b: Array
    if strength >= 0:
        shift = np.asarray(TAN_STOPS * (1 - 0.6 * np.clip((light - 82) / 18, 0, 1)))  # gleams stay
        warm = np.clip(light / 45, 0.2, 1)
        a, b = lab[..., 1] * 1.05 + 2.0 * warm, lab[..., 2] * 1.05 + 3.5 * warm
    else:
        shift = np.asarray(PALE_STOPS * np.clip((100 - light) / 45, 0.05, 1))  # what is bright already can only pale
        a, b = lab[..., 1] * 0.82, lab[..., 2] * 0.74
    target = np.dstack([lightness_of(stops(light) + shift), a, b]).astype(np.float32)
    change = cv2.cvtColor(target, cv2.COLOR_LAB2RGB) - rgb
    return np.asarray(np.clip(rgb + (abs(strength) * alpha)[..., None] * change, 0, 1), np.float32)
