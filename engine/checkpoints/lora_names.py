"""Which layer of a network a LoRA's key means: kohya's names, those of diffusers and PEFT, and LDM's own."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping

from torch import Tensor

from mien.engine.checkpoints.ldm import RESNET, UNET_ENDS

State = Mapping[str, Tensor]

_KOHYA = re.compile(r"lora_(unet|te1?)_(\w+)\.(?:lora_(down|up|mid)\.weight|(alpha))")
_DOTTED = re.compile(
    r"(.+?)(?:[._]lora(?:_linear_layer)?\.(down|up)|\.lora_(A|B|down|up|mid)(?:\.\w+)?)\.weight|(.+?)(?:[._]lora(?:_linear_layer)?)?\.(alpha)"
)
_ROLES = {"A": "down", "B": "up"}
_OLD_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
_PREFIXES = {
    "unet.": "unet",
    "diffusion_model.": "unet",  # ComfyUI's own, with LDM's names behind it
    "text_encoder.": "text_encoder",
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoders.clip_h.transformer.": "text_encoder",
    "base_model.model.": "",
}
_LDM_RESNET = {ours: theirs for theirs, ours in RESNET.items()}
_LDM_ENDS = {ours: theirs for theirs, ours in UNET_ENDS.items()}


def parse(key: str) -> tuple[str, str, str] | None:
    """The part, module and role of a LoRA's key; None for a key of another kind."""
    if match := _KOHYA.fullmatch(key):
        return ("unet" if match[1] == "unet" else "text_encoder"), match[2], match[3] or match[4]
    match = _DOTTED.fullmatch(key)
    if match is None or key.startswith(("lora_", "text_encoder_2.")):
        return None
    name, role = match[1] or match[4], match[2] or match[3] or match[5]
    part = ""
    for prefix, its_part in _PREFIXES.items():
        if name.startswith(prefix):
            name, part = name.removeprefix(prefix), its_part or part
    part = part or ("text_encoder" if name.startswith("text_model.") else "unet")
    name = name.replace(".processor.", ".")
    if part == "text_encoder" and ".self_attn." in name:
        block, _, last = name.rpartition(".")
        name = f"{block}.{_OLD_TEXT.get(last, last)}"
    elif name.endswith(".to_out"):
        name += ".0"
    return part, name, _ROLES.get(role, role)


def weight_names(state: State) -> dict[str, str]:
    """Module's name with underscores -> its weight's key; by LDM's names of a UNet too.

    With or without `text_model.`, which transformers 5 drops.
    """
    names: dict[str, str] = {}
    attended = {key.split(".attentions.")[0] for key in state if ".attentions." in key}
    rows = 1 + len({key.split(".")[3] for key in state if key.startswith("down_blocks.0.resnets.")})
    for key, weight in state.items():
        if key.endswith(".weight") and weight.ndim >= 2:
            module = key.removesuffix(".weight")
            flat = module.replace(".", "_")
            names[flat] = key
            alias = flat.removeprefix("text_model_")
            names.setdefault(alias if alias != flat else f"text_model_{flat}", key)
            if ldm := _ldm_name(module, rows, attended):
                names.setdefault(ldm.replace(".", "_"), key)
    return names


def _ldm_name(module: str, rows: int, attended: Container[str]) -> str | None:
    """What LDM calls a UNet's module. rows: its numbers a block. attended: the blocks with attention."""
    if module in _LDM_ENDS:
        return _LDM_ENDS[module]
    match = re.fullmatch(
        r"(?:(down|up)_blocks\.(\d+)|mid_block)\.(resnets|attentions|\w+samplers)\.(\d+)\.(.+)", module
    )
    if match is None:
        return None
    way, kind, i = match[1], match[3], int(match[4])
    inner, rest = int(kind == "attentions"), _LDM_RESNET.get(match[5], match[5])
    if way is None:
        return f"middle_block.{2 * i + inner}.{rest}"
    first = rows * int(match[2])
    if kind == "downsamplers":
        return f"input_blocks.{first + rows}.0.op"
    if kind == "upsamplers":
        return f"output_blocks.{first + rows - 1}.{1 + (f'up_blocks.{match[2]}' in attended)}.conv"
    return (
        f"input_blocks.{first + 1 + i}.{inner}.{rest}" if way == "down" else f"output_blocks.{first + i}.{inner}.{rest}"
    )
