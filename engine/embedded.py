"""The family of the embedded bundle: a denoiser that is told W+ codes and nothing else."""

from __future__ import annotations

import numpy as np

from mien.engine.frame_crop import shrunk
from mien.engine.latent_model import Condition, LatentModel
from mien.engine.types import Array

CODE_PX = 128


class Embedded(LatentModel):
    """Networks w_encoder, vae_encoder, vae_decoder, denoiser."""

    def code(self, crop: Array) -> Array:
        """The W+ code (1, N, D) of a crop (3, S, S)."""
        return self._networks["w_encoder"](image=shrunk(crop, CODE_PX))["w_plus"]

    def condition(self, w: Array, w_scale: float = 1.0) -> Condition:
        """Of a code (1, N, D). w_scale: weight of its tokens."""
        return Condition({"w_plus": np.asarray(w, np.float32), "w_scale": np.full(1, w_scale, np.float32)})
