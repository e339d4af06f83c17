"""Static int8 of the encoder's residual blocks, as a Q/DQ graph that ONNX Runtime fuses into integer convolutions.

Only what costs much and shows little is rounded: the two convolutions of every block. What is carried past them stays float32.
The encoder's rounding reaches both latents of which a difference is decoded, and cancels; the decoder's does not: in int8 it is
twice as fast too, but its noise of 0.4 grey levels raises the flicker of a smile from 1.04 to 1.15. Weights have 7 bits: with 8
the products of u8 and s8, summed in pairs, do not fit the 16 bits of CPUs that have AVX2 but no VNNI.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mien.engine.types import Array
from mien.export.tiny.dataset import Prepared

SAMPLES, VALUES = 32, 200_000  # calibration inputs, values kept of each tensor
WEIGHT_PEAK = 63
CLIPS = np.linspace(0.3, 1.0, 29)  # shares of a tensor's range, of which the one with the least squared error is taken
Inputs = Mapping[str, Array]


def calibration(runs: Path, seed: int = 0) -> dict[str, list[Inputs]]:
    """Inputs of each network that is quantized, by its name: train crops."""
    prepared = Prepared.open(runs)
    chosen = np.random.default_rng(seed).choice(prepared.train_ids, SAMPLES, replace=False)
    crops = (prepared.crops[i, 32:-32, 32:-32].transpose(2, 0, 1)[None] for i in chosen)
    images = [np.ascontiguousarray(crop, np.float32) / np.float32(127.5) - np.float32(1.0) for crop in crops]
    return {"vae_encoder": [{"image": image} for image in images]}


def quantize(model: ModelProto, samples: Sequence[Inputs]) -> ModelProto:
    """A copy of a float32 model whose residual blocks (`*.conv1`, `*.conv2`) compute in int8."""
    model = whole_stem(model)
    graph = model.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    blocks = [n for n in graph.node if n.op_type == "Conv" and n.input[1].split(".")[-2] in ("conv1", "conv2")]
    answers = {node.output[0] for node in blocks}
    added = {name for n in graph.node if n.op_type == "Add" for name in n.input if name in answers}
    scales = {name: scale_of(values) for name, values in observe(model, samples, {n.input[0] for n in blocks} | added)}
    nodes: list[NodeProto] = []
    new: dict[str, Array] = {}

    def dequantized(name: str, stored: Array, scale: Array, axis: int) -> str:
        new.update(
            {f"{name}.int8": stored, f"{name}.scale": scale, f"{name}.zero": np.zeros(scale.shape, stored.dtype)}
        )
        inputs = [f"{name}.int8", f"{name}.scale", f"{name}.zero"]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}.rounded"], f"{name}.dequantize", axis=axis))
        return f"{name}.rounded"

    def rounded(name: str) -> str:
        if f"{name}.scale" not in new:
            new[f"{name}.scale"], new[f"{name}.zero"] = scales[name]
            ends = [f"{name}.scale", f"{name}.zero"]
            nodes.append(helper.make_node("QuantizeLinear", [name, *ends], [f"{name}.uint8"], f"{name}.quantize"))
            inputs = [f"{name}.uint8", *ends]
            nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}.rounded"], f"{name}.dequantize"))
        return f"{name}.rounded"

    for node in graph.node:
        if node.output[0] in answers:
            source, weight, bias = node.input
            node.input[0] = rounded(source)
            peak = np.abs(weights[weight]).max((1, 2, 3))
            scale = np.maximum(peak / WEIGHT_PEAK, np.float32(1e-12)).astype(np.float32)
            stored = np.round(weights[weight] / scale[:, None, None, None]).astype(np.int8)
            node.input[1] = dequantized(weight, stored, scale, 0)
            scale = scale * scales[source][0]
            node.input[2] = dequantized(bias, np.round(weights[bias] / scale).astype(np.int32), scale, 0)
        elif node.op_type == "Add":
            node.input[:] = [rounded(name) if name in added else name for name in node.input]
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    stored_new = [numpy_helper.from_array(np.asarray(value), name) for name, value in new.items()]
    out = helper.make_graph(nodes, graph.name, graph.input, graph.output, [*kept, *stored_new])
    whole = helper.make_model(out, opset_imports=model.opset_import, ir_version=model.ir_version)
    onnx.checker.check_model(whole)
    return whole


def whole_stem(model: ModelProto) -> ModelProto:
    """A copy in which a pixel-unshuffle by 4 and the 3x3 convolution behind it are one convolution 12 wide, stride 4: the same
    sums without moving the picture. Models that begin otherwise are copied as they are.
    """
    model = ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    first = next(node for node in graph.node if node.op_type == "Conv")
    if first.input[0] == graph.input[0].name:
        return model
    tensor = next(tensor for tensor in graph.initializer if tensor.name == first.input[1])
    weight = numpy_helper.to_array(tensor)
    size = weight.shape[0]
    weight = weight.reshape(size, 3, 4, 4, 3, 3).transpose(0, 1, 4, 2, 5, 3).reshape(size, 3, 12, 12)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weight), tensor.name))
    inputs = [graph.input[0].name, *first.input[1:]]
    later = list(graph.node)[list(graph.node).index(first) + 1 :]
    stem = helper.make_node("Conv", inputs, first.output, first.name)
    shape = {"kernel_shape": [12, 12], "strides": [4, 4], "pads": [4, 4, 4, 4]}
    stem.attribute.extend(helper.make_attribute(key, value) for key, value in shape.items())
    used = {name for node in (stem, *later) for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.value_info[:], graph.initializer[:]
    graph.node.extend([stem, *later])
    graph.initializer.extend(kept)
    return model


def observe(model: ModelProto, samples: Sequence[Inputs], names: set[str]) -> list[tuple[str, Array]]:
    """Each tensor's values over the samples, thinned to at most VALUES."""
    model = ModelProto.FromString(model.SerializeToString())
    order = sorted(names)
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in order)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    answers = [session.run(order, dict(sample)) for sample in samples]
    whole = [np.concatenate([np.ravel(answer[k]) for answer in answers]) for k in range(len(order))]
    return [(name, values[:: -(-values.size // VALUES)]) for name, values in zip(order, whole, strict=True)]


def scale_of(values: Array) -> tuple[Array, Array]:
    """(scale, zero point) of uint8 for a tensor's values: 0 is exact, and the mean squared error is least."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 1e-12)

    def rounded(share: float) -> tuple[float, np.float32, np.uint8]:
        scale = np.float32(share * (high - low) / 255)
        zero = np.uint8(round(-share * low / float(scale)))
        codes = np.clip(np.round(values / scale) + zero, 0, 255)
        return float(np.square((codes - zero) * scale - values).mean()), scale, zero

    _, scale, zero = min((rounded(share) for share in CLIPS), key=lambda found: found[0])
    return np.asarray(scale), np.asarray(zero)
