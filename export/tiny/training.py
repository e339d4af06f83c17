"""The training of the analysis networks: batches made ahead, norms folded at the end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
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
from mien.export.tiny import loop
from mien.export.tiny.loop import Recipe
from mien.export.tiny.stage import Arguments

Batch = dict[str, Tensor]


class _Prefetch:
    """Batches made ahead by a thread; batch `step` depends on (seed, step) alone, so a resumed run sees the same ones."""

    def __init__(self, make: Callable[[np.random.Generator], dict[str, Array]], seed: int, first: int) -> None:
        self._made: queue.Queue[Batch] = queue.Queue(4)
        self._stopped = threading.Event()
        threading.Thread(target=self._work, args=(make, seed, first), daemon=True).start()

    def _work(self, make: Callable[[np.random.Generator], dict[str, Array]], seed: int, step: int) -> None:
        while not self._stopped.is_set():
            batch = {k: torch.from_numpy(v) for k, v in make(np.random.default_rng((seed, step))).items()}
            step += 1
            while not self._stopped.is_set():
                with suppress(queue.Full):
                    self._made.put(batch, timeout=1)
                    break

    def __next__(self) -> Batch:
        try:
            return self._made.get(timeout=120)
        except queue.Empty:
            raise RuntimeError("no training batch within 120 s; see the traceback of its thread above") from None

    def stop(self) -> None:
        """Let the thread end."""
        self._stopped.set()


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
    """Train `build(**kwargs, norm=True)`; returns the plain module with averaged weights.

    Writes what `loop.train` does, and <runs>/<name>/final.pt: {"state": plain state dict, "kwargs": kwargs}. Without a
    checkpoint it goes on from a `final.pt` that is there.
    """
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(1)
    model = build(**kwargs, norm=True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    folder, first = args.runs / name, np.random.default_rng((args.seed, 2**32 - 1))
    if (folder / "final.pt").exists() and not (folder / "checkpoint.pt").exists():
        given = {k: torch.from_numpy(v) for k, v in make_batch(first).items()}
        go_on_from(model, torch.load(folder / "final.pt", weights_only=True)["state"], lambda: loss(model, given))
        print(f"{name}: goes on from final.pt", flush=True)
    batches: list[_Prefetch] = []

    def step_loss(step: int) -> Tensor:
        if not batches:
            batches.append(_Prefetch(make_batch, args.seed, step))
        return loss(model.train(), next(batches[0]))

    def figures(average: nn.Module) -> str:
        return validate(plain(build, kwargs, average))

    recipe = Recipe(
        learning_rate, 0.02 * learning_rate, 1e-2, (0.9, 0.999), clip=5.0, validate_every_s=validate_every_s
    )
    average = loop.train(name, args, model, step_loss, figures, recipe)
    for made in batches:
        made.stop()
    module = plain(build, kwargs, average)
    loop.replace_file(args.runs / name / "final.pt", {"state": module.state_dict(), "kwargs": kwargs})
    print(f"{name}: {validate(module)}", flush=True)
    return module


def go_on_from(model: nn.Module, state: dict[str, Tensor], run: Callable[[], object]) -> None:
    """Give a module with norms the weights of the plain one, and each norm what makes it change nothing on one batch.

    run: calls the model on that batch, in training mode.
    """
    missing, unexpected = model.load_state_dict(state, strict=False)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    if unexpected or any(".norm." not in name for name in missing):
        raise ValueError(f"the weights are of another network: {[*unexpected, *missing][:3]}")

    def set_identity(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
        given = inputs[0].float()
        mean, var = given.mean((0, 2, 3)), given.var((0, 2, 3), unbiased=False)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
        norm.weight.copy_((var + norm.eps).sqrt())
        norm.bias.copy_(mean)

    hooks = [norm.register_forward_pre_hook(set_identity) for norm in norms]
    model.train()
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()


def plain(build: Callable[..., nn.Module], kwargs: dict[str, Any], trained: nn.Module) -> nn.Module:
    """The module without norms that computes what `trained` computes in eval mode."""
    module = build(**kwargs)
    module.load_state_dict(fold_norms(trained.state_dict()))
    return module.eval()


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
