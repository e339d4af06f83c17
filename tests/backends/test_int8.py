"""A network's int8 file: written with its hash, verified, taken by the backend that runs it, and only where it may be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.engine.bundle import Bundle
from mien.engine.config import EngineConfig
from mien.engine.errors import BundleError, UnavailableError

AUTO, EXACT = EngineConfig(threads=1), EngineConfig(threads=1, precision="float32")
LUMA = np.random.default_rng(0).random((1, 1, 32, 64), np.float32)


@pytest.fixture
def bundle(probe_bundle: Bundle, tmp_path: Path) -> Bundle:
    """The probe bundle; the "int8" of `plane` answers 1 minus its score, so that it is told apart."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(probe_bundle.folder / "plane.onnx")
    for tensor in model.graph.initializer:
        if tensor.name.startswith("score."):
            tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), tensor.name))
    manifest: dict[str, Any] = json.loads((probe_bundle.folder / "bundle.json").read_text())
    manifest["networks"]["plane"]["int8"] = {"file": "plane.int8.onnx"}
    files: dict[str, bytes | Path] = {p.name: p for p in probe_bundle.folder.iterdir() if p.suffix != ".json"}
    kept = {key: value for key, value in manifest.items() if key not in ("format", "files")}
    return Bundle.write(tmp_path / "bundle", kept, files | {"plane.int8.onnx": model.SerializeToString()})


def score(bundle: Bundle, backend: str, config: EngineConfig) -> Any:
    return bundle.load("plane", backend, config)(luma=LUMA)["score"]


def test_it_is_taken_unless_float32_is_asked_for(bundle: Bundle) -> None:
    want = score(bundle, "torch", AUTO)
    np.testing.assert_allclose(score(bundle, "onnxruntime", EXACT), want, atol=1e-6)
    np.testing.assert_allclose(score(bundle, "onnxruntime", AUTO), 1 - want, atol=1e-6)
    assert np.abs(1 - 2 * want).max() > 0.01, "the two must be told apart"


def test_a_precision_that_the_backend_lacks_is_refused(bundle: Bundle) -> None:
    with pytest.raises(UnavailableError, match="computes in float32 and int8, not in bfloat16"):
        score(bundle, "onnxruntime", EngineConfig(precision="bfloat16"))


def test_its_hash_is_checked(bundle: Bundle, probe_bundle: Bundle) -> None:
    int8 = bundle.networks["plane"].int8
    assert int8 is not None and int8.file not in bundle.manifest.files
    assert bundle.verify() == probe_bundle.verify() + (bundle.folder / int8.file).stat().st_size
    shutil.copy(bundle.folder / "plane.onnx", bundle.folder / int8.file)
    with pytest.raises(BundleError, match=r"plane.int8.onnx is corrupt"):
        score(bundle, "onnxruntime", AUTO)
    with pytest.raises(BundleError, match=r"plane.int8.onnx is corrupt"):
        bundle.verify()
    score(bundle, "onnxruntime", EXACT)
    (bundle.folder / int8.file).unlink()
    with pytest.raises(BundleError, match=r"'plane.int8.onnx' that bundle.json names is missing"):
        Bundle.open(bundle.folder)
