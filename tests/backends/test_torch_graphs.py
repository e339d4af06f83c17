"""The bookkeeping of CUDA graphs, proved on a stand-in for the GPU whose graphs are the recorded functions themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.overrides import TorchFunctionMode  # noqa: E402

from mien.engine.backends.torch import TorchNetwork  # noqa: E402
from mien.engine.config import EngineConfig  # noqa: E402
from mien.engine.cuda import network as networks  # noqa: E402
from mien.engine.cuda.graphs import Graphs, copy_all  # noqa: E402
from mien.engine.cuda.network import CapturedNetwork, load_on_gpu  # noqa: E402
from mien.engine.errors import BundleError, InputError, RunError, ShapeError  # noqa: E402
from mien.engine.manifest import Architecture, NetworkSpec  # noqa: E402
from mien.engine.networks.sd_layout import Layout  # noqa: E402
from mien.engine.networks.sd_unet import UNet  # noqa: E402
from mien.engine.types import TensorSpec  # noqa: E402
from tests.network_sizes import named_sizes  # noqa: E402


@dataclass
class Desk:
    """Stands in for a GPU. Recording runs nothing, as on a real one; replaying runs what was recorded."""

    log: list[str] = field(default_factory=list)
    pools: list[Any] = field(default_factory=list)
    error: str = ""
    is_idle: bool = False

    def new_pool(self) -> Any:
        self.log.append("pool")
        return object()

    def try_out(self, work: Callable[[], None]) -> None:
        self.log.append("try")
        work()

    def record(self, work: Callable[[], None], pool: Any) -> Any:
        if self.error:
            raise RuntimeError(self.error)
        self.log.append("record")
        self.pools.append(pool)
        return SimpleNamespace(replay=lambda: self._replay(work), reset=lambda: self.log.append("reset"))

    def _replay(self, work: Callable[[], None]) -> None:
        self.log.append("replay")
        if not self.is_idle:
            time.sleep(1e-4)  # so that a thread which does not wait its turn is caught
            work()

    def mark(self) -> None:
        self.log.append("mark")

    def wait(self) -> None:
        self.log.append("wait")

    def synchronize(self) -> None:
        self.log.append("synchronize")


def double(x: Any, y: Any) -> tuple[Any, Any]:
    return 2 * x + y, x.sum(0)


def buffers(rows: int = 2) -> dict[str, Any]:
    return {"x": torch.zeros(rows, 3), "y": torch.ones(rows, 3)}


def test_a_call_copies_launches_and_answers_from_buffers_that_stay() -> None:
    desk, given = Desk(), buffers()
    step = Graphs(desk).capture("double", double, given)
    assert desk.log.count("record") == 1 and step.inputs["x"] is given["x"]
    places = [out.data_ptr() for out in step.outputs]
    for value in (1.0, 5.0):
        out, total = step(x=torch.full((2, 3), value))
        assert torch.equal(out, torch.full((2, 3), 2 * value + 1)) and torch.equal(total, torch.full((3,), 2 * value))
        assert [out.data_ptr(), total.data_ptr()] == places
    given["y"].zero_()  # filled in place, by whoever owns it
    assert torch.equal(step()[0], torch.full((2, 3), 10.0))


def test_capturing_leaves_the_inputs_alone() -> None:
    desk, count = Desk(), torch.zeros(1)
    graph = Graphs(desk).capture("in place", lambda count: count.add_(1) and None, {"count": count})
    assert graph.outputs == () and desk.log.count("try") == 2 and float(count) == 0
    graph()
    graph()
    assert float(count) == 2


def test_graphs_share_a_pool_and_leave_each_others_outputs_alone() -> None:
    desk = Desk()
    graphs = Graphs(desk)
    large, small = (graphs.capture(rows, double, buffers(rows)) for rows in (4, 2))
    assert desk.log.count("pool") == 1 and desk.pools[0] is desk.pools[1]
    (kept, _), before = large(x=torch.ones(4, 3)), torch.full((4, 3), 3.0)
    small(x=torch.full((2, 3), 9.0))
    assert torch.equal(kept, before)
    assert not {out.data_ptr() for out in large.outputs} & {out.data_ptr() for out in small.outputs}


def test_answers_go_into_given_tensors() -> None:
    step = Graphs(Desk()).capture("double", double, buffers())
    slots = torch.full((5, 2, 3), -1.0)
    own, _ = step(x=torch.ones(2, 3), into=(slots[3], None))
    assert torch.equal(slots[3], own) and float(slots[[0, 1, 2, 4]].max()) == -1
    for wrong, words in (
        ({"into": (slots[3],)}, "1 tensors to write into for 2 outputs"),
        ({"into": (slots[3, :1], None)}, r"output 0 is \(2, 3\), expected \(1, 3\)"),
        ({"x": torch.ones(1, 3)}, r"input 'x' is \(1, 3\), expected \(2, 3\)"),
        ({"z": torch.ones(1, 3)}, "has no input 'z', expected x, y"),
    ):
        with pytest.raises(ShapeError, match=words):
            step(**wrong)


def test_the_least_recently_used_gives_way() -> None:
    desk = Desk()
    graphs = Graphs(desk, capacity=2)
    first, second = (graphs.capture(rows, double, buffers(rows)) for rows in (1, 2))
    assert graphs.find(1) is first
    graphs.capture(3, double, buffers(3))
    assert graphs.keys == (1, 3) and graphs.find(2) is None
    assert desk.log.index("reset") == desk.log.index("synchronize") + 1, "freed once nothing of it can run any more"
    with pytest.raises(RunError, match="the graph of 2 was given up"):
        second()
    assert float(first(x=torch.ones(1, 3))[0].sum()) == 9
    with pytest.raises(ValueError, match="3 is captured already"):
        graphs.capture(3, double, buffers(3))
    with pytest.raises(ValueError, match="capacity is 0"):
        Graphs(desk, capacity=0)
    alone = Graphs(Desk(), capacity=1)
    for rows in (1, 2):
        alone.capture(rows, double, buffers(rows))
    pools = alone._device.pools  # type: ignore[attr-defined]
    assert pools[0] is not pools[1], "torch gives up a pool with its last graph"


def test_what_cannot_be_captured_is_an_error() -> None:
    desk = Desk(error="operation not permitted when stream is capturing\nCompile with ...")
    graphs, count = Graphs(desk), torch.zeros(1)
    with pytest.raises(
        RunError, match=r"^cannot capture 'n' as a CUDA graph: operation not permitted when stream is capturing$"
    ):
        graphs.capture("n", lambda count: count.add_(1), {"count": count})
    assert graphs.keys == () and float(count) == 0
    desk.error = ""
    assert float(graphs.capture("n", lambda count: count.add_(1), {"count": count})()[0]) == 1


def test_launches_take_turns() -> None:
    desk = Desk()
    graphs = Graphs(desk)
    step = graphs.capture("double", double, buffers())
    desk.log.clear()
    with graphs.turn():
        step.inputs["x"].fill_(3)
        out = step()[0].clone()
    assert float(out.max()) == 7
    assert desk.log == ["wait", "wait", "replay", "mark", "mark"]

    def work(seed: int) -> bool:
        slot = torch.empty(2, 3)
        for value in range(seed, seed + 8):
            step(x=torch.full((2, 3), float(value)), into=(slot, None))
            if not torch.equal(slot, torch.full((2, 3), 2.0 * value + 1)):
                return False
        return True

    desk.log.clear()
    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(work, range(0, 600, 100)))
    assert desk.log == ["wait", "replay", "mark"] * 48


class Calls(TorchFunctionMode):  # type: ignore[misc]
    """The names of the torch functions called, but for those that only look."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ not in ("__get__", "numel", "stride", "_set_grad_enabled"):
            self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_a_launch_allocates_nothing_and_copies_at_once() -> None:
    desk = Desk(is_idle=True)
    inputs = {f"x{i}": torch.zeros(2, 3) for i in range(9)} | {"empty": torch.zeros(2, 0), "t": torch.zeros(2).half()}
    step = Graphs(desk).capture("sum", lambda **given: [sum(given[f"x{i}"] for i in range(9))], inputs)
    fresh, slot = {name: torch.ones_like(tensor) for name, tensor in inputs.items()}, torch.empty(2, 3)
    with Calls() as calls:
        step(**fresh, into=[slot])
    assert calls.names == ["_foreach_copy_"] * 3, "float32, float16, and the answer"
    assert all(torch.equal(step.inputs[name], fresh[name]) for name in inputs)


def test_copies_are_of_one_kind_each() -> None:
    pairs = [("a", torch.zeros(2, 4), torch.ones(2, 4)), ("b", torch.zeros(2, 4), torch.ones(4, 2).T)]
    pairs += [("c", torch.zeros(2, 4, dtype=torch.float16), torch.ones(2, 4)), ("d", torch.zeros(3), torch.arange(3))]
    with Calls() as calls:
        copy_all(pairs)
    assert len(calls.names) == 4 and all(torch.equal(to, of.to(to.dtype)) for _, to, of in pairs)


def test_inference_mode_leaves_no_mark_on_buffers() -> None:
    graphs = Graphs(Desk())
    given = buffers()
    with torch.inference_mode():
        step = graphs.capture("double", double, given)
        step(x=torch.ones(2, 3))
    assert not any(out.is_inference() for out in step.outputs)
    step(y=torch.ones(2, 3))
    step.outputs[0].add_(1)


SIZES: dict[str, Any] = {
    "block_out_channels": (16, 16),
    "num_attention_heads": (2, 2),
    "attention": (True, False),
    "layers_per_block": 1,
    "cross_attention_dim": 8,
    "norm_num_groups": 4,
}


def unet_spec(unet: UNet) -> NetworkSpec:
    def tensors(dims: Any) -> dict[str, TensorSpec]:
        return {name: TensorSpec(tuple(d if isinstance(d, int) else None for d in dim)) for name, dim in dims.items()}

    inputs, outputs = (
        unet.signature.inputs,
        {name: tuple("?" if str(d)[0] == "N" else d for d in dims) for name, dims in unet.signature.outputs.items()},
    )
    about, shapes = Architecture("sd_unet.UNet", {}), {**inputs, **outputs}
    return NetworkSpec("unet", "-", "safetensors", "-", about, tensors(inputs), tensors(outputs), shapes)


def captured(dtype: Any = torch.float32) -> tuple[CapturedNetwork, Desk, UNet]:
    torch.manual_seed(0)
    unet, desk = UNet(adapter=True, bank_layers=(1,), **SIZES).eval().requires_grad_(False).to(dtype), Desk()
    return CapturedNetwork(unet_spec(unet), unet, "cpu", dtype, Graphs(desk, capacity=3)), desk, unet


def unet_inputs(network: CapturedNetwork, rows: int = 1, frames: int = 0, seed: int = 0) -> dict[str, Any]:
    sizes = {**named_sizes(Layout(**SIZES), 32, 48, tokens=5, bank_frames=frames), "B": rows, "H/8": 4, "W/8": 6}
    generator = torch.Generator().manual_seed(seed)
    shapes = {n: [d if isinstance(d, int) else sizes[d] for d in network.spec.shapes[n]] for n in network.inputs}
    made = {n: torch.rand(shape, generator=generator) for n, shape in shapes.items()}
    return {**made, "timestep": 900 * made["timestep"]}


def test_a_captured_network_answers_tensors_and_arrays_as_the_module_does() -> None:
    network, desk, unet = captured()
    given, others = unet_inputs(network), unet_inputs(network, seed=1)
    want = dict(zip(network.outputs, unet(*given.values()), strict=True))
    got = network(**given)
    network(**others)
    assert all(torch.equal(got[name], part) for name, part in want.items()), (
        "the caller's own, whatever is called later"
    )
    arrays = network(**{name: tensor.numpy() for name, tensor in given.items()})
    for name, part in want.items():
        assert isinstance(arrays[name], np.ndarray) and arrays[name].flags.c_contiguous
        np.testing.assert_array_equal(arrays[name], part.numpy())
    slot = torch.zeros(2, 6, 16)
    assert network.run(given, {"own_k_1": slot[1:]}).keys() == {"own_k_1"}
    assert torch.equal(slot[1:], want["own_k_1"]) and not slot[0].any()
    assert desk.log.count("record") == 1


def test_a_graph_for_each_batch_size_and_length_of_bank() -> None:
    network, desk, unet = captured()
    for rows, frames in ((1, 0), (2, 0), (1, 1), (2, 0), (1, 0), (1, 1)):
        given = unet_inputs(network, rows, frames)
        torch.testing.assert_close(network(**given)["prediction"], unet(*given.values())[0])
    assert desk.log.count("record") == 3
    network(**unet_inputs(network, 2, 2))
    assert len(network.graphs.keys) == 3, "the least recently used gave way"


def test_warming_up_captures_the_largest_first() -> None:
    network, desk, _ = captured()
    sizes = named_sizes(Layout(**SIZES), 32, 48, tokens=5, bank_frames=1)
    network.warm_up((1, 2, 2), sizes)
    assert [key[0][0] for key in network.graphs.keys] == [2, 1]  # type: ignore[index]
    for rows in (1, 2):
        network(**unet_inputs(network, rows, 1))
    assert desk.log.count("record") == 2
    with pytest.raises(InputError, match=r"unet: input 'bank_k_1' has the dimensions M1: give their sizes"):
        network.warm_up((1,), {name: size for name, size in sizes.items() if name != "M1"})


def test_what_does_not_fit_is_refused_before_anything_is_captured() -> None:
    network, desk, _ = captured()
    given = unet_inputs(network)
    array = given["latents"].numpy()
    for wrong, words in (
        ({**given, "latents": given["latents"][:, :3]}, r"'latents' is \(1, 3, 4, 6\) float32, expected \(B, 4,"),
        ({**given, "timestep": torch.zeros(2)}, "with B = 1 as in the inputs before it"),
        ({**given, "timestep": torch.zeros(1, dtype=torch.int64)}, "'timestep' is .* int64"),
        ({**given, "other": torch.zeros(1)}, "unknown input 'other'"),
        ({**given, "latents": array}, "'latents' is ndarray, others are tensors"),
    ):
        with pytest.raises(ShapeError, match=words):
            network(**wrong)
    assert "record" not in desk.log
    network(**{name: tensor.double() for name, tensor in given.items()})


def test_timesteps_stay_exact_in_half_precision() -> None:
    network, _, unet = captured(torch.bfloat16)
    given = unet_inputs(network)
    assert network(**{**given, "timestep": torch.tensor([999.0])})["prediction"].dtype == torch.bfloat16
    (graph,) = (network.graphs.find(key) for key in network.graphs.keys)
    assert graph is not None and graph.inputs["timestep"].dtype == torch.float32
    assert float(graph.inputs["timestep"]) == 999 and graph.inputs["latents"].dtype == torch.bfloat16


def test_a_module_that_answers_something_else_is_refused() -> None:
    network, _, unet = captured()
    unet.bank_layers = ()
    with pytest.raises(BundleError, match=r"sd_unet.UNet answers 1 tensors, the bundle says \['prediction'"):
        network(**unet_inputs(network))


def test_the_plain_network_takes_tensors_too() -> None:
    network, _, unet = captured()
    plain, given = TorchNetwork(network.spec, unet, "cpu", torch.float32), unet_inputs(network)
    want = unet(*given.values())
    assert all(torch.equal(got, part) for got, part in zip(plain(**given).values(), want, strict=True))
    with pytest.raises(ShapeError, match="give all as tensors or all as arrays"):
        plain(**{**given, "timestep": given["timestep"].numpy()})
    with pytest.raises(ShapeError, match="input 'w_scale' is missing"):
        plain(**{name: tensor for name, tensor in given.items() if name != "w_scale"})


@pytest.mark.parametrize(("device", "execution"), [("cpu", "graphs"), ("cpu", "compiled"), ("cuda", "fast")])
def test_an_execution_that_is_not_to_be_had(device: str, execution: Any) -> None:
    with pytest.raises(InputError, match=f"execution.* {execution!r}"):
        EngineConfig(device=device, execution=execution)
    assert EngineConfig(execution="eager").execution == "eager"


@pytest.mark.parametrize(
    ("architecture", "precision", "dtype"),
    [
        ("sd_unet.UNet", "auto", torch.float16),
        ("sd_unet.UNet", "bfloat16", torch.bfloat16),
        ("sd_unet.UNet", "float32", torch.float32),
        ("landmarks.Landmarks", "auto", torch.float32),
    ],
)
def test_what_a_gpu_gets(architecture: str, precision: str, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "TorchCuda", lambda device: Desk())
    unet = UNet(**SIZES).eval()
    spec = unet_spec(unet)
    about = NetworkSpec("n", "-", "onnx", "-", Architecture(architecture, {}), spec.inputs, spec.outputs, spec.shapes)
    config: Any = SimpleNamespace(device="cpu", precision=precision, execution="auto")
    network = load_on_gpu(about, unet, config)
    assert isinstance(network, CapturedNetwork) and network.dtype == next(network.module.parameters()).dtype == dtype
    is_fused = any(type(part).__name__ == "FusedSelfAttention" for part in network.module.modules())
    assert is_fused == architecture.startswith("sd_")
