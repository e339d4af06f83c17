"""ControlNet against diffusers, alone and together with its UNet, on random weights."""

from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from mien.engine.errors import BundleError
from mien.engine.networks.sd_controlnet import ControlContext, ControlNet
from mien.engine.networks.sd_layout import Layout
from mien.engine.networks.sd_signature import context_signature
from mien.engine.networks.sd_unet import ContextProjection, UNet

SD15: dict[str, Any] = {
    "block_out_channels": (32, 64, 64, 64),
    "attention_head_dim": 8,
    "cross_attention_dim": 24,
    "norm_num_groups": 16,
}
SD21: dict[str, Any] = {
    "block_out_channels": (32, 64, 96, 96),
    "attention_head_dim": (2, 4, 6, 6),
    "cross_attention_dim": 40,
    "use_linear_projection": True,
}


def reference(config: dict[str, Any]) -> ControlNetModel:
    torch.manual_seed(0)
    model = ControlNetModel(**config).eval()
    fresh = torch.Generator().manual_seed(5)
    for weight in model.parameters():
        if not weight.any():  # the zero convolutions, which would hide everything
            weight.data.copy_(torch.randn(weight.shape, generator=fresh) / weight[0].numel() ** 0.5)
    return model


def load(model: torch.nn.Module, *networks: torch.nn.Module) -> None:
    """Copy diffusers' weights; none is left over, none is missing."""
    weights, left = model.state_dict(), set(model.state_dict())
    for network in networks:
        left -= set(network.state_dict())
        network.eval().load_state_dict({key: weights[key] for key in network.state_dict()})
    assert not left


def layout(model: ControlNetModel | UNet2DConditionModel) -> dict[str, Any]:
    kwargs = Layout.from_config(dict(model.config)).kwargs()
    return {key: tuple(value) if isinstance(value, list) else value for key, value in kwargs.items()}


def inputs(width: int, size: tuple[int, int]) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    control = torch.rand(2, 3, 8 * size[0], 8 * size[1], generator=generator)
    text = torch.randn(2, 7, width, generator=generator)
    return torch.randn(2, 4, *size, generator=generator), torch.tensor([999.0, 259.0]), control, text


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).abs().max() / want.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
@pytest.mark.parametrize("config", [SD15, SD21], ids=["sd15", "sd21"])
def test_equals_diffusers_and_steers_the_unet(config: dict[str, Any], size: tuple[int, int]) -> None:
    model, base = reference(config), UNet2DConditionModel(**config).eval()
    net, context = ControlNet(**layout(model)), ControlContext(**layout(model))
    unet, unet_context = UNet(control=True, **layout(base)), ContextProjection(**layout(base))
    load(model, net, context)
    load(base, unet, unet_context)
    latents, timestep, control, text = inputs(config["cross_attention_dim"], size)
    scale = torch.tensor([1.0, 0.6])
    got = net(latents, timestep, control, scale, *context(text))
    down, mid = [], []
    for row in range(2):  # diffusers has one scale for all rows
        one = slice(row, row + 1)
        answer = model(latents[one], timestep[one], text[one], control[one], float(scale[row]), return_dict=False)
        down.append(answer[0])
        mid.append(answer[1])
    want = [torch.cat(parts) for parts in (*zip(*down, strict=True), mid)]
    assert len(got) == len(want) == 13
    for ours, theirs in zip(got, want, strict=True):
        assert error(ours, theirs) < 1e-4
    steered = unet(latents, timestep, *unet_context(text), *got)[0]
    expected = base(
        latents, timestep, text, down_block_additional_residuals=want[:-1], mid_block_additional_residual=want[-1]
    ).sample
    assert error(steered, expected) < 1e-4
    assert error(unet(latents, timestep, *unet_context(text), *(0 * t for t in got))[0], expected) > 1e-3


@torch.no_grad()
def test_the_bank_is_the_unets() -> None:
    """Without a bank a row's own keys and values change nothing; with frame 0's in it, frame 0 is answered as before."""
    model = reference(SD15)
    plain, context = ControlNet(**layout(model)), ControlContext(**layout(model))
    net = ControlNet(bank_layers=tuple(range(7)), **layout(model))
    load(model, plain, context)
    load(model, net, context)
    latents, timestep, control, text = inputs(24, (8, 8))
    head = (latents, timestep, control, torch.ones(2), *context(text))
    want = plain(*head)
    empty = [torch.zeros(2, 0, layer.channels) for layer in net.layers for _ in "kv"]
    answer = net(*head, torch.ones(2), *empty)
    residuals, own = answer[:13], answer[13:]
    assert all(torch.equal(a, b) for a, b in zip(residuals, want, strict=True))
    assert [tuple(k.shape[1:]) for k in own[::2]] == [
        ((8 // layer.downscale) ** 2, layer.channels) for layer in net.layers
    ]
    for weight in (0.0, 1.0):
        again = net(*head, torch.full((2,), weight), *own)[:13]
        assert max(error(a, b) for a, b in zip(again, want, strict=True)) < 1e-4
    other = net(*head, torch.zeros(2), *(t.flip(0) for t in own))[:13]
    assert error(other[-1], want[-1]) > 1e-3


def test_signature_is_what_the_network_does() -> None:
    model = reference(SD15)
    net, context = ControlNet(bank_layers=(2, 6), **layout(model)), ControlContext(**layout(model))
    assert context.signature == context_signature(Layout(**layout(model)), stages=("down", "mid"))
    assert list(net.signature.inputs)[:5] == ["latents", "timestep", "control", "conditioning_scale", "text_k_0"]
    assert list(net.signature.inputs)[-5:] == ["own_weight", "bank_k_2", "bank_v_2", "bank_k_6", "bank_v_6"]
    names = [*(f"down_residual_{i}" for i in range(12)), "mid_residual", "own_k_2", "own_v_2", "own_k_6", "own_v_6"]
    assert list(net.signature.outputs) == names
    full = Layout().skips()
    assert [channels for channels, _ in full] == [320] * 4 + [640] * 3 + [1280] * 5
    assert [64 // downscale for _, downscale in full] == [64] * 3 + [32] * 3 + [16] * 3 + [8] * 3
    with pytest.raises(BundleError, match="0..6"):
        ControlNet(bank_layers=(7,), **layout(model))


def test_a_config_it_cannot_do() -> None:
    config = {**dict(reference(SD15).config), "controlnet_conditioning_channel_order": "bgr"}
    with pytest.raises(BundleError, match="controlnet_conditioning_channel_order is 'bgr'"):
        Layout.from_config(config)
