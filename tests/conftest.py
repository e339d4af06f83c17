"""What tests of several folders share: a complete bundle whose networks answer zeros, so that no face is ever found."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.engine.bundle import Bundle, pack_directions

# A shell starts background jobs with Ctrl-C ignored, and children inherit that; the tests that interrupt a run need it.
signal.signal(signal.SIGINT, signal.default_int_handler)

Dims = tuple[int | str, ...]

NETWORKS: dict[str, tuple[dict[str, Dims], dict[str, Dims]]] = {
    "detector": (
        {"luma": (1, 1, "H", "W")},
        {
            f"{kind}_{s}": (1, count, f"H/{s}", f"W/{s}")
            for s in (8, 16, 32)
            for kind, count in (("score", 1), ("box", 4))
        },
    ),
    "landmarks": ({"image": ("B", 3, 128, 128)}, {"landmarks": ("B", 68, 2), "presence": ("B", 1)}),
    "parser": ({"image": ("B", 3, 128, 128)}, {"probabilities": ("B", 4, 128, 128)}),
    "w_encoder": ({"image": ("B", 3, 128, 128)}, {"w_plus": ("B", 12, 64)}),
    "vae_encoder": ({"image": ("B", 3, 256, 256)}, {"latents": ("B", 4, 32, 32)}),
    "vae_decoder": ({"latents": ("B", 4, 32, 32)}, {"image": ("B", 3, 256, 256)}),
    "denoiser": (
        {"latents": ("B", 4, 32, 32), "timestep": ("B",), "w_plus": ("B", 12, 64), "w_scale": ("B",)},
        {"v": ("B", 4, 32, 32)},
    ),
}

SMILE: dict[str, Any] = {
    "description": "raises the corners of the mouth",
    "range": [-1.5, 1.5],
    "direction": "smile",
    "template": [{"points": [48, 54], "dx": 0.0, "dy": -0.1, "sigma": 0.25}],
    "regions": ["mouth"],
    "t_max": 350,
    "gain": 1.0,
    "composition": "delta",
}


def zero_network(inputs: dict[str, Dims], outputs: dict[str, Dims]) -> bytes:
    """An ONNX file that answers zeros of the right shape."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto
    nodes, constants = [], []
    place = {dim: (key, axis) for key, dims in inputs.items() for axis, dim in enumerate(dims) if isinstance(dim, str)}
    for key, dims in outputs.items():
        parts = []
        for axis, dim in enumerate(dims):
            part = f"{key}.{axis}"
            name, _, divisor = str(dim).partition("/")
            if isinstance(dim, int):
                constants.append(helper.make_tensor(part, kind.INT64, [1], [dim]))
            else:
                source, at = place[name]
                constants.append(helper.make_tensor(f"{part}.by", kind.INT64, [1], [int(divisor or 1)]))
                nodes.append(helper.make_node("Shape", [source], [f"{part}.size"], start=at, end=at + 1))
                nodes.append(helper.make_node("Div", [f"{part}.size", f"{part}.by"], [part]))
            parts.append(part)
        nodes.append(helper.make_node("Concat", parts, [f"{key}.shape"], axis=0))
        nodes.append(helper.make_node("ConstantOfShape", [f"{key}.shape"], [key]))

    def values(tensors: dict[str, Dims]) -> list[Any]:
        return [helper.make_tensor_value_info(key, kind.FLOAT, list(dims)) for key, dims in tensors.items()]

    graph = helper.make_graph(nodes, "zeros", values(inputs), values(outputs), constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@dataclass(frozen=True)
class Part:
    """One network of a made bundle: its module below mien.engine.networks, its signature and its ONNX file."""

    architecture: str
    inputs: dict[str, Dims]
    outputs: dict[str, Dims]
    data: bytes
    kwargs: dict[str, Any] = field(default_factory=dict)

    def entry(self, file: str) -> dict[str, Any]:
        """What the manifest says of it."""
        signature = {
            kind: {key: {"shape": list(dims), "dtype": "float32"} for key, dims in tensors.items()}
            for kind, tensors in (("inputs", self.inputs), ("outputs", self.outputs))
        }
        about = {"name": self.architecture, "kwargs": self.kwargs}
        return {"file": file, "format": "onnx", "architecture": about, **signature}


def write_bundle(folder: Path, parts: dict[str, Part], *, crop_px: int, bank: list[dict[str, int]]) -> Bundle:
    """A bundle named like its folder, of 4 latent channels at an eighth of the crop, with the edit `smile`."""
    manifest = {
        "name": folder.name,
        "version": "1",
        "description": "made for tests",
        "licences": {"weights": "Apache-2.0"},
        "model_card": "MODEL_CARD.md",
        "crop": {"size_px": crop_px, "template": "ffhq"},
        "latent": {"channels": 4, "size": crop_px // 8},
        "schedule": {"kind": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_timesteps": 1000},
        "prediction": "v_prediction",
        "bank": bank,
        "defaults": {"num_steps": 1},
        "networks": {name: part.entry(f"{name}.onnx") for name, part in parts.items()},
        "directions": "directions.npz",
        "edits": {"smile": SMILE},
    }
    files: dict[str, bytes | Path] = {f"{name}.onnx": part.data for name, part in parts.items()}
    files["directions.npz"] = pack_directions({"smile": np.full((12, 64), 0.01, np.float32)})
    files["MODEL_CARD.md"] = b"made for tests\n"
    return Bundle.write(folder, manifest, files)


@pytest.fixture(scope="session")
def made_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    """made_bundle(name, {network: (architecture, inputs, outputs, data[, kwargs])}, crop_px=..., bank=...)."""

    def make(name: str, parts: dict[str, tuple[Any, ...]], **wishes: Any) -> Bundle:
        folder = tmp_path_factory.mktemp("bundles") / name
        return write_bundle(folder, {key: Part(*part) for key, part in parts.items()}, **wishes)

    return make


@pytest.fixture(scope="session")
def blank_bundle(made_bundle: Callable[..., Bundle]) -> Path:
    """The folder of the bundle `blank`, which has the edit `smile` and finds no face."""
    parts = {
        name: ("autoencoder.Encoder", inputs, outputs, zero_network(inputs, outputs))
        for name, (inputs, outputs) in NETWORKS.items()
    }
    return made_bundle("blank", parts, crop_px=256, bank=[]).folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The optional folder of real clips: $MIEN_SHARED/data, or ../shared/data beside the repository; else skips."""
    root = Path(os.environ.get("MIEN_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not (root / "data").is_dir():
        pytest.skip(f"no shared data at {root}: set MIEN_SHARED")
    return root / "data"
