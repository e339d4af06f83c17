"""The one training loop of the recipe: a time budget that resumed runs share, cosine learning rate, averaged weights, checkpoints."""

from __future__ import annotations

import copy
import math
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mien.export.tiny.stage import Arguments

CHECKPOINT_S = 60.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. warm_up: share of the budget. average: of the weights, per step. clip: of the gradient's norm."""

    peak_lr: float
    final_lr: float
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    warm_up: float = 0.01
    average: float = 0.998
    clip: float = 1.0
    validate_every_s: float = 120.0

    def rate(self, fraction: float) -> float:
        """Learning rate at a spent share of the budget: linear warm-up, then a cosine from peak to final."""
        if fraction < self.warm_up:
            return self.peak_lr * max(fraction / self.warm_up, 0.02)
        turned = math.pi * min(1.0, (fraction - self.warm_up) / (1 - self.warm_up))
        return self.final_lr + (self.peak_lr - self.final_lr) * 0.5 * (1 + math.cos(turned))


def train(
    name: str,
    args: Arguments,
    model: nn.Module,
    loss: Callable[[int], Tensor],
    validate: Callable[[Any], str],
    recipe: Recipe,
) -> Any:
    """Train `model` in place for `args.minutes`, all runs of it together; returns a copy with averaged weights, in eval mode.

    loss: of step n, which with the seed alone decides what is drawn, torch's own draws included, so that a resumed run sees
    the same. validate: figures of the averaged model. Writes <runs>/<name>/checkpoint.pt every minute. Matrices decay, biases
    and norms do not. Between two checkpoints nothing waits for the device. A minute is one of processor time for each of
    `args.threads`, so that a busy machine trains longer and not less; on a GPU it is one of the clock.
    """
    folder = args.runs / name
    folder.mkdir(parents=True, exist_ok=True)
    average = copy.deepcopy(model).eval()
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, recipe.peak_lr, betas=recipe.betas)
    step, spent_s, checkpoint = 0, 0.0, folder / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=args.device, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent_s = state["step"], state["spent_s"]
        print(f"{name}: resumed at step {step}, {spent_s / 60:.1f} of {args.minutes:.1f} minutes spent", flush=True)
    averaged, current = _floats(average), _floats(model)
    budget_s, losses = args.minutes * 60, deque[Tensor](maxlen=200)
    on_cpu = torch.device(args.device).type == "cpu"

    def clock() -> float:
        return time.process_time() / args.threads if on_cpu else time.monotonic()

    mark = saved = checked = clock()
    while spent_s < budget_s:
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(spent_s / budget_s)
        torch.manual_seed(int(np.random.SeedSequence([args.seed, step]).generate_state(1)[0]))
        value = loss(step)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(trained, recipe.clip)
        optimizer.step()
        get_ema_multi_avg_fn(min(recipe.average, step / (step + 10)))(averaged, current, step)
        losses.append(value.detach())
        step += 1
        now = clock()
        spent_s, mark = spent_s + now - mark, now
        if now - saved > CHECKPOINT_S or spent_s >= budget_s:
            saved = now
            whole = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
            replace_file(checkpoint, whole | {"step": step, "spent_s": spent_s})
        if now - checked > recipe.validate_every_s:
            checked = now
            figures, mean = validate(average), float(torch.stack(tuple(losses)).mean())
            print(f"{name}: step {step}, {spent_s / 60:.1f} min, loss {mean:.4f}: {figures}", flush=True)
            mark = clock()
    return average


def replace_file(path: Path, value: Any) -> None:
    """Write a value beside `path`, then rename: whoever reads it finds the old one or the new one, whole."""
    partial = path.with_suffix(".partial")
    torch.save(value, partial)
    os.replace(partial, path)


def mixed_precision(device: str) -> torch.autocast:
    """bfloat16 arithmetic where the processor has it; a CPU that has not is many times slower with it."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda" or torch.cpu._is_avx512_bf16_supported())


def _floats(module: nn.Module) -> list[Tensor]:
    """The parameters and buffers that averaging is about; they share memory with the module's."""
    return [value for value in module.state_dict().values() if value.is_floating_point()]
