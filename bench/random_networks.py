"""The networks of an SD1.5-class edit at their full size with random weights, and inputs for them: for speed, never for quality.

`mini` has the same parts in sizes that a test can run on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mien.bench.unet_ops import TEXT_TOKENS, bank_layers, flops_of, unet_shapes
from mien.engine.networks.bisenet import FaceParser
from mien.engine.networks.clip_text import ClipTextEncoder
from mien.engine.networks.landmarks_mobilefacenet import MobileFaceNetLandmarks
from mien.engine.networks.sd_layout import Layout
from mien.engine.networks.sd_unet import UNet
from mien.engine.networks.taesd import TaesdDecoder, TaesdEncoder

MINI = Layout(
    block_out_channels=(16, 32, 32),
    attention=(True, True, False),
    num_attention_heads=(2, 2, 2),
    cross_attention_dim=32,
    norm_num_groups=8,
)
LAYOUTS: Mapping[str, Layout] = {"sd15": Layout(), "mini": MINI}
SIZES_PX: Mapping[str, int] = {"sd15": 512, "mini": 64}
SMALL_PX = {"sd15": 128, "mini": 32}  # of what the parser and the landmark network are given
_MINI_TEXT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_KWARGS: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("mini", "taesd_encoder"): {"channels": 16},
    ("mini", "taesd_decoder"): {"channels": 16},
    ("mini", "text_encoder"): _MINI_TEXT,
    ("mini", "parser"): {"channels": (8, 16, 16, 16), "context": 16, "work_px": 64},
}
EXACT = ("timestep",)  # float32 whatever the type of the rest


@dataclass(frozen=True, slots=True)
class RandomNetwork:
    """A module on a device, and what makes its inputs in its order: inputs(rows). flops: of one row."""

    name: str
    module: nn.Module
    inputs: Callable[[int], dict[str, Tensor]]
    flops: int


def random_network(name: str, model: str, device: str, dtype: torch.dtype, seed: int = 0) -> RandomNetwork:
    """A network of NETWORKS. Raises UnavailableError for the text encoder without transformers."""
    torch.manual_seed(seed)
    with torch.device(device):
        module = _BUILDERS[name](model, name)
    module = module.eval().requires_grad_(False).to(dtype)
    generator = torch.Generator(device).manual_seed(seed)

    def inputs(rows: int) -> dict[str, Tensor]:
        made = {}
        for key, shape in _shapes(name, module, model, rows).items():
            if key == "tokens":
                top = 99 if model == "mini" else 49408
                made[key] = torch.randint(0, top - 1, shape, generator=generator, device=device)
            elif key == "timestep":
                made[key] = torch.full(shape, 499.0, device=device)
            elif key in ("own_weight", "w_scale"):
                made[key] = torch.ones(shape, device=device, dtype=dtype)
            else:
                made[key] = torch.randn(shape, generator=generator, device=device).to(dtype)
        return made

    return RandomNetwork(name, module, inputs, flops_of(module, list(inputs(1).values())))


def _unet(model: str, name: str) -> nn.Module:
    layout = LAYOUTS[model]
    return UNet(adapter=True, bank_layers=bank_layers(layout), **layout.kwargs())


def _with_kwargs(kind: Callable[..., nn.Module]) -> Callable[[str, str], nn.Module]:
    return lambda model, name: kind(**_KWARGS.get((model, name), {}))


_BUILDERS: Mapping[str, Callable[[str, str], nn.Module]] = {
    "unet": _unet,
    "taesd_encoder": _with_kwargs(TaesdEncoder),
    "taesd_decoder": _with_kwargs(TaesdDecoder),
    "text_encoder": _with_kwargs(ClipTextEncoder),
    "parser": _with_kwargs(FaceParser),
    "landmarks": _with_kwargs(MobileFaceNetLandmarks),
}
NETWORKS = tuple(_BUILDERS)


def _shapes(name: str, module: nn.Module, model: str, rows: int) -> dict[str, tuple[int, ...]]:
    size, small = SIZES_PX[model], SMALL_PX[model]
    if isinstance(module, UNet):
        return unet_shapes(module, rows, size)
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "taesd_encoder": {"image": (rows, 3, size, size)},
        "taesd_decoder": {"latents": (rows, 4, size // 8, size // 8)},
        "text_encoder": {"tokens": (rows, TEXT_TOKENS)},
        "parser": {"image": (rows, 3, small, small)},
        "landmarks": {"image": (rows, 3, 128, 128)},
    }
    return shapes[name]
