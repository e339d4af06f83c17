"""The lane as CUDA graphs on a GPU, against the lane on the CPU: what it computes, and that it neither waits nor allocates."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mien.engine.bank import ANCHOR, EXTENDED, Policy  # noqa: E402
from mien.engine.cuda.device import TorchCuda, seconds_of  # noqa: E402
from mien.engine.cuda.float8 import CAPABILITY, candidates  # noqa: E402
from mien.engine.cuda.float8_trial import Float8Trial  # noqa: E402
from mien.engine.cuda.fuse import fuse  # noqa: E402
from mien.engine.cuda.graphs import Graphs  # noqa: E402
from mien.engine.cuda.streams import CudaStreams, HostStreams  # noqa: E402
from mien.engine.sampler import step_tcd  # noqa: E402
from tests import lane_parts as made  # noqa: E402

pytestmark = pytest.mark.gpu

GUIDED = {"text": 1.5, "none": -0.5}
CASES = {
    "one step": made.Edit(),
    "two steps, guided": made.Edit((599, 319), GUIDED, step=partial(step_tcd, gamma=0.3)),
    "delta": made.Edit((400, 200), composition="delta"),
}
PLACES = made.affine(20, 12), made.affine(40, 25, 0.9, -0.3), made.affine(-9, 30, 1.3, 0.5)


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Convolutions in float32 that is float32; products of matrices are so by default."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch have a newer name for it
        before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
        yield
        torch.backends.cudnn.allow_tf32 = before


def parts(dtype: torch.dtype) -> dict[str, Any]:
    found = {name: module.to("cuda", dtype) for name, module in made.modules().items()}
    if dtype != torch.float32:
        found |= {name: fuse(found[name]) for name in ("unet", "vae_encoder", "vae_decoder")}
    return found


@contextmanager
def neither_waits_nor_allocates() -> Iterator[None]:
    """Whatever it is that is done in the body."""
    torch.cuda.synchronize()

    def made_so_far() -> list[int]:
        stats = torch.cuda.memory_stats()
        return [stats[f"{kind}.all.allocated"] for kind in ("allocation", "segment")]

    before = made_so_far()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert made_so_far() == before
    torch.cuda.synchronize()


def apart(a: made.Planes, b: made.Planes) -> np.ndarray:
    return np.concatenate([np.abs(x.astype(int) - y.astype(int)).ravel() for x, y in zip(a, b, strict=True)])


@pytest.mark.parametrize("layout", ["planar", "paired"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("case", list(CASES))
def test_a_lane_does_what_it_does_on_the_cpu(case: str, dtype: torch.dtype, layout: str) -> None:
    frames, mask = [made.picture(seed) for seed in range(3)], made.soft_mask()
    rows = [made.row(0, 1, PLACES[0], mask), made.row(2, 3, PLACES[1], mask, 0.6), made.row(0, 4, PLACES[2], mask)]
    streams, stream = CudaStreams("cuda"), HostStreams().stream()
    lane, pixels = made.lane_of(CASES[case], made.modules(), frames, layout=layout)
    lane.edit(rows, stream)
    want = [made.planes_of(pixels.edited, i) for i in range(3)]
    graphs = Graphs(TorchCuda("cuda"))
    lane, pixels = made.lane_of(CASES[case], parts(dtype), frames, streams=streams, layout=layout, graphs=graphs)
    torch.cuda.synchronize()
    on_gpu = streams.stream()
    lane.prepare(on_gpu)
    assert len(graphs.keys) == 3
    lane.edit(rows, on_gpu)
    torch.cuda.synchronize()
    assert not apart(made.planes_of(pixels.edited, 1), frames[1]).any()
    for i in range(3):
        assert not apart(made.planes_of(pixels.source, i), frames[i]).any()
        far = apart(made.planes_of(pixels.edited, i), want[i])
        assert np.quantile(far, 0.99) <= 2 and far.max() <= (2 if dtype == torch.float32 else 16)


@pytest.mark.parametrize("policy", [EXTENDED, ANCHOR, Policy(("previous",))], ids=["extended", "anchor", "previous"])
def test_banks_of_any_length_share_a_graph(policy: Policy) -> None:
    edit, mask = made.Edit((400, 200), GUIDED, policy=policy), made.soft_mask()
    frames, streams = [made.picture(seed) for seed in range(4)], CudaStreams("cuda")
    host, _ = made.lane_of(edit, made.modules(), frames)
    lane, _ = made.lane_of(edit, parts(torch.float32), frames, streams=streams, graphs=Graphs(TorchCuda("cuda")))
    torch.cuda.synchronize()
    at_once, stream = HostStreams().stream(), streams.stream()
    for i in range(4):
        rows = [made.row(i, 0, PLACES[0], mask, held=i), made.row(i, 1, PLACES[1], mask, held=max(i - 2, 0))]
        for where, on in ((host, at_once), (lane, stream)):
            where.edit(rows, on)
        torch.cuda.synchronize()
        np.testing.assert_allclose(lane.latents[:2].cpu(), host.latents[:2], rtol=1e-3, atol=1e-3)


def test_calls_neither_wait_nor_allocate() -> None:
    frames, mask, streams = [made.picture(seed) for seed in range(3)], made.soft_mask(), CudaStreams("cuda")
    lane, _ = made.lane_of(
        made.Edit(policy=EXTENDED), parts(torch.float16), frames, streams=streams, graphs=Graphs(TorchCuda("cuda"))
    )
    stream = streams.stream()
    lane.prepare(stream)
    rows = [[made.row(i % 3, k, PLACES[k], mask, held=i) for k in range(1 + i % 3)] for i in range(24)]
    lane.edit(rows[0], stream)
    with neither_waits_nor_allocates():
        for batch in rows:
            lane.edit(batch, stream)


@pytest.mark.parametrize("compiles", [False, True], ids=["as it is", "compiled"])
def test_a_lane_turns_to_8_bits(compiles: bool) -> None:
    """Every layer that may, whatever the time it takes; before, during and after that the faces stay what they are, nearly."""
    if torch.cuda.get_device_capability() < CAPABILITY:
        pytest.skip("this GPU has no 8-bit floats")
    frames, mask, streams = [made.picture(seed) for seed in range(3)], made.soft_mask(), CudaStreams("cuda")
    edit, turns, eight = made.Edit((400, 200), policy=EXTENDED), itertools.cycle((2.0, 1.0)), parts(torch.float16)
    sizes = (2,) if compiles else (1, 2, 4)  # each is compiled by itself, which takes long

    def seconds(work: Any) -> float:
        assert 0 < seconds_of(work) < 1
        return next(turns)

    trial = Float8Trial(eight["unet"], seconds, calls=3)
    graphs, stream = Graphs(TorchCuda("cuda")), streams.stream()
    how: dict[str, Any] = {"graphs": graphs, "trial": trial, "compiles": compiles, "batches": sizes}
    lane, _ = made.lane_of(edit, eight, frames, streams=streams, **how)
    plain, _ = made.lane_of(edit, parts(torch.float16), frames, streams=streams)
    torch.cuda.synchronize()
    lane.prepare(stream)
    for call in range(6):
        rows = [made.row(call % 3, k, PLACES[k], mask, held=call) for k in range(2)]
        for each in (plain, lane):
            each.edit(rows, stream)
        torch.cuda.synchronize()
        assert trial.is_settled == (call >= 2) == bool(graphs.keys)
        if call != 2:  # recording writes there
            got, want = (each.latents[:2].double() for each in (lane, plain))
            far = float((got - want).norm() / want.norm())
            assert far < 1e-2 if call < 2 else 1e-4 < far < 0.15, call
    assert len(graphs.keys) == len(sizes) and trial.note.startswith(
        f"float8: {len(candidates(parts(torch.float16)['unet']))} of "
    )
    with neither_waits_nor_allocates():
        for call in range(6, 9):
            lane.edit([made.row(call % 3, k, PLACES[k], mask, held=call) for k in range(2)], stream)


def test_time_leaves_no_memory_behind() -> None:
    a = torch.randn(256, 256, device="cuda", dtype=torch.float16)
    seconds_of(lambda: a @ a)
    before = torch.cuda.memory_allocated()
    for _ in range(4):
        seconds_of(lambda: a @ a)
    assert torch.cuda.memory_allocated() == before
