"""Pair generator: hair recolouring in CIE Lab, keeping strands by keeping lightness contrast.

All pictures are float32 RGB (H, W, 3) in [0, 1]; masks float32 (H, W) in [0, 1].
"""

from __future__ import annotations

import cv2
import numpy as np

from mien.engine.types import Array

# target lightness (0..100), a, b, and how much of the local lightness contrast is kept
HAIR_COLOURS: dict[str, tuple[float, float, float, float]] = {
    "hair_dark": (13.0, 1.5, 2.5, 0.55),
    "hair_blond": (64.0, 6.0, 27.0, 1.0),
    "grey": (68.0, 0.5, 3.0, 0.9),
}
MIN_HAIR = 0.01  # below this share of the picture there is no hair to recolour


def recolour_hair(rgb: Array, hair: Array, colour: str, strength: float) -> Array:
    """Move the hair `strength` (0..1) of the way to a named colour; the picture itself where there is next to no hair."""
    if strength == 0 or float(hair.mean()) < MIN_HAIR:
        return rgb
    lightness, a, b, contrast = HAIR_COLOURS[colour]
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)
    weight = hair * hair
    total = float(weight.sum()) + 1e-6
    mean = (lab * weight[..., None]).sum((0, 1)) / total
    deviation = lab[..., 0] - mean[0]
    spread = float(np.sqrt((deviation**2 * weight).sum() / total)) + 1e-3
    # dark hair has little contrast of its own: bring it near that of lit hair, but never amplify noise more than 2.2 times
    gain = contrast * float(np.clip(13.0 / spread, 0.6, 2.2)) if lightness > mean[0] else contrast
    deviation = np.clip(deviation, -2.2 * spread, 2.2 * spread)  # a bright background behind soft edges must not flare
    target = np.empty_like(lab)
    target[..., 0] = np.clip(lightness + gain * deviation, 3, 97)
    shade = np.clip(target[..., 0] / lightness, 0.4, 1.25)  # chroma falls with lightness inside a strand
    target[..., 1] = (a + 0.2 * (lab[..., 1] - mean[1])) * shade
    target[..., 2] = (b + 0.2 * (lab[..., 2] - mean[2])) * shade
    alpha = (strength * np.clip(hair * 1.15 - 0.05, 0, 1))[..., None]
    return np.clip(cv2.cvtColor(lab + alpha * (target - lab), cv2.COLOR_LAB2RGB), 0, 1)
