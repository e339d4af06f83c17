"""Whether weights fit a network: every key, every shape, and if not, one line with what the file probably is."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from mien.engine.errors import BundleError

Shape = Sequence[int]

# Width of the text embeddings a network reads -> the models that use it.
FAMILIES = {768: "SD1.5", 1024: "SD2.1", 2048: "SDXL"}
_INPUTS = {4: "a text-to-image", 5: "a depth", 8: "an InstructPix2Pix", 9: "an inpainting"}

# The first that fits names a set of keys; the more special come first.
_KINDS = (
    (r"(^lora_|[._]lora(_linear_layer)?[._]|\.hada_w|\.lokr_w)", "a LoRA"),
    (r"(^|\.)(motion_modules|temporal_transformer)\.", "an AnimateDiff motion module"),
    (r"^(conditioner\.embedders(?!\.0\.model\.)|label_emb|model\.diffusion_model\.label_emb|add_embedding)\.", "an SDXL model"),
    (r"^(double_blocks|single_blocks|joint_blocks|single_transformer_blocks|model\.diffusion_model\.(double|joint)_blocks)\.",
     "a Flux or SD3 model"),
    (r"^control_model\.", "an original ControlNet"),
    (r"^(model\.diffusion_model|first_stage_model|cond_stage_model)\.", "an LDM checkpoint"),
    (r"^(controlnet_cond_embedding|controlnet_down_blocks|input_hint_block|zero_convs)\.", "a ControlNet"),
    (r"^(encoder|decoder)\.layers\.\d+\.(conv\.|weight|bias)", "a tiny autoencoder (TAESD)"),
    (r"^(encoder|decoder)\.(down_blocks|up_blocks|mid_block|mid|down|up|conv_in)\.", "an autoencoder (AutoencoderKL)"),
    (r"^(text_model\.)?(embeddings|encoder\.layers\.\d+\.(self_attn|mlp))\.", "a CLIP text encoder"),
    (r"^(vision_model|visual)\.", "a CLIP image encoder"),
    (r"^(up_blocks|down_blocks|output_blocks|input_blocks)\.", "a UNet"),
)  # fmt: skip


def check(state: Mapping[str, Tensor], wanted: Mapping[str, Shape], what: str) -> None:
    """Refuse weights that do not fit: a key missing, a key too many, a shape that differs.

    wanted: key -> shape, as the network has them. what: the file and its part, the beginning of the message.
    Raises BundleError: the first key, its shape, what was expected, how many more, and the likely cause.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    wrong = [key for key in wanted if key in shapes and shapes[key] != tuple(wanted[key])]
    missing = [key for key in wanted if key not in shapes]
    unexpected = [key for key in shapes if key not in wanted]
    if not (wrong or missing or unexpected):
        return
    key = (wrong or missing or unexpected).pop(0)
    if key not in shapes:
        first = f"{key!r} {tuple(wanted[key])} is missing"
    elif key not in wanted:
        first = f"{key!r} {shapes[key]} belongs to no layer"
    else:
        first = f"{key!r} is {shapes[key]}, expected {tuple(wanted[key])}"
    counts = {"of another shape": wrong, "missing": missing, "unexpected": unexpected}
    more = ", ".join(f"{len(keys)} more {kind}" for kind, keys in counts.items() if keys)
    cause = likely_cause(shapes, wanted)
    raise BundleError(f"{what}: {first}" + (f" ({more})" if more else "") + (f": {cause}" if cause else ""))


def likely_cause(have: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> str | None:
    """Why weights of these shapes do not fit the wanted ones, in words; None where no known mistake explains it."""
    kind, wanted_kind = kind_of(have), kind_of(wanted)
    if kind is not None and kind != wanted_kind:
        return f"it is {kind}" + (f" where {wanted_kind} belongs" if wanted_kind else "")
    width, wanted_width = context_width(have), context_width(wanted)
    if width != wanted_width and width in FAMILIES and wanted_width in FAMILIES:
        return f"this looks like an {FAMILIES[width]} file in an {FAMILIES[wanted_width]} slot"
    inputs, wanted_inputs = _input_channels(have), _input_channels(wanted)
    if inputs != wanted_inputs and inputs in _INPUTS:
        slot = f" where {_INPUTS[wanted_inputs]} one" if wanted_inputs in _INPUTS else " where one"
        return f"this looks like {_INPUTS[inputs]} model ({inputs} input channels){slot} of {wanted_inputs} belongs"
    guidance = "time_embedding.cond_proj.weight"
    if guidance in have and guidance not in wanted:
        return "this looks like a full LCM UNet, which takes a guidance embedding: set time_cond_proj_dim"
    if guidance in wanted and guidance not in have:
        return "a UNet without a guidance embedding where a full LCM UNet belongs"
    return None


def kind_of(keys: Collection[str]) -> str | None:
    """What a set of keys is, in words such as "a LoRA"; None if unknown."""
    return next((kind for pattern, kind in _KINDS if any(re.search(pattern, key) for key in keys)), None)


def context_width(shapes: Mapping[str, Shape]) -> int | None:
    """The width of the text embeddings that a UNet or ControlNet attends to, or that a text encoder makes."""
    for end in ("attn2.to_k.weight", "embeddings.token_embedding.weight"):
        for key, shape in shapes.items():
            if key.endswith(end) and len(shape) == 2:
                return int(shape[1])
    return None


def _input_channels(shapes: Mapping[str, Shape]) -> int | None:
    shape = shapes.get("conv_in.weight", ())
    return int(shape[1]) if len(shape) == 4 else None
