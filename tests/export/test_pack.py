"""What is packed is what was trained: a file that is not its network is refused before anything is written."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from mien.engine.bundle import Bundle
from mien.export.onnx import export_onnx, store_float16
from mien.export.tiny import pack
from mien.export.tiny.quantize import Inputs
from mien.export.tiny.stage import Arguments
from mien.export.tiny.unpack import run as unpack


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[pack.Part, bytes]:
    """The shipped encoder and its file, as `pack` makes them."""
    runs = tmp_path_factory.mktemp("runs")
    unpack(Arguments(data=runs, runs=runs, minutes=0))
    part = pack._synthesis_parts(runs)[0]["vae_encoder"]
    model = store_float16(export_onnx(part.module, part.inputs, tuple(part.outputs), part.examples))
    return part, model.SerializeToString()


def _compare(part: pack.Part, data: bytes, bound: float = pack.FLOAT16_BOUND) -> float:
    spec = Bundle.open("tiny").networks["vae_encoder"]
    return pack.compare(part, data, replace(spec, sha256=hashlib.sha256(data).hexdigest()), bound)


def test_rounding_is_let_pass_and_another_network_is_not(encoder: tuple[pack.Part, bytes]) -> None:
    part, data = encoder
    assert 0 < _compare(part, data) < pack.FLOAT16_BOUND / 2
    model = export_onnx(part.module, part.inputs, tuple(part.outputs), part.examples)
    for tensor in model.graph.initializer:
        if tensor.name == "out.weight":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.05), tensor.name))
    with pytest.raises(ValueError, match="'latents' differs from torch by"):
        _compare(part, model.SerializeToString())
    with pytest.raises(ValueError, match="differs"):
        _compare(part, data, 1e-9)


def test_the_shipped_int8_encoder_is_within_its_bound(encoder: tuple[pack.Part, bytes]) -> None:
    part, _ = encoder
    bundle = Bundle.open("tiny")
    assert bundle.networks["vae_encoder"].int8 is not None
    data = (bundle.folder / bundle.networks["vae_encoder"].int8.file).read_bytes()
    assert pack.FLOAT16_BOUND < _compare(part, data, pack.INT8_BOUND) < pack.INT8_BOUND


def test_nothing_is_written_where_a_file_is_not_its_network(
    tmp_path: Path, encoder: tuple[pack.Part, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the examples that are compared are the seed's."""
    seeds: list[int] = []
    part, _ = encoder
    part = replace(part, examples={"image": torch.rand(2, 3, 256, 256) * 2 - 1})
    directions = {name: torch.zeros(12, 64) for name in Bundle.open("tiny").directions}
    monkeypatch.setattr(pack, "_synthesis_parts", lambda _: ({"vae_encoder": part}, directions, 16))
    monkeypatch.setattr(pack, "_analysis_parts", lambda _: seeds.append(torch.initial_seed()) or {})
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, 256, 256)).astype(np.float32)
    samples: dict[str, list[Inputs]] = {"vae_encoder": [{"image": image}]}
    monkeypatch.setattr(pack, "calibration", lambda _: samples)
    monkeypatch.setattr(pack, "outlines", lambda _: {})
    monkeypatch.setattr(pack, "PACKAGED", tmp_path)
    seen: list[str] = []

    def never(_: pack.Part, data: bytes, spec: pack.NetworkSpec, bound: float) -> float:
        seen.append(spec.file)
        assert hashlib.sha256(data).hexdigest() == spec.sha256
        assert bound == (pack.INT8_BOUND if "int8" in spec.file else pack.FLOAT16_BOUND)
        if "int8" in spec.file:
            raise ValueError("another network")
        return 0.0

    args = Arguments(data=tmp_path, runs=tmp_path, minutes=0, seed=3)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="another network"):
        patch.setattr(pack, "compare", never)
        pack.run(args)
    assert seen == ["vae_encoder.onnx", "vae_encoder.int8.onnx"] and seeds == [3] and not list(tmp_path.iterdir())
