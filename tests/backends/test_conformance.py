"""What every backend must do alike; each test runs on every backend that can be used here."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.engine import backend as backends
from mien.engine.backend import bind
from mien.engine.bundle import Bundle
from mien.engine.config import EngineConfig
from mien.engine.errors import BundleError, InputError, ShapeError, UnavailableError
from mien.engine.types import Array, TensorSpec

CONFIG = EngineConfig(threads=1)
USABLE = [name for name in backends.names() if backends.backend(name).unavailable() is None]
REAL = [name for name in USABLE if name != "null"]


def probe_inputs(rows: int, bank: int, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    shapes = {"latents": (rows, 4, 8, 8), "bank_k_0": (rows, bank, 16), "bank_v_0": (rows, bank, 16)}
    arrays: dict[str, Array] = {key: rng.standard_normal(shape, np.float32) for key, shape in shapes.items()}
    return arrays | {"timestep": rng.uniform(0, 999, rows).astype(np.float32)}


def truth(module: Any, arrays: dict[str, Array], order: list[str]) -> list[Array]:
    import torch

    with torch.inference_mode():
        answer = module(*(torch.from_numpy(arrays[key]) for key in order))
    return [part.numpy() for part in ([answer] if isinstance(answer, torch.Tensor) else answer)]


def test_every_backend_file_is_found() -> None:
    assert {"null", "onnxruntime", "torch"} <= set(backends.names())
    assert {"null", "onnxruntime", "torch"} <= set(USABLE), "the test install brings all of these"


@pytest.mark.parametrize("name", USABLE)
def test_the_signature_is_the_manifests(name: str, probe_bundle: Bundle) -> None:
    network = probe_bundle.load("probe", name, CONFIG)
    assert network.inputs["latents"].shape == (None, 4, 8, 8)
    assert network.inputs["bank_k_0"].shape == (None, None, 16)
    assert list(network.outputs) == ["v", "own_k_0", "own_v_0"]


@pytest.mark.parametrize("name", USABLE)
@pytest.mark.parametrize(("rows", "bank"), [(1, 0), (1, 1), (2, 64), (5, 0), (3, 7)])
def test_free_dimensions_even_of_length_zero(name: str, rows: int, bank: int, probe_bundle: Bundle) -> None:
    answers = probe_bundle.load("probe", name, CONFIG)(**probe_inputs(rows, bank))
    assert {key: value.shape for key, value in answers.items()} == {
        "v": (rows, 4, 8, 8),
        "own_k_0": (rows, 64, 16),
        "own_v_0": (rows, 64, 16),
    }
    assert all(value.dtype == np.float32 for value in answers.values())


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize(("rows", "bank"), [(1, 0), (3, 7), (2, 64)])
def test_answers_are_torchs(
    name: str, rows: int, bank: int, probe_bundle: Bundle, probe_modules: dict[str, Any]
) -> None:
    arrays = probe_inputs(rows, bank)
    want = truth(probe_modules["probe"], arrays, ["latents", "timestep", "bank_k_0", "bank_v_0"])
    got = probe_bundle.load("probe", name, CONFIG)(**arrays)
    for key, value in zip(["v", "own_k_0", "own_v_0"], want, strict=True):
        np.testing.assert_allclose(got[key], value, rtol=1e-4, atol=2e-5, err_msg=key)
    assert np.abs(want[0]).max() > 0.1, "an answer of nothing would prove nothing"


@pytest.mark.parametrize("name", REAL)
def test_weights_stored_as_float16_compute_in_float32(
    name: str, probe_bundle: Bundle, probe_modules: dict[str, Any]
) -> None:
    import torch

    arrays = probe_inputs(2, 3)
    rounded = type(probe_modules["probe"])().eval()
    state = {
        key: value.half().float() if value.numel() >= 16 else value
        for key, value in probe_modules["probe"].state_dict().items()
    }
    rounded.load_state_dict(state)
    want = truth(rounded, arrays, ["latents", "timestep", "bank_k_0", "bank_v_0"])[0]
    got = probe_bundle.load("half", name, CONFIG)(**arrays)["v"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)
    assert not torch.equal(state["q.weight"], probe_modules["probe"].state_dict()["q.weight"])


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize(("height", "width"), [(4, 4), (32, 64), (60, 20)])
def test_free_height_and_width(
    name: str, height: int, width: int, probe_bundle: Bundle, probe_modules: dict[str, Any]
) -> None:
    luma = np.random.default_rng(1).random((1, 1, height, width), np.float32)
    got = probe_bundle.load("plane", name, CONFIG)(luma=luma)["score"]
    np.testing.assert_allclose(got, truth(probe_modules["plane"], {"luma": luma}, ["luma"])[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", USABLE)
@pytest.mark.parametrize(("rows", "height", "width"), [(1, 1, 1), (2, 5, 3), (1, 8, 8)])
def test_an_input_may_be_a_quotient(
    name: str, rows: int, height: int, width: int, probe_bundle: Bundle, probe_modules: dict[str, Any]
) -> None:
    coarse = np.random.default_rng(1).standard_normal((rows, 2, height, width), np.float32)
    got = probe_bundle.load("grow", name, CONFIG)(coarse=coarse)["image"]
    assert got.shape == (rows, 1, 4 * height, 4 * width)
    if name in REAL:
        want = truth(probe_modules["grow"], {"coarse": coarse}, ["coarse"])[0]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_a_quotient_and_its_whole_must_agree(probe_bundle: Bundle) -> None:
    grow = probe_bundle.networks["grow"]
    spec = replace(
        grow,
        inputs=grow.inputs | {"image": TensorSpec((None, 1, None, None))},
        shapes=grow.shapes | {"image": ("B", 1, "H", "W")},
    )
    arrays = {"coarse": np.zeros((2, 2, 5, 3), np.float32), "image": np.zeros((2, 1, 20, 12), np.float32)}
    assert bind(spec, arrays) == {"B": 2, "H": 20, "W": 12}
    with pytest.raises(ShapeError, match=r"'image' is \(2, 1, 20, 13\), expected \(B, 1, H, W\) with W = 12"):
        bind(spec, arrays | {"image": np.zeros((2, 1, 20, 13), np.float32)})


@pytest.mark.parametrize("name", USABLE)
def test_a_size_that_does_not_divide_is_refused(name: str, probe_bundle: Bundle) -> None:
    with pytest.raises(ShapeError, match=r"plane: W is 63, expected a multiple of 4"):
        probe_bundle.load("plane", name, CONFIG)(luma=np.zeros((1, 1, 32, 63), np.float32))


@pytest.mark.parametrize("name", USABLE)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"latents": np.zeros((1, 4, 8, 9), np.float32)},
            r"input 'latents' is \(1, 4, 8, 9\) float32, expected \(B, 4, 8, 8\)",
        ),
        ({"latents": np.zeros((4, 8, 8), np.float32)}, r"input 'latents' is \(4, 8, 8\)"),
        ({"latents": np.zeros((1, 4, 8, 8))}, r"\(1, 4, 8, 8\) float64, expected \(B, 4, 8, 8\) float32"),
        ({"timestep": np.zeros(1, np.int64)}, r"input 'timestep' is \(1,\) int64"),
        ({"timestep": np.zeros(2, np.float32)}, r"input 'timestep' is \(2,\), expected \(B\) with B = 1"),
        (
            {"bank_v_0": np.zeros((1, 5, 16), np.float32)},
            r"'bank_v_0' is \(1, 5, 16\), expected \(B, M, 16\) with M = 2",
        ),
        ({"timestep": 3.0}, r"input 'timestep' is float, expected"),
        ({"timestep": None}, r"input 'timestep' is NoneType, expected"),
        ({"prompt": np.zeros(1, np.float32)}, r"unknown input 'prompt', expected latents, timestep"),
    ],
)
def test_a_wrong_input_is_named(name: str, change: dict[str, Any], message: str, probe_bundle: Bundle) -> None:
    network = probe_bundle.load("probe", name, CONFIG)
    with pytest.raises(ShapeError, match=message):
        network(**(probe_inputs(1, 2) | change))


@pytest.mark.parametrize("name", USABLE)
def test_a_missing_input_is_named(name: str, probe_bundle: Bundle) -> None:
    arrays = probe_inputs(1, 2)
    del arrays["timestep"]
    with pytest.raises(ShapeError, match=r"probe: input 'timestep' is missing, expected \(B\) float32"):
        probe_bundle.load("probe", name, CONFIG)(**arrays)


@pytest.mark.parametrize("name", USABLE)
def test_inputs_are_left_alone_and_views_are_taken(name: str, probe_bundle: Bundle) -> None:
    network = probe_bundle.load("probe", name, CONFIG)
    arrays = probe_inputs(2, 4)
    want = network(**arrays)
    turned = np.ascontiguousarray(arrays["latents"].transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    turned.setflags(write=False)
    got = network(**(arrays | {"latents": turned}))
    np.testing.assert_allclose(got["v"], want["v"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(arrays["latents"], probe_inputs(2, 4)["latents"])


@pytest.mark.parametrize("name", USABLE)
def test_two_threads_share_a_network(name: str, probe_bundle: Bundle) -> None:
    network = probe_bundle.load("probe", name, CONFIG)
    cases = [probe_inputs(1 + seed % 3, seed % 5, seed) for seed in range(12)]
    alone = [network(**case)["v"] for case in cases]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda case: network(**case)["v"], cases))
    for got, want in zip(together, alone, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def copy_of(bundle: Bundle, folder: Path) -> Path:
    return Path(shutil.copytree(bundle.folder, folder / "copy"))


@pytest.mark.parametrize("name", USABLE)
def test_a_changed_file_is_refused_with_both_hashes(name: str, probe_bundle: Bundle, tmp_path: Path) -> None:
    folder = copy_of(probe_bundle, tmp_path)
    data = bytearray((folder / "probe.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "probe.onnx").write_bytes(data)
    with pytest.raises(
        BundleError, match=rf"is corrupt: its sha256 is \w{{64}}, .* {probe_bundle.networks['probe'].sha256}"
    ):
        Bundle.open(folder).load("probe", name, CONFIG)


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"not a network at all", b"\x08\x0a"])
def test_a_file_that_is_no_network_is_refused(name: str, content: bytes, probe_bundle: Bundle, tmp_path: Path) -> None:
    import hashlib

    folder = copy_of(probe_bundle, tmp_path)
    (folder / "probe.onnx").write_bytes(content)
    text = (folder / "bundle.json").read_text()
    sha256 = probe_bundle.networks["probe"].sha256
    (folder / "bundle.json").write_text(text.replace(sha256, hashlib.sha256(content).hexdigest()))
    with pytest.raises(BundleError, match="probe.onnx"):
        Bundle.open(folder).load("probe", name, CONFIG)


@pytest.mark.parametrize("name", REAL)
def test_a_manifest_that_lies_about_an_output_is_caught(name: str, probe_bundle: Bundle, tmp_path: Path) -> None:
    folder = copy_of(probe_bundle, tmp_path)
    text = (folder / "bundle.json").read_text()
    (folder / "bundle.json").write_text(text.replace('"H/4"', '"H/2"'))
    with pytest.raises(
        ShapeError, match=r"plane: output 'score' is \(1, 2, 8, 8\) float32, the bundle says \(1, 2, 16, 8\)"
    ):
        Bundle.open(folder).load("plane", name, CONFIG)(luma=np.zeros((1, 1, 32, 32), np.float32))


def test_a_network_the_bundle_lacks(probe_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="has no network 'identity', it has probe, half, plane, grow"):
        probe_bundle.load("identity", "null", CONFIG)


def test_unknown_and_later_backends() -> None:
    with pytest.raises(InputError, match=r"unknown backend 'onnxruntim', did you mean 'onnxruntime'\?"):
        backends.backend("onnxruntim")
    with pytest.raises(UnavailableError, match="tensorrt"):
        backends.select(EngineConfig(backend="tensorrt"))


def test_auto_says_what_it_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backends.select(EngineConfig()).backend.name == "onnxruntime"
    runtime = backends.backend("onnxruntime")
    monkeypatch.setattr(
        type(runtime), "unavailable", lambda self: "onnxruntime is not installed: pip install 'mien[cpu]'"
    )
    chosen = backends.select(EngineConfig())
    assert chosen.backend.name == "torch"
    assert "onnxruntime is not installed" in chosen.reason
    with pytest.raises(UnavailableError, match="backend 'onnxruntime' cannot be used: onnxruntime is not installed"):
        backends.select(EngineConfig(backend="onnxruntime"))


def test_a_device_that_is_not_there(probe_bundle: Bundle) -> None:
    import torch

    with pytest.raises(UnavailableError, match="runs on the cpu only"):
        probe_bundle.load("probe", "onnxruntime", EngineConfig(device="cuda:0"))
    if not torch.cuda.is_available():
        with pytest.raises(UnavailableError, match="sees no CUDA device"):
            probe_bundle.load("probe", "torch", EngineConfig(device="cuda:0"))
