"""LoRA files (Hu et al. 2021) added to weights: W + scale * (alpha / rank) * up @ down.

Read are kohya's keys (lora_unet_..., with the convolutions of LoCon and its core kernels), those of diffusers and PEFT
(unet.....lora_A.weight, .lora.down.weight), diffusers' first ones (...processor.to_q_lora.down.weight) and ComfyUI's
(diffusion_model....); the UNet's layers by diffusers' names or by LDM's.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mien.engine.checkpoints.diffusers_folder import read_json
from mien.engine.checkpoints.lora_names import parse, weight_names
from mien.engine.checkpoints.matching import FAMILIES, kind_of
from mien.engine.checkpoints.reading import read_metadata
from mien.engine.errors import BundleError

State = Mapping[str, Tensor]

_SETTINGS = "lora_adapter_metadata"  # diffusers' key of PEFT's settings
_PEFT = "base_model.model."  # begins every key of a file that PEFT itself saved


@dataclass(slots=True)
class _Layer:
    """One layer of a LoRA: down (r, in, ...), up (out, r, ...), mid (r, r, kh, kw) of LoCon, and its strength."""

    name: str
    down: Tensor | None = None
    up: Tensor | None = None
    mid: Tensor | None = None
    alpha: float | None = None


def fuse(
    states: Mapping[str, State],
    lora: State,
    scale: float,
    what: str = "the LoRA",
    *,
    metadata: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Weights of `unet` and `text_encoder`, or of one of them, with a LoRA added: new dicts that share what nothing was added to.

    states: part -> weights by diffusers' keys. lora: the file's tensors; its layers for parts that are not given (its text
    encoder, mostly) are left out. alpha comes from the file, or from `metadata` (diffusers' `lora_adapter_metadata`), else
    it is the rank. Raises BundleError if a layer has no weight to go to, does not fit it, adds what is not finite, or is of
    a kind that is not read (LoHa, LoKr, DoRA).
    """
    if not math.isfinite(scale):
        raise BundleError(f"{what}: the scale {scale} must be a finite number")
    layers = _layers(lora, what)
    settings = _settings(metadata or {}, what)
    targets, unmatched, left_out = {}, [], []
    names = {part: weight_names(state) for part, state in states.items()}
    for (part, module), layer in layers.items():
        if part not in names:
            left_out.append(layer.name)
        elif (key := names[part].get(module)) is None:
            unmatched.append(layer.name)
        else:
            targets[part, key] = layer
    if unmatched:
        raise BundleError(f"{what}: {_listed(unmatched)} of {len(layers)} layers found no weight: {_made_for(lora)}")
    if not targets:
        raise BundleError(f"{what} has nothing for {' or '.join(states)}: it holds {_listed(left_out)}")
    fused = {part: dict(state) for part, state in states.items()}
    for (part, key), layer in targets.items():
        weight = fused[part][key]
        alpha = layer.alpha if layer.alpha is not None else _alpha(settings, part, key.removesuffix(".weight"), what)
        fused[part][key] = _add(weight, layer, scale, alpha, f"{what}: {layer.name!r}")
    return fused


def lora_metadata(path: Path, lora: State) -> dict[str, str]:
    """What `fuse` is told beside a LoRA's tensors: the file's metadata, or for a file that PEFT itself saved the
    adapter_config.json beside it, which alone has alpha. Raises BundleError where that is not there.
    """
    metadata = read_metadata(path)
    if _SETTINGS in metadata or any(key.endswith(".alpha") or not key.startswith(_PEFT) for key in lora):
        return metadata
    beside = path.with_name("adapter_config.json")
    if not beside.is_file():
        raise BundleError(f"{path} is PEFT's, whose {beside.name} has its lora_alpha: put that file beside it")
    settings = {f"{part}.{key}": value for key, value in read_json(beside).items() for part in ("unet", "text_encoder")}
    return {**metadata, _SETTINGS: json.dumps(settings)}


def _layers(lora: State, what: str) -> dict[tuple[str, str], _Layer]:
    """The layers of a LoRA by (part, the module's name with underscores for dots, in which kohya's and others' agree)."""
    layers: dict[tuple[str, str], _Layer] = {}
    unknown = []
    for key, tensor in lora.items():
        parsed = parse(key)
        if parsed is None:
            unknown.append(key)
            continue
        part, name, role = parsed
        layer = layers.setdefault((part, name.replace(".", "_")), _Layer(name))
        if role == "alpha":
            if tensor.numel() != 1:
                raise BundleError(f"{what}: {key!r} is {tuple(tensor.shape)}, one number is expected")
            layer.alpha = _number(tensor.item(), f"{what}: {key!r}")
        elif getattr(layer, role) is not None:
            raise BundleError(f"{what}: {key!r} gives the layer {name!r} a second time")
        else:
            setattr(layer, role, tensor)
    if unknown:
        text = f"{_listed(unknown)} of {len(lora)} keys are not a LoRA's down, up, mid or alpha"
        raise BundleError(f"{what}: {text}: {_made_for(lora)}")
    if not layers:
        raise BundleError(f"{what} holds no LoRA layers")
    return layers


def _add(weight: Tensor, layer: _Layer, scale: float, alpha: float | None, what: str) -> Tensor:
    if layer.down is None or layer.up is None:
        raise BundleError(f"{what} has no {'down' if layer.down is None else 'up'} matrix: download the file again")
    down, up = layer.down.float(), layer.up.float()
    rank, mid = down.shape[0], layer.mid
    inner = (rank, rank) if mid is None else tuple(mid.shape[:2])
    if min(down.ndim, up.ndim) < 2 or not rank or (up.flatten(1).shape[1], rank) != inner:
        raise BundleError(f"{what}: up {tuple(up.shape)} and down {tuple(down.shape)} are not of one rank")
    if mid is None:
        delta, shape = up.flatten(1) @ down.flatten(1), (up.shape[0], *down.shape[1:])
    else:
        delta = torch.einsum("or,rskl,si->oikl", up.flatten(1), mid.float(), down.flatten(1))
        shape = tuple(delta.shape)
    if _squeezed(shape) != _squeezed(weight.shape):
        have, wanted = (FAMILIES.get(s[1]) if len(s) > 1 else None for s in (shape, weight.shape))
        cause = f"it was made for {have}, this is {wanted}" if have and wanted else "it was made for another model"
        raise BundleError(f"{what} is {tuple(shape)} for a weight of {tuple(weight.shape)}: {cause}")
    change = scale * ((rank if alpha is None else alpha) / rank) * delta.reshape(weight.shape)
    if not change.isfinite().all():
        raise BundleError(f"{what} adds numbers that are not finite: download the file again")
    return (weight.float() + change).to(weight.dtype)


def _squeezed(shape: tuple[int, ...] | torch.Size) -> tuple[int, ...]:
    """A shape without the (1, 1) of a 1x1 convolution, which a linear layer's LoRA fits too."""
    return tuple(shape[:2]) if set(shape[2:]) <= {1} else tuple(shape)


def _settings(metadata: Mapping[str, str], what: str) -> dict[str, object]:
    try:
        settings = json.loads(metadata.get(_SETTINGS, "{}"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{what}: its {_SETTINGS} is not JSON: {error}") from error
    for key, value in settings.items() if isinstance(settings, dict) else ():
        if key.rpartition(".")[2] in ("use_dora", "use_rslora", "lora_bias") and value:
            raise BundleError(f"{what}: {key} is set, which is not read: a plain LoRA is accepted")
    return settings if isinstance(settings, dict) else {}


def _alpha(settings: Mapping[str, object], part: str, module: str, what: str) -> float | None:
    """alpha of a module by PEFT's settings: a pattern that is the module's name or its end, else lora_alpha."""
    patterns = settings.get(f"{part}.alpha_pattern")
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        if f".{module}".endswith("." + str(pattern).removeprefix("^")):
            return _number(value, f"{what}: {part}.alpha_pattern of {module!r}")
    value = settings.get(f"{part}.lora_alpha")
    return None if value is None else _number(value, f"{what}: {part}.lora_alpha")


def _number(value: object, what: str) -> float:
    if not (isinstance(value, int | float) and abs(value) <= sys.float_info.max) or isinstance(value, bool):
        raise BundleError(f"{what} is {str(value)[:40]}, a finite number is expected")
    return float(value)


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _made_for(lora: State) -> str:
    keys = " ".join(lora)
    if re.search(r"hada_w|lokr_w|dora_scale|lora_magnitude_vector|oft_|\.diff(_b)?( |$)|\.[wb]_norm\b", keys):
        return "LoHa, LoKr, DoRA, norms and full differences are not read, a plain LoRA is accepted"
    if "bundle_emb." in keys:
        return "it has textual inversions in it, which are not read: save the LoRA without them"
    if re.search(r"lora_te2_|text_encoder_2\.|(in|out)put_blocks_|transformer_blocks[_.]1[_.]", keys):
        return "the LoRA was made for another model (SDXL)"
    if "motion_modules" in keys:
        return "the LoRA was made for another model (an AnimateDiff motion module)"
    if re.search(r"double_blocks|single_blocks|single_transformer_blocks|joint_blocks", keys):
        return "the LoRA was made for another model (Flux or SD3)"
    kind = kind_of(lora)
    return f"it is {kind}, not a LoRA" if kind not in (None, "a LoRA") else "the LoRA was made for another model"
