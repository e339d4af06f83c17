"""Folded batch norms: every network that has some computes what it did, but for rounding, and none of them is left behind a layer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import mien.engine.networks  # noqa: E402
from mien.engine.cuda import network as networks  # noqa: E402
from mien.engine.cuda.fold import fold  # noqa: E402
from mien.engine.manifest import Architecture, NetworkSpec  # noqa: E402
from mien.engine.networks.batch_norm import BatchNorm  # noqa: E402
from mien.engine.networks.bisenet import FaceParser  # noqa: E402
from mien.engine.networks.e4e import E4e  # noqa: E402
from mien.engine.networks.ir_se50 import IrSe50  # noqa: E402
from mien.engine.networks.iresnet import IResNet50  # noqa: E402
from mien.engine.networks.landmarks_mobilefacenet import MobileFaceNetLandmarks  # noqa: E402
from mien.engine.networks.landmarks_mobilenet import MobileNetLandmarks  # noqa: E402
from mien.engine.networks.landmarks_pfld import PfldLandmarks  # noqa: E402
from tests.backends.test_torch_graphs import Desk  # noqa: E402

NARROW, UNITS = (16, 16, 32, 32), (1, 1, 1, 1)
# A module, the side of its picture, and how many norms stand before a layer, not behind one.
CASES: Mapping[str, tuple[Callable[[], Any], int, int]] = {
    "bisenet": (lambda: FaceParser((8, 16, 16, 16), 16, 64), 32, 0),
    "e4e": (lambda: E4e(NARROW, 16, UNITS), 256, 4),
    "ir_se50": (lambda: IrSe50(NARROW, UNITS), 256, 5),
    "iresnet": (lambda: IResNet50(NARROW, UNITS), 112, 5),
    "landmarks_mobilefacenet": (lambda: MobileFaceNetLandmarks((8, 16, 32)), 128, 0),
    "landmarks_mobilenet": (lambda: MobileNetLandmarks((8, 8, 8, 8, 8, 8, 8, 8, 16)), 128, 0),
    "landmarks_pfld": (lambda: PfldLandmarks((8, 16, 8, 8, 16)), 128, 0),
}


def norms(module: Any) -> list[Any]:
    return [part for part in module.modules() if isinstance(part, BatchNorm)]


def trained(module: Any) -> Any:
    """With statistics that matter."""
    for norm in norms(module):
        for tensor, low, high in (
            (norm.weight, 0.5, 1.5), (norm.bias, -0.5, 0.5), (norm.running_mean, -0.5, 0.5), (norm.running_var, 0.2, 2.0)
        ):  # fmt: skip
            tensor.data.uniform_(low, high)
    return module.eval().requires_grad_(False)


def parts(answer: Any) -> list[Any]:
    return [answer] if isinstance(answer, torch.Tensor) else list(answer)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_a_network_computes_the_same(name: str) -> None:
    torch.manual_seed(0)
    make, px, left = CASES[name]
    module = trained(make())
    image, count = torch.rand(2, 3, px, px) * 2 - 1, len(norms(module))
    folded = fold(copy.deepcopy(module))
    assert len(norms(folded)) == left < count
    for got, want, exact in zip(
        parts(folded(image)), parts(module(image)), parts(copy.deepcopy(module).double()(image.double())), strict=True
    ):
        far, own = ((a.double() - exact).abs().max() / exact.abs().max() for a in (got, want))
        assert far < max(4 * own, 2e-6), (float(far), float(own))
    again = fold(copy.deepcopy(folded))
    for got, want in zip(parts(again(image)), parts(folded(image)), strict=True):
        assert torch.equal(got, want)


def test_every_network_with_batch_norms_is_among_these() -> None:
    folder = Path(mien.engine.networks.__file__).parent
    having = {path.stem for path in folder.glob("*.py") if "import BatchNorm" in path.read_text(encoding="utf-8")}
    assert having and having <= CASES.keys()


def test_a_gpu_gets_them_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "TorchCuda", lambda device: Desk())
    config: Any = SimpleNamespace(device="cpu", precision="auto", execution="auto")
    spec = NetworkSpec("n", "-", "onnx", "-", Architecture("bisenet.FaceParser", {}), {}, {}, {})
    network: Any = networks.load_on_gpu(spec, trained(CASES["bisenet"][0]()), config)
    assert not norms(network.module)
