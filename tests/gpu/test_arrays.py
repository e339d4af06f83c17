"""Arrays through captured networks, as the detector and the landmarks are called: an event is all that is waited for."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mien.engine.backends.torch import TorchNetwork  # noqa: E402
from mien.engine.cuda.device import TorchCuda  # noqa: E402
from mien.engine.cuda.graphs import Graphs  # noqa: E402
from mien.engine.cuda.network import CapturedNetwork  # noqa: E402
from mien.engine.manifest import Architecture, NetworkSpec  # noqa: E402
from mien.engine.networks.detector import Detector  # noqa: E402
from mien.engine.networks.landmarks import Landmarks  # noqa: E402
from mien.engine.types import TensorSpec  # noqa: E402
from tests.gpu.test_lane import exact, neither_waits_nor_allocates  # noqa: E402, F401

pytestmark = pytest.mark.gpu


def spec_of(kind: Any) -> NetworkSpec:
    def tensors(part: Any) -> dict[str, TensorSpec]:
        return {name: TensorSpec(tuple(n if isinstance(n, int) else None for n in dims)) for name, dims in part.items()}

    shapes = kind.inputs | kind.outputs
    about = Architecture(kind.__name__, {})
    return NetworkSpec(kind.__name__, "-", "onnx", "-", about, tensors(kind.inputs), tensors(kind.outputs), shapes)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    "kind, name, shape",
    [(Detector, "luma", (1, 1, 192, 320)), (Landmarks, "image", (3, 3, 128, 128))],
    ids=["detector", "landmarks"],
)
def test_a_call_waits_for_its_answers_alone_and_allocates_nothing(kind: Any, name: str, shape: Any) -> None:
    torch.manual_seed(0)
    module, spec = kind().eval().requires_grad_(False), spec_of(kind)
    there = TorchNetwork(spec, module, "cpu", torch.float32)
    rng = np.random.default_rng(0)
    pictures = [rng.uniform(0, 1, shape).astype(np.float32) for _ in range(4)]
    want = [there(**{name: picture}) for picture in pictures]
    network = CapturedNetwork(spec, copy.deepcopy(module).cuda(), "cuda", torch.float32, Graphs(TorchCuda("cuda")))
    network(**{name: pictures[0]})
    with neither_waits_nor_allocates():
        got = [network(**{name: picture}) for picture in pictures]
    for ours, theirs in zip(got, want, strict=True):
        for key, value in theirs.items():
            np.testing.assert_allclose(ours[key], value, rtol=1e-2, atol=1e-2)
