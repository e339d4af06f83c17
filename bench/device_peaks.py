"""What this device can do at best, measured here and now: a large matrix product of each type, and a large copy.

    python -m mien.bench.device_peaks [--device cuda] [--seconds S]

Both on random data: products of zeros draw less power and run faster. Bytes of the copy are those read and those written.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch

from mien.bench.device_state import Probe
from mien.bench.timing import Times, calls_in_sample, captured, in_turns, repeated, significant, watch_of
from mien.engine.errors import UnavailableError
from mien.runtime.versions import MEASURED, versions

MATMUL_SIDE = {"cuda": 8192, "cpu": 768}
COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 26}
DTYPES = {"cuda": ("float16", "bfloat16"), "cpu": ("float32",)}


@dataclass(frozen=True, slots=True)
class Peaks:
    """matmul_tflops: by type. copy_gb_per_s: read and written. spread: of each, quartile to quartile over the median."""

    matmul_tflops: dict[str, float]
    copy_gb_per_s: float
    spread: dict[str, float] = field(default_factory=dict)

    def share_of_matmul(self, flops_per_s: float, dtype: str) -> float | None:
        """Of the product of that type; None where it was not measured."""
        peak = self.matmul_tflops.get(dtype)
        return None if not peak else round(flops_per_s / (1e12 * peak), 4)

    def share_of_copy(self, bytes_per_s: float) -> float:
        """Of the copy."""
        return round(bytes_per_s / (1e9 * self.copy_gb_per_s), 4)


def check_device(device: str) -> None:
    """Raise UnavailableError where torch does not see it."""
    if device != "cpu" and not torch.cuda.is_available():
        raise UnavailableError(
            f"device {device!r} cannot be used: torch {torch.__version__} sees no CUDA device; use --device cpu"
        )


def pick_device(wanted: str = "auto") -> str:
    """ "auto" is cuda where there is one. Raises UnavailableError."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    check_device(wanted)
    if ":" in wanted:
        torch.cuda.set_device(wanted)  # events, graphs and Triton go by the current one
    return wanted


def measure_peaks(device: str, seconds: float = 2.0) -> Peaks:
    """About so many seconds of it."""
    kind = device.split(":")[0]
    watch, share = watch_of(device), seconds / (len(DTYPES[kind]) + 2)
    tflops, spread = {}, {}
    n = MATMUL_SIDE[kind]
    for name in DTYPES[kind]:
        a, b = (torch.randn(n, n, device=device).to(getattr(torch, name)) for _ in range(2))
        times = _time(partial(torch.mm, a, b, out=torch.empty_like(a)), watch, device, share)
        tflops[name], spread[name] = significant(2 * n**3 / times.p50_s / 1e12), round(times.spread, 4)
    if kind == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9):
        if (eight := _fp8(n, watch, device, share)) is not None:
            tflops["float8_e4m3fn"], spread["float8_e4m3fn"] = (
                significant(2 * n**3 / eight.p50_s / 1e12),
                round(eight.spread, 4),
            )
    source = torch.randint(0, 255, (COPY_BYTES[kind],), dtype=torch.uint8, device=device)
    times = _time(partial(torch.empty_like(source).copy_, source), watch, device, share)
    spread["copy"] = round(times.spread, 4)
    return Peaks(tflops, significant(2 * COPY_BYTES[kind] / times.p50_s / 1e9), spread)


def _time(call: Any, watch: Any, device: str, seconds: float) -> Times:
    count = calls_in_sample(call, watch)
    run = repeated(call, count) if device == "cpu" else captured(call, count)
    return in_turns({"": run}, watch, seconds=seconds, calls={"": count})[""]


def _fp8(n: int, watch: Any, device: str, seconds: float) -> Times | None:
    """e4m3 with one scale a tensor; None where this torch cannot."""
    one = torch.ones((), device=device)
    a, b = (torch.randn(n, n, device=device).to(torch.float8_e4m3fn) for _ in range(2))
    try:
        return _time(
            lambda: torch._scaled_mm(a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.float16, use_fast_accum=True),
            watch,
            device,
            seconds,
        )
    except (RuntimeError, TypeError):
        return None


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what was found as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m mien.bench.device_peaks", description="Measure this device's peaks."
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:N")
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args(arguments)
    device = pick_device(options.device)
    probe = Probe(device)
    peaks = measure_peaks(device, options.seconds)
    found = {"about": probe.about(), "peaks": asdict(peaks), "state": probe.state(), "versions": versions(MEASURED)}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
