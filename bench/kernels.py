"""The CPU kernels: milliseconds, GB/s and the share of this machine's memcpy, C++ and numpy in turns.

    mien bench kernels [--device auto|cpu|cuda] [--repeats N] [--threads N] [--results FOLDER]

On a CUDA device, which `auto` takes where there is one, it is `kernels_gpu` that runs, with options of its own.

Warm: one call of each before the clock starts. Included: the checks of the arguments and, in the compositions, the copy of the planes.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from mien.bench.results import append_row, machine
from mien.kernels import composite_yuv as composite
from mien.kernels import cpp
from mien.kernels import crop_yuv as crop
from mien.kernels.planes import Array, Planes, paste_box

CROP_PX, GRID = 256, 32
# width, height, side of the face's crop in frame pixels, bit depth
CASES = ((1280, 720, 300, 8), (1280, 720, 300, 10), (1920, 1080, 560, 8), (3840, 2160, 1100, 10))


def memcpy_bytes_per_s(size_bytes: int = 1 << 26, repeats: int = 7) -> float:
    """Bytes read and written per second by copying a buffer larger than the caches; the best of `repeats`."""
    source, target = np.ones(size_bytes, np.uint8), np.zeros(size_bytes, np.uint8)
    return 2 * size_bytes / min(_seconds(lambda: np.copyto(target, source)) for _ in range(repeats))


def run(*, repeats: int = 30, threads: int = 1, seed: int = 0) -> list[dict[str, Any]]:
    """Time every operation at every size on both paths, the paths in turns; one row for each."""
    peak = memcpy_bytes_per_s()
    rows = []
    for width, height, side, bit_depth in CASES:
        for name, moved_bytes, call in _operations(width, height, side, bit_depth, threads, seed):
            times: dict[str, list[float]] = {"native": [], "numpy": []} if cpp.native else {"numpy": []}
            for turn in range(1 + repeats):
                for path, seconds in times.items():
                    if path == "numpy" and turn > max(3, repeats // 10):
                        continue  # fifty times slower: fewer turns do
                    native = cpp.native if path == "native" else None
                    with patch.object(crop, "native", native), patch.object(composite, "native", native):
                        elapsed = _seconds(call)
                    if turn:
                        seconds.append(elapsed)
            for path, seconds in times.items():
                p25, p50, p75, p95, p99 = np.percentile(seconds, [25, 50, 75, 95, 99])
                case_size, used = (
                    f"{width}x{height} {bit_depth} bit, face {side} px",
                    threads if path == "native" else 1,
                )
                rows.append(
                    {
                        "bench": "kernels",
                        "case": {"op": name, "size": case_size, "threads": used, "form": path},
                        "op": name,
                        "path": path,
                        "size": case_size,
                        "threads": used,
                        "repeats": len(seconds),
                        "p50_ms": round(p50 * 1e3, 3),
                        "p95_ms": round(p95 * 1e3, 3),
                        "p99_ms": round(p99 * 1e3, 3),
                        "spread": round((p75 - p25) / p50, 4),
                        "gb_per_s": round(moved_bytes / p50 / 1e9, 3),
                        "share_of_memcpy": round(moved_bytes / p50 / peak, 4),
                        "memcpy_gb_per_s": round(peak / 1e9, 2),
                    }
                )
    return rows


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _operations(
    width: int, height: int, side: int, bit_depth: int, threads: int, seed: int
) -> list[tuple[str, int, Callable[[], object]]]:
    """Name, bytes that must move, and call, of each operation on a frame of noise with a face turned by six degrees."""
    rng = np.random.default_rng(seed)
    planes = _noise(rng, width, height, bit_depth)
    turn = np.deg2rad(6.0)
    linear = side / CROP_PX * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    centre = np.array([width / 2, height / 2]) - linear @ np.full(2, (CROP_PX - 1) / 2)
    affine = np.column_stack([linear, centre])
    delta = rng.normal(0, 0.1, (3, CROP_PX, CROP_PX)).astype(np.float32)
    edge = np.minimum(np.arange(CROP_PX), np.arange(CROP_PX)[::-1])
    ramp = np.clip(edge / (0.06 * CROP_PX), 0, 1)
    mask = np.outer(ramp, ramp).astype(np.float32)
    warp = np.zeros((GRID, GRID, 2), np.float32)
    warp[18:26, 8:24] = rng.normal(0, 2, (8, 16, 2))  # around the mouth
    x0, y0, x1, y1 = paste_box(affine, CROP_PX, width, height)
    sample = planes[0].itemsize
    frame, box = int(1.5 * sample * width * height), int(1.5 * sample * (x1 - x0) * (y1 - y0))
    under, crop_bytes = int(1.5 * sample * side * side), 4 * CROP_PX * CROP_PX
    colour: dict[str, Any] = dict(matrix="bt709", color_range="limited", bit_depth=bit_depth, threads=threads)
    rgb = np.clip(delta, -1, 1)
    return [
        ("crop_yuv", under + 3 * crop_bytes, lambda: crop.crop_yuv(planes, affine, CROP_PX, **colour)),
        (
            "composite_delta_yuv, warp",
            2 * frame + 2 * box + 4 * crop_bytes,
            lambda: composite.composite_delta_yuv(planes, affine, delta, mask, warp, **colour),
        ),
        (
            "composite_delta_yuv",
            2 * frame + 2 * box + 4 * crop_bytes,
            lambda: composite.composite_delta_yuv(planes, affine, delta, mask, None, **colour),
        ),
        (
            "composite_replace_yuv",
            2 * frame + 2 * box + 4 * crop_bytes,
            lambda: composite.composite_replace_yuv(planes, affine, rgb, mask, **colour),
        ),
    ]


def _noise(rng: np.random.Generator, width: int, height: int, bit_depth: int) -> Planes:
    def plane(rows: int, columns: int) -> Array:
        codes = rng.integers(0, 2**bit_depth, (rows, columns))
        return codes.astype(np.uint8 if bit_depth == 8 else np.uint16)

    half = (height + 1) // 2, (width + 1) // 2
    return plane(height, width), plane(*half), plane(*half)


def device_of(words: Sequence[str]) -> str:
    """The device that a command line asks for; "auto" is a CUDA device where torch sees one."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--device", default="auto")
    wanted: str = parser.parse_known_args(words)[0].device
    if wanted != "auto":
        return wanted
    has_torch = importlib.util.find_spec("torch") is not None
    return "cuda" if has_torch and importlib.import_module("torch").cuda.is_available() else "cpu"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table; append the rows to a results folder if one is given."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if device_of(words) != "cpu":
        importlib.import_module("mien.bench.kernels_gpu").main(words)
        return
    parser = argparse.ArgumentParser(prog="mien bench kernels", description="Time the CPU kernels.")
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:N; auto is cuda where there is one")
    parser.add_argument("--repeats", type=int, default=30, help="timed calls per row (numpy: a tenth, at least 3)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the C++ path")
    parser.add_argument("--results", type=Path, default=None, metavar="FOLDER", help="append the rows there")
    options = parser.parse_args(words)
    if options.repeats < 1 or not 1 <= options.threads <= 64:
        parser.error("--repeats must be at least 1, --threads in 1..64")
    if cpp.native is None:
        print(f"no C++ module in this installation ({cpp.missing}): numpy only")
    rows = run(repeats=options.repeats, threads=options.threads)
    print(f"{machine()}, memcpy {rows[0]['memcpy_gb_per_s']} GB/s (read + written, one thread)")
    print(f"{'op':<26} {'path':<7} {'size':<32} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8} {'GB/s':>7} {'memcpy':>7}")
    for row in rows:
        print(
            f"{row['op']:<26} {row['path']:<7} {row['size']:<32} {row['p50_ms']:8.2f} {row['p95_ms']:8.2f} "
            f"{row['p99_ms']:8.2f} {row['gb_per_s']:7.2f} {row['share_of_memcpy']:7.1%}"
        )
        if options.results is not None:
            append_row(options.results, row)


if __name__ == "__main__":
    main()
