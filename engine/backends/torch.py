"""PyTorch. Eager on the CPU: the definition of the networks, slower than the others, and what they are compared with. On a CUDA device
in half precision, fused, and launched as CUDA graphs: see mien.engine.cuda.

A network's class comes from the bundle's architecture entry ("module.Class" below mien.engine.networks), its weights from
its file by parameter name: an ONNX file's initialisers or a safetensors file's tensors, of which several networks may read
one. The module is called with the inputs in the manifest's order and
answers a tensor, or a sequence of tensors in the order of the manifest's outputs.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from mien.engine.backend import Artifact, CheckedNetwork, Network, bind
from mien.engine.config import EngineConfig
from mien.engine.errors import BundleError, ShapeError, UnavailableError
from mien.engine.manifest import NetworkFormat, NetworkSpec
from mien.engine.types import Array, TensorSpec

EXACT = ("timestep", "guidance")
"""Inputs that stay float32 whatever the precision: in bfloat16 999 is 1000, and the modules make sinusoids of them first."""

_NETWORKS = "mien.engine.networks"


class TorchBackend:
    """Eager modules on the CPU, captured ones on a CUDA device; see `TorchNetwork` and `cuda.network.CapturedNetwork`."""

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
        module = _build(spec, artifact)
        _load_weights(module, artifact, _READERS[spec.format](artifact, module.state_dict()))
        module.eval().requires_grad_(False)
        if config.device != "cpu":
            from mien.engine.cuda.network import load_on_gpu

            return load_on_gpu(spec, module, config)
        dtype = getattr(torch, "float32" if config.precision == "auto" else config.precision)
        return TorchNetwork(spec, module.to(dtype=dtype), "cpu", dtype)


class TorchNetwork(CheckedNetwork):
    """A module called as it stands. Arrays give float32 arrays, tensors give tensors on its device and of its own type."""

    def __init__(self, spec: NetworkSpec, module: Any, device: str, dtype: Any) -> None:
        """module: on the device, of the type `dtype`."""
        super().__init__(spec, self._of_arrays)
        self.module, self.device, self.dtype = module, device, dtype

    def __call__(self, **arrays: Any) -> Mapping[str, Any]:
        """Run it on arrays alone or on tensors alone, which may be of any floating-point type. Raises ShapeError."""
        import torch

        if not any(isinstance(array, torch.Tensor) for array in arrays.values()):
            return super().__call__(**arrays)
        self._check(arrays)
        return self.run(arrays)

    def run(self, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answers, of the network's own type, to tensors that fit the spec."""
        import torch

        # Triton launches on the current device, wherever its tensors lie.
        current = nullcontext() if self.device == "cpu" else torch.cuda.device(self.device)
        with torch.no_grad(), current:
            given = (tensors[key].to(device=self.device, dtype=self.input_dtype(key)) for key in self.spec.inputs)
            return dict(zip(self.spec.outputs, self.parts(self.module(*given)), strict=True))

    def input_dtype(self, key: str) -> Any:
        """What the module is given an input as."""
        import torch

        wanted = self.spec.inputs[key].dtype
        if not wanted.startswith("float"):
            return getattr(torch, wanted)
        return torch.float32 if key in EXACT else self.dtype

    def parts(self, answer: Any) -> list[Any]:
        """The tensors of a module's answer, as many as there are outputs. Raises BundleError."""
        import torch

        parts = [answer] if isinstance(answer, torch.Tensor) else list(answer)
        if len(parts) != len(self.spec.outputs):
            name = self.spec.architecture.name
            raise BundleError(f"{name} answers {len(parts)} tensors, the bundle says {list(self.spec.outputs)}")
        return parts

    def _check(self, tensors: Mapping[str, Any]) -> None:
        import torch

        for key, tensor in tensors.items():
            if not isinstance(tensor, torch.Tensor):
                what = f"input {key!r} is {type(tensor).__name__}, others are tensors"
                raise ShapeError(f"{self.spec.name}: {what}: give all as tensors or all as arrays")
        bind(self.spec, {key: _Seen.of(tensor, self.spec.inputs.get(key)) for key, tensor in tensors.items()})

    def _of_arrays(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """On a GPU by way of pinned memory, which torch keeps; the host waits once, for an event behind the last answer's copy."""
        import torch

        on_gpu = self.device != "cpu"
        given = {key: torch.from_numpy(a if a.flags.writeable else a.copy()) for key, a in arrays.items()}
        answers = self._to_host({key: tensor.pin_memory() if on_gpu else tensor for key, tensor in given.items()})
        if on_gpu:
            done = torch.cuda.Event(blocking=True)
            done.record(torch.cuda.current_stream(self.device))
            done.synchronize()
        return {key: part.contiguous().numpy() for key, part in answers.items()}

    def _to_host(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The answers in float32, on their way to the host, behind the work on the caller's stream."""
        return sent(self.run(given))


def sent(answers: Mapping[str, Any]) -> dict[str, Any]:
    """Copies on their way to the host, floating-point ones in float32; from a GPU to pinned memory, without waiting."""
    exact = {key: part.float() if part.is_floating_point() else part for key, part in answers.items()}
    return {key: part.to("cpu", non_blocking=True, copy=True) for key, part in exact.items()}


@dataclass(frozen=True, slots=True)
class _Seen:
    """What `bind` looks at. A tensor of any floating-point type passes for the one that is wanted; an array does not."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @classmethod
    def of(cls, tensor: Any, want: TensorSpec | None) -> _Seen:
        dtype = str(tensor.dtype).removeprefix("torch.")
        is_any_float = want is not None and want.dtype.startswith("float") and tensor.is_floating_point()
        return cls(tuple(tensor.shape), want.dtype if want is not None and is_any_float else dtype)


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


def _tensors(artifact: Artifact, names: Collection[str]) -> dict[str, Any]:
    """Name -> tensor of a safetensors file, those of the names that it has; no more than these is held."""
    if importlib.util.find_spec("safetensors") is None:
        raise UnavailableError(f"{artifact.path} needs safetensors: pip install 'mien[export]'")
    from safetensors import SafetensorError, safe_open

    artifact.verify()
    try:
        with safe_open(artifact.path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if name in names}  # noqa: SIM118
    except SafetensorError as error:
        raise BundleError(f"{artifact.path} is not a safetensors file: {error}") from None


def _initialisers(artifact: Artifact, names: Collection[str]) -> dict[str, Any]:
    """The same of an ONNX file; a weight stored in another type goes by the name of its Cast's output."""
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
    return {name: torch.from_numpy(array) for name, array in weights.items() if name in names}


_READERS = {"onnx": _initialisers, "safetensors": _tensors}
BACKEND = TorchBackend()
