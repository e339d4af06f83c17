"""CLIP (Radford et al. 2021) out of a local folder of a `CLIPModel`: frames and a prompt to embeddings in one space."""

from __future__ import annotations

import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mien.engine.errors import BundleError, UnavailableError
from mien.engine.tokens import Tokenizer
from mien.engine.types import Array

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ClipEmbedder:
    """folder: config.json, weights, vocab.json, merges.txt and, where there is, preprocessor_config.json, as published.

    Raises BundleError for what is no CLIP, UnavailableError without torch and transformers. Nothing is fetched.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        if missing := [name for name in ("torch", "transformers") if find_spec(name) is None]:
            raise UnavailableError(f"--clip needs {' and '.join(missing)}: pip install 'mien[export]' transformers")
        config = _read(folder / "config.json")
        if config.get("model_type") != "clip":
            raise BundleError(f"{folder}: model_type is {config.get('model_type')!r}: --clip takes a CLIPModel, 'clip'")
        self._torch: Any = import_module("torch")
        self._torch.set_num_threads(threads)  # torch has one pool per process
        transformers = import_module("transformers")
        try:
            self._model: Any = transformers.CLIPModel(transformers.CLIPConfig.from_dict(config)).eval()
        except (TypeError, ValueError, KeyError) as error:
            raise BundleError(f"{folder / 'config.json'} describes no CLIPModel: {error}") from None
        self._load(folder)
        tokens = self._model.config.text_config.max_position_embeddings
        self._tokenizer = Tokenizer.open(folder, tokens)
        self._size: int = self._model.config.vision_config.image_size
        preprocessor = folder / "preprocessor_config.json"
        found = _read(preprocessor) if preprocessor.is_file() else {}
        try:
            mean, std = (
                np.asarray(found.get(k, v), np.float32).reshape(3)
                for k, v in (("image_mean", MEAN), ("image_std", STD))
            )
        except (TypeError, ValueError):
            raise BundleError(f"{preprocessor}: image_mean and image_std must be three numbers each") from None
        self._mean, self._std = mean, std
        self.by = f"CLIP of {folder.name}"

    def _load(self, folder: Path) -> None:
        from mien.engine.checkpoints.reading import read_weights  # needs torch

        file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
        if file is None:
            raise BundleError(f"{folder} has no {' or '.join(WEIGHTS)}: give the folder of a CLIPModel")
        state = {k: v for k, v in read_weights(file).items() if not k.endswith("position_ids")}
        wanted = self._model.state_dict()
        for key, value in wanted.items():
            if key not in state or state[key].shape != value.shape:
                have = f"{tuple(state[key].shape)}" if key in state else "missing"
                raise BundleError(f"{file}: {key} is {have}, config.json beside it says {tuple(value.shape)}")
        self._model.load_state_dict({key: state[key] for key in wanted})

    def image(self, rgb: Array) -> Array:
        """(d,) of a picture (H, W, 3) float on 0 to 255: shorter side resized (bicubic), middle cut out, as published."""
        torch, size = self._torch, self._size
        x = torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)[None], np.float32))
        height, width = x.shape[2:]
        new = [max(size, int(v * size / min(height, width))) for v in (height, width)]
        if new != [height, width]:
            x = torch.nn.functional.interpolate(x, new, mode="bicubic", antialias=True, align_corners=False)
        top, left = (new[0] - size) // 2, (new[1] - size) // 2
        x = x[:, :, top : top + size, left : left + size].clamp(0, 255) / 255
        x = (x - torch.from_numpy(self._mean)[:, None, None]) / torch.from_numpy(self._std)[:, None, None]
        with torch.inference_mode():
            pooled = self._model.vision_model(pixel_values=x).pooler_output
            return np.asarray(self._model.visual_projection(pooled)[0].numpy())

    def text(self, prompt: str) -> tuple[Array, str]:
        """(d,) of a prompt, and what of it did not fit. Raises EditError for a prompt that is not valid Unicode."""
        tokens = self._tokenizer.encode(prompt)
        with self._torch.inference_mode():
            pooled = self._model.text_model(input_ids=self._torch.from_numpy(tokens.ids)).pooler_output
            return np.asarray(self._model.text_projection(pooled)[0].numpy()), tokens.lost


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}: give the folder of a CLIPModel") from None
    except ValueError as error:
        raise BundleError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise BundleError(f"{path} holds a {type(content).__name__}, not an object")
    return content
