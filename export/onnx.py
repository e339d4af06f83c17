"""A torch network as an ONNX file: exported, its weights stored as float16 if asked, and compared with torch.

Initialisers keep the names of the module's parameters, so that the torch backend finds them. A weight stored as float16
stands behind a Cast that has the parameter's name as output; ONNX Runtime folds it once, at load.
"""

from __future__ import annotations

import inspect
import logging
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.passes.common import ShapeInferencePass
from onnxscript.optimizer import fold_constants_ir, inline, remove_unused_nodes

from mien.engine.backend import Artifact
from mien.engine.backends.onnxruntime import BACKEND
from mien.engine.bundle import NetworkSpec
from mien.engine.config import EngineConfig
from mien.engine.errors import RunError
from mien.engine.types import Array

OPSET = 20
Dims = tuple[int | str, ...]


def export_onnx(
    module: torch.nn.Module, inputs: Mapping[str, Dims], outputs: tuple[str, ...], examples: Mapping[str, torch.Tensor]
) -> onnx.ModelProto:
    """Export a module in float32.

    inputs: name -> dimensions as a manifest writes them, in the order of the module's arguments; a name is a free
    dimension. outputs: names in the order of the module's answer. examples: input name -> a tensor to trace with; give
    free dimensions a size above 1. Raises RunError where a parameter did not survive under its name.
    """
    module = module.eval().cpu()
    dims = {word: torch.export.Dim.DYNAMIC for shape in inputs.values() for word in shape if isinstance(word, str)}
    free = [{axis: dims[word] for axis, word in enumerate(shape) if isinstance(word, str)} for shape in inputs.values()]
    arguments = tuple(examples[key] for key in inputs)
    positional = [p for p in inspect.signature(module.forward).parameters.values() if p.kind != p.VAR_POSITIONAL]
    varying = any(p.kind == p.VAR_POSITIONAL for p in inspect.signature(module.forward).parameters.values())
    dynamic = (*free[: len(positional)], tuple(free[len(positional) :])) if varying else tuple(free)
    loud = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own deprecations, nothing a caller can act on
            program = torch.onnx.export(
                module,
                arguments,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=dynamic,
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
                optimize=False,  # see _folds
            )
    finally:
        logging.getLogger("torch.onnx").setLevel(loud)
    assert program is not None
    inline(program.model)
    fold_constants_ir(program.model, onnx_shape_inference=True, should_fold=_folds)
    _fix_shapes(program.model)
    remove_unused_nodes(program.model)
    model: onnx.ModelProto = program.model_proto
    names = {tensor.name for tensor in model.graph.initializer}
    lost = [key for key in module.state_dict() if key not in names]
    if lost:
        raise RunError(f"the exporter lost {len(lost)} parameters, as {lost[0]}: rewrite that layer")
    _strip(model)
    return model


def _fix_shapes(model: ir.Model) -> None:
    """Give every Reshape that leaves one size at most to the input a constant shape; what computed it becomes unused."""
    ShapeInferencePass()(model)
    for node in tuple(model.graph):
        if node.op_type != "Reshape" or (shape := node.outputs[0].shape) is None:
            continue
        dims = [size if isinstance(size, int) else -1 for size in shape]
        if dims.count(-1) <= 1:
            constant = ir.node("Constant", [], attributes={"value": ir.tensor(np.array(dims, np.int64))})
            model.graph.insert_before(node, constant)
            node.replace_input_with(1, constant.outputs[0])


def _folds(node: ir.Node) -> bool | None:
    """Shapes and the like are folded into constants, weights are not: a constant has no name that the torch backend knows."""
    return False if any(value is not None and value.is_initializer() for value in node.inputs) else None


def _strip(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes about the machine it ran on: stack traces with its paths, on nodes and values."""
    graph = model.graph
    functions = [node for function in model.functions for node in function.node]
    for part in (
        model,
        graph,
        *graph.node,
        *graph.value_info,
        *graph.input,
        *graph.output,
        *graph.initializer,
        *functions,
    ):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


def store_float16(model: onnx.ModelProto, smallest: int = 256) -> onnx.ModelProto:
    """A copy whose float32 initialisers of at least `smallest` values are stored as float16 behind a Cast."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or int(np.prod(tensor.dims)) < smallest:
            continue
        values: Array = numpy_helper.to_array(tensor).astype(np.float16)
        if not np.isfinite(values).all():
            raise RunError(f"the weight {tensor.name!r} does not fit float16")
        stored = f"{tensor.name}.float16"
        cast = helper.make_node("Cast", [stored], [tensor.name], name=f"{tensor.name}.cast", to=TensorProto.FLOAT)
        casts.append(cast)
        tensor.CopyFrom(numpy_helper.from_array(values, stored))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    onnx.checker.check_model(model)
    return model


def largest_error(
    module: torch.nn.Module, data: bytes, spec: NetworkSpec, arrays: Mapping[str, Array]
) -> dict[str, float]:
    """Largest absolute difference of each output, module against file in ONNX Runtime, on the same inputs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / spec.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        network = BACKEND.load(Artifact(path, spec.sha256), spec, EngineConfig())
    got = network(**arrays)
    with torch.inference_mode():
        answer: Any = module.eval()(*(torch.from_numpy(arrays[key]) for key in spec.inputs))
    parts = [answer] if isinstance(answer, torch.Tensor) else list(answer)
    pairs = zip(spec.outputs, parts, strict=True)
    return {key: float(np.abs(part.numpy() - got[key]).max(initial=0.0)) for key, part in pairs}
