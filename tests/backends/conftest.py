"""A miniature bundle with random weights: attention with a bank, and a convolution with free height and width."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mien.engine.bundle import Bundle

torch = pytest.importorskip("torch", reason="the definition of the networks is in torch")

PROBE_INPUTS: dict[str, tuple[int | str, ...]] = {
    "latents": ("B", 4, 8, 8),
    "timestep": ("B",),
    "bank_k_0": ("B", "M", 16),
    "bank_v_0": ("B", "M", 16),
}
PROBE_OUTPUTS: dict[str, tuple[int | str, ...]] = {
    "v": ("B", 4, 8, 8),
    "own_k_0": ("B", 64, 16),
    "own_v_0": ("B", 64, 16),
}
PLANE_INPUTS: dict[str, tuple[int | str, ...]] = {"luma": (1, 1, "H", "W")}
PLANE_OUTPUTS: dict[str, tuple[int | str, ...]] = {"score": (1, 2, "H/4", "W/4")}
GROW_INPUTS: dict[str, tuple[int | str, ...]] = {"coarse": ("B", 2, "H/4", "W/4")}
GROW_OUTPUTS: dict[str, tuple[int | str, ...]] = {"image": ("B", 1, "H", "W")}


class Probe(torch.nn.Module):  # type: ignore[misc]
    """What a denoiser needs of a backend: convolution, normalisation, and attention over own and bank's keys."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        nn = torch.nn
        self.stem = nn.Conv2d(4, channels, 3, padding=1)
        self.norm = nn.GroupNorm(2, channels)
        self.time = nn.Linear(1, channels)
        self.q, self.k, self.v = (nn.Linear(channels, channels) for _ in range(3))
        self.out = nn.Conv2d(channels, 4, 3, padding=1)

    def forward(self, latents: Any, timestep: Any, *bank: Any) -> tuple[Any, Any, Any]:
        x = self.norm(self.stem(latents)) + self.time(timestep[:, None] / 1000)[:, :, None, None]
        rows, channels, height, width = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        own_k, own_v = self.k(tokens), self.v(tokens)
        k, v = torch.cat([own_k, bank[0]], 1)[:, None], torch.cat([own_v, bank[1]], 1)[:, None]
        answer = torch.nn.functional.scaled_dot_product_attention(self.q(tokens)[:, None], k, v)[:, 0]
        x = x + answer.transpose(1, 2).reshape(rows, channels, height, width)
        return self.out(torch.relu(x)), own_k, own_v


class Plane(torch.nn.Module):  # type: ignore[misc]
    """What a detector needs of a backend: a convolution over any size."""

    def __init__(self, widths: tuple[int, int] = (4, 2)) -> None:
        super().__init__()
        self.down = torch.nn.Conv2d(1, widths[0], 4, stride=4)
        self.score = torch.nn.Conv2d(widths[0], widths[1], 1)

    def forward(self, luma: Any) -> Any:
        return torch.sigmoid(self.score(torch.relu(self.down(luma))))


class Grow(torch.nn.Module):  # type: ignore[misc]
    """What a decoder needs of a backend: a convolution over any window, and shuffling to a finer picture."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = torch.nn.Conv2d(2, 16, 3, padding=1)

    def forward(self, coarse: Any) -> Any:
        return torch.nn.functional.pixel_shuffle(self.fine(coarse), 4)


@pytest.fixture(scope="session")
def probe_modules() -> Iterator[dict[str, Any]]:
    """The networks' modules, which the torch backend also finds as mien.engine.networks.test_probe."""
    home = types.ModuleType("mien.engine.networks.test_probe")
    home.Probe, home.Plane, home.Grow = Probe, Plane, Grow  # type: ignore[attr-defined]
    sys.modules[home.__name__] = home
    torch.manual_seed(0)
    yield {"probe": Probe().eval(), "plane": Plane().eval(), "grow": Grow().eval()}
    del sys.modules[home.__name__]


@pytest.fixture(scope="session")
def probe_bundle(probe_modules: dict[str, Any], made_bundle: Callable[..., Bundle]) -> Bundle:
    """The bundle: `probe`, `plane` and `grow` in float32, `half` the probe with weights stored as float16."""
    pytest.importorskip("onnxscript", reason="exporting needs onnxscript")
    from mien.export.onnx import export_onnx, store_float16

    examples = {
        "latents": torch.randn(2, 4, 8, 8),
        "timestep": torch.rand(2),
        "bank_k_0": torch.randn(2, 6, 16),
        "bank_v_0": torch.randn(2, 6, 16),
    }
    probe = export_onnx(probe_modules["probe"], PROBE_INPUTS, tuple(PROBE_OUTPUTS), examples)
    plane = export_onnx(probe_modules["plane"], PLANE_INPUTS, ("score",), {"luma": torch.rand(1, 1, 32, 64)})
    grow = export_onnx(probe_modules["grow"], GROW_INPUTS, ("image",), {"coarse": torch.randn(2, 2, 5, 7)})
    signature = (PROBE_INPUTS, PROBE_OUTPUTS)
    half = store_float16(probe, smallest=16)
    parts = {
        "probe": ("test_probe.Probe", *signature, probe.SerializeToString(), {"channels": 16}),
        "half": ("test_probe.Probe", *signature, half.SerializeToString()),
        "plane": ("test_probe.Plane", PLANE_INPUTS, PLANE_OUTPUTS, plane.SerializeToString(), {"widths": [4, 2]}),
        "grow": ("test_probe.Grow", GROW_INPUTS, GROW_OUTPUTS, grow.SerializeToString()),
    }
    return made_bundle("probe", parts, crop_px=64, bank=[{"tokens": 64, "channels": 16}])
