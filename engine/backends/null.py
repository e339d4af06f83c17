"""The null backend: zeros of the right shape, at no cost. For tests of what stands around networks, never by "auto"."""

from __future__ import annotations

import numpy as np

from mien.engine.backend import Artifact, CheckedNetwork, Network, bind, output_shape
from mien.engine.config import EngineConfig
from mien.engine.manifest import NetworkFormat, NetworkSpec
from mien.engine.types import Array


class NullBackend:
    """Zeros. It verifies the file's hash as the others do, and does not look into it."""

    name = "null"
    formats: tuple[NetworkFormat, ...] = ("onnx", "safetensors")

    def unavailable(self) -> str | None:
        """It is always there."""
        return None

    def load(self, artifact: Artifact, spec: NetworkSpec, config: EngineConfig) -> Network:
        """A network of zeros with the spec's signature."""
        artifact.read()

        def run(arrays: dict[str, Array]) -> dict[str, Array]:
            sizes = bind(spec, arrays)
            shapes = {key: [1 if n is None else n for n in output_shape(spec, key, sizes)] for key in spec.outputs}
            return {key: np.zeros(shapes[key], want.dtype) for key, want in spec.outputs.items()}

        return CheckedNetwork(spec, run)


BACKEND = NullBackend()
