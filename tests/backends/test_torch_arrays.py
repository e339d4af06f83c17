"""Arrays through a network of a GPU: one wait for all answers, out of memory that nobody else writes. The GPU is a stand-in here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.backends.test_torch_graphs import captured, unet_inputs  # noqa: E402


class Event:
    """One of torch's, which tells what is asked of it."""

    log: list[str] = []

    def __init__(self, blocking: bool) -> None:
        assert blocking, "a waiting thread sleeps: the cores have other work"

    def record(self, stream: Any) -> None:
        self.log.append(f"record on {stream}")

    def synchronize(self) -> None:
        self.log.append("wait")


def test_arrays_are_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network, desk, unet = captured()
    given, others = unet_inputs(network), unet_inputs(network, seed=1)
    network(**others)
    pinned, desk.log[:] = list[Any](), []

    def pin(tensor: Any) -> Any:
        pinned.append(tensor)
        return tensor.clone()

    def no_stop(*_: Any) -> None:
        raise AssertionError("the whole device, or a stream, is waited for")

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "cpu", no_stop)
    monkeypatch.setattr(torch.cuda, "synchronize", no_stop)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    monkeypatch.setattr(network, "device", "cuda:3")
    Event.log = []
    got = network(**{name: tensor.numpy() for name, tensor in given.items()})
    assert Event.log == ["record on the stream of cuda:3", "wait"] and len(pinned) == len(given)
    assert desk.log.count("replay") == 1 and "try" not in desk.log
    kept = {name: array.copy() for name, array in got.items()}
    network(**{name: tensor.numpy() for name, tensor in others.items()})
    for name, want in zip(network.outputs, unet(*given.values()), strict=True):
        np.testing.assert_array_equal(got[name], want.numpy())
        np.testing.assert_array_equal(got[name], kept[name], err_msg="the caller's own, whatever is called later")
