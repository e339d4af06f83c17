"""Layers in 8-bit floats: how far they are from the plain ones, what is calibrated, and that only what is faster stays."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from mien.engine.cuda.float8 import (  # noqa: E402
    Float8Linear,
    Seen,
    Times,
    calibrate,
    candidates,
    choose,
    convert,
    measure,
)
from mien.engine.cuda.fuse import PixelLinear, fuse  # noqa: E402
from mien.engine.errors import InputError  # noqa: E402
from mien.engine.networks.sd_unet import UNet  # noqa: E402

SIZES: dict[str, Any] = {
    "block_out_channels": (16, 32),
    "num_attention_heads": (2, 2),
    "attention": (True, False),
    "layers_per_block": 1,
    "cross_attention_dim": 8,
    "norm_num_groups": 4,
}


def error(got: Any, want: Any) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


def test_a_layer_is_as_near_as_three_bits_allow() -> None:
    torch.manual_seed(0)
    linear, x = torch.nn.Linear(256, 64).requires_grad_(False), torch.randn(5, 7, 256)
    eight = Float8Linear(linear, float(x.abs().max()))
    got = eight(x)
    assert got.shape == (5, 7, 64) and got.dtype == torch.float32
    assert 0.01 < error(got, linear(x)) < 0.05  # each factor within a sixteenth, 2.6 % as a rule
    exact = (eight.weight8.double() * eight.weight_scale) @ torch.ones(256).double() + linear.bias.double()
    torch.testing.assert_close(eight(torch.ones(1, 256)).double(), exact[None], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("amax", [0.001, 1.0, 3.5, 448.0, 20_000.0])
def test_scales_are_powers_of_two_that_leave_room(amax: float) -> None:
    eight = Float8Linear(torch.nn.Linear(16, 16), amax)
    mantissa, _ = torch.frexp(eight.scale)
    assert float(mantissa) == 0.5 and 224 < amax / float(eight.scale) <= 448
    assert eight.scale.shape == eight.weight_scale.shape == (1,) and eight.weight8.dtype == torch.float8_e4m3fn


def network() -> tuple[UNet, list[Any]]:
    torch.manual_seed(0)
    unet = fuse(UNet(adapter=True, **SIZES).eval().requires_grad_(False))
    shapes = {"latents": (1, 4, 8, 8), "timestep": (1,), "w_scale": (1,)}
    channels = {layer.number: layer.channels for layer in unet.layers}
    sample = [
        torch.randn(shapes.get(name) or (1, 4 if name[0] == "w" else 7, channels[int(name.split("_")[-1])]))
        for name in unet.signature.inputs
    ]
    sample[1] = torch.full((1,), 499.0)
    return unet, sample


def test_a_network_with_every_layer_in_8_bits() -> None:
    unet, sample = network()
    seen = calibrate(unet, [sample, [2 * sample[0], *sample[1:]]])
    eight = copy.deepcopy(unet)
    convert(eight, seen, list(seen))
    left = [name for name, part in eight.named_modules() if isinstance(part, torch.nn.Linear)]
    assert left and all(name.startswith("time_embedding.embedding.") for name in left)
    shortcuts = [part for part in eight.modules() if isinstance(part, PixelLinear)]
    assert shortcuts and all(isinstance(part.linear, Float8Linear) for part in shortcuts)
    got, want = eight(*sample)[0], unet(*sample)[0]
    assert 1e-3 < error(got, want) < 0.1 and bool(got.isfinite().all())


def test_calibration_sees_the_largest_input_of_each_layer() -> None:
    unet, sample = network()
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_qkv"
    given = list[float]()
    layer = unet.get_submodule(name)
    hook = layer.register_forward_pre_hook(lambda _, x: given.append(float(x[0].abs().max())))
    seen = calibrate(unet, [sample, [torch.cat([3 * t, t]) for t in sample]])
    hook.remove()
    assert seen.keys() == candidates(unet).keys() and len(given) == 2 and given[0] != given[1]
    assert seen[name] == Seen(max(given), 2 * 64)
    assert not layer._forward_pre_hooks, "nobody goes on watching"
    with pytest.raises(InputError, match="no layer was seen at work"):
        calibrate(unet, [])


def test_only_what_is_faster_stays_in_8_bits() -> None:
    unet, sample = network()
    seen = calibrate(unet, [sample])
    timed = list[str]()

    def seconds(work: Any) -> float:
        """A device on which 8 bits win where more than 32 numbers come out."""
        out = work()
        is_plain = len(timed) % 2 == 0
        timed.append("plain" if is_plain else "float8")
        return 1.0 if is_plain else 0.5 if out.shape[1] > 32 else 0.97

    times = measure(unet, seen, seconds)
    assert times.keys() == seen.keys() and len(timed) < 2 * len(times), "layers of one shape are timed once"
    wide = {name for name, part in candidates(unet).items() if part.out_features > 32}
    assert set(choose(times)) == wide and wide and len(wide) < len(times)
    assert set(choose(times, gain=1.0)) == set(times)
    assert choose({"a": Times(1.0, 1.0), "b": Times(1.06, 1.0)}) == ("b",)
    convert(unet, seen, choose(times))
    assert {name for name, part in unet.named_modules() if isinstance(part, Float8Linear)} == wide
    with pytest.raises(InputError, match="'conv_in' is no layer that was calibrated"):
        convert(unet, seen, ["conv_in"])
