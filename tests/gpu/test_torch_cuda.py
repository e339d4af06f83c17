"""The torch backend on a GPU: half precision against float32 on the CPU, graphs against eager, and what a launch may not do."""

from __future__ import annotations

import copy
import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mien.engine.backend import Artifact  # noqa: E402
from mien.engine.backends.torch import BACKEND, TorchNetwork  # noqa: E402
from mien.engine.config import EngineConfig  # noqa: E402
from mien.engine.cuda.device import TorchCuda, seconds_of  # noqa: E402
from mien.engine.cuda.float8 import Float8Linear, calibrate, choose, convert, measure  # noqa: E402
from mien.engine.cuda.fuse import conv_relu, fuse  # noqa: E402
from mien.engine.cuda.graphs import Graphs  # noqa: E402
from mien.engine.cuda.network import CapturedNetwork  # noqa: E402
from mien.engine.cuda.streams import CudaStreams, own_stream  # noqa: E402
from mien.engine.errors import RunError  # noqa: E402
from mien.engine.manifest import Architecture, NetworkSpec  # noqa: E402
from mien.engine.networks.autoencoder_kl import KlDecoder, KlEncoder  # noqa: E402
from mien.engine.networks.sd_controlnet import ControlNet  # noqa: E402
from mien.engine.networks.sd_layout import Layout  # noqa: E402
from mien.engine.networks.sd_unet import UNet  # noqa: E402
from mien.engine.networks.taesd import TaesdDecoder, TaesdEncoder  # noqa: E402
from mien.engine.types import TensorSpec  # noqa: E402
from tests.network_sizes import named_sizes  # noqa: E402

pytestmark = pytest.mark.gpu

# SD1.5's widths, head sizes and kinds of layers, but one layer in the place of two; a bank at half of the latents' side and below.
WIDE: dict[str, Any] = {"layers_per_block": 1, "cross_attention_dim": 768}
BANK = (1, 2, 3, 4, 5, 6, 7)
SMALL: dict[str, Any] = {
    "block_out_channels": (64, 128),
    "num_attention_heads": (2, 2),
    "attention": (True, False),
    "layers_per_block": 1,
    "cross_attention_dim": 64,
    "norm_num_groups": 16,
}


def relative(got: Any, want: Any) -> float:
    """Largest error by largest value."""
    got, want = got.double().cpu(), want.double().cpu()
    assert got.shape == want.shape and bool(got.isfinite().all())
    return float((got - want).abs().max() / want.abs().max())


def spec_of(module: Any, name: str = "sd_unet.UNet", kwargs: Any = None) -> NetworkSpec:
    def tensors(dims: Any) -> dict[str, TensorSpec]:
        return {key: TensorSpec(tuple(d if isinstance(d, int) else None for d in dim)) for key, dim in dims.items()}

    inputs = module.signature.inputs
    bound = {dim for dims in inputs.values() for dim in dims}

    def known(dims: Any) -> tuple[int | str, ...]:
        return tuple("?" if isinstance(dim, str) and dim not in bound else dim for dim in dims)

    outputs = {key: known(dims) for key, dims in module.signature.outputs.items()}
    about, shapes = Architecture(name, kwargs or {}), {**inputs, **outputs}
    return NetworkSpec("unet", "unet", "safetensors", "-", about, tensors(inputs), tensors(outputs), shapes)


def inputs_of(module: Any, side: int, rows: int, frames: int = 1, seed: int = 0, **layout: Any) -> dict[str, Any]:
    """On the CPU, float32; own_weight and w_scale in [0, 1]."""
    sizes = named_sizes(Layout(**layout), 8 * side, 8 * side, bank_frames=frames) | {
        "B": rows,
        "H/8": side,
        "W/8": side,
    }
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, dims in module.signature.inputs.items():
        shape = [d if isinstance(d, int) else sizes[d] for d in dims]
        make = torch.rand if len(shape) == 1 else torch.randn
        out[name] = make(shape, generator=generator) * (900 if name == "timestep" else 1)
    return out


def on_gpu(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor.cuda() for name, tensor in tensors.items()}


def captured(unet: Any, dtype: Any = torch.float16, capacity: int | None = None) -> CapturedNetwork:
    module = fuse(copy.deepcopy(unet)).to("cuda", dtype)
    return CapturedNetwork(spec_of(unet), module, "cuda", dtype, Graphs(TorchCuda("cuda"), capacity))


@contextmanager
def no_synchronising() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(scope="module")
def wide() -> UNet:
    """Random weights, float32, on the CPU."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        unet = UNet(adapter=True, bank_layers=BANK, **WIDE)
    return unet.eval().requires_grad_(False).cpu()


@pytest.fixture(scope="module")
def small() -> UNet:
    torch.manual_seed(0)
    return UNet(adapter=True, bank_layers=(1,), **SMALL).eval().requires_grad_(False)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-2), (torch.bfloat16, 6e-2), (torch.float32, 1e-2)])
def test_a_captured_unet_is_the_one_of_the_cpu(wide: UNet, dtype: Any, tolerance: float) -> None:
    given = inputs_of(wide, 64, 2, **WIDE)
    network = captured(wide, dtype)
    got = network(**on_gpu(given))
    with torch.no_grad():
        want = dict(zip(network.outputs, wide(*given.values()), strict=True))
    assert got["prediction"].dtype == dtype and got.keys() == want.keys()
    assert {name: relative(got[name], want[name]) for name in want if relative(got[name], want[name]) > tolerance} == {}


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_graphs_answer_what_eager_does(small: UNet, rows: int) -> None:
    network = captured(small)
    eager = TorchNetwork(network.spec, network.module, "cuda", torch.float16)
    for frames, seed in ((0, 1), (1, 2), (2, 3), (1, 4)):
        given = on_gpu(inputs_of(small, 16, rows, frames, seed, **SMALL))
        got, want = network(**given), eager(**given)
        assert max(relative(got[name], want[name]) for name in want) < 5e-3
    assert len(network.graphs.keys) == 3
    arrays = network(**{name: tensor.cpu().numpy() for name, tensor in given.items()})
    assert all(isinstance(array, np.ndarray) and array.dtype == np.float32 for array in arrays.values())
    np.testing.assert_array_equal(arrays["prediction"], got["prediction"].float().cpu().numpy())


def test_a_launch_neither_waits_nor_allocates(small: UNet) -> None:
    network = captured(small)
    sizes = named_sizes(Layout(**SMALL), 128, 128, bank_frames=1)
    network.warm_up((4, 2, 1), sizes)
    given = {rows: on_gpu(inputs_of(small, 16, rows, **SMALL)) for rows in (1, 2, 4)}
    into = {rows: dict(network(**tensors)) for rows, tensors in given.items()}
    network(**given[4])  # leaves its memory to later answers
    assert len(network.graphs.keys) == 3
    before = torch.cuda.memory_stats()
    with no_synchronising():
        for _ in range(20):
            for rows in (1, 4, 2):
                network.run(given[rows], into[rows])
    after = torch.cuda.memory_stats()
    for count in ("segment.all.allocated", "allocation.all.allocated", "num_alloc_retries"):
        assert after[count] == before[count], count
    with no_synchronising():
        for _ in range(5):
            network(**given[4])
    assert torch.cuda.memory_stats()["segment.all.allocated"] == before["segment.all.allocated"]
    graph = network.captured(given[2])
    with no_synchronising(), network.graphs.turn():
        graph.inputs["latents"].copy_(given[2]["latents"])
        graph()


def test_graphs_share_their_memory(wide: UNet) -> None:
    network = captured(wide)
    sizes = named_sizes(Layout(**WIDE), 512, 512, bank_frames=1)
    torch.cuda.empty_cache()
    start = torch.cuda.memory_reserved()
    network.warm_up((4,), sizes)
    torch.cuda.empty_cache()
    one = torch.cuda.memory_reserved() - start
    network.warm_up((1, 2, 4), sizes)
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() - start < 1.8 * one, "their inputs and outputs are theirs, the rest is shared"


def test_several_threads_with_streams_of_their_own(small: UNet) -> None:
    network = captured(small)
    given = [on_gpu(inputs_of(small, 16, 1 + seed % 2, seed=seed, **SMALL)) for seed in range(6)]
    want = [network(**tensors)["prediction"].clone() for tensors in given]
    torch.cuda.synchronize()

    def work(i: int) -> float:
        stream, worst = torch.cuda.Stream(), 0.0
        with torch.cuda.stream(stream):
            for _ in range(20):
                got = network(**given[i])["prediction"]
                stream.synchronize()
                worst = max(worst, relative(got, want[i]))
        return worst

    with ThreadPoolExecutor(6) as threads:
        assert max(threads.map(work, range(6))) < 1e-3


def test_what_is_captured_while_others_launch(small: UNet) -> None:
    busy, fresh = captured(small), captured(small)
    given = on_gpu(inputs_of(small, 16, 2, **SMALL))
    want = busy(**given)["prediction"]

    def launch(_: int) -> float:
        with torch.cuda.stream(torch.cuda.Stream()):
            return max(relative(busy(**given)["prediction"], want) for _ in range(30))

    with ThreadPoolExecutor(3) as threads:
        ran = [threads.submit(launch, i) for i in range(2)]
        other = threads.submit(lambda: relative(fresh(**given)["prediction"], want))
        assert max(*(future.result() for future in ran), other.result()) < 5e-3


def test_what_is_captured_while_another_thread_waits_for_the_device(small: UNet) -> None:
    given, streams, is_done = on_gpu(inputs_of(small, 16, 2, **SMALL)), CudaStreams("cuda"), threading.Event()

    def wait() -> int:
        count = 0
        while not is_done.wait(1e-3):
            streams.synchronize()
            count += 1
        return count

    with ThreadPoolExecutor(1) as threads:
        waits = threads.submit(wait)
        try:
            one, two = (captured(small)(**given)["prediction"] for _ in range(2))
        finally:
            is_done.set()
        assert waits.result() and relative(one, two) < 5e-3


def test_recordings_have_a_stream_of_their_own_and_their_callers_priority() -> None:
    kept = [own_stream(torch.device("cuda")) for _ in range(8)]
    assert not {s.cuda_stream for s in kept} & {own_stream(torch.device("cuda")).cuda_stream for _ in range(64)}
    device, urgent = TorchCuda("cuda"), torch.cuda.Stream(priority=-1)
    with torch.cuda.stream(urgent):
        graph = Graphs(device).capture("more", lambda x: x + 1, {"x": torch.ones(4, device="cuda")})
        assert graph()[0].tolist() == [2.0] * 4
    assert device._stream is not None and device._stream.priority == urgent.priority < 0


def test_the_least_recently_used_is_freed(small: UNet) -> None:
    network = captured(small, capacity=1)
    one, two = (on_gpu(inputs_of(small, 16, rows, **SMALL)) for rows in (1, 2))
    graph, want = network.captured(one), network(**one)["prediction"]
    network(**two)
    with pytest.raises(RunError, match="was given up"):
        graph()
    assert relative(network(**one)["prediction"], want) < 5e-3


def test_what_cannot_be_captured_is_an_error() -> None:
    """In a process of its own, for torch's allocator does not come back from it."""
    code = """
import torch
from mien.engine.cuda.device import TorchCuda
from mien.engine.cuda.graphs import Graphs
stream = torch.cuda.current_stream()
try:
    Graphs(TorchCuda("cuda")).capture("sync", lambda x: x * float(x.sum().item()), {"x": torch.ones(4, device="cuda")})
except RuntimeError as error:
    print(type(error).__name__, error, torch.cuda.current_stream() == stream, torch.backends.cudnn.benchmark, flush=True)
os._exit(0)
"""
    ran = subprocess.run([sys.executable, "-c", f"import os{code}"], capture_output=True, text=True, timeout=120)
    assert ran.stdout.startswith("RunError cannot capture 'sync' as a CUDA graph: "), ran.stdout + ran.stderr
    assert ran.stdout.rstrip().endswith("True False")


@pytest.mark.parametrize(
    "network",
    [
        pytest.param((TaesdEncoder, {}, (2, 3, 256, 256)), id="taesd encoder"),
        pytest.param((TaesdDecoder, {}, (2, 4, 32, 32)), id="taesd decoder"),
        pytest.param((KlEncoder, {"block_out_channels": (64, 128)}, (2, 3, 64, 64)), id="vae encoder"),
        pytest.param((KlDecoder, {"block_out_channels": (64, 128)}, (2, 4, 32, 32)), id="vae decoder"),
    ],
)
@torch.no_grad()
def test_autoencoders_in_half_precision(network: Any) -> None:
    torch.manual_seed(0)
    kind, kwargs, shape = network
    plain, x = kind(**kwargs).eval().requires_grad_(False), torch.randn(shape)
    want = plain(x)
    fused = fuse(copy.deepcopy(plain)).to("cuda", torch.float16)
    graph = Graphs(TorchCuda("cuda")).capture("it", lambda x: fused(x), {"x": x.cuda().half()})
    assert relative(graph()[0], want) < 1e-2


@pytest.mark.parametrize("shape", [(1, 64, 512, 512), (8, 64, 64, 64), (3, 16, 9, 7)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_convolutions_with_relu(shape: tuple[int, ...], dtype: Any) -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(shape[1], 64, 3, padding=1).to("cuda", dtype, memory_format=torch.channels_last)
    x = torch.randn(shape, device="cuda", dtype=dtype).contiguous(memory_format=torch.channels_last)
    add = torch.randn((shape[0], 64, *shape[2:]), device="cuda", dtype=dtype)
    want = torch.nn.functional.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
    tolerance = 1e-2 if dtype == torch.bfloat16 else 2e-3
    for got, wanted in ((conv_relu(conv, x), want.relu()), (conv_relu(conv, x, add), (want + add).relu())):
        assert got.is_contiguous(memory_format=torch.channels_last)
        assert relative(got, wanted) < tolerance


@torch.no_grad()
def test_a_controlnet_and_its_unet() -> None:
    torch.manual_seed(0)
    control = ControlNet(**SMALL).eval().requires_grad_(False)
    unet = UNet(control=True, **SMALL).eval().requires_grad_(False)
    given = inputs_of(control, 16, 2, **SMALL)
    residuals = control(*given.values())
    network = CapturedNetwork(
        spec_of(control),
        fuse(copy.deepcopy(control)).to("cuda").half(),
        "cuda",
        torch.float16,
        Graphs(TorchCuda("cuda")),
    )
    got = network(**on_gpu(given))
    for (name, part), want in zip(got.items(), residuals, strict=True):
        assert relative(part, want) < 1e-2, name
    told = inputs_of(unet, 16, 2, **SMALL) | dict(zip(control.signature.outputs, residuals, strict=True))
    assert relative(captured(unet)(**on_gpu(told) | dict(got))["prediction"], unet(*told.values())[0]) < 1e-2


@pytest.mark.parametrize("execution", ["auto", "eager", "compiled"])
def test_the_backend_loads_a_network(small: UNet, execution: Any, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    if (why := BACKEND.unavailable()) is not None:
        pytest.skip(why)
    file = tmp_path / "unet.safetensors"
    safetensors.save_file(small.state_dict(), file)
    kwargs = {
        "adapter": True,
        "bank_layers": [1],
        **{k: list(v) if isinstance(v, tuple) else v for k, v in SMALL.items()},
    }
    artifact = Artifact(file, hashlib.sha256(file.read_bytes()).hexdigest())
    spec = spec_of(small, kwargs=kwargs)
    network = BACKEND.load(artifact, spec, EngineConfig(device="cuda", execution=execution))
    there = BACKEND.load(artifact, spec, EngineConfig(threads=4))
    for rows in (1, 2, 1):
        given = {name: tensor.numpy() for name, tensor in inputs_of(small, 16, rows, **SMALL).items()}
        got, want = network(**given), there(**given)
        assert relative(torch.from_numpy(got["prediction"]), torch.from_numpy(want["prediction"])) < 1e-2


def has_float8() -> bool:
    return bool(torch.cuda.get_device_capability() >= (8, 9))


@torch.no_grad()
def test_8_bit_layers_are_what_the_cpu_says_they_are() -> None:
    if not has_float8():
        pytest.skip("this GPU has no 8-bit floats")
    torch.manual_seed(0)
    for rows, reads, answers, bias in ((4096, 320, 960, False), (64, 1280, 10240, True), (5, 2560, 1280, True)):
        linear = torch.nn.Linear(reads, answers, bias).half()
        x = torch.randn(rows, reads).half()
        eight = Float8Linear(linear, float(x.abs().max()))
        want = eight(x.float()).double()
        assert relative(eight.cuda()(x.cuda()), want) < 5e-3  # its sums are of fewer bits
        assert relative(want, linear(x)) > 5e-3


@torch.no_grad()
def test_8_bits_where_they_are_faster(wide: UNet) -> None:
    if not has_float8():
        pytest.skip("this GPU has no 8-bit floats")
    unet = fuse(copy.deepcopy(wide)).to("cuda", torch.float16)
    given = inputs_of(wide, 64, 4, **WIDE)
    sample = [t.cuda() if name == "timestep" else t.cuda().half() for name, t in given.items()]
    want = unet(*sample)[0]
    seen = calibrate(unet, [sample])
    times = measure(unet, seen, seconds_of)
    assert all(0 < of.plain_s < 1 and 0 < of.float8_s < 1 for of in times.values())
    names = choose(times)
    convert(unet, seen, names)
    got = Graphs(TorchCuda("cuda")).capture(
        "unet", lambda **named: unet(*named.values()), dict(zip(given, sample, strict=True))
    )()[0]
    print(f"8 bits in {len(names)} of {len(times)} layers, error {relative(got, want):.4f}")
    assert relative(got, want) < 0.1


def test_time_is_the_devices() -> None:
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.float16) for n in (1024, 8192))
    assert seconds_of(lambda: b @ b) > 5 * seconds_of(lambda: a @ a)  # other tests may run beside this one
