"""Streams, events and pinned memory as pools and lanes ask for them: of a GPU, and of the CPU, where all work is done at once.

Work is handed over as functions, so that a test's device may run them as late, and in as odd an order, as events allow.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor

ONE_CAPTURE = threading.RLock()
"""Held while a graph is recorded, and to wait for a whole device: that ends a recording, whichever thread does it."""

TORCHS_STREAMS = 32
"""Of one priority. Torch hands them out in turn, again and again, whoever has them still."""

_own: WeakValueDictionary[tuple[torch.device, int], torch.cuda.Stream] = WeakValueDictionary()
_taking = threading.Lock()


class Event(Protocol):
    """A point in a stream's work. One that was never recorded is past."""

    def synchronize(self) -> None:
        """Let the calling thread wait until it is past."""


class Stream(Protocol):
    """Work of one device that runs in the order in which it is handed over, some time later."""

    def run(self, work: Callable[[], Any]) -> None:
        """Hand over `work`, which launches kernels and copies; it must not wait for the device."""

    def record(self, event: Event) -> None:
        """Make the event mean all work handed over so far."""

    def wait(self, event: Event) -> None:
        """Let work handed over from now on wait for the event."""


class Streams(Protocol):
    """A device. device: where its tensors lie."""

    @property
    def device(self) -> torch.device:
        """Where its tensors lie."""

    def stream(self, *, urgent: bool = False) -> Stream:
        """A new stream. urgent: whether its kernels go before those of the others."""

    def event(self) -> Event:
        """A new event."""

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory of the CPU, zeros, that the device copies from and to by itself."""

    def synchronize(self) -> None:
        """Wait for all work, whoever handed it over: after things are made, which happens on no stream of these; not for frames."""


class HostStreams:
    """The CPU: work is done when it is handed over."""

    device = torch.device("cpu")

    def stream(self, *, urgent: bool = False) -> Stream:
        """One that keeps nothing."""
        return _AtOnce()

    def event(self) -> Event:
        """Always past."""
        return _Past()

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Ordinary memory."""
        return torch.zeros(shape, dtype=dtype)

    def synchronize(self) -> None:
        """Nothing is left to do."""


class CudaStreams:
    """An NVIDIA GPU. Events let a waiting thread sleep, since the cores have encoders to run."""

    def __init__(self, device: str | torch.device) -> None:
        found = torch.device(device)
        self.device = found if found.index is not None else torch.device("cuda", torch.cuda.current_device())

    def stream(self, *, urgent: bool = False) -> Stream:
        """A stream of the GPU."""
        return _CudaStream(own_stream(self.device, -1 if urgent else 0))

    def event(self) -> Event:
        """An event of the GPU."""
        return torch.cuda.Event(blocking=True)

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Pinned memory."""
        return torch.zeros(shape, dtype=dtype, pin_memory=True)

    def synchronize(self) -> None:
        """Wait for the whole GPU."""
        with ONE_CAPTURE:
            torch.cuda.synchronize(self.device)


def own_stream(device: torch.device, priority: int = 0) -> torch.cuda.Stream:
    """A stream that nobody who asked here still has, as long as there is one: work for a stream on which another thread
    records would become a part of the recording.
    """
    with _taking:
        for _ in range(TORCHS_STREAMS):
            stream = torch.cuda.Stream(device, priority=priority)
            if _own.setdefault((stream.device, stream.cuda_stream), stream) is stream:
                break
    return stream


class _Past:
    def synchronize(self) -> None:
        pass


class _AtOnce:
    def run(self, work: Callable[[], Any]) -> None:
        with torch.no_grad():
            work()

    def record(self, event: Event) -> None:
        pass

    def wait(self, event: Event) -> None:
        pass


class _CudaStream:
    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream

    def run(self, work: Callable[[], Any]) -> None:
        with torch.cuda.device(self._stream.device), torch.cuda.stream(self._stream), torch.no_grad():
            work()

    def record(self, event: Any) -> None:
        event.record(self._stream)

    def wait(self, event: Any) -> None:
        self._stream.wait_event(event)
