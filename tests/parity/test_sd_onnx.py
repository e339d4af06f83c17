"""The networks of the SD family as ONNX files: exported once, run at other sizes, compared with torch."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from mien.engine.networks.sd_controlnet import ControlNet
from mien.engine.networks.sd_unet import ContextProjection, UNet
from mien.export.onnx import export_onnx

LAYOUT: dict[str, Any] = {
    "block_out_channels": (16, 32),
    "attention": (True, False),
    "num_attention_heads": (2, 4),
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "norm_num_groups": 8,
}
Network = UNet | ContextProjection | ControlNet


def network(name: str) -> Network:
    torch.manual_seed(0)
    if name == "context":
        return ContextProjection(adapter=True, **LAYOUT).eval()
    if name == "controlnet":
        return ControlNet(bank_layers=(0, 1), **LAYOUT).eval()
    if name == "sd21":
        return UNet(**LAYOUT, use_linear_projection=True).eval()
    return UNet(adapter=True, control=True, bank_layers=(0, 1, 3), **LAYOUT, time_cond_proj_dim=16).eval()


def tensors(net: Network, sizes: dict[str, int], seed: int) -> dict[str, torch.Tensor]:
    """Random inputs; sizes: of the named dimensions, latents h and w among them."""
    h, w, generator = sizes["h"], sizes["w"], torch.Generator().manual_seed(seed)
    known = {"H/8": h, "W/8": w, "H": 8 * h, "W": 8 * w, "H16": -(-h // 2), "W16": -(-w // 2), **sizes}
    return {
        key: torch.rand([dim if isinstance(dim, int) else known[dim] for dim in dims], generator=generator)
        for key, dims in net.signature.inputs.items()
    }


_SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("sd21", "controlnet")]


@pytest.mark.parametrize("name", ["unet", "context", *_SLOW])
def test_exported_equals_torch_at_any_size(name: str) -> None:
    net = network(name)
    traced = tensors(net, {"B": 2, "T": 7, "h": 6, "w": 8, "M0": 5, "M1": 4, "M3": 3}, seed=1)
    model = export_onnx(net, net.signature.inputs, tuple(net.signature.outputs), traced)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == list(net.signature.inputs)
    for sizes in (
        {"B": 2, "T": 7, "h": 6, "w": 8, "M0": 5, "M1": 4, "M3": 3},
        {"B": 1, "T": 77, "h": 8, "w": 4, "M0": 0, "M1": 0, "M3": 0},
        {"B": 3, "T": 1, "h": 5, "w": 7, "M0": 70, "M1": 1, "M3": 0},
    ):
        given = tensors(net, sizes, seed=2)
        if "own_weight" in given:
            given["own_weight"] = torch.linspace(0, 1, sizes["B"])
        with torch.no_grad():
            want = net(*given.values())
        got = session.run(None, {key: value.numpy() for key, value in given.items()})
        for key, a, b in zip(net.signature.outputs, got, want, strict=True):
            assert a.shape == tuple(b.shape), (key, sizes)
            assert np.abs(a - b.numpy()).max() <= 1e-4 * b.abs().max(), (key, sizes)
