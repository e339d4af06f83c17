"""ControlNet (Zhang et al. 2023) for the UNets of the SD family, in two networks that read one weight file.

`ControlContext` makes the keys and values of the text once per edit, `ControlNet` the residuals of every step. Parameter
names are those of diffusers' ControlNetModel.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from mien.engine.networks.sd_blocks import KeyValue
from mien.engine.networks.sd_layout import Layout, Stage
from mien.engine.networks.sd_signature import controlnet_signature
from mien.engine.networks.sd_unet import ContextProjection, Encoder, layer_inputs, named_inputs

_STAGES: tuple[Stage, ...] = ("down", "mid")


class ControlContext(ContextProjection):
    """Text (B, T, D) -> text_k_0, text_v_0, ..., (B, T, C_i), of a ControlNet's layers."""

    STAGES = _STAGES


class ControlEmbedding(nn.Module):
    """The control image (B, 3, H, W) in [0, 1] as features (B, C, H/8, W/8)."""

    WIDTHS = (16, 32, 96, 256)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, self.WIDTHS[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for a, b in pairwise(self.WIDTHS):
            self.blocks += [nn.Conv2d(a, a, 3, padding=1), nn.Conv2d(a, b, 3, padding=1, stride=2)]
        self.conv_out = nn.Conv2d(self.WIDTHS[-1], channels, 3, padding=1)

    def forward(self, control: Tensor) -> Tensor:
        """Apply it."""
        h = F.silu(self.conv_in(control))
        for block in self.blocks:
            h = F.silu(block(h))
        out: Tensor = self.conv_out(h)
        return out


class ControlNet(Encoder):
    """latents (B, C_in, h, w), timestep (B,), control (B, 3, 8 h, 8 w) in [0, 1], conditioning_scale (B,), text, bank

    -> down_residual_0, ..., mid_residual, each times conditioning_scale, then own_k_i, own_v_i. Several ControlNets of one
    UNet are summed. own_weight is as in `UNet`.
    """

    def __init__(self, bank_layers: tuple[int, ...] = (), **layout: Any) -> None:
        """bank_layers: numbers of the layers that read a bank and answer own_k_i, own_v_i. layout: fields of `Layout`."""
        shape = Layout(**layout)
        super().__init__(shape, adapter=False)
        self.signature = controlnet_signature(shape, bank_layers)
        self.layers, self.bank_layers = shape.layers(_STAGES), bank_layers
        self.controlnet_cond_embedding = ControlEmbedding(shape.block_out_channels[0])
        self.controlnet_down_blocks = nn.ModuleList(nn.Conv2d(n, n, 1) for n, _ in shape.skips())
        last = shape.block_out_channels[-1]
        self.controlnet_mid_block = nn.Conv2d(last, last, 1)

    def forward(
        self, latents: Tensor, timestep: Tensor, control: Tensor, conditioning_scale: Tensor, *more: Tensor
    ) -> tuple[Tensor, ...]:
        """more: the inputs of `signature` from the fifth on, in its order."""
        named = named_inputs(self.signature, (latents, timestep, control, conditioning_scale, *more))
        embedding = self.time_embedding(timestep, None)
        layers = iter(layer_inputs(named, self.layers))
        own: list[KeyValue] = []
        skips = [self.conv_in(latents) + self.controlnet_cond_embedding(control)]
        for block in self.down_blocks:
            skips += block(skips[-1], embedding, layers, own)
        x = self.mid_block(skips[-1], embedding, layers, own)
        residuals = [zero(skip) for zero, skip in zip(self.controlnet_down_blocks, skips, strict=True)]
        residuals.append(self.controlnet_mid_block(x))
        scale = conditioning_scale[:, None, None, None]
        return *(scale * residual for residual in residuals), *(tensor for i in self.bank_layers for tensor in own[i])
