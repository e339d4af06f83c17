"""Pair generator: hair recolouring in CIE Lab, keeping strands by keeping the contrast of the light.

All pictures are float32 RGB (H, W, 3) in [0, 1]; masks float32 (H, W) in [0, 1].
"""

from __future__ import annotations

import cv2
import numpy as np

from mien.engine.types import Array
from mien.export.tiny.matte import hair_matte

# target lightness (0..100), a, b at that lightness
HAIR_COLOURS: dict[str, tuple[float, float, float]] = {
    "hair_dark": (12.0, 1.0, 2.0),
    "hair_blond": (66.0, 5.5, 28.0),
    "hair_red": (34.0, 22.0, 25.0),
    "hair_grey": (66.0, 0.0, 1.5),
}
MIN_HAIR = 0.01  # below this share of the picture there is no hair to recolour
MAX_LIFT = 3.7  # stops by which hair may brighten: in a dim picture blond hair is dim
MAX_SPREAD = 1.1  # stops of contrast (one sd) that recoloured hair has at most


def stops(lightness: Array) -> Array:
    """log2 of linear light, from CIE L*; its foot keeps the noise of black hair small."""
    return np.asarray(3 * np.log2((lightness + 16) / 116))


def lightness_of(light: Array) -> Array:
    """CIE L* from log2 of linear light."""
    return np.asarray(116 * np.exp2(light / 3) - 16)


def recolour_hair(rgb: Array, hair: Array, colour: str, strength: float) -> Array:
    """Move the hair `strength` (0..1) of the way to a named colour; the picture itself where there is next to no hair."""
    if strength == 0 or float((hair > 0.5).mean()) < MIN_HAIR:
        return rgb
    return recolour_matte(rgb, hair_matte(rgb, hair), colour, strength)


def recolour_matte(rgb: Array, alpha: Array, colour: str, strength: float) -> Array:
    """The same for an alpha matte of the hair."""
    weight = alpha**3
    total = float(weight.sum()) + 1e-6
    if total < MIN_HAIR * alpha.size:
        return rgb
    # What lies under a soft edge is hair mixed with something else: the hair there is what it is nearby.
    around = cv2.GaussianBlur(np.dstack([rgb * weight[..., None], weight]), (0, 0), 4.0)
    local = around[..., :3] / (around[..., 3:] + 1e-4)
    pure = np.clip((alpha - 0.6) / 0.35, 0, 1) * np.clip(around[..., 3] * 30, 0, 1)
    strands = local + pure[..., None] * (rgb - local)
    lab = cv2.cvtColor(np.clip(strands, 0, 1).astype(np.float32), cv2.COLOR_RGB2LAB)
    light = stops(np.maximum(lab[..., 0], 0))
    mean = float((light * weight).sum() / total)
    spread = float(np.sqrt(((light - mean) ** 2 * weight).sum() / total)) + 1e-3
    goal, a, b = HAIR_COLOURS[colour]
    goal_light = min(float(stops(np.array(goal))), mean + (0 if colour == "hair_dark" else MAX_LIFT))
    if colour == "hair_grey":  # white hair stays white
        goal_light = max(goal_light, min(mean, float(stops(np.array(84.0)))))
    lifted = goal_light > mean
    gain = min(1.0, MAX_SPREAD / spread)
    if lifted and spread < 0.7:  # flat hair: its light and shade, not its grain, stand out more once it is bright
        gain = min(0.7 / spread, 1.7)
    away, top = gain * (light - mean), 1.7 if goal > 50 else 1.3
    out_light = goal_light + np.where(away > 0, top * np.tanh(away / top), np.maximum(away, -2.8))
    if lifted:  # what is black for want of light stays nearly so
        out_light = out_light - 1.6 * np.clip(1 - lab[..., 0] / 6, 0, 1) * np.clip((goal_light - mean) / 2, 0, 1)
    level = np.maximum(lightness_of(out_light), 1.0)
    level = np.where(level > 80, 80 + 14 * np.tanh((level - 80) / 14), level)
    ratio = level / goal  # a strand's shade is less coloured, its gleam paler
    gleam = np.clip(ratio - 1, 0, 1)
    chroma = np.clip(ratio, 0.12, 1.0) ** 0.8
    deeper = 1 + 1.3 * np.clip(1 - ratio, 0, 1) * (goal > 50)  # and warmer
    target = np.dstack([level, a * chroma * deeper * (1 - 0.6 * gleam), b * chroma * (1 - 0.25 * gleam)]).astype(
        np.float32
    )
    change = cv2.cvtColor(target, cv2.COLOR_LAB2RGB) - strands
    return np.asarray(np.clip(rgb + (strength * alpha)[..., None] * change, 0, 1), np.float32)
