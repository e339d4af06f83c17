"""The conditional UNet of the SD1.5 and SD2.x families (Rombach et al. 2022), in two networks that read one weight file.

`ContextProjection` turns text and W+ tokens into every layer's keys and values, once per edit; `UNet` denoises with them.
Together they have exactly the parameters of diffusers' UNet2DConditionModel, and those of the W+ adapter if asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mien.engine.errors import ShapeError
from mien.engine.networks.sd_attention import BankInputs, LayerInputs
from mien.engine.networks.sd_blocks import DownBlock, KeyValue, MidBlock, TimeEmbedding, norm_silu, up_blocks
from mien.engine.networks.sd_layout import AttentionLayer, Layout, Stage
from mien.engine.networks.sd_signature import Signature, context_signature, unet_signature


class LayerProjection(nn.Module):
    """Keys and values of one layer, by the parameter names of its attn2."""

    def __init__(self, token_dim: int, channels: int, adapter: bool) -> None:
        super().__init__()
        for name in ("to_k", "to_v", *(("to_k_wplus", "to_v_wplus") if adapter else ())):
            self.add_module(name, nn.Linear(token_dim, channels, bias=False))

    def forward(self, tokens: Tensor, suffix: str = "") -> tuple[Tensor, Tensor]:
        """(B, T, D) -> keys and values (B, T, C). suffix: "" for text, "_wplus" for W+ tokens."""
        return self.get_submodule(f"to_k{suffix}")(tokens), self.get_submodule(f"to_v{suffix}")(tokens)


class ContextProjection(nn.Module):
    """Text (B, T, D) and, with an adapter, W+ tokens (B, 4, D) -> text_k_0, text_v_0, ..., w_k_0, w_v_0, ..., (B, ., C_i)."""

    STAGES: tuple[Stage, ...] = ("down", "mid", "up")

    def __init__(self, adapter: bool = False, **layout: Any) -> None:
        """layout: fields of `Layout`."""
        super().__init__()
        shape = Layout(**layout)
        self.adapter = adapter
        self.signature = context_signature(shape, adapter, self.STAGES)
        self.layers = shape.layers(self.STAGES)
        for layer in self.layers:
            projection = LayerProjection(shape.cross_attention_dim, layer.channels, adapter)
            _plant(self, f"{layer.name}.attn2", projection)

    def forward(self, text: Tensor, *w_tokens: Tensor) -> tuple[Tensor, ...]:
        """w_tokens: one tensor with an adapter, none without."""
        named = named_inputs(self.signature, (text, *w_tokens))
        projections = [self.get_submodule(f"{layer.name}.attn2") for layer in self.layers]
        pairs = [projection(text) for projection in projections]
        if self.adapter:
            pairs += [projection(named["w_tokens"], "_wplus") for projection in projections]
        return tuple(tensor for pair in pairs for tensor in pair)


class Encoder(nn.Module):
    """What a UNet and its ControlNet have in common: everything down to the middle block."""

    def __init__(self, layout: Layout, adapter: bool) -> None:
        super().__init__()
        channels = layout.block_out_channels
        self.conv_in = nn.Conv2d(layout.in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(layout)
        self.down_blocks = nn.ModuleList(DownBlock(level, layout, adapter) for level in range(len(channels)))
        self.mid_block = MidBlock(layout, adapter)


class UNet(Encoder):
    """latents (B, C_in, h, w), timestep (B,) in 0..999, and what `signature` names -> prediction (B, C_out, h, w), own k, v.

    h and w are any number: the up blocks take the sides of the skips. guidance (B,) is the scale minus 1. w_scale (B,)
    weighs the W+ tokens. Residuals come from a ControlNet, already scaled. own_weight (B,) weighs a row's own tokens
    against its bank: 1 is extended attention, 0 leaves the bank alone (and, with an empty bank, plain self-attention).
    """

    def __init__(
        self, adapter: bool = False, control: bool = False, bank_layers: tuple[int, ...] = (), **layout: Any
    ) -> None:
        """bank_layers: numbers of the layers that read a bank and answer own_k_i, own_v_i. layout: fields of `Layout`."""
        shape = Layout(**layout)
        super().__init__(shape, adapter)
        self.signature = unet_signature(shape, adapter, control, bank_layers)
        self.layers, self.bank_layers = shape.layers(), bank_layers
        self.up_blocks = up_blocks(shape, adapter)
        self.conv_norm_out = nn.GroupNorm(shape.norm_num_groups, shape.block_out_channels[0])
        self.conv_out = nn.Conv2d(shape.block_out_channels[0], shape.out_channels, 3, padding=1)

    def forward(self, latents: Tensor, timestep: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        """more: the inputs of `signature` from the third on, in its order."""
        named = named_inputs(self.signature, (latents, timestep, *more))
        prediction, own = self.predict(
            latents, timestep, layer_inputs(named, self.layers), guidance=named.get("guidance"), residuals=named
        )
        return prediction, *(tensor for i in self.bank_layers for tensor in own[i])

    def predict(
        self,
        latents: Tensor,
        timestep: Tensor,
        inputs: Sequence[LayerInputs],
        *,
        guidance: Tensor | None = None,
        residuals: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, list[KeyValue]]:
        """The prediction, and every layer's own keys and values. inputs: of each layer. residuals: by the signature's names."""
        named = residuals or {}
        embedding = self.time_embedding(timestep, guidance)
        layers = iter(inputs)
        own: list[KeyValue] = []
        skips = [self.conv_in(latents)]
        for block in self.down_blocks:
            skips += block(skips[-1], embedding, layers, own)
        x = self.mid_block(skips[-1], embedding, layers, own)
        if "mid_residual" in named:
            skips = [skip + named[f"down_residual_{i}"] for i, skip in enumerate(skips)]
            x = x + named["mid_residual"]
        for block in self.up_blocks:
            x = block(x, skips, embedding, layers, own)
        prediction: Tensor = self.conv_out(norm_silu(self.conv_norm_out, x))
        return prediction, own


def named_inputs(signature: Signature, tensors: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Inputs by name. Raises ShapeError if there are more or fewer than the signature has."""
    if len(tensors) != len(signature.inputs):
        raise ShapeError(
            f"{len(tensors)} inputs given, {len(signature.inputs)} expected: {', '.join(signature.inputs)}"
        )
    return dict(zip(signature.inputs, tensors, strict=True))


def layer_inputs(named: Mapping[str, Tensor], layers: tuple[AttentionLayer, ...]) -> list[LayerInputs]:
    """What each layer reads, in the order the layers run."""
    return [
        LayerInputs(
            text=(named[f"text_k_{i}"], named[f"text_v_{i}"]),
            wplus=(named[f"w_k_{i}"], named[f"w_v_{i}"], named["w_scale"]) if f"w_k_{i}" in named else None,
            bank=BankInputs(((named[f"bank_k_{i}"], named[f"bank_v_{i}"]),), named["own_weight"])
            if f"bank_k_{i}" in named
            else None,
        )
        for i in range(len(layers))
    ]


def _plant(root: nn.Module, path: str, module: nn.Module) -> None:
    """Make `module` a submodule at a dotted path, with empty modules on the way."""
    *way, name = path.split(".")
    for step in way:
        if step not in root._modules:
            root.add_module(step, nn.Module())
        root = root.get_submodule(step)
    root.add_module(name, module)
