"""Batch norms of networks that only infer, as a part of the layer before them: one pass over a picture less for each."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from mien.engine.networks.batch_norm import BatchNorm

M = TypeVar("M", bound=nn.Module)


def fold(module: M) -> M:
    """Rewrite a module in place, once its weights are loaded; a second time changes nothing. In the networks of `engine/networks` a
    BatchNorm that follows a convolution or a linear layer among its parent's children is of that layer's answer; others stay.
    """
    with torch.no_grad():
        for parent in list(module.modules()):
            before: nn.Module | None = None
            for name, child in list(parent.named_children()):
                if isinstance(child, BatchNorm) and isinstance(before, nn.Conv2d | nn.Linear):
                    _fold_into(before, child)
                    parent.add_module(name, nn.Identity())
                before = child
    return module


def _fold_into(layer: nn.Conv2d | nn.Linear, norm: BatchNorm) -> None:
    """W <- g W and b <- g (b - mean) + shift, with g = gain / sqrt(variance + eps); in float64, rounded once."""
    gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    bias: Tensor = torch.zeros_like(gain) if layer.bias is None else layer.bias.double()
    shift = gain * (bias - norm.running_mean.double()) + norm.bias.double()
    weight = layer.weight.double() * gain.view(-1, *[1] * (layer.weight.dim() - 1))
    layer.weight.copy_(weight)
    layer.bias = nn.Parameter(shift.to(layer.weight.dtype), requires_grad=layer.weight.requires_grad)
