"""Convolution blocks of the analysis networks, and the folding of their training-time norms into plain convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

NORM_EPS = 1e-5


class Unit(nn.Module):
    """Convolution with bias, batch norm while training, ReLU: (B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1, *, norm: bool, relu: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2)
        self.norm = nn.BatchNorm2d(c_out, eps=NORM_EPS) if norm else nn.Identity()
        self.relu = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the unit."""
        y: Tensor = self.relu(self.norm(self.conv(x)))
        return y


class Residual(nn.Module):
    """Two 3x3 units and a skip: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, *, norm: bool) -> None:
        super().__init__()
        self.first = Unit(channels, channels, norm=norm)
        self.second = Unit(channels, channels, norm=norm, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return torch.relu(x + self.second(self.first(x)))


def fold_norms(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State of a module built with `norm=True` -> state of the same module built with `norm=False`, computing the same in eval mode."""
    out = {name: value for name, value in state.items() if ".norm." not in name}
    for name in [n for n in state if n.endswith(".norm.running_var")]:
        prefix = name.removesuffix("norm.running_var")
        gain = state[prefix + "norm.weight"] / torch.sqrt(state[name] + NORM_EPS)
        out[prefix + "conv.weight"] = state[prefix + "conv.weight"] * gain[:, None, None, None]
        shifted = state[prefix + "conv.bias"] - state[prefix + "norm.running_mean"]
        out[prefix + "conv.bias"] = shifted * gain + state[prefix + "norm.bias"]
    return out
