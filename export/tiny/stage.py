"""What every stage of the recipe is given."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Arguments:
    """data: the training data folder. runs: caches, checkpoints, logs and sheets. minutes: time budget of a training stage
    (see `loop.train`).
    carry: what `carry` writes and `uncarry` reads, <runs>/carry if not given.
    """

    data: Path
    runs: Path
    minutes: float
    seed: int = 0
    workers: int = 2
    device: str = "cpu"
    threads: int = 1
    carry: Path | None = None

    @property
    def carried(self) -> Path:
        """The folder of `carry` and `uncarry`."""
        return self.carry or self.runs / "carry"

    def pool(self) -> ProcessPoolExecutor:
        """Processes that begin anew: one forked off a process that has trained waits for threads that it does not have."""
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self.workers, mp_context=context, initializer=end_with_parent)


def end_with_parent() -> None:
    """Make this process end when the one that began it does, however that ends: nobody would wait for it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_outlive, args=(parent,), daemon=True).start()


def _outlive(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
