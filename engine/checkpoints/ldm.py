"""Single-file checkpoints of the LDM code base (Rombach et al. 2022): their keys turned into diffusers'.

A file holds `model.diffusion_model.*` (UNet), `first_stage_model.*` (autoencoder), `cond_stage_model.*` (text encoder:
CLIP in SD1.x, OpenCLIP in SD2.x) and, for an original ControlNet, `control_model.*`. The autoencoder and the
ControlNet also come alone, without the prefix. LDM numbers a UNet's layers in one row; a block ends at its sampler.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from mien.engine.checkpoints.diffusers_folder import current_names
from mien.engine.checkpoints.matching import kind_of
from mien.engine.errors import BundleError

State = Mapping[str, Tensor]

_PREFIXES = {
    "unet": ("model.diffusion_model.",),
    "vae": ("first_stage_model.",),
    # the last is SD-Turbo's, of Stability's later code base; SDXL has a CLIP of transformers' names there
    "text_encoder": ("cond_stage_model.transformer.", "cond_stage_model.model.", "conditioner.embedders.0.model."),
    "controlnet": ("control_model.",),
}
# a key that only this part has: in a file of the part alone with LDM's names, in one with diffusers' names, and in a text
# encoder's of transformers 5
_ALONE = {
    "unet": ("output_blocks.0.0.in_layers.0.weight", "up_blocks.0.resnets.0.norm1.weight"),
    "vae": ("decoder.mid.block_1.norm1.weight", "decoder.mid_block.resnets.0.norm1.weight"),
    "text_encoder": (
        "transformer.resblocks.0.ln_1.weight",
        "text_model.embeddings.token_embedding.weight",
        "embeddings.token_embedding.weight",
    ),
    "controlnet": ("input_hint_block.0.weight", "controlnet_cond_embedding.conv_in.weight"),
}
RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "time_embed.cond_proj": "time_embedding.cond_proj",  # of LCM, the guidance embedding
    "label_emb.0.0": "add_embedding.linear_1",  # SDXL only: named so that the shape check can tell
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_OPEN_CLIP = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_OPEN_CLIP_LAYERS = 23  # that SD2.x reads, of 24
_OPEN_CLIP_ENDS = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}


def part_names(state: State) -> tuple[str, ...]:
    """The parts a checkpoint holds, of unet, vae, text_encoder and controlnet, whatever its names are."""
    return tuple(part for part in _PREFIXES if _holds(state, part))


def has_averaged(state: State) -> bool:
    """Whether a checkpoint holds averaged weights of its UNet."""
    return _has(state, "model_ema.diffusion_model")


def convert(state: State, part: str, *, ema: bool = False) -> dict[str, Tensor]:
    """One part of a checkpoint by diffusers' keys; keys nobody knows stay as they are, for the shape check to name.

    state: a whole LDM checkpoint, or the part alone with LDM's or diffusers' names. ema: the UNet's averaged weights
    (`model_ema.*`), which training checkpoints hold beside the last ones. Raises BundleError.
    """
    if part not in _PREFIXES:
        raise BundleError(f"unknown part {part!r}; accepted: {', '.join(_PREFIXES)}")
    if not _holds(state, part):
        have = ", ".join(part_names(state)) or f"keys such as {next(iter(state), 'none')!r}"
        kind = kind_of(state)
        raise BundleError(f"the checkpoint has no {part}, it holds {have}" + (f": it is {kind}" if kind else ""))
    if ema and part == "unet":
        return convert_unet(_averaged(state))
    prefix = next((prefix for prefix in _PREFIXES[part] if _has(state, prefix)), "")
    inner = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    if not prefix and _ALONE[part][1] in state:
        return current_names(inner)
    return _CONVERTERS[part](inner)


def convert_unet(state: State) -> dict[str, Tensor]:
    """A UNet by diffusers' keys; state: LDM's keys without their prefix."""
    rows = _rows(state)
    return {_unet_key(key, rows): tensor for key, tensor in state.items()}


def convert_controlnet(state: State) -> dict[str, Tensor]:
    """A ControlNet by diffusers' keys; state: the original keys without their prefix."""
    rows = _rows(state)
    hints = [int(match[1]) for key in state if (match := re.match(r"input_hint_block\.(\d+)\.", key))]

    def rename(key: str) -> str:
        kind = key.rpartition(".")[2]
        if match := re.fullmatch(r"zero_convs\.(\d+)\.0\.\w+", key):
            return f"controlnet_down_blocks.{match[1]}.{kind}"
        if re.fullmatch(r"middle_block_out\.0\.\w+", key):
            return f"controlnet_mid_block.{kind}"
        if match := re.fullmatch(r"input_hint_block\.(\d+)\.\w+", key):  # every other one is a SiLU without weights
            i = int(match[1])
            name = "conv_in" if i == 0 else "conv_out" if i == max(hints) else f"blocks.{i // 2 - 1}"
            return f"controlnet_cond_embedding.{name}.{kind}"
        return _unet_key(key, rows)

    return {rename(key): tensor for key, tensor in state.items()}


def convert_vae(state: State) -> dict[str, Tensor]:
    """An autoencoder by diffusers' keys; state: LDM's keys without their prefix.

    The decoder's blocks turn round (LDM counts them from the full resolution), the attention's 1x1 convs become
    linear layers. The discriminator and the averages of a training checkpoint are left out.
    """
    levels = [int(match[1]) for key in state if (match := re.match(r"decoder\.up\.(\d+)\.", key))]
    converted: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key.startswith(("loss.", "model_ema.")):
            continue
        name = re.sub(r"^encoder\.down\.(\d+)\.", r"encoder.down_blocks.\1.", key)
        if match := re.match(r"decoder\.up\.(\d+)\.", key):
            name = f"decoder.up_blocks.{max(levels) - int(match[1])}.{key[match.end() :]}"
        name = re.sub(r"(_blocks\.\d+)\.block\.", r"\1.resnets.", name)
        name = re.sub(r"\.(down|up)sample\.conv\.", r".\1samplers.0.conv.", name)
        name = re.sub(r"\.mid\.block_(\d)\.", lambda match: f".mid_block.resnets.{int(match[1]) - 1}.", name)
        name = name.replace(".nin_shortcut.", ".conv_shortcut.").replace(".norm_out.", ".conv_norm_out.")
        if match := re.fullmatch(r"(encoder|decoder)\.mid\.attn_1\.(.+)\.(\w+)", name):  # some converters left to_out.0
            name = f"{match[1]}.mid_block.attentions.0.{_VAE_ATTENTION.get(match[2], match[2])}.{match[3]}"
            tensor = tensor.flatten(1) if tensor.ndim > 2 else tensor
        converted[name] = tensor
    return converted


def convert_text_encoder(state: State) -> dict[str, Tensor]:
    """A CLIP or OpenCLIP text encoder by transformers' keys; state: LDM's keys without their prefix.

    SD2.x reads the layer before the last (LDM's layer="penultimate"), so OpenCLIP's 24th layer is left out, as are its
    text projection and its temperature. A file converted back from diffusers has 23 layers, and all of them count.
    """
    if "positional_embedding" not in state:
        whole = {key if key.startswith("text_model.") else f"text_model.{key}": state[key] for key in state}
        return current_names(whole)
    converted: dict[str, Tensor] = {}
    for key, tensor in state.items():
        match = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", key)
        if match is None:
            if key not in ("text_projection", "logit_scale"):
                converted[_OPEN_CLIP_ENDS.get(key, key)] = tensor
        elif int(match[1]) < _OPEN_CLIP_LAYERS:
            layer, rest = f"text_model.encoder.layers.{match[1]}", match[2]
            if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
                for name, third in zip("qkv", tensor.chunk(3), strict=True):
                    converted[f"{layer}.self_attn.{name}_proj.{rest.rpartition('_')[2]}"] = third
            else:
                name, _, kind = rest.rpartition(".")
                converted[f"{layer}.{_OPEN_CLIP.get(name, name)}.{kind}"] = tensor
    return current_names(converted)


_CONVERTERS: dict[str, Callable[[State], dict[str, Tensor]]] = {
    "unet": convert_unet,
    "vae": convert_vae,
    "text_encoder": convert_text_encoder,
    "controlnet": convert_controlnet,
}


def _holds(state: State, part: str) -> bool:
    return any(_has(state, prefix) for prefix in _PREFIXES[part]) or any(key in state for key in _ALONE[part])


def _has(state: State, prefix: str) -> bool:
    return any(key.startswith(prefix) for key in state)


def _averaged(state: State) -> dict[str, Tensor]:
    """The UNet of `model_ema`, whose keys are the others' without `model.` and without dots."""
    prefix, averaged = _PREFIXES["unet"][0], {}
    for key in state:
        if key.startswith(prefix):
            flat = "model_ema." + key.removeprefix("model.").replace(".", "")
            if flat not in state:
                raise BundleError(f"the checkpoint has no averaged weights (no {flat!r}): leave out --ema")
            averaged[key.removeprefix(prefix)] = state[flat]
    return averaged


def _rows(state: Iterable[str]) -> dict[str, dict[int, tuple[int, int]]]:
    """Where LDM's layers lie: input_blocks or output_blocks -> its number -> (block, layer in the block)."""
    rows: dict[str, dict[int, tuple[int, int]]] = {"input_blocks": {}, "output_blocks": {}}
    ends = {f"{m[1]}.{m[2]}" for key in state if (m := re.match(r"(\w+)\.(\d+)\.(?:0\.op|[12]\.conv)\.weight$", key))}
    for kind, places in rows.items():
        numbers = {int(m[1]) for key in state if (m := re.match(rf"{kind}\.(\d+)\.", key))}
        block = layer = 0
        for i in sorted(numbers - {0} if kind == "input_blocks" else numbers):
            places[i] = (block, layer)
            layer += 1
            if f"{kind}.{i}" in ends:
                block, layer = block + 1, 0
    return rows


def _unet_key(key: str, rows: Mapping[str, Mapping[int, tuple[int, int]]]) -> str:
    layer, _, kind = key.rpartition(".")
    if layer in UNET_ENDS:
        return f"{UNET_ENDS[layer]}.{kind}"
    if match := re.fullmatch(r"middle_block\.(\d)\.(.+)\.(\w+)", key):
        i, rest = int(match[1]), match[2]
        place = f"mid_block.attentions.{i // 2}" if i % 2 else f"mid_block.resnets.{i // 2}"
        return f"{place}.{RESNET.get(rest, rest)}.{kind}"
    match = re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)\.(\w+)", key)
    if match is None or int(match[2]) not in rows[f"{match[1]}_blocks"]:
        return key
    block, number = rows[f"{match[1]}_blocks"][int(match[2])]
    way, rest = ("down" if match[1] == "input" else "up"), match[4]
    if rest in ("op", "conv"):
        return f"{way}_blocks.{block}.{way}samplers.0.conv.{kind}"
    place = "resnets" if match[3] == "0" else "attentions"
    return f"{way}_blocks.{block}.{place}.{number}.{RESNET.get(rest, rest)}.{kind}"
