"""What a network is, told from the shapes of its weights: the config that diffusers would keep beside them.

Heads cannot be told from shapes. Published families settle them: linear proj_in (SD2.x) has heads of 64 channels, a
convolution (SD1.x) has 8 heads (systems of Rombach et al. 2022; Stability AI 2022). Nor can v-prediction be told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mien.engine.errors import BundleError

Shapes = Mapping[str, Sequence[int]]

SCALING_FACTOR = 0.18215  # of every SD1.x and SD2.x autoencoder; it is not in the file


def unet_config(shapes: Shapes) -> dict[str, Any]:
    """The config of a UNet, by diffusers' names. shapes: diffusers' key -> shape. Raises BundleError."""
    config = _trunk_config(shapes, "a UNet")
    up = [f"up_blocks.{i}" for i in range(len(config["block_out_channels"]))]
    config["up_block_types"] = tuple(f"{_kind(shapes, block)}UpBlock2D" for block in up)
    config["out_channels"] = _shape(shapes, "conv_out.weight", "a UNet")[0]
    guidance = shapes.get("time_embedding.cond_proj.weight")
    config["time_cond_proj_dim"] = None if guidance is None else int(guidance[1])
    return config


def controlnet_config(shapes: Shapes) -> dict[str, Any]:
    """The config of a ControlNet, by diffusers' names. shapes: diffusers' key -> shape. Raises BundleError."""
    what, embedding = "a ControlNet", "controlnet_cond_embedding"
    config = _trunk_config(shapes, what)
    channels = [_shape(shapes, f"{embedding}.conv_in.weight", what)[0]]
    channels += [
        _shape(shapes, f"{embedding}.blocks.{i}.weight", what)[0] for i in _numbers(shapes, f"{embedding}.blocks")[1::2]
    ]
    config["conditioning_embedding_out_channels"] = tuple(channels)
    config["conditioning_channels"] = _shape(shapes, f"{embedding}.conv_in.weight", what)[1]
    return config


def vae_config(shapes: Shapes) -> dict[str, Any]:
    """The config of an AutoencoderKL, by diffusers' names. shapes: diffusers' key -> shape. Raises BundleError."""
    what = "an autoencoder"
    levels = _numbers(shapes, "encoder.down_blocks")
    resnet = "encoder.down_blocks.{}.resnets.0.conv1.weight"
    return {
        "in_channels": _shape(shapes, "encoder.conv_in.weight", what)[1],
        "out_channels": _shape(shapes, "decoder.conv_out.weight", what)[0],
        "latent_channels": _shape(shapes, "decoder.conv_in.weight", what)[1],
        "block_out_channels": tuple(_shape(shapes, resnet.format(i), what)[0] for i in levels),
        "layers_per_block": len(_numbers(shapes, "encoder.down_blocks.0.resnets")),
        "scaling_factor": SCALING_FACTOR,
    }


def text_config(shapes: Shapes) -> dict[str, Any]:
    """The config of a CLIP text encoder, by transformers' names. shapes: key -> shape. Raises BundleError.

    Heads have 64 channels in every published CLIP; OpenAI's (768 wide) uses the quick GELU, OpenCLIP the exact one.
    """
    what, embeddings, layers = "a CLIP text encoder", "text_model.embeddings", "text_model.encoder.layers"
    vocabulary, width = _shape(shapes, f"{embeddings}.token_embedding.weight", what)
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "max_position_embeddings": _shape(shapes, f"{embeddings}.position_embedding.weight", what)[0],
        "num_hidden_layers": len(_numbers(shapes, layers)),
        "num_attention_heads": max(1, width // 64),
        "intermediate_size": _shape(shapes, f"{layers}.0.mlp.fc1.weight", what)[0],
        "hidden_act": "gelu" if width == 1024 else "quick_gelu",
    }


def prediction_type(config: Mapping[str, Any]) -> Literal["epsilon", "unknown"]:
    """What a UNet of this config predicts: epsilon in SD1.x, unknown in SD2.x.

    SD2.1 exists with the same shapes for v_prediction (768 px) and for epsilon (the 512 px base): ask.
    """
    return "epsilon" if config["cross_attention_dim"] == 768 else "unknown"


def _trunk_config(shapes: Shapes, what: str) -> dict[str, Any]:
    blocks = [f"down_blocks.{i}" for i in _numbers(shapes, "down_blocks")]
    channels = tuple(_shape(shapes, f"{block}.resnets.0.conv1.weight", what)[0] for block in blocks)
    inside = "mid_block.attentions.0"
    linear = len(_shape(shapes, f"{inside}.proj_in.weight", what)) == 2
    return {
        "in_channels": _shape(shapes, "conv_in.weight", what)[1],
        "down_block_types": tuple(f"{_kind(shapes, block)}DownBlock2D" for block in blocks),
        "block_out_channels": channels,
        "layers_per_block": len(_numbers(shapes, "down_blocks.0.resnets")),
        "cross_attention_dim": _shape(shapes, f"{inside}.transformer_blocks.0.attn2.to_k.weight", what)[1],
        "attention_head_dim": [max(1, c // 64) for c in channels] if linear else 8,  # diffusers' name for the heads
        "use_linear_projection": linear,
    }


def _kind(shapes: Shapes, block: str) -> str:
    return "CrossAttn" if f"{block}.attentions.0.proj_in.weight" in shapes else ""


def _numbers(shapes: Shapes, prefix: str) -> list[int]:
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return sorted({int(match[1]) for key in shapes if (match := pattern.match(key))})


def _shape(shapes: Shapes, key: str, what: str) -> tuple[int, ...]:
    if key not in shapes:
        raise BundleError(f"these weights are not {what} by diffusers' keys: they have no {key!r}")
    return tuple(int(n) for n in shapes[key])
