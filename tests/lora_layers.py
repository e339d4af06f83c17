"""LoRA layers written in the published forms of key, and what they add to weights, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

SCALE = 0.7
Triple = tuple[Any, Any, float | None]
"""down, up, alpha."""


def expected(state: dict[str, Any], layers: dict[str, Triple], scale: float = SCALE) -> dict[str, Any]:
    """W + scale (alpha / rank) up down, in float64."""
    out = {key: tensor.double() for key, tensor in state.items()}
    for name, (down, up, alpha) in layers.items():
        rank, weight = down.shape[0], out[f"{name}.weight"]
        delta = sum(torch.outer(up[:, r].flatten().double(), down[r].flatten().double()) for r in range(rank))
        out[f"{name}.weight"] = weight + scale * (rank if alpha is None else alpha) / rank * delta.reshape(weight.shape)
    return out


def assert_close(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        error = (ours[key].double() - tensor.double()).abs().max() / tensor.double().abs().max().clamp_min(1e-30)
        assert error <= 1e-4, (key, float(error))


def kohya(name: str, down: Any, up: Any, alpha: float | None) -> dict[str, Any]:
    key = f"lora_unet_{name.replace('.', '_')}"
    out = {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
    return out | ({} if alpha is None else {f"{key}.alpha": torch.tensor(alpha)})


def dotted(prefix: str, ends: tuple[str, str]) -> Callable[..., dict[str, Any]]:
    def write(name: str, down: Any, up: Any, alpha: float | None) -> dict[str, Any]:
        out = {f"{prefix}{name}.{ends[0]}.weight": down, f"{prefix}{name}.{ends[1]}.weight": up}
        return out | ({} if alpha is None else {f"{prefix}{name}.alpha": torch.tensor(alpha)})

    return write


def processor(name: str, down: Any, up: Any, alpha: float | None) -> dict[str, Any]:
    block, _, last = name.removesuffix(".0").rpartition(".")
    key = f"unet.{block}.processor.{last}_lora"
    out = {f"{key}.down.weight": down, f"{key}.up.weight": up}
    return out | ({} if alpha is None else {f"{key}.alpha": torch.tensor(alpha)})
