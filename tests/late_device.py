"""A device on the CPU that does its work as late, and in as odd an order, as streams and events allow."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


class LateEvent:
    """Recorded so many times, and past so many."""

    def __init__(self, device: LateStreams) -> None:
        self._device, self.recorded, self.past = device, 0, 0

    def synchronize(self) -> None:
        self._device.work_until(self, self.recorded)


class LateStream:
    def __init__(self, device: LateStreams) -> None:
        self._device = device
        self.queue: deque[tuple[str, Any, int]] = deque()

    def run(self, work: Callable[[], Any]) -> None:
        with self._device.lock:
            self.queue.append(("run", work, 0))

    def record(self, event: LateEvent) -> None:
        with self._device.lock:
            event.recorded += 1
            self.queue.append(("record", event, event.recorded))

    def wait(self, event: LateEvent) -> None:
        with self._device.lock:
            if not self._device.deaf:
                self.queue.append(("wait", event, event.recorded))

    @property
    def can_go_on(self) -> bool:
        if not self.queue:
            return False
        kind, event, number = self.queue[0]
        return kind != "wait" or event.past >= number

    def step(self) -> None:
        kind, what, number = self.queue.popleft()
        if kind == "run":
            with torch.no_grad():
                what()
        elif kind == "record":
            what.past = max(what.past, number)


class LateStreams:
    """seed: of the order. deaf: whether streams do not hear of events, which any test of order must notice."""

    device = torch.device("cpu")

    def __init__(self, seed: int, *, deaf: bool = False) -> None:
        self.deaf, self._random, self.lock = deaf, np.random.default_rng(seed), threading.RLock()
        self._streams: list[LateStream] = []

    def stream(self, *, urgent: bool = False) -> LateStream:
        self._streams.append(LateStream(self))
        return self._streams[-1]

    def event(self) -> LateEvent:
        return LateEvent(self)

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype)

    def work_until(self, event: LateEvent, number: int) -> None:
        with self.lock:
            while event.past < number:
                able = [stream for stream in self._streams if stream.can_go_on]
                assert able, "the streams wait for each other"
                able[self._random.integers(len(able))].step()

    def synchronize(self) -> None:
        self.finish()

    def finish(self) -> None:
        """Do all of it."""
        with self.lock:
            while able := [stream for stream in self._streams if stream.can_go_on]:
                able[self._random.integers(len(able))].step()
            assert not any(stream.queue for stream in self._streams)
