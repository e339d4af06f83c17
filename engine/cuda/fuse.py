"""Networks of the SD family rewritten to launch less and to read memory fewer times; what they compute stays the same.

- Queries, keys and values of self-attention are thirds of one projection.
- What every residual block adds of the timestep is a part of one product, in which the bias of its first convolution is already;
  the bias of its second one is in the shortcut's, where there is one. (cuDNN adds a bias in a pass of its own.)
- Convolutions of one pixel are products over channels, which lie last. GroupNorm keeps them there.
- TAESD's ReLUs and the sum before the last of them are part of their convolutions.
Keys and values of text and W+ tokens are made once per edit by `sd_unet.ContextProjection`, so nothing is left to gain there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.engine.networks.sd_attention import SelfAttention
from mien.engine.networks.sd_blocks import ResidualBlock, TimeEmbedding
from mien.engine.networks.sd_unet import Encoder
from mien.engine.networks.taesd import Block
from mien.kernels.group_norm_silu import group_norm_silu

M = TypeVar("M", bound=nn.Module)

FUSED_CHANNELS = 8
"""cuDNN's convolutions with ReLU take a multiple of this many channels."""


def fuse(module: M) -> M:
    """Rewrite a module in place, once its weights are loaded, and lay its pictures' channels last; a second time changes nothing.

    Its parameter names are other ones afterwards. For UNet, ControlNet, TAESD and AutoencoderKL; what is in none of these stays.
    """
    with torch.no_grad():
        for part in list(module.modules()):
            if isinstance(part, Encoder) and isinstance(part.time_embedding, TimeEmbedding):
                part.add_module("time_embedding", Shifts.of(part))
        _rewrite(module)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stubs know tensors alone
    return module


def _rewrite(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if (better := _fused(child)) is not None:
            module.add_module(name, better.train(child.training).requires_grad_(False))
        _rewrite(better or child)


def _fused(child: nn.Module) -> nn.Module | None:
    """What takes the place of a module, None if it stays."""
    if type(child) is SelfAttention:
        return FusedSelfAttention(child)
    if type(child) is Block:
        return FusedBlock(child)
    if type(child) is nn.GroupNorm:
        return PixelNorm(child)
    if type(child) is nn.Conv2d and _is_product(child):
        return PixelLinear(child)
    if type(child) is nn.Sequential and any(type(layer) is nn.ReLU for layer in child):
        return _relu_sequence(child)
    return None


class FusedSelfAttention(SelfAttention):
    """Self-attention with one projection in the place of three."""

    def __init__(self, attention: SelfAttention) -> None:
        nn.Module.__init__(self)
        self.num_heads, self.to_out = attention.num_heads, attention.to_out
        self.to_qkv = _linear([attention.to_q, attention.to_k, attention.to_v])

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, N, C), views of one tensor."""
        q, k, v = self.to_qkv(x).chunk(3, -1)
        return q, k, v


class Shifts(nn.Module):
    """The timestep's embedding, then what all residual blocks make of it, one after another (B, S)."""

    def __init__(self, embedding: TimeEmbedding, projections: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.embedding, self.projection = embedding, _linear(projections)

    def forward(self, timestep: Tensor, guidance: Tensor | None) -> Tensor:
        """timestep (B,) in 0..999, guidance (B,): the guidance scale minus 1."""
        out: Tensor = self.projection(self.embedding(timestep, guidance))
        return out

    @classmethod
    def of(cls, network: Encoder) -> Shifts:
        """Take the projections out of a network's residual blocks, with the biases of the convolutions before them."""
        blocks = [part for part in network.modules() if isinstance(part, ResidualBlock)]
        projections, first = [], 0
        for block in blocks:
            projection, before, last = block.time_emb_proj, block.conv1, block.conv2
            assert isinstance(projection, nn.Linear) and before.bias is not None and last.bias is not None
            projection.bias.add_(before.bias)
            before.bias = None
            if isinstance(block.conv_shortcut, nn.Conv2d) and block.conv_shortcut.bias is not None:
                block.conv_shortcut.bias.add_(last.bias)
                last.bias = None
            projections.append(projection)
            block.add_module("time_emb_proj", Part(first, projection.out_features))
            first += projection.out_features
        return cls(network.time_embedding, projections).requires_grad_(False)


class Part(nn.Module):
    """Some columns of (B, S)."""

    def __init__(self, first: int, count: int) -> None:
        super().__init__()
        self.columns = slice(first, first + count)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S) -> (B, count), a view."""
        return x[:, self.columns]


class PixelNorm(nn.GroupNorm):
    """GroupNorm that leaves channels last. (B, C, h, w) -> same."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__(norm.num_groups, norm.num_channels, norm.eps, device="meta")
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        return group_norm_silu(x, self.num_groups, self.weight, self.bias, self.eps, silu=False)


class PixelLinear(nn.Module):
    """A convolution of one pixel as a product. (B, C_in, h, w) -> (B, C_out, h, w), channels last."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.linear = nn.Linear(conv.in_channels, conv.out_channels, conv.bias is not None, device="meta")
        self.linear.weight = nn.Parameter(conv.weight.flatten(1))
        if conv.bias is not None:
            self.linear.bias = nn.Parameter(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to every pixel."""
        batch, _, height, width = x.shape
        rows = self.linear(x.permute(0, 2, 3, 1).flatten(0, 2))
        out: Tensor = rows.view(batch, height, width, -1).permute(0, 3, 1, 2)
        return out


class ConvRelu(nn.Module):
    """A convolution and its ReLU."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C_out, h, w)."""
        return conv_relu(self.conv, x)


class FusedBlock(nn.Module):
    """TAESD's block; its sum and its last ReLU are part of its last convolution."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.pool = block.pool
        self.convs = nn.ModuleList([block.conv[0], block.conv[2], block.conv[4]])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> same."""
        if self.pool is not None:
            x = x + self.pool(x)
        h = conv_relu(self.convs[1], conv_relu(self.convs[0], x))
        return conv_relu(self.convs[2], h, x)


def conv_relu(conv: nn.Module, x: Tensor, add: Tensor | None = None) -> Tensor:
    """ReLU of a convolution of x, plus `add` if given; one launch on a GPU in half precision."""
    assert isinstance(conv, nn.Conv2d) and not isinstance(conv.padding, str)
    is_half = x.is_cuda and x.dtype in (torch.float16, torch.bfloat16)
    if is_half and _takes_relu(conv) and not torch.compiler.is_compiling():
        weight, bias, groups = conv.weight, conv.bias, conv.groups
        if add is None:
            return torch.cudnn_convolution_relu(x, weight, bias, conv.stride, conv.padding, conv.dilation, groups)
        return torch.cudnn_convolution_add_relu(
            x, weight, add, 1.0, bias, conv.stride, conv.padding, conv.dilation, groups
        )
    y = conv(x)
    return F.relu(y if add is None else y + add)


def _takes_relu(conv: nn.Conv2d) -> bool:
    return conv.in_channels % FUSED_CHANNELS == conv.out_channels % FUSED_CHANNELS == 0


def _is_product(conv: nn.Conv2d) -> bool:
    return {*conv.kernel_size, *conv.stride, conv.groups} == {1} and not any(conv.padding)


def _relu_sequence(layers: nn.Sequential) -> nn.Sequential | None:
    """The same with every convolution before a ReLU joined to it, None if there is none; places stay."""
    parts = list(layers)
    for i in range(len(parts) - 1):
        conv = parts[i]
        if type(conv) is nn.Conv2d and not _is_product(conv) and type(parts[i + 1]) is nn.ReLU:
            parts[i : i + 2] = [ConvRelu(conv), nn.Identity()]
    return nn.Sequential(*parts) if any(isinstance(part, ConvRelu) for part in parts) else None


def _linear(layers: Sequence[nn.Linear]) -> nn.Linear:
    """Layers of one input as one layer, their outputs one after another."""
    weight = torch.cat([layer.weight for layer in layers])
    joined = nn.Linear(weight.shape[1], len(weight), layers[0].bias is not None, device="meta")
    joined.weight = nn.Parameter(weight)
    if layers[0].bias is not None:
        joined.bias = nn.Parameter(torch.cat([layer.bias for layer in layers]))
    return joined
