"""Frames through the stages of a lane on a GPU, against the same on the CPU; the whole path waits for events alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mien.engine.bank import EXTENDED, OWN  # noqa: E402
from mien.engine.cuda.device import TorchCuda  # noqa: E402
from mien.engine.cuda.graphs import Graphs  # noqa: E402
from mien.engine.cuda.streams import CudaStreams, HostStreams  # noqa: E402
from tests import lane_parts as made  # noqa: E402
from tests.gpu.test_lane import exact, neither_waits_nor_allocates  # noqa: E402, F401

pytestmark = pytest.mark.gpu


@pytest.fixture(params=["replace", "delta", "extended"])
def edit(request: pytest.FixtureRequest) -> made.Edit:
    kinds: dict[str, Any] = {"composition": "delta" if request.param == "delta" else "replace"}
    return made.Edit((400,), policy=EXTENDED if request.param == "extended" else OWN, **kinds)


@pytest.mark.usefixtures("exact")
def test_a_clip_is_what_it_is_on_the_cpu(edit: made.Edit) -> None:
    frames = made.clip(12)
    want = made.edited_clip(made.edit_of(edit, HostStreams(), made.modules()), frames)
    on_gpu = {name: module.cuda() for name, module in made.modules().items()}
    lane = made.edit_of(edit, CudaStreams("cuda"), on_gpu, lambda: Graphs(TorchCuda("cuda")))
    got = made.edited_clip(lane, frames)
    assert [edited.frame.index for edited in got] == list(range(12))
    for ours, theirs in zip(got, want, strict=True):
        assert ours.boxes == theirs.boxes
        for a, b in zip(ours.frame.planes, theirs.frame.planes, strict=True):
            assert np.abs(a.astype(int) - b.astype(int)).max() <= 2
    with neither_waits_nor_allocates():
        again = made.edited_clip(lane, frames)
    for ours, first in zip(again, got, strict=True):
        assert all((a == b).all() for a, b in zip(ours.frame.planes, first.frame.planes, strict=True))
