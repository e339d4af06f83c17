"""Several networks of one safetensors file on the torch backend: hashed once, and each takes no more than its own weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("safetensors")

from safetensors.torch import save_file  # noqa: E402

from mien.engine.backend import Artifact, Network  # noqa: E402
from mien.engine.backends.torch import BACKEND  # noqa: E402
from mien.engine.config import EngineConfig  # noqa: E402
from mien.engine.errors import BundleError  # noqa: E402
from mien.engine.manifest import Architecture, NetworkSpec  # noqa: E402
from mien.engine.types import TensorSpec  # noqa: E402

SHAPES = {
    "plane": {"luma": (1, 1, "H", "W"), "score": (1, 2, "H/4", "W/4")},
    "grow": {"coarse": ("B", 2, "H/4", "W/4"), "image": ("B", 1, "H", "W")},
}


def load(name: str, file: Path, sha256: str) -> Network:
    (inputs, outputs), shapes = list(SHAPES[name]), SHAPES[name]
    free = {key: TensorSpec(tuple(d if isinstance(d, int) else None for d in dims)) for key, dims in shapes.items()}
    about = Architecture(f"test_probe.{name.capitalize()}", {})
    parts: Any = ({inputs: free[inputs]}, {outputs: free[outputs]}, shapes)
    spec = NetworkSpec(name, file.name, "safetensors", sha256, about, *parts)
    return BACKEND.load(Artifact(file, sha256), spec, EngineConfig(threads=1))


def test_one_file_is_hashed_once_until_it_changes(
    tmp_path: Path, probe_modules: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, hashed, digest = tmp_path / "both.safetensors", list[int](), hashlib.file_digest
    states = {name: probe_modules[name].state_dict() for name in SHAPES}
    save_file({key: tensor for state in states.values() for key, tensor in state.items()}, file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: (hashed.append(1), digest(*args))[1])
    monkeypatch.setattr(Artifact, "read", lambda self: pytest.fail("the whole file was read into memory"))
    plane, grow = (load(name, file, sha256) for name in SHAPES)
    assert len(hashed) == 1
    assert plane(luma=np.ones((1, 1, 8, 8), np.float32))["score"].shape == (1, 2, 2, 2)
    coarse = np.random.default_rng(0).standard_normal((1, 2, 5, 7)).astype(np.float32)
    torch = pytest.importorskip("torch")
    with torch.inference_mode():
        want = probe_modules["grow"](torch.from_numpy(coarse)).numpy()
    np.testing.assert_allclose(grow(coarse=coarse)["image"], want, atol=1e-6)

    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match=r"both.safetensors is corrupt: its sha256 is"):
        load("grow", file, sha256)
    file.unlink()
    with pytest.raises(BundleError, match="cannot read .*both.safetensors: No such file"):
        load("grow", file, sha256)


def test_a_file_that_is_no_safetensors_file_is_named(tmp_path: Path, probe_modules: dict[str, Any]) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(BundleError, match="w.safetensors is not a safetensors file"):
        load("plane", file, hashlib.sha256(file.read_bytes()).hexdigest())
