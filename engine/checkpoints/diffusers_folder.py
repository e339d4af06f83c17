"""A diffusers repository in a folder: model_index.json and a subfolder per part, or the folder of one part alone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mien.engine.checkpoints.reading import read_weights
from mien.engine.errors import BundleError
from mien.engine.networks.autoencoder_kl import rename_old

INDEX = "model_index.json"
CONFIGS = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}
NO_WEIGHTS = ("scheduler", "tokenizer")
_STEMS = {"text_encoder": ("model", "pytorch_model")}  # transformers' names; diffusers' own parts have one name
_CLASSES = {
    "unet": "UNet2DConditionModel",
    "vae": "Autoencoder",
    "controlnet": "ControlNetModel",
    "text_encoder": "CLIPText",
}
_UNREAD = ("embeddings.position_ids", "text_projection.weight", "logit_scale")
_VARIANTS = ("", ".fp16", ".non_ema")  # full precision first


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a repository.

    config: its config.json. files: its weight file, or the shards of one; empty for a tokenizer or a scheduler.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    files: tuple[Path, ...]

    def read(self) -> dict[str, Tensor]:
        """Its weights by diffusers' keys. Raises BundleError."""
        if not self.files:
            raise BundleError(f"{self.folder}: a {self.name} has no weights to read")
        weights: dict[str, Tensor] = {}
        for file in self.files:
            weights |= read_weights(file)
        return current_names(weights)


def part_names(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """The parts that a repository's model_index.json names. Raises BundleError."""
    index = read_json(Path(folder) / INDEX)
    return tuple(name for name, entry in index.items() if isinstance(entry, list) and entry and entry[0] is not None)


def find_part(folder: str | os.PathLike[str], name: str) -> Part:
    """One part of a repository by name: unet, vae, text_encoder, tokenizer, scheduler, controlnet.

    The folder of the part itself is accepted too. Raises BundleError, which names the part or the file that is missing.
    """
    root = Path(folder)
    if not root.is_dir():
        raise BundleError(f"there is no folder {root}: give the folder of a diffusers repository")
    inside, config = root / name, CONFIGS.get(name, "config.json")
    if not inside.is_dir():
        if (root / INDEX).is_file():
            have = ", ".join(part_names(root)) or "none"
            raise BundleError(f"{root} has no folder {name!r}: {INDEX} names {have}; download the whole repository")
        inside = root
    if not (inside / config).is_file():
        known = config if inside is root else f"{name}/{config}"
        raise BundleError(f"{root} has no {known}: give a diffusers repository ({INDEX}) or the folder of its {name}")
    content = read_json(inside / config)
    architectures = content.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    kind = content.get("_class_name") or first
    if isinstance(kind, str) and not kind.startswith(_CLASSES.get(name, "")):
        raise BundleError(f"{inside} is the folder of a part of class {kind}, not of a {name}: give its own folder")
    files = () if name in NO_WEIGHTS else _weight_files(inside, name)
    return Part(name, inside, content, files)


def current_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with today's names: those of the autoencoder's attention, which SD1.5's own vae/ still has. Without what
    text encoders are published with and Stable Diffusion does not read: position_ids, CLIP's projection and temperature.
    """
    kept = {key: tensor for key, tensor in weights.items() if not key.endswith(_UNREAD)}
    return rename_old(kept)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises BundleError."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"cannot read {file}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{file} is not JSON ({error}): download it again") from error
    if not isinstance(content, dict):
        raise BundleError(f"{file} holds a JSON {type(content).__name__}, an object is accepted")
    return content


def _weight_files(folder: Path, name: str) -> tuple[Path, ...]:
    stems = _STEMS.get(name, ("diffusion_pytorch_model",))
    for suffix in (".safetensors", ".bin"):
        for variant in _VARIANTS:
            for stem in stems:
                whole = folder / f"{stem}{variant}{suffix}"
                if whole.is_file():
                    return (whole,)
                for index in (f"{stem}{suffix}.index{variant}.json", f"{stem}{variant}{suffix}.index.json"):
                    if (folder / index).is_file():
                        return _shards(folder / index)
    wanted = " or ".join(f"{stem}.safetensors" for stem in stems[:1])
    raise BundleError(
        f"{folder} has no weights: it needs {wanted} (or .fp16.safetensors, .bin, or shards with an index)"
    )


def _shards(index: Path) -> tuple[Path, ...]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BundleError(f"{index} has no weight_map: download it again")
    files = []
    for shard in sorted({str(shard) for shard in weight_map.values()}):
        if Path(shard).name != shard or shard in (".", ".."):
            raise BundleError(f"{index} names the shard {shard!r}, which is refused: shards lie beside their index")
        if not (index.parent / shard).is_file():
            raise BundleError(f"{index.parent} has no {shard}, which {index.name} names: download it too")
        files.append(index.parent / shard)
    return tuple(files)
