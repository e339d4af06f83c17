"""Names of the LDM code base for weights with diffusers' names: the way back of what mien converts, written on its own."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

State = Mapping[str, Tensor]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
MIDDLE = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet(state: State) -> dict[str, Tensor]:
    """A UNet of four blocks of two layers."""
    with_attention = {key.split(".attentions.")[0] for key in state if ".attentions." in key}

    def rename(key: str) -> str:
        layer, _, kind = key.rpartition(".")
        if layer in UNET_ENDS:
            return f"{UNET_ENDS[layer]}.{kind}"
        if match := re.fullmatch(r"mid_block\.(\w+\.\d)\.(.+)", layer):
            return f"middle_block.{MIDDLE[match[1]]}.{RESNET.get(match[2], match[2])}.{kind}"
        match = re.fullmatch(r"(down|up)_blocks\.(\d)\.(resnets|attentions|\w+samplers)\.(\d)\.(.+)", layer)
        assert match is not None, key
        way, i, what, j, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        if what == "downsamplers":
            return f"input_blocks.{3 * (i + 1)}.0.op.{kind}"
        if what == "upsamplers":
            return f"output_blocks.{3 * i + 2}.{1 + (f'up_blocks.{i}' in with_attention)}.conv.{kind}"
        place = f"input_blocks.{1 + 3 * i + j}" if way == "down" else f"output_blocks.{3 * i + j}"
        return f"{place}.{int(what == 'attentions')}.{RESNET.get(rest, rest)}.{kind}"

    return {f"model.diffusion_model.{rename(key)}": tensor for key, tensor in state.items()}


def vae(state: State) -> dict[str, Tensor]:
    """An autoencoder of four blocks; the attention's projections are 1x1 convolutions there."""
    out: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = re.sub(r"encoder\.down_blocks\.(\d)", r"encoder.down.\1", key)
        name = re.sub(r"decoder\.up_blocks\.(\d)", lambda match: f"decoder.up.{3 - int(match[1])}", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
        name = re.sub(r"\.(down|up)samplers\.0\.", r".\1sample.", name).replace(".resnets.", ".block.")
        name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if match := re.fullmatch(r"(\w+)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)", name):
            name = f"{match[1]}.mid.attn_1.{ATTENTION[match[2]]}.{match[3]}"
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        out[f"first_stage_model.{name}"] = tensor.clone()
    return out


def text_encoder(state: State) -> dict[str, Tensor]:
    """CLIP's, under transformers' names in LDM's own place."""
    out = {f"cond_stage_model.transformer.{key}": tensor for key, tensor in state.items()}
    return out | {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None]}
