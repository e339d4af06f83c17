"""Where every millisecond of a UNet call goes: the device's kernels by kind and by name, and torch's operators by shape.

    python -m mien.bench.unet_profile [--device cuda] [--rows 1 8] [--json FILE] [--markdown FILE]

Kernels are those of the captured graph, as the engine runs it; `between kernels` is the time of the call in which the device
did nothing. Operators are those of the fused network run eagerly, since a graph has none. Weights are random.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mien.bench.device_peaks import pick_device
from mien.bench.device_state import Probe
from mien.bench.network_forms import NetworkForms
from mien.bench.options import guarded
from mien.bench.random_networks import LAYOUTS, random_network
from mien.bench.timing import Call, in_turns, significant, watch_of
from mien.runtime.versions import MEASURED, versions

CALLS = 10
KINDS: tuple[tuple[str, str], ...] = (
    ("attention", r"attention|flash|fmha|sdpa|softmax"),
    ("8-bit conversion", r"to_float8"),
    ("norm", r"group_kernel|_sums_kernel|_write_kernel|group_?norm|layer_?norm|rowwise_?moments|computefusedparams"),
    ("geglu", r"geglu|gelu"),
    ("sampler's step", r"consistency_step"),
    ("layout", r"nchwtonhwc|nhwctonchw|transpose|permute|contiguous"),
    ("convolution", r"conv|wgrad|dgrad|fprop|implicit|cudnn|winograd"),
    ("matrix product", r"gemm|addmm|matmul|\bmm\b|\bbmm\b|linear|cutlass|xmma|nvjet|cublas|splitk"),
    ("copy and joining", r"catarray|\bcat\b|copy|memcpy|memset|fill|index|gather|pad"),
    ("resizing", r"upsample|interpolate"),
    ("element by element", r"elementwise|vectorized|add|mul|silu|sigmoid|triton_poi"),
)
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Spent:
    """By one kernel or operator in one call. ms: of the device, on a CPU of the operator itself. detail: its shapes."""

    name: str
    ms: float
    calls: float
    detail: str = ""


def kind_of(name: str) -> str:
    """The kind of work a kernel's or operator's name tells of."""
    lowered = name.lower()
    return next((kind for kind, pattern in KINDS if re.search(pattern, lowered)), OTHER)


def by_kind(spent: Iterable[Spent]) -> list[Spent]:
    """Sums of each kind, the longest first."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for one in spent:
        total = sums[kind_of(one.name)]
        total[0] += one.ms
        total[1] += one.calls
    return sorted((Spent(kind, ms, calls) for kind, (ms, calls) in sums.items()), key=lambda one: -one.ms)


def with_idle(kinds: Sequence[Spent], call_ms: float) -> list[Spent]:
    """And what of the call none of them took."""
    return [*kinds, Spent("between kernels", max(call_ms - sum(one.ms for one in kinds), 0.0), 0.0)]


def markdown(title: str, spent: Sequence[Spent], call_ms: float, most: int = 40) -> str:
    """A table of the longest, with their share of a call."""
    lines = [f"### {title}", "", "| what | ms | share | calls | shapes |", "|---|---|---|---|---|"]
    for one in spent[:most]:
        name = one.name if len(one.name) <= 90 else one.name[:87] + "..."
        name = name.replace("|", "\\|")
        lines.append(f"| {name} | {one.ms:.3f} | {100 * one.ms / call_ms:.1f} % | {one.calls:g} | {one.detail} |")
    if rest := spent[most:]:
        total = sum(one.ms for one in rest)
        lines.append(f"| {len(rest)} more | {total:.3f} | {100 * total / call_ms:.1f} % | | |")
    return "\n".join([*lines, ""])


def kernels_of(call: Call, device: str, calls: int = CALLS) -> list[Spent]:
    """Every kernel by name that a call launches; on a CPU, every operator."""
    profiler = _profiled(call, device, calls, shapes=False)
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for event in profiler.events():
        if device == "cpu":
            us, counts = float(event.self_cpu_time_total), not event.name.startswith("Profiler")
        else:
            us, counts = float(event.time_range.elapsed_us()), str(event.device_type).endswith("CUDA")
        if counts and us:
            sums[event.name][0] += us / 1e3 / calls
            sums[event.name][1] += 1 / calls
    return sorted((Spent(name, ms, round(count, 2)) for name, (ms, count) in sums.items()), key=lambda one: -one.ms)


def operators_of(call: Call, device: str, calls: int = CALLS) -> list[Spent]:
    """Every operator by the shapes that it was given."""
    found = []
    for event in _profiled(call, device, calls, shapes=True).key_averages(group_by_input_shape=True):
        us = float(event.self_cpu_time_total if device == "cpu" else event.self_device_time_total)
        if us:
            shapes = " ".join("x".join(map(str, shape)) for shape in event.input_shapes if shape)
            found.append(Spent(event.key, us / 1e3 / calls, event.count / calls, shapes))
    return sorted(found, key=lambda one: -one.ms)


def _profiled(call: Call, device: str, calls: int, shapes: bool) -> Any:
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([] if device == "cpu" else [ProfilerActivity.CUDA])]
    for _ in range(3):
        call()
    watch_of(device).wait()
    with profile(activities=activities, record_shapes=shapes, acc_events=True) as profiler:
        for _ in range(calls):
            call()
        watch_of(device).wait()
    return profiler


def profile_rows(model: str, rows: int, device: str) -> dict[str, Any]:
    """Everything about one batch size, as JSON has it."""
    dtype = torch.float16 if device != "cpu" else torch.float32
    network = random_network("unet", model, device, dtype)
    forms, inputs = NetworkForms(network, device, lambda: network.inputs(rows)), network.inputs(rows)
    eager = forms.call("fused", inputs)
    whole = eager if device == "cpu" else forms.call("graph", inputs)
    call_ms = 1e3 * in_turns({"": whole}, watch_of(device), seconds=1.0)[""].p50_s
    kernels, operators = kernels_of(whole, device), operators_of(eager, device)
    found = {"rows": rows, "call_ms": significant(call_ms), "tflops": significant(network.flops * rows / call_ms / 1e9)}
    tables = {"kinds": with_idle(by_kind(kernels), call_ms), "kernels": kernels, "operators": operators}
    return {**found, **{name: [asdict(one) for one in spent] for name, spent in tables.items()}}


def report(found: dict[str, Any]) -> str:
    """The tables of one batch size."""
    call_ms = found["call_ms"]
    title = f"UNet, batch {found['rows']}: {call_ms:.3f} ms a call, {found['tflops']:.4g} TFLOP/s"
    parts = [
        markdown(f"{title}, by {name}", [Spent(**one) for one in found[key]], call_ms)
        for name, key in (("kind", "kinds"), ("kernel", "kernels"), ("operator, run eagerly", "operators"))
    ]
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables; write them to files if any are given."""
    parser = argparse.ArgumentParser(prog="mien bench profile", description="Where the time of a UNet call goes.")
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:N; auto is cuda where there is one")
    parser.add_argument("--model", choices=sorted(LAYOUTS), default="sd15", help="mini is for tests")
    parser.add_argument("--rows", nargs="+", type=int, default=(8, 1), help="of a batch")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write everything there")
    parser.add_argument("--markdown", type=Path, default=None, metavar="FILE", help="write the tables there")
    options = parser.parse_args(arguments)
    if min(options.rows) < 1:
        parser.error("--rows must be at least 1")
    device = pick_device(options.device)
    if device != "cpu":
        torch.backends.cudnn.benchmark = True
    probe, found = Probe(device), list[dict[str, Any]]()
    for rows in options.rows:
        with torch.no_grad():
            found.append(profile_rows(options.model, rows, device))
        about = probe.about()
        told = {
            "about": about,
            "state": probe.state(),
            "versions": versions(MEASURED),
            "weights": "random",
            "batches": found,
        }
        print(report(found[-1]))
        if options.json is not None:
            options.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        if options.markdown is not None:
            head = f"Device: {about['name']}. Weights: random.\n\n"
            options.markdown.write_text(head + "\n".join(map(report, found)), encoding="utf-8")


if __name__ == "__main__":
    guarded(main)
