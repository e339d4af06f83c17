"""An NVIDIA GPU as `graphs.Graphs` asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from mien.engine.cuda.graphs import Graph
from mien.engine.cuda.streams import ONE_CAPTURE, own_stream


class TorchCuda:
    """One stream for recording and one event; what runs at the same time as something else needs one of these of its own.

    The stream is not shared with other recordings because libraries keep a workspace for each stream, which the graphs recorded there
    go on using. It has the priority of the stream that first asks for a recording, for kernels keep it, wherever their graph is launched.
    """

    def __init__(self, device: str | torch.device = "cuda") -> None:
        self.device, self._done = torch.device(device), torch.cuda.Event()
        self._stream: torch.cuda.Stream | None = None

    def new_pool(self) -> Any:
        """A pool of memory that graphs share."""
        with torch.cuda.device(self.device):
            return torch.cuda.graph_pool_handle()

    def try_out(self, work: Callable[[], None]) -> None:
        """Run `work` on the recording stream, behind what the caller's stream holds and before what it is given next."""
        with torch.cuda.device(self.device), _best_convolutions():
            caller, stream = torch.cuda.current_stream(), self._recording()
            stream.wait_stream(caller)
            with torch.cuda.stream(stream):
                work()
            caller.wait_stream(stream)

    def record(self, work: Callable[[], None], pool: Any) -> Graph:
        """What `work` launches, recorded and not run. Other threads may go on using the device."""
        recorded = torch.cuda.CUDAGraph()
        with (
            torch.cuda.device(self.device),
            torch.cuda.stream(torch.cuda.current_stream(self.device)),  # to come back to: a capture that fails does not
            _best_convolutions(),
            torch.cuda.graph(recorded, pool=pool, stream=self._recording(), capture_error_mode="thread_local"),
        ):
            work()
        return recorded

    def mark(self) -> None:
        """Remember what the caller's stream holds."""
        self._done.record(torch.cuda.current_stream(self.device))

    def wait(self) -> None:
        """Let the caller's stream wait for what was last remembered; of a first turn, for nothing."""
        torch.cuda.current_stream(self.device).wait_event(self._done)

    def synchronize(self) -> None:
        """Wait for all work of the device."""
        torch.cuda.synchronize(self.device)

    def _recording(self) -> torch.cuda.Stream:
        if self._stream is None:
            self._stream = own_stream(self.device, torch.cuda.current_stream(self.device).priority)
        return self._stream


@contextmanager
def _best_convolutions() -> Iterator[None]:
    """Let cuDNN time its algorithms for each new shape; the choice is kept for this thread, so a recording finds it made."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def seconds_of(work: Callable[[], object], calls: int = 20, turns: int = 5) -> float:
    """How long one call of `work` takes the current device: the median of `turns` launches of a graph of `calls`, without the host's
    share. Other threads may go on using the device, which then is slower.
    """
    stream, graph = _timing_stream(torch.cuda.current_device()), torch.cuda.CUDAGraph()
    with ONE_CAPTURE:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                work()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            for _ in range(calls):
                work()
    taken = []
    for _ in range(turns + 1):
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        graph.replay()
        after.record()
        after.synchronize()
        taken.append(before.elapsed_time(after) / calls / 1000)
    return float(sorted(taken[1:])[turns // 2])


@cache
def _timing_stream(device: int) -> torch.cuda.Stream:
    """The same for everything that is timed on a device: the workspaces that libraries make for a stream are never given back."""
    return own_stream(torch.device("cuda", device))
