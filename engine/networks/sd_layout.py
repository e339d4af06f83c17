"""How the UNets of the SD1.5 and SD2.x families differ, and which attention layers they have.

The fields are those of diffusers' config.json. Transformer blocks are numbered in the order they run: SD1.5 has 0-5 in
the down blocks, 6 in the middle, 7-15 in the up blocks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, TypeVar

from mien.engine.errors import BundleError

Stage = Literal["down", "mid", "up"]

_DEFAULTS: Mapping[str, Any] = {
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "block_out_channels": [320, 640, 1280, 1280],
    "attention_head_dim": 8,
    "cross_attention_dim": 1280,
}
"""What diffusers takes for a field that a config.json does not have, where it is not what `Layout` takes."""

_FIXED: Mapping[str, Any] = {
    "act_fn": "silu",
    "attention_type": "default",
    "conditioning_channels": 3,
    "conditioning_embedding_out_channels": [16, 32, 96, 256],
    "controlnet_conditioning_channel_order": "rgb",
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-5,
    "resnet_out_scale_factor": 1.0,
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
    "transformer_layers_per_block": 1,
}
"""Fields with one value in these families. Fields named nowhere in this file must be null or false."""

_NO_MATTER = (
    *("sample_size", "dropout", "upcast_attention", "addition_embed_type_num_heads"),
    # what diffusers' averaging of weights leaves in the config of what it saves
    *("decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power"),
)
_WPLUS = re.compile(r"([0-9]+)\.(to_[qkv]_wplus\.weight)")


class Shaped(Protocol):
    """A tensor or an array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""


Weight = TypeVar("Weight", bound=Shaped)


@dataclass(frozen=True, slots=True)
class AttentionLayer:
    """A transformer block. name: its weights' prefix.

    downscale: rows of latents to rows of tokens, 1 to 8; a layer has ceil(h / downscale) ceil(w / downscale) tokens.
    """

    number: int
    name: str
    channels: int
    num_heads: int
    stage: Stage
    downscale: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The shape of a UNet; the defaults are SD1.5's.

    attention, num_attention_heads: per down block; the up blocks mirror them. time_cond_proj_dim: width of the guidance
    embedding of a distilled UNet (256 for LCM), None for one that has none.
    """

    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    attention: tuple[bool, ...] = (True, True, True, False)
    num_attention_heads: tuple[int, ...] = (8, 8, 8, 8)
    cross_attention_dim: int = 768
    norm_num_groups: int = 32
    use_linear_projection: bool = False
    time_cond_proj_dim: int | None = None

    def __post_init__(self) -> None:
        for field in ("attention", "num_attention_heads"):
            if len(getattr(self, field)) != len(self.block_out_channels):
                raise BundleError(
                    f"{field} is {getattr(self, field)}, expected a value per block of block_out_channels"
                )
        for channels, heads in zip(self.block_out_channels, self.num_attention_heads, strict=True):
            for field, by in (("num_attention_heads", heads), ("norm_num_groups", self.norm_num_groups)):
                if by < 1 or channels % by:
                    raise BundleError(f"{field} has {by}, which does not divide the {channels} of block_out_channels")

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str = "config.json") -> Layout:
        """The layout a diffusers config of a UNet or ControlNet asks for. Raises BundleError naming field and value."""
        lists = {key: list(v) if isinstance(v, tuple) else v for key, v in {**_DEFAULTS, **config}.items()}
        channels = _items(lists.pop("block_out_channels"), int, "block_out_channels", source)
        down = _items(lists.pop("down_block_types"), str, "down_block_types", source)
        up = lists.pop("up_block_types", [name.replace("Down", "Up") for name in reversed(down)])
        attention = tuple(name == "CrossAttnDownBlock2D" for name in down)
        if not set(down) <= {"CrossAttnDownBlock2D", "DownBlock2D"}:
            raise BundleError(
                f"{source}: down_block_types is {down}, this UNet has CrossAttnDownBlock2D and DownBlock2D"
            )
        if up != ["CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attention)]:
            raise BundleError(f"{source}: up_block_types is {up}, which does not mirror down_block_types {down}")
        fields = {key: _common(value, key) for key, value in lists.items()}
        # what these configs call the dimension of a head is the number of heads (issue 2011 of diffusers)
        heads = fields.pop("attention_head_dim")
        heads = fields.pop("num_attention_heads", None) or heads
        heads = [heads] * len(channels) if isinstance(heads, int) else heads
        sizes: dict[str, Any] = {}
        for key, value in fields.items():
            if key in cls.__dataclass_fields__:
                if not isinstance(value, int) and (key, value) != ("time_cond_proj_dim", None):
                    raise BundleError(f"{source}: {key} is {value!r}, this UNet takes one number")
                sizes[key] = value
            elif key in _FIXED:
                if value != _FIXED[key]:
                    raise BundleError(f"{source}: {key} is {value!r}, this UNet has {_FIXED[key]!r}")
            elif not (value is None or value is False or key in _NO_MATTER or key.startswith("_")):
                raise BundleError(f"{source}: {key} is {value!r}, a UNet of SD1.5 or SD2.x has no such thing")
        return cls(
            block_out_channels=tuple(channels),
            attention=attention,
            num_attention_heads=tuple(_items(heads, int, "attention_head_dim", source)),
            **sizes,
        )

    def kwargs(self) -> dict[str, Any]:
        """The fields by name, as `UNet`, `ContextProjection` and `ControlNet` take them; lists for tuples, as in JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def layers(self, stages: tuple[Stage, ...] = ("down", "mid", "up")) -> tuple[AttentionLayer, ...]:
        """The transformer blocks of these stages (a ControlNet has "down" and "mid"), in the order they run."""
        last = len(self.block_out_channels) - 1
        ins, outs = range(self.layers_per_block), range(self.layers_per_block + 1)
        with_attention = [i for i in range(last + 1) if self.attention[i]]
        places: list[tuple[Stage, str, int]] = [
            *(("down", f"down_blocks.{i}.attentions.{j}", i) for i in with_attention for j in ins),
            ("mid", "mid_block.attentions.0", last),
            *(("up", f"up_blocks.{last - i}.attentions.{j}", i) for i in reversed(with_attention) for j in outs),
        ]
        kept = [(stage, f"{name}.transformer_blocks.0", i) for stage, name, i in places if stage in stages]
        return tuple(
            AttentionLayer(number, name, self.block_out_channels[i], self.num_attention_heads[i], stage, 2**i)
            for number, (stage, name, i) in enumerate(kept)
        )

    def skips(self) -> tuple[tuple[int, int], ...]:
        """(channels, downscale) of all that the up blocks take from the down blocks, in the order it arises."""
        last = len(self.block_out_channels) - 1
        out = [(self.block_out_channels[0], 1)]
        for i, channels in enumerate(self.block_out_channels):
            out += [(channels, 2**i)] * self.layers_per_block + [(channels, 2 ** (i + 1))] * (i < last)
        return tuple(out)


def wplus_weights(published: Mapping[str, Weight], layout: Layout, source: str = "wplus_adapter") -> dict[str, Weight]:
    """The W+ adapter's attention weights under our names, "<layer>.attn2.to_q_wplus.weight", from the published ones.

    Those are "{i}.to_q_wplus.weight", i = 1, 3, ... counting the layers as diffusers lists its processors: down blocks, up
    blocks, then the middle (W+ Adapter, Li et al. 2023; two processors a layer). Raises BundleError for what does not fit.
    """
    order = sorted(layout.layers(), key=lambda layer: layer.stage == "mid")
    out: dict[str, Weight] = {}
    for i, layer in enumerate(order):
        for part in "qkv":
            key, width = f"{2 * i + 1}.to_{part}_wplus.weight", layout.cross_attention_dim
            want = (layer.channels, layer.channels if part == "q" else width)
            if key not in published:
                raise BundleError(f"{source}: {key} is missing, expected {want} for {layer.name}")
            if tuple(published[key].shape) != want:
                raise BundleError(
                    f"{source}: {key} is {tuple(published[key].shape)}, expected {want} for {layer.name}:"
                    " is it an adapter of another family of UNet?"
                )
            out[f"{layer.name}.attn2.to_{part}_wplus.weight"] = published[key]
    known = range(1, 2 * len(order), 2)
    for key in published:
        match = _WPLUS.fullmatch(key)
        if match is None or int(match[1]) not in known:
            raise BundleError(f"{source}: {key!r} is unknown, expected 1..{known[-1]}.to_q_wplus.weight and its like")
    return out


def _items(value: Any, kind: type, key: str, source: str) -> list[Any]:
    if isinstance(value, list) and value and all(isinstance(item, kind) for item in value):
        return value
    what = "numbers" if kind is int else "names"
    raise BundleError(f"{source}: {key} is {value!r}, expected a list of {what}, one per down block")


def _common(value: Any, key: str) -> Any:
    """The one value of a list that repeats it: diffusers takes a number, or a number per block."""
    repeats = isinstance(value, list) and len(value) > 0 and all(v == value[0] for v in value)
    return value[0] if repeats and not isinstance(_FIXED.get(key), list) else value
