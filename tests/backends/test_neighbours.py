"""A row's answer does not depend on the rows it shares a call with: real networks, each row alone against among strangers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from mien.engine.bundle import Bundle  # noqa: E402
from mien.engine.checkpoints.importing import import_bundle  # noqa: E402
from mien.engine.checkpoints.sources import Settings, Sources  # noqa: E402
from mien.engine.config import EngineConfig  # noqa: E402
from mien.engine.rows import RowBatcher, RowGathering  # noqa: E402
from mien.engine.types import Array  # noqa: E402
from tests import published  # noqa: E402

CONFIG = EngineConfig(threads=1)
CASES = [("sd15", "unet"), ("sd15", "controlnet"), ("tiny", "denoiser"), ("tiny", "difference")]
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """The embedded bundle, which ONNX Runtime runs, and a miniature of SD1.5 with adapter, ControlNet and banks, for torch."""
    root = tmp_path_factory.mktemp("published")
    sources = Sources(
        unet=published.write_repository(root / "sd15"),
        wplus=published.write_wplus(root),
        e4e=published.write_e4e(root),
        controlnet=published.write_controlnet(root / "controlnet"),
    )
    settings = Settings(sampling="lcm_lora", crop_px=128, licences={})
    return {
        "sd15": import_bundle("sd15", sources, settings, root / "bundles").bundle,
        "tiny": Bundle.open("tiny"),
    }


def loaded(bundle: Bundle, name: str) -> Any:
    return bundle.load(name, "torch" if bundle.networks[name].format == "safetensors" else "onnxruntime", CONFIG)


def row(bundle: Bundle, name: str, seed: int, *, bank: int = 6, scale: float = 1.0, count: int = 1) -> dict[str, Array]:
    """Inputs of `count` rows at a timestep, with a bank of `bank` tokens, of their own."""
    rng, spec = np.random.default_rng(seed), bundle.networks[name]
    side = bundle.manifest.crop_size_px

    def size(dim: int | str) -> int:
        if isinstance(dim, int):
            return dim
        letter, number = dim[0], dim[1:].removeprefix("/")
        return {"B": count, "T": 77, "M": bank}[letter] if letter in "BTM" else side // int(number or 1)

    arrays: dict[str, Array] = {
        key: (scale * rng.standard_normal([size(dim) for dim in spec.shapes[key]])).astype(np.float32)
        for key in spec.inputs
    }
    weights = {"own_weight": rng.uniform(0, 1, count), "timestep": rng.uniform(0, 999, count)}
    return arrays | {key: value.astype(np.float32) for key, value in weights.items() if key in arrays}


def gathered(network: Any, calls: list[dict[str, Array]], gathering: RowGathering) -> list[Any]:
    """The answers of calls made at the same time."""
    batcher, begun = RowBatcher(network, gathering), threading.Barrier(len(calls))

    def ask(arrays: dict[str, Array]) -> Any:
        with gathering.at_work():
            begun.wait(PATIENCE_S)
            return batcher(**arrays)

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(ask, calls))


def compare(got: Any, wanted: Any) -> None:
    assert set(got) == set(wanted)
    for key, value in wanted.items():
        assert got[key].shape == value.shape
        np.testing.assert_allclose(got[key], value, rtol=1e-5, atol=1e-5 * np.abs(value).max(), err_msg=key)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_row_is_the_same_alone_and_among_others(kind: str, name: str, bundles: dict[str, Bundle]) -> None:
    bundle = bundles[kind]
    network, row_itself = loaded(bundle, name), row(bundle, name, 1)
    alone = network(**row_itself)
    for neighbours in (
        [row(bundle, name, 2)],
        [row(bundle, name, 3, count=2), row(bundle, name, 4, scale=100.0)],
        [row(bundle, name, 5, scale=float("nan"))],
    ):
        gathering = RowGathering((1, 2, 4, 8), float("inf"))
        answers = gathered(network, [row_itself, *neighbours], gathering)
        assert gathering.counts().calls == 1
        compare(answers[0], alone)
        for answer, neighbour in zip(answers[1:], neighbours, strict=True):
            if len(neighbour["timestep"]) > 1:
                compare(answer, network(**neighbour))


@pytest.mark.parametrize(("kind", "name"), [case for case in CASES if case[1] != "difference"])
def test_rows_of_other_bank_lengths_have_calls_of_their_own(kind: str, name: str, bundles: dict[str, Bundle]) -> None:
    bundle = bundles[kind]
    network, gathering = loaded(bundle, name), RowGathering((1, 2, 4), float("inf"))
    calls = [row(bundle, name, seed, bank=tokens) for seed, tokens in ((1, 0), (2, 6), (3, 0), (4, 6), (5, 12))]
    answers = gathered(network, calls, gathering)
    assert gathering.counts().calls == 3 and gathering.counts().padded == 0
    for answer, arrays in zip(answers, calls, strict=True):
        compare(answer, network(**arrays))
