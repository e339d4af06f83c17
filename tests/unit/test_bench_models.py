"""What the GPU benchmarks time, in miniature on the CPU: that the forms that are compared answer the same."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from mien.bench import attention_tuning, kernels_gpu, latency, networks, throughput
from mien.bench.device_peaks import Peaks
from mien.bench.img2img import Img2Img, Weights, draw_noise
from mien.bench.network_forms import NetworkForms
from mien.bench.peers import Peers
from mien.bench.random_lane import LaneParts, LaneShape, RandomLane
from mien.bench.random_networks import MINI, NETWORKS, random_network
from mien.bench.recorder import TIME_UP, Recorder
from mien.bench.unet_ops import Attention, Gate, Norm, bank_layers, read_ops, unet_shapes
from mien.engine.errors import InputError, UnavailableError
from mien.engine.networks.sd_layout import Layout
from mien.engine.networks.sd_unet import UNet
from mien.kernels.gpu.attention_tiles import TILES, choose


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    """As in the benchmarks."""
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def parts() -> LaneParts:
    """Networks of a lane."""
    return LaneParts.make("mini", "cpu")


def record(bench: str, **more: Any) -> Recorder:
    return Recorder(bench, "cpu", peaks=Peaks({"float32": 1.0}, 1.0), case_s=0.001, tell=lambda line: None, **more)


def alike(got: Any, wanted: Any) -> float:
    """The largest distance over the largest value, of the first of their tensors."""
    got, wanted = (answer if isinstance(answer, Tensor) else answer[0] for answer in (got, wanted))
    return float((got - wanted).abs().max() / wanted.abs().max())


def test_operations_and_flops_are_those_of_the_network() -> None:
    """SD1.5 at 512 pixels: 16 transformer blocks; 0.8003 TFLOP without the keys and values of the text."""
    ops = read_ops(Layout(), 512, adapter=False)
    assert ops.flops == pytest.approx(0.8003e12, rel=1e-4)
    counts = {kind: sum(n for op, n in ops.counts.items() if isinstance(op, kind)) for kind in (Attention, Norm, Gate)}
    assert counts == {Attention: 32, Norm: 61, Gate: 16}, (
        "22 residual blocks with two norms, 16 transformers, one at the end"
    )
    assert ops.counts[Attention(4096, (4096,), 320, 8)] == 5 and ops.counts[Gate(64, 5120)] == 1


def test_a_bank_adds_what_it_must() -> None:
    """4 N M C FLOPs for each layer that sees M tokens more."""
    layers = bank_layers(MINI)
    with_bank, without = read_ops(MINI, 64, layers=layers), read_ops(MINI, 64)
    seen = [layer for layer in MINI.layers() if layer.number in layers]
    tokens = [(-(-8 // layer.downscale)) ** 2 for layer in seen]
    assert with_bank.flops - without.flops == sum(
        4 * n * n * layer.channels for n, layer in zip(tokens, seen, strict=True)
    )
    weighted = [op for op in with_bank.counts if isinstance(op, Attention) and op.weighted]
    assert {op.segments for op in weighted} == {(16, 16), (4, 4)}
    with torch.device("meta"):
        shapes = unet_shapes(UNet(bank_layers=layers, **MINI.kwargs()), 2, 64, frames=2)
    assert shapes["bank_k_2"] == (2, 32, 32) and shapes["latents"] == (2, 4, 8, 8)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "text_encoder"])
def test_forms_of_a_network_answer_the_same(name: str) -> None:
    network = random_network(name, "mini", "cpu", torch.float32)
    forms, inputs = NetworkForms(network, "cpu", lambda: network.inputs(1)), network.inputs(2)
    plain: Any = forms.call("torch", inputs)()
    assert network.flops > 0
    for form in networks.forms_of(name, ("eager", "fused"), rows=2):
        assert alike(forms.call(form, inputs)(), plain) < 1e-4, form
    with pytest.raises(UnavailableError, match="graph needs a CUDA device"):
        forms.call("graph", inputs)


def test_forms_that_make_no_sense_are_not_tried() -> None:
    every = ("torch", "eager", "graph", "fp8", "torch compiled", "fp8 compiled")
    assert networks.forms_of("unet", every, 8) == list(every)
    assert networks.forms_of("unet", every, 1) == ["torch", "eager", "graph", "fp8"], "it compiles for one batch size"
    assert networks.forms_of("taesd_decoder", every, 8) == ["torch", "eager", "graph"]
    assert networks.forms_of("parser", every, 8) == ["torch", "graph"]


def test_forms_that_take_long_are_recorded_one_by_one() -> None:
    assert networks.together(["torch compiled", "fp8 compiled"], slow=True) == [
        ["graph", "torch compiled"],
        ["graph", "fp8 compiled"],
    ]
    assert networks.together(["torch", "graph"], slow=False) == [["torch", "graph"]] and not networks.together(
        [], False
    )
    here = record("networks")
    here.run(networks.cases(here, "mini", ["unet"], ["graph", "torch compiled", "fp8 compiled"], [8]))
    told = [(row["case"]["form"], row["left_out"]) for row in here.rows]
    pairs = ["graph", "graph", "torch compiled", "graph", "fp8 compiled"]
    assert told == [(form, f"{form} needs a CUDA device") for form in pairs]


def test_networks_are_recorded_with_what_is_left_out() -> None:
    here = record("networks")
    here.run(networks.cases(here, "mini", ["taesd_encoder"], ["torch", "fused", "graph"], [2]))
    of = {row["case"]["form"]: row for row in here.rows}
    assert of["fused"]["weights"] == "random" and of["fused"]["ratio_to"] == "torch" and "left_out" in of["graph"]
    assert of["torch"]["tflops"] * of["torch"]["p50_ms"] == pytest.approx(2 * 122.167296 / 1e3, rel=1e-3)


def test_a_network_that_cannot_be_made_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    made = networks.random_network

    def make(name: str, *more: Any) -> Any:
        if name == "parser":
            raise RuntimeError("no such thing")
        return made(name, *more)

    monkeypatch.setattr(networks, "random_network", make)
    here = record("networks")
    here.run(networks.cases(here, "mini", ["parser", "taesd_encoder"], ["torch"], [2]))
    assert here.failed == 1 and [("failed" in row, row["case"]["network"]) for row in here.rows] == [
        (True, "parser"),
        (False, "taesd_encoder"),
    ]


def test_kernels_answer_as_float64_does() -> None:
    ops = read_ops(MINI, 64, layers=bank_layers(MINI))
    here = record("kernels")
    here.run(kernels_gpu.cases(ops, 8, kernels_gpu.KINDS, [2], "cpu"))
    kernels_gpu.record_totals(here, ops, [2], "cpu")
    timed = [row for row in here.rows if "p50_ms" in row]
    assert not here.failed and {row["case"]["op"] for row in timed} == {
        "attention", "group norm", "geglu", "to float8", "consistency step"
    }  # fmt: skip
    assert max(row["error"] for row in timed) < 1e-5
    banks = {
        row["case"]["keys"]
        for row in timed
        if row["case"]["op"] == "attention" and row["case"]["shape"] == "16 of d16 x 2"
    }
    assert banks == {"16", "16+16", "16+16+16", "77", "4"}
    (gates,) = [
        row for row in here.rows if row["case"] == {"op": "geglu", "shape": "all of a UNet", "rows": 2, "form": "mien"}
    ]
    one = [row for row in timed if row["case"]["op"] == "geglu" and row["case"]["form"] == "mien"]
    runs = {f"{op.tokens} x {op.width}": n for op, n in ops.counts.items() if isinstance(op, Gate)}
    assert gates["total_ms"] == pytest.approx(sum(runs[row["case"]["shape"]] * row["p50_ms"] for row in one), rel=1e-3)
    assert gates["calls"] == 11


@pytest.mark.parametrize("composition", ["replace", "delta"])
def test_a_lane_edits_every_streams_frame(parts: LaneParts, composition: Any) -> None:
    lane = RandomLane(
        parts, LaneShape(streams=3, rows=2, steps=1, frame=(96, 80), composition=composition, any_rows=True)
    )
    lane.edited.zero_()
    lane.edit([0, 2])
    y = lane.edited[:, :80].float() - lane.source[:, :80].float()
    assert lane.shape.batches == (1, 2) and bool((lane.edited[1] == 0).all()), "the stream between them is left alone"
    for stream in (0, 2):
        assert bool((y[stream, :4] == 0).all()) and float(y[stream].abs().max()) > 0
    assert lane.shape.flops(parts) == sum(parts.flops.values()) + (
        parts.flops["unet"] + parts.flops["taesd_decoder"] if composition == "delta" else 0
    )
    with pytest.raises(InputError, match="3 streams with 2 rows"):
        LaneShape(streams=3, rows=2, steps=1)


def test_throughput_and_latency_in_miniature(parts: LaneParts) -> None:
    here = record("throughput")
    assert LaneShape(4, 2, 2).spec().timesteps == (499.0, 259.0)
    wanted = list(throughput.shapes([2, 3], [2], [1], [(96, 80)], ["replace"]))
    assert wanted == [LaneShape(2, 2, 1, (96, 80))]
    (row,) = here.run(throughput.case_of(parts, shape) for shape in wanted)
    assert row["frames_per_s"] == pytest.approx(2e3 / row["p50_ms"], rel=1e-3) and row["weights"] == "random"
    assert row["case"]["frame"] == "96x80" and throughput.parse_frame("96x80") == (96, 80)
    for text in ("96", "96x8", "axb"):
        with pytest.raises(InputError, match="--frame is"):
            throughput.parse_frame(text)
    lane = RandomLane(parts, LaneShape(1, 1, 1, (96, 80), any_rows=True))
    assert latency.starter(lane, "cpu")([0]).is_done()


def test_our_loop_is_diffusers_pipeline() -> None:
    """The same weights, images, steps and noise: what `mien bench peers` compares does the same work."""
    pytest.importorskip("diffusers")
    from mien.bench.diffusers_peer import pipeline, run

    weights = Weights.make("mini", "cpu", torch.float32)
    peers = Peers(weights, rows=2, steps=3, device="cpu", dtype=torch.float32)
    plain: Any = peers.torch()()
    assert alike(peers.mien_eager()(), plain) < 1e-4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of diffusers' own making
        theirs = run(pipeline(weights, torch.float32, "cpu"), weights.text, peers.image, 3, seed=0)
    ours = ((plain + 1) / 2).clamp(0, 1)
    assert alike(ours, theirs) < 1e-4
    other = Img2Img(
        weights.unet,
        weights.encoder,
        weights.decoder,
        weights.told(),
        draw_noise("mini", 2, 3, "cpu", torch.float32, seed=1),
        plain=True,
    )
    assert alike(other(peers.image), plain) > 1e-3, "another noise is another picture"
    with pytest.raises(UnavailableError, match="graph needs a CUDA device"):
        peers.mien()


def test_the_tile_table_of_trials() -> None:
    for capability in (80, 90, 120):
        for trial in attention_tuning.trials("sd15", capability, [8, 1]):
            width, size = trial.entry
            heads = trial.rows * trial.op.num_heads
            assert getattr(TILES[capability][width], size) == choose(
                capability, trial.op.dim, heads, trial.op.n_queries
            )
            assert choose(capability, trial.op.dim, heads, trial.op.n_queries) in attention_tuning.tiles_of(
                capability, trial.op.dim
            )


def test_the_best_tile_loses_least_over_its_cases() -> None:
    times = {"a": {"x": 1.0, "y": 1.1, "z": 0.9}, "b": {"x": 3.0, "y": 2.0}}
    found = attention_tuning.best(times)
    assert list(found) == ["y", "x"], "z failed in one of them"
    assert found["y"] == pytest.approx((1.1 / 0.9 + 1) / 2) and found["x"] == pytest.approx((1 / 0.9 + 1.5) / 2)
    trial = next(iter(attention_tuning.trials("sd15", 90, [8], [0])))
    case = attention_tuning.case_of(trial, 90, "cuda")
    rows = [{"case": {**case.name, "form": form}, "p50_ms": ms} for form, ms in (("one", 2.0), ("two", 1.0))]
    table = attention_tuning.table([*rows, {"case": {**case.name, "form": "three"}, "failed": "x"}], [(trial, case)])
    assert table == {(64, "large"): {"two": 1.0, "one": 2.0}}
    late = {"case": {**case.name, "form": "four"}, "left_out": TIME_UP}
    assert attention_tuning.table([*rows, late], [(trial, case)]) == {}, "a case that was cut off says nothing"
    assert case.against == attention_tuning.words(TILES[90][64].large)
