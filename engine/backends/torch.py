"""PyTorch, eager: the definition of the networks. Slower than the others, and what they are compared with.

A network's class comes from the bundle's architecture entry ("module.Class" below mien.engine.networks), its weights from
its file by parameter name: an ONNX file's initialisers or a safetensors file's tensors, of which several networks may read
one. The module is called with the inputs in the manifest's order and
answers a tensor, or a sequence of tensors in the order of the manifest's outputs.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

from mien.engine.backend import Artifact, CheckedNetwork, Network
from mien.engine.config import EngineConfig
from mien.engine.errors import BundleError, UnavailableError
from mien.engine.manifest import NetworkFormat, NetworkSpec
from mien.engine.types import Array

_NETWORKS = "mien.engine.networks"


class TorchBackend:
    """Eager modules on the CPU or a CUDA device; inputs and answers are numpy arrays."""

    name = "torch"
    formats: tuple[NetworkFormat, ...] = ("onnx", "safetensors")

    def unavailable(self) -> str | None:
        """None, or the command that installs what is missing."""
        for package in ("torch", "onnx"):
            if importlib.util.find_spec(package) is None:
                return f"{package} is not installed: pip install 'mien[export]'"
        return None

    def load(self, artifact: Artifact, spec: NetworkSpec, config: EngineConfig) -> Network:
        """A module with the file's weights."""
        if (why := self.unavailable()) is not None:
            raise UnavailableError(f"backend 'torch' cannot be used: {why}")
        import torch

        if config.device != "cpu" and not torch.cuda.is_available():
            raise UnavailableError(
                f"device {config.device!r} cannot be used: torch {torch.__version__} sees no CUDA device"
            )
        if config.device == "cpu":
            torch.set_num_threads(config.num_threads)  # torch has one pool per process, not one per network
        dtype = getattr(torch, "float32" if config.precision == "auto" else config.precision)
        module = _build(spec, artifact)
        _load_weights(module, artifact, _READERS[spec.format](artifact))
        module.eval().requires_grad_(False).to(device=config.device, dtype=dtype)

        def run(arrays: dict[str, Array]) -> dict[str, Array]:
            with torch.inference_mode():
                tensors = [_to_torch(torch, arrays[key], config.device, dtype) for key in spec.inputs]
                answer = module(*tensors)
                parts = [answer] if isinstance(answer, torch.Tensor) else list(answer)
                if len(parts) != len(spec.outputs):
                    raise BundleError(
                        f"{spec.architecture.name} answers {len(parts)} tensors, the bundle says {list(spec.outputs)}"
                    )
                return {
                    key: (part.float() if part.is_floating_point() else part).cpu().numpy()
                    for key, part in zip(spec.outputs, parts, strict=True)
                }

        return CheckedNetwork(spec, run)


def _to_torch(torch: Any, array: Array, device: str, dtype: Any) -> Any:
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)


def _build(spec: NetworkSpec, artifact: Artifact) -> Any:
    """The module with fresh weights."""
    file, _, name = spec.architecture.name.partition(".")
    try:
        found = getattr(importlib.import_module(f"{_NETWORKS}.{file}"), name)
        return found(**{key: _tuples(value) for key, value in spec.architecture.kwargs.items()})
    except ModuleNotFoundError as error:
        if error.name != f"{_NETWORKS}.{file}":
            raise
    except (AttributeError, TypeError, ValueError) as error:
        raise BundleError(f"{artifact.path}: cannot build {spec.architecture.name}: {error}") from None
    raise BundleError(
        f"{artifact.path}: the architecture {spec.architecture.name!r} is unknown to this mien: update mien"
    )


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _load_weights(module: Any, artifact: Artifact, weights: Mapping[str, Any]) -> None:
    """Copy a file's weights (tensors) into the module. Raises BundleError naming what is missing or misshapen."""
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in weights and not key.endswith("num_batches_tracked")]
    if missing:
        raise BundleError(f"{artifact.path} lacks {len(missing)} of {len(wanted)} parameters: {', '.join(missing[:4])}")
    for key, tensor in wanted.items():
        if key not in weights:
            continue
        if tensor.shape != weights[key].shape:
            raise BundleError(
                f"{artifact.path}: {key} is {tuple(weights[key].shape)}, the architecture has {tuple(tensor.shape)}"
            )
        tensor.copy_(weights[key])


def _tensors(artifact: Artifact) -> dict[str, Any]:
    """Name -> tensor of a safetensors file."""
    if importlib.util.find_spec("safetensors") is None:
        raise UnavailableError(f"{artifact.path} needs safetensors: pip install 'mien[export]'")
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(artifact.read())
    except SafetensorError as error:
        raise BundleError(f"{artifact.path} is not a safetensors file: {error}") from None


def _initialisers(artifact: Artifact) -> dict[str, Any]:
    """Name -> tensor of an ONNX file; a weight stored in another type goes by the name of its Cast's output."""
    import numpy as np
    import onnx
    import torch
    from google.protobuf.message import DecodeError
    from onnx import numpy_helper

    try:
        graph = onnx.load_model_from_string(artifact.read()).graph
    except DecodeError:
        raise BundleError(f"{artifact.path} is not an ONNX file") from None
    weights = {tensor.name: np.array(numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]].astype(np.float32)
    return {name: torch.from_numpy(array) for name, array in weights.items()}


_READERS = {"onnx": _initialisers, "safetensors": _tensors}
BACKEND = TorchBackend()
