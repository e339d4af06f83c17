"""Resumable training: a checkpoint that is replaced atomically, and a time budget that a resumed run goes on spending."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Budget:
    """A training time of `minutes`, of which `spent_s` seconds are gone; drives the learning rate."""

    def __init__(self, minutes: float, spent_s: float = 0.0) -> None:
        self._total_s = minutes * 60
        self._start = time.monotonic() - spent_s

    def spent_s(self) -> float:
        """Seconds spent, earlier runs included."""
        return time.monotonic() - self._start

    def fraction(self) -> float:
        """Spent part of the budget, in [0, 1]."""
        return min(1.0, self.spent_s() / max(self._total_s, 1e-9))

    def is_over(self) -> bool:
        """Whether the time is up."""
        return self.spent_s() >= self._total_s

    def cosine(self, peak: float, final: float, warm_up: float = 0.02) -> float:
        """Learning rate now: linear warm-up over a fraction of the budget, then cosine from `peak` to `final`."""
        f = self.fraction()
        if f < warm_up:
            return peak * max(f / warm_up, 0.02)
        return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * (f - warm_up) / (1 - warm_up)))


def replace_file(path: Path, value: Any) -> None:
    """Write a value beside `path`, then rename: whoever reads it finds the old one or the new one, whole."""
    partial = path.with_suffix(".partial")
    torch.save(value, partial)
    os.replace(partial, path)


def save_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Replace `folder/checkpoint.pt`."""
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "state": state}
    replace_file(folder / "checkpoint.pt", saved)


def load_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore `folder/checkpoint.pt` if it is there; returns its state, or {"step": 0, "seconds": 0.0}."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        return {"step": 0, "seconds": 0.0}
    saved = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    state: dict[str, Any] = saved["state"]
    return state
