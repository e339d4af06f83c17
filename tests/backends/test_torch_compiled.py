"""torch.compile takes a fused UNet as a whole, with the kernels as operators of their own, as it meets them on a GPU."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from mien.engine.bank import EXTENDED  # noqa: E402
from mien.engine.cuda import fuse as fusing  # noqa: E402
from mien.engine.cuda.float8 import Float8Linear  # noqa: E402
from mien.engine.cuda.float8_trial import Float8Trial  # noqa: E402
from mien.engine.cuda.graphs import Graphs  # noqa: E402
from mien.engine.cuda.streams import HostStreams  # noqa: E402
from mien.engine.networks import sd_attention, sd_blocks  # noqa: E402
from mien.engine.networks.sd_unet import UNet  # noqa: E402
from mien.kernels import opaque  # noqa: E402
from tests import lane_parts as made  # noqa: E402
from tests.backends.test_torch_graphs import Desk  # noqa: E402

SIZES: dict[str, Any] = {
    "block_out_channels": (16, 32),
    "num_attention_heads": (2, 2),
    "attention": (True, False),
    "layers_per_block": 1,
    "cross_attention_dim": 8,
    "norm_num_groups": 4,
}


def aot_eager(*given: Any, **named: Any) -> Any:
    """torch's backend, imported late: it imports Triton, and tests/kernels/gpu must be the first to."""
    from torch._dynamo.backends.debugging import aot_eager as backend

    return backend(*given, **named)


def test_the_operators_are_what_torch_expects_of_operators() -> None:
    x, other = torch.randn(2, 9, 8), torch.randn(2, 3, 8)
    length = torch.tensor([3, 1], dtype=torch.int32)
    picture = torch.randn(2, 8, 4, 6).contiguous(memory_format=torch.channels_last)
    tests = ("test_schema", "test_faketensor")
    for operator, arguments in (
        (opaque.geglu, (x,)),
        (opaque.cross_frame_attention, (x, [x, other], [x, other], 2, [None, length], torch.ones(2))),
        (opaque.cross_frame_attention, (x, [other], [other], 2, [], None)),
        (opaque.group_norm_silu, (picture, 2, torch.ones(8), torch.ones(8), 1e-5, torch.ones(2, 8), True)),
    ):
        torch.library.opcheck(operator, arguments, test_utils=tests)


class Compiled:
    """torch.compile with a backend that runs what was traced, here; and what it was asked to compile."""

    def __init__(self) -> None:
        self.compile, self.graphs = torch.compile, list[Any]()

    def __call__(self, function: Any, **options: Any) -> Any:
        return self.compile(function, backend=self._backend, **options)

    def _backend(self, graph: Any, inputs: Any) -> Any:
        self.graphs.append(graph)
        return aot_eager(graph, inputs)


def test_nothing_is_compiled_for_calls_that_are_watched() -> None:
    compiled, x = Compiled(), torch.ones(3, 16)
    module = torch.nn.Sequential(torch.nn.Linear(16, 16))
    double = compiled(lambda t: 2 * module(t), fullgraph=True)
    trial, answers = Float8Trial(module, always_faster(), calls=2), list[Any]()
    for call in range(3):
        trial.run(lambda: answers.append(double(x)))
        assert len(compiled.graphs) == (call == 2)
    assert torch.equal(answers[0], answers[1]) and not torch.equal(answers[1], answers[2])


@pytest.mark.slow
def test_what_a_lane_calls_is_compiled_whole_in_8_bits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for a size, over steps, banks and calls; not before the layers are chosen."""
    frames, mask, stream = [made.picture(0)], made.soft_mask(), HostStreams().stream()
    edit, place = made.Edit((400, 200), policy=EXTENDED), made.affine(20, 12)
    use_operators(monkeypatch)

    def lane_of(**more: Any) -> tuple[Any, Any]:
        parts = {name: fusing.fuse(part) for name, part in made.modules().items()}
        trial = Float8Trial(parts["unet"], always_faster(), calls=1)
        return made.lane_of(edit, parts, frames, batches=(2,), trial=trial, **more)[0], parts["unet"]

    compiled = Compiled()
    monkeypatch.setattr(torch, "compile", compiled)
    torch.compiler.reset()
    eager, _ = lane_of()
    lane, unet = lane_of(graphs=Graphs(Desk()), compiles=True)
    lane.prepare(stream)
    for call, faces in enumerate((1, 2, 1)):
        assert len(compiled.graphs) == (call > 0)
        for each in (eager, lane):
            each.edit([made.row(0, k, place, mask, held=call) for k in range(faces)], stream)
        if call:  # what is recorded behind the first writes there too
            torch.testing.assert_close(lane.latents[:faces], eager.latents[:faces], rtol=1e-4, atol=1e-4)
    layers = sum(isinstance(part, Float8Linear) for part in unet.modules())
    (graph,) = compiled.graphs
    assert sum(torch.float8_e4m3fn in node.args for node in graph.graph.nodes) == layers > 0


def always_faster() -> Any:
    """A device's clock on which every other piece of work takes half as long as that before it."""
    turns = itertools.cycle((2.0, 1.0))
    return lambda work: next(turns)


@pytest.mark.slow
@torch.no_grad()
def test_a_network_is_compiled_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    unet = fusing.fuse(UNet(adapter=True, bank_layers=(1,), **SIZES).eval().requires_grad_(False))
    sizes = {"B": 2, "H/8": 4, "W/8": 6, "T": 5, "M1": 6}
    shapes = unet.signature.inputs.values()
    arguments = [torch.rand([d if isinstance(d, int) else sizes[d] for d in dims]) for dims in shapes]
    want = unet(*arguments)

    use_operators(monkeypatch)
    compiled = copy.deepcopy(unet)
    compiled.compile(fullgraph=True, dynamic=False, backend="aot_eager")
    for got, expected in zip(compiled(*arguments), want, strict=True):
        torch.testing.assert_close(got, expected)


def use_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of the public functions, which come to them on a GPU alone."""

    def attention(query: Any, segments: Any, heads: int, *, lengths: Any = None, own_weight: Any = None) -> Any:
        keys, values = zip(*segments, strict=True)
        return opaque.cross_frame_attention(query, keys, values, heads, lengths or (), own_weight)

    def norm(x: Any, groups: int, weight: Any, bias: Any, eps: float, shift: Any = None, silu: bool = True) -> Any:
        return opaque.group_norm_silu(x, groups, weight, bias, eps, shift, silu)

    monkeypatch.setattr(sd_attention, "cross_frame_attention", attention)
    monkeypatch.setattr(sd_attention, "geglu", opaque.geglu)
    monkeypatch.setattr(sd_blocks, "group_norm_silu", norm)
    monkeypatch.setattr(fusing, "group_norm_silu", norm)
