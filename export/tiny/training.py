"""The training loop of the analysis networks: time-budgeted, seeded, resumable, with averaged weights and a prefetch thread."""

from __future__ import annotations

import copy
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from mien.engine.networks.convolution import fold_norms
from mien.engine.types import Array
from mien.export.onnx import export_onnx
from mien.export.tiny.checkpoint import replace_file
from mien.export.tiny.stage import Arguments

Batch = dict[str, Tensor]
CHECKPOINT_S = 60.0
EMA = 0.998


class _Prefetch:
    """Batches made ahead by threads; batch `step` depends on (seed, step) alone, so a resumed run sees the same ones."""

    def __init__(
        self, make: Callable[[np.random.Generator], dict[str, Array]], seed: int, first: int, workers: int
    ) -> None:
        self._make, self._seed, self._next, self._lock = make, seed, first, threading.Lock()
        self._ready: dict[int, Batch] = {}
        self._free, self._filled = threading.Semaphore(4), threading.Condition()
        self._wanted, self._stopped = first, False
        for _ in range(workers):
            threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            self._free.acquire()
            if self._stopped:
                return
            with self._lock:
                step = self._next
                self._next += 1
            made = self._make(np.random.default_rng((self._seed, step)))
            with self._filled:
                self._ready[step] = {k: torch.from_numpy(v) for k, v in made.items()}
                self._filled.notify_all()

    def __next__(self) -> Batch:
        with self._filled:
            while self._wanted not in self._ready:
                if not self._filled.wait(120):
                    raise queue.Empty("no training batch within 120 s; see the traceback of its thread above")
            batch = self._ready.pop(self._wanted)
        self._wanted += 1
        self._free.release()
        return batch

    def stop(self) -> None:
        """Let the threads end."""
        self._stopped = True
        for _ in range(8):
            self._free.release()


def train(
    name: str,
    build: Callable[..., nn.Module],
    kwargs: dict[str, Any],
    make_batch: Callable[[np.random.Generator], dict[str, Array]],
    loss: Callable[[Any, Batch], Tensor],
    validate: Callable[[Any], str],
    args: Arguments,
    *,
    learning_rate: float = 2e-3,
    validate_every_s: float = 240.0,
) -> nn.Module:
    """Train `build(**kwargs, norm=True)` for `args.minutes`, all runs of it together; returns the plain module with averaged weights.

    Writes <runs>/<name>/checkpoint.pt every minute and <runs>/<name>/final.pt: {"state": plain state dict, "kwargs": kwargs}.
    """
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(1)
    folder = args.runs / name
    folder.mkdir(parents=True, exist_ok=True)
    model = build(**kwargs, norm=True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(model)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    flat = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 1e-2}, {"params": flat, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate)
    step, spent_s, saved = 0, 0.0, folder / "checkpoint.pt"
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent_s = state["step"], state["spent_s"]
        print(f"{name}: resumed at step {step}, {spent_s / 60:.1f} of {args.minutes:.1f} minutes spent", flush=True)
    budget_s = args.minutes * 60
    batches = _Prefetch(make_batch, args.seed, step, 1)
    mark = last_saved = last_checked = time.monotonic()
    losses: list[float] = []
    while spent_s < budget_s:
        fraction = spent_s / budget_s
        rate = learning_rate * min(1.0, (step + 1) / 100) * max(0.02, 0.5 + 0.5 * float(np.cos(np.pi * fraction)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        value = loss(model.train(), next(batches))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        _blend(average, model, min(EMA, step / (step + 10)))
        losses.append(value.item())
        step += 1
        now = time.monotonic()
        spent_s, mark = spent_s + now - mark, now
        if now - last_saved > CHECKPOINT_S or spent_s >= budget_s:
            last_saved = now
            _save(saved, model, average, optimizer, step, spent_s)
            print(f"{name}: step {step}, {spent_s / 60:.1f} min, loss {np.mean(losses[-200:]):.4f}", flush=True)
        if now - last_checked > validate_every_s:
            last_checked = now
            print(f"{name}: step {step}: {validate(plain(build, kwargs, average))}", flush=True)
            mark = time.monotonic()
    batches.stop()
    module = plain(build, kwargs, average)
    torch.save({"state": module.state_dict(), "kwargs": kwargs}, folder / "final.pt")
    print(f"{name}: {step} steps: {validate(module)}", flush=True)
    return module


def plain(build: Callable[..., nn.Module], kwargs: dict[str, Any], trained: nn.Module) -> nn.Module:
    """The module without norms that computes what `trained` computes in eval mode."""
    module = build(**kwargs)
    module.load_state_dict(fold_norms(trained.state_dict()))
    return module.eval()


def load(build: Callable[..., nn.Module], path: Path) -> nn.Module:
    """The module a `final.pt` holds."""
    state = torch.load(path, weights_only=True)
    module = build(**state["kwargs"])
    module.load_state_dict(state["state"])
    return module.eval()


@torch.no_grad()
def _blend(average: nn.Module, model: nn.Module, keep: float) -> None:
    for a, b in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if a.is_floating_point():
            a.lerp_(b, 1 - keep)


def _save(
    path: Path, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, step: int, spent_s: float
) -> None:
    state = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
    replace_file(path, state | {"step": step, "spent_s": spent_s})


def write_onnx(network: Any, examples: dict[str, Array], path: Path) -> None:
    """Export a network that names its `inputs` and `outputs`, and print its largest error against torch on `examples`."""
    tensors = {k: torch.from_numpy(v) for k, v in examples.items()}
    onnx.save(export_onnx(network, network.inputs, tuple(network.outputs), tensors), str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        answer = network(*tensors.values())
    wanted = [answer] if isinstance(answer, Tensor) else list(answer)
    got: list[Any] = list(session.run(list(network.outputs), examples))
    worst = max(float(np.abs(w.numpy() - g).max()) for w, g in zip(wanted, got, strict=True))
    print(f"{path.stem}: exported, largest error against torch {worst:.1e}", flush=True)


def sheet(path: Path, pictures: list[Array], columns: int) -> None:
    """Write equally large (H, W, 3) RGB uint8 pictures as one PNG."""
    rows = [np.concatenate(pictures[i : i + columns], 1) for i in range(0, len(pictures) - columns + 1, columns)]
    cv2.imwrite(str(path), cv2.cvtColor(np.concatenate(rows, 0), cv2.COLOR_RGB2BGR))
