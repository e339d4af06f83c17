"""Streams of a GPU, on stand-ins for torch's: whose they are, and who may wait for the whole device when."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from mien.engine.cuda.device import TorchCuda  # noqa: E402
from mien.engine.cuda.graphs import Graphs  # noqa: E402
from mien.engine.cuda.streams import TORCHS_STREAMS, CudaStreams, own_stream  # noqa: E402

GPU = torch.device("cuda", 0)


@dataclass(eq=False)
class Stream:
    """One of torch's, which come again after so many."""

    device: Any
    cuda_stream: int
    priority: int
    waited: list[Any] = field(default_factory=list)

    def wait_stream(self, stream: Any) -> None:
        self.waited.append(stream)


@pytest.fixture(autouse=True)
def torchs_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = count()

    def make(device: Any = None, priority: int = 0) -> Stream:
        return Stream(device, next(numbers) % TORCHS_STREAMS + 100 * priority, priority)

    monkeypatch.setattr(torch.cuda, "Stream", make)


def test_a_stream_is_nobody_elses_as_long_as_there_are_any() -> None:
    kept = [own_stream(GPU) for _ in range(3)]
    for _ in range(3 * TORCHS_STREAMS):
        assert own_stream(GPU).cuda_stream not in {stream.cuda_stream for stream in kept}
    kept += [own_stream(GPU) for _ in range(TORCHS_STREAMS - 3)]
    assert len({stream.cuda_stream for stream in kept}) == TORCHS_STREAMS
    assert own_stream(GPU).cuda_stream in range(TORCHS_STREAMS), "none is left, so that two share one"
    assert own_stream(GPU, -1).cuda_stream < 0 and own_stream(torch.device("cuda", 1)) is not None


def test_graphs_are_recorded_at_the_priority_of_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    ran, urgent = list[Any](), Stream(GPU, 7, -1)
    monkeypatch.setattr(torch.cuda, "Event", lambda: SimpleNamespace())
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: urgent)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext(ran.append(stream)))
    TorchCuda(GPU).try_out(lambda: None)
    (recording,) = ran
    assert recording.priority == -1 and recording is not urgent
    assert recording.waited == [urgent] and urgent.waited == [recording]


def test_nobody_waits_for_the_device_while_a_graph_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    log, begun, may_end = list[str](), threading.Event(), threading.Event()

    class Recording:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

        def try_out(self, work: Any) -> None:
            work()

        def record(self, work: Any, pool: Any) -> Any:
            begun.set()
            may_end.wait(5)
            log.append("recorded")
            return SimpleNamespace()

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append("waited"))
    capture = threading.Thread(target=lambda: Graphs(Recording()).capture("x", lambda x: x, {"x": torch.ones(1)}))
    wait = threading.Thread(target=CudaStreams("cuda:0").synchronize)
    capture.start()
    assert begun.wait(5)
    wait.start()
    wait.join(0.1)
    may_end.set()
    for thread in (capture, wait):
        thread.join(5)
    assert log == ["recorded", "waited"]
