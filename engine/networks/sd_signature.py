"""What the networks of the SD family read and answer, by name, in order; all of it is float32.

A named dimension is one size: "H/8" and "W/8" are the latents' sides, "H16" and "W16" half of them rounded up, "H32" half
of that; "T" the text's tokens, "M3" those of layer 3's bank, "N3" its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mien.engine.errors import BundleError
from mien.engine.networks.sd_layout import AttentionLayer, Layout, Stage

Dims = tuple[int | str, ...]

W_TOKENS = 4
"""Tokens that the W+ adapter makes of one code."""


@dataclass(frozen=True, slots=True)
class Signature:
    """Names and dimensions, as a bundle's manifest writes them."""

    inputs: Mapping[str, Dims]
    outputs: Mapping[str, Dims]


def unet_signature(
    layout: Layout, adapter: bool = False, control: bool = False, bank_layers: tuple[int, ...] = ()
) -> Signature:
    """The signature of `sd_unet.UNet`; the arguments are those of its constructor."""
    layers = layout.layers()
    inputs: dict[str, Dims] = {"latents": ("B", layout.in_channels, "H/8", "W/8"), "timestep": ("B",)}
    if layout.time_cond_proj_dim is not None:
        inputs["guidance"] = ("B",)
    inputs |= _keys_and_values("text", layers, "T")
    if adapter:
        inputs |= {**_keys_and_values("w", layers, W_TOKENS), "w_scale": ("B",)}
    if control:
        inputs |= _residuals(layout)
    bank, own = _bank(layers, bank_layers)
    return Signature(inputs | bank, {"prediction": ("B", layout.out_channels, "H/8", "W/8"), **own})


def context_signature(
    layout: Layout, adapter: bool = False, stages: tuple[Stage, ...] = ("down", "mid", "up")
) -> Signature:
    """The signature of `sd_unet.ContextProjection`; with stages "down" and "mid", of `sd_controlnet.ControlContext`."""
    layers = layout.layers(stages)
    inputs: dict[str, Dims] = {"text": ("B", "T", layout.cross_attention_dim)}
    outputs = _keys_and_values("text", layers, "T")
    if adapter:
        inputs["w_tokens"] = ("B", W_TOKENS, layout.cross_attention_dim)
        outputs |= _keys_and_values("w", layers, W_TOKENS)
    return Signature(inputs, outputs)


def controlnet_signature(layout: Layout, bank_layers: tuple[int, ...] = ()) -> Signature:
    """The signature of `sd_controlnet.ControlNet`; the arguments are those of its constructor."""
    layers = layout.layers(("down", "mid"))
    inputs: dict[str, Dims] = {
        "latents": ("B", layout.in_channels, "H/8", "W/8"),
        "timestep": ("B",),
        "control": ("B", 3, "H", "W"),
        "conditioning_scale": ("B",),
        **_keys_and_values("text", layers, "T"),
    }
    bank, own = _bank(layers, bank_layers)
    return Signature(inputs | bank, {**_residuals(layout), **own})


def _keys_and_values(prefix: str, layers: tuple[AttentionLayer, ...], tokens: int | str) -> dict[str, Dims]:
    return {f"{prefix}_{kind}_{layer.number}": ("B", tokens, layer.channels) for layer in layers for kind in "kv"}


def _residuals(layout: Layout) -> dict[str, Dims]:
    skips = layout.skips()
    names = [*(f"down_residual_{i}" for i in range(len(skips))), "mid_residual"]
    return {
        name: ("B", channels, *(("H/8", "W/8") if by == 1 else (f"H{8 * by}", f"W{8 * by}")))
        for name, (channels, by) in zip(names, [*skips, skips[-1]], strict=True)
    }


def _bank(layers: tuple[AttentionLayer, ...], numbers: tuple[int, ...]) -> tuple[dict[str, Dims], dict[str, Dims]]:
    """Inputs and outputs of the layers with a bank."""
    if list(numbers) != sorted(set(numbers) & set(range(len(layers)))):
        raise BundleError(f"bank_layers is {list(numbers)}, expected ascending numbers of 0..{len(layers) - 1}")
    inputs: dict[str, Dims] = {"own_weight": ("B",)} if numbers else {}
    outputs: dict[str, Dims] = {}
    for i in numbers:
        for kind in "kv":
            inputs[f"bank_{kind}_{i}"] = ("B", f"M{i}", layers[i].channels)
            outputs[f"own_{kind}_{i}"] = ("B", f"N{i}", layers[i].channels)
    return inputs, outputs
