"""Residual blocks in int8: what is rounded, by how much, and what is left alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper

from mien.engine.networks.autoencoder import Decoder, Encoder
from mien.export.onnx import export_onnx
from mien.export.tiny.quantize import WEIGHT_PEAK, Inputs, quantize, scale_of, whole_stem


def run(model: ModelProto, arrays: Inputs) -> np.ndarray:
    from onnx.reference import ReferenceEvaluator

    answer: np.ndarray = ReferenceEvaluator(model).run(None, dict(arrays))[0]
    return answer


@pytest.fixture(scope="module")
def encoder() -> ModelProto:
    torch.manual_seed(0)
    dims = {"image": ("B", 3, 32, 32)}
    return export_onnx(Encoder(4, widths=(8, 8)), dims, ("latents",), {"image": torch.rand(2, 3, 32, 32)})


def picture(seed: int) -> Inputs:
    return {"image": np.random.default_rng(seed).uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32)}


def test_the_stem_is_the_same_sums(encoder: ModelProto) -> None:
    whole = whole_stem(encoder)
    assert not any(node.op_type in ("Reshape", "Transpose") for node in whole.graph.node)
    np.testing.assert_allclose(run(whole, picture(1)), run(encoder, picture(1)), atol=1e-5)


def test_only_the_blocks_are_rounded_and_by_little(encoder: ModelProto) -> None:
    rounded = quantize(encoder, [picture(seed) for seed in range(4)])
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in rounded.graph.initializer}
    codes = {name: value for name, value in weights.items() if value.dtype == np.int8 and name.endswith(".int8")}
    assert len(codes) == 6 and all(".conv" in name for name in codes)
    assert max(int(np.abs(value.astype(int)).max()) for value in codes.values()) == WEIGHT_PEAK
    assert {"stem.1.weight", "down.weight", "out.weight"} <= set(weights)
    want, got = run(encoder, picture(9)), run(rounded, picture(9))
    error = np.sqrt(np.square(got - want).mean() / np.square(want).mean())
    assert 0 < error < 0.02


def test_a_model_without_a_pixel_unshuffle_keeps_its_beginning() -> None:
    latents = {"latents": torch.randn(2, 4, 3, 5)}
    decoder = export_onnx(Decoder(4, widths=(8, 8)), {"latents": ("B", 4, "H/8", "W/8")}, ("image",), latents)
    assert whole_stem(decoder) == decoder
    onnx.checker.check_model(quantize(decoder, [{"latents": latents["latents"].numpy()}]))


def test_scales_keep_zero_and_clip_what_is_rare() -> None:
    values = np.random.default_rng(0).normal(0, 1, 200_000).astype(np.float32)
    values[0] = 30.0
    scale, zero = scale_of(values)
    assert 0 < float(scale) * 255 < 30 and 0 < int(zero) < 255
    assert int(scale_of(np.abs(values))[1]) == 0
