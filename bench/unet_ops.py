"""What a UNet does, read off the network itself: its operations with their shapes and numbers, and its FLOPs.

The network runs on torch's `meta` device, which knows shapes only, so this takes no GPU and no memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mien.engine.networks import sd_attention, sd_blocks
from mien.engine.networks.sd_layout import Layout
from mien.engine.networks.sd_unet import UNet
from mien.kernels.cross_frame_attention import cross_frame_attention
from mien.kernels.geglu import geglu
from mien.kernels.group_norm_silu import group_norm_silu

TEXT_TOKENS = 77


@dataclass(frozen=True, slots=True)
class Attention:
    """Of one row: n_queries attend to the tokens of each segment. weighted: whether the own tokens have a weight."""

    n_queries: int
    segments: tuple[int, ...]
    channels: int
    num_heads: int
    weighted: bool = False

    @property
    def dim(self) -> int:
        """Of a head."""
        return self.channels // self.num_heads


@dataclass(frozen=True, slots=True)
class Norm:
    """Group norm of one row (channels, side, side). shift: added before; silu: applied after."""

    channels: int
    side: int
    num_groups: int
    shift: bool
    silu: bool


@dataclass(frozen=True, slots=True)
class Gate:
    """GEGLU of one row: tokens of 2 width channels to width."""

    tokens: int
    width: int


Op = Attention | Norm | Gate


@dataclass(frozen=True, slots=True)
class UNetOps:
    """Of one call with one row: each operation with how often it runs, and the FLOPs of everything."""

    counts: Mapping[Op, int]
    flops: int


def bank_layers(layout: Layout, downscale: int = 2) -> tuple[int, ...]:
    """The layers of so small a side and below: with 2, those of 32x32 tokens and fewer at 512 pixels."""
    return tuple(layer.number for layer in layout.layers() if layer.downscale >= downscale)


def unet_shapes(unet: UNet, rows: int, size_px: int, frames: int = 1) -> dict[str, tuple[int, ...]]:
    """The shape of every input, in the order of the signature, at a size in pixels with a bank of so many frames."""
    side, found = size_px // 8, dict[str, tuple[int, ...]]()
    for name, dims in unet.signature.inputs.items():
        sizes = {"B": rows, "T": TEXT_TOKENS, "H/8": side, "W/8": side}
        if name.startswith("bank_"):
            number = int(name.rsplit("_", 1)[1])
            sizes[f"M{number}"] = frames * (-(-side // unet.layers[number].downscale)) ** 2
        found[name] = tuple(dim if isinstance(dim, int) else sizes[dim] for dim in dims)
    return found


def read_ops(
    layout: Layout, size_px: int, *, adapter: bool = True, layers: tuple[int, ...] = (), frames: int = 1
) -> UNetOps:
    """Run one row on `meta` and write down what it does."""
    with torch.device("meta"):
        unet = UNet(adapter=adapter, bank_layers=layers, **layout.kwargs()).eval()
    inputs = [torch.empty(shape, device="meta") for shape in unet_shapes(unet, 1, size_px, frames).values()]
    counts: Counter[Op] = Counter()
    with torch.no_grad(), _watched(unet, counts), FlopCounterMode(display=False) as counter:
        unet(*inputs)
    return UNetOps(dict(counts), int(counter.get_total_flops()))


def flops_of(module: nn.Module, inputs: Sequence[Tensor]) -> int:
    """FLOPs of a call: the module and its inputs are only looked at, and copied to `meta`."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        torch.func.functional_call(
            module,
            {name: tensor.to("meta") for name, tensor in [*module.named_parameters(), *module.named_buffers()]},
            tuple(tensor.to("meta") for tensor in inputs),
        )
    return int(counter.get_total_flops())


@contextmanager
def _watched(unet: UNet, counts: Counter[Op]) -> Iterator[None]:
    """Within it, operations of the network are counted."""

    def attention(query: Tensor, segments: Any, num_heads: int, **more: Any) -> Tensor:
        lengths = tuple(key.shape[1] for key, _ in segments)
        weighted = more.get("own_weight") is not None
        counts[Attention(query.shape[1], lengths, query.shape[2], num_heads, weighted)] += 1
        return cross_frame_attention(query, segments, num_heads, **more)

    def gate(x: Tensor, *more: Any) -> Tensor:
        counts[Gate(x.shape[1], x.shape[2] // 2)] += 1
        return geglu(x, *more)

    def group_norm(x: Tensor, num_groups: int, *more: Any, **named: Any) -> Tensor:
        silu = bool(named.get("silu", True))
        counts[Norm(x.shape[1], x.shape[2], num_groups, named.get("shift") is not None, silu)] += 1
        return group_norm_silu(x, num_groups, *more, **named)

    def module_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.GroupNorm)
        x = inputs[0]
        counts[Norm(x.shape[1], x.shape[2], module.num_groups, False, False)] += 1

    hooks = [m.register_forward_pre_hook(module_norm) for m in unet.modules() if isinstance(m, nn.GroupNorm)]
    try:
        with (
            patch.object(sd_attention, "cross_frame_attention", attention),
            patch.object(sd_attention, "geglu", gate),
            patch.object(sd_blocks, "group_norm_silu", group_norm),
        ):
            yield
    finally:
        for hook in hooks:
            hook.remove()
