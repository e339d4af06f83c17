"""ONNX Runtime on the CPU: the default backend.

Thread spinning is off: with several sessions in one process, waiting threads that spin take the cores from the working.
Weights stored as float16 behind a Cast become float32 once, when the session folds its constants. A bundle's int8 file of a
network is taken unless float32 is asked for.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util

from mien.engine.backend import Artifact, CheckedNetwork, Network
from mien.engine.config import EngineConfig
from mien.engine.errors import BundleError, RunError, UnavailableError
from mien.engine.manifest import NetworkFormat, NetworkSpec
from mien.engine.types import Array

_DTYPES = {"float32": "tensor(float)", "float16": "tensor(float16)", "int64": "tensor(int64)", "uint8": "tensor(uint8)"}
_QUIET = 3  # log errors only: a warning of the runtime is not for mien's users


class OnnxRuntimeBackend:
    """One sequential session per network; calls from several threads share it."""

    name = "onnxruntime"
    formats: tuple[NetworkFormat, ...] = ("onnx",)

    def unavailable(self) -> str | None:
        """None, or the command that installs it."""
        if importlib.util.find_spec("onnxruntime") is None:
            return "onnxruntime is not installed: pip install 'mien[cpu]'"
        return None

    def load(self, artifact: Artifact, spec: NetworkSpec, config: EngineConfig) -> Network:
        """A session on the CPU, checked against the spec."""
        if (why := self.unavailable()) is not None:
            raise UnavailableError(f"backend 'onnxruntime' cannot be used: {why}")
        if spec.format != "onnx":
            raise UnavailableError(
                f"network {spec.name!r} is a {spec.format} file, which ONNX Runtime does not read: use --backend torch"
            )
        if config.device != "cpu":
            raise UnavailableError(
                f"backend 'onnxruntime' runs on the cpu only, not on {config.device}: use --backend torch"
            )
        if config.precision not in ("auto", "float32"):
            raise UnavailableError(f"backend 'onnxruntime' computes in float32 and int8, not in {config.precision}")
        if config.precision == "auto" and artifact.int8 is not None:
            artifact = artifact.int8
        import onnxruntime as ort
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, InvalidProtobuf
        from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel
        from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException as OrtRuntimeError

        options = ort.SessionOptions()
        options.intra_op_num_threads = config.num_threads
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = _QUIET
        data = artifact.read()
        try:
            session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, NoKernel, OrtRuntimeError) as error:
            raise BundleError(f"{artifact.path} is not a network ONNX Runtime can load: {_line(error)}") from None
        for kind, have, want in (
            ("input", session.get_inputs(), spec.inputs),
            ("output", session.get_outputs(), spec.outputs),
        ):
            found = {node.name: node for node in have}
            if set(found) != set(want):
                raise BundleError(f"{artifact.path} has the {kind}s {sorted(found)}, the bundle says {sorted(want)}")
            for key, tensor in want.items():
                if found[key].type != _DTYPES[tensor.dtype] or len(found[key].shape) != len(tensor.shape):
                    got = f"{found[key].shape} {found[key].type}"
                    raise BundleError(
                        f"{artifact.path}: {kind} {key!r} is {got}, the bundle says {tensor.shape} {tensor.dtype}"
                    )
        order = list(spec.outputs)

        def run(arrays: dict[str, Array]) -> dict[str, Array]:
            try:
                return dict(zip(order, session.run(order, arrays), strict=True))
            except (Fail, InvalidArgument, OrtRuntimeError) as error:
                raise RunError(f"network {spec.name!r} failed in ONNX Runtime: {_line(error)}") from None

        return CheckedNetwork(spec, run)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def version() -> str | None:
    """The installed version, None where it is missing."""
    try:
        return importlib.metadata.version("onnxruntime")
    except importlib.metadata.PackageNotFoundError:
        return None


BACKEND = OnnxRuntimeBackend()
