"""Which tiles of the attention kernel are fastest here: every candidate at every shape of the UNet, and the table they make.

    python -m mien.bench.attention_tuning [--device cuda] [--rows 8 1] [--jobs 8] [--json FILE]

Prints what `kernels/gpu/attention_tiles.py` should hold for this GPU: of the cases that a table's entry serves, the tile whose
times are least above the best of each case. Workers compile first, each its share, into Triton's cache on the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mien.bench.device_peaks import pick_device
from mien.bench.kernels_gpu import BANK_FRAMES
from mien.bench.options import add_options, guarded, open_recorder
from mien.bench.random_networks import LAYOUTS, SIZES_PX
from mien.bench.recorder import TIME_UP, Case, Recorder, Works
from mien.bench.results import Row
from mien.bench.unet_ops import Attention
from mien.engine.errors import UnavailableError
from mien.kernels.gpu.attention_tiles import PROCESSORS, TILES, Choice, Tile, candidates, choose

Entry = tuple[int, str]
"""Of a table: the power of two that holds D, and "large" or "small"."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One shape with so many rows, and what of the table serves it."""

    op: Attention
    rows: int
    entry: Entry


def words(tile: Tile) -> str:
    """A tile as results name it."""
    return f"{tile.block_m}x{tile.block_n} {tile.num_warps} warps {tile.num_stages} stages{'' if tile.split else ' filled'}"


def entry_of(capability: int, dim: int, heads: int, n_queries: int) -> Entry:
    """Of the table that `choose` reads."""
    known = max((c for c in TILES if c <= capability), default=min(TILES))
    width = min((width for width in TILES[known] if dim <= width), default=max(TILES[known]))
    programs = -(-n_queries // TILES[known][width].large.block_m) * heads
    return width, "large" if programs >= PROCESSORS[known] else "small"


def trials(
    model: str, capability: int, rows: Sequence[int], bank_frames: Sequence[int] = BANK_FRAMES
) -> Iterator[Trial]:
    """Self-attention at every shape, with a bank of so many frames."""
    layout, side = LAYOUTS[model], SIZES_PX[model] // 8
    shapes = {((-(-side // layer.downscale)) ** 2, layer.channels, layer.num_heads) for layer in layout.layers()}
    for count in rows:
        for tokens, channels, heads in sorted(shapes, reverse=True):
            for frames in bank_frames:
                op = Attention(tokens, (tokens,) * (1 + frames), channels, heads, weighted=frames > 0)
                yield Trial(op, count, entry_of(capability, op.dim, count * heads, tokens))


def works(trial: Trial, tiles: Sequence[Tile], device: str, dtype: torch.dtype) -> Works:
    """The kernel with each tile on the same inputs, with a length for each row, as the lane has them."""
    from mien.kernels.gpu.cross_frame_attention import cross_frame_attention

    op, rows = trial.op, trial.rows
    query, *rest = (
        torch.randn((rows, count, op.channels), device=device).to(dtype)
        for count in (op.n_queries, *(count for count in op.segments for _ in range(2)))
    )
    segments = list(zip(rest[0::2], rest[1::2], strict=True))
    more: dict[str, Any] = {}
    if op.weighted:
        full = [torch.full((rows,), count, dtype=torch.int32, device=device) for count in op.segments[1:]]
        more = {"lengths": [None, *full], "own_weight": torch.ones(rows, device=device)}
    return Works(
        {
            words(tile): [partial(cross_frame_attention, query, segments, op.num_heads, tile=tile, **more)]
            for tile in tiles
        }
    )


def case_of(trial: Trial, capability: int, device: str) -> Case:
    """Every candidate of a trial; the one that is chosen today is what the others are compared with."""
    op = trial.op
    today = words(choose(capability, op.dim, trial.rows * op.num_heads, op.n_queries))
    keys = "+".join(map(str, op.segments))
    shape = f"{op.n_queries} of d{op.dim} x {op.num_heads}"
    return Case(
        {"op": "attention", "shape": shape, "keys": keys, "rows": trial.rows, "dtype": "float16"},
        partial(works, trial, tiles_of(capability, op.dim), device, torch.float16),
        flops=4.0 * trial.rows * op.n_queries * sum(op.segments) * op.channels,
        against=today,
        includes="the operation, inputs warm",
    )


def tiles_of(capability: int, dim: int) -> list[Tile]:
    """The candidates, and those that the table has today."""
    known = max((c for c in TILES if c <= capability), default=min(TILES))
    width, _ = entry_of(capability, dim, 1, 1)
    choice = TILES[known][width]
    return list(dict.fromkeys([choice.large, choice.small, *candidates(capability, dim)]))


def best(times: Mapping[Any, Mapping[str, float]]) -> dict[str, float]:
    """Tiles that every case has a time for, with how many times the best of each case they take on average; the best first."""
    everywhere = set.intersection(*(set(of) for of in times.values())) if times else set()
    slower = {tile: sum(of[tile] / min(of.values()) for of in times.values()) / len(times) for tile in everywhere}
    return dict(sorted(slower.items(), key=lambda item: item[1]))


def table(rows: Iterable[Row], served: Iterable[tuple[Trial, Case]]) -> dict[Entry, dict[str, float]]:
    """The best tiles for each entry of the table, of cases that there was time for."""
    measured: dict[tuple[Any, ...], dict[str, float]] = defaultdict(dict)
    cut_off = set()
    for row in rows:
        *name, (_, tile) = row["case"].items()
        if "p50_ms" in row:
            measured[tuple(name)][tile] = row["p50_ms"]
        elif row.get("left_out") == TIME_UP:
            cut_off.add(tuple(name))
    of_entry: dict[Entry, dict[Any, dict[str, float]]] = defaultdict(dict)
    for trial, case in served:
        if (key := tuple(case.name.items())) in measured and key not in cut_off:
            of_entry[trial.entry][key] = measured[key]
    return {entry: best(times) for entry, times in sorted(of_entry.items())}


def compile_share(model: str, capability: int, bank_frames: Sequence[int], device: str, share: int, of: int) -> None:
    """Launch every of-th combination of tile and form once, with one row, so that the kernel is in Triton's cache."""
    forms = {
        (trial.op, tile): trial
        for trial in trials(model, capability, [1], bank_frames)
        for tile in tiles_of(capability, trial.op.dim)
    }
    for (_, tile), trial in list(forms.items())[share::of]:
        for calls in works(trial, [tile], device, torch.float16).calls.values():
            try:
                calls[0]()
                torch.cuda.synchronize()
            except Exception as error:  # a tile that does not fit; the measurement says so again
                print(f"{words(tile)}: {error}", file=sys.stderr)


def compile_all(options: argparse.Namespace, device: str, seconds: float) -> None:
    """In so many processes, for so many seconds at most; what they leave is compiled when it is timed."""
    command = [sys.executable, "-m", "mien.bench.attention_tuning", "--device", device, "--model", options.model]
    command += ["--bank", *map(str, options.bank)]
    running = [subprocess.Popen([*command, "--share", f"{i}/{options.jobs}"]) for i in range(options.jobs)]
    end_s = time.monotonic() + min(seconds, 3600.0)
    for process in running:
        try:
            process.wait(max(end_s - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def print_table(recorder: Recorder, found: Mapping[Entry, Mapping[str, float]], capability: int) -> None:
    """The best three of each entry, and what `TILES` has now."""
    known = max((c for c in TILES if c <= capability), default=min(TILES))
    print(f"\ncapability {capability}: tile, times the best of each case on average")
    for (width, size), tiles in found.items():
        choice: Choice = TILES[known][width]
        today = words(getattr(choice, size))
        print(f"  {width:>3} {size:<5} now {today}: {tiles.get(today, float('nan')):.3f}")
        for tile, slower in list(tiles.items())[:3]:
            print(f"            {slower:.3f} {tile}")


def write_table(path: Path, recorder: Recorder, found: Mapping[Entry, Mapping[str, float]], capability: int) -> None:
    """The whole file or, where this is ended meanwhile, the one before it."""
    entries = [{"width": width, "size": size, "tiles": tiles} for (width, size), tiles in found.items()]
    about = recorder.rows[0]["about"] if recorder.rows else {}
    part = path.with_name(path.name + ".part")
    part.write_text(
        json.dumps({"capability": capability, "device": about, "entries": entries}, indent=1) + "\n", encoding="utf-8"
    )
    os.replace(part, path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table; write it to a JSON file, after every case, if one is given."""
    parser = argparse.ArgumentParser(
        prog="python -m mien.bench.attention_tuning", description="Time attention's tiles."
    )
    add_options(parser)
    parser.set_defaults(case_seconds=0.25)
    parser.add_argument("--model", choices=sorted(LAYOUTS), default="sd15", help="whose shapes")
    parser.add_argument("--rows", nargs="+", type=int, default=(8, 1), help="of a batch")
    parser.add_argument("--bank", nargs="+", type=int, choices=BANK_FRAMES, default=BANK_FRAMES, help="frames of it")
    parser.add_argument("--jobs", type=int, default=8, help="processes that compile")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the table there")
    parser.add_argument("--share", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    device = pick_device(options.device)
    if device == "cpu":
        raise UnavailableError("torch sees no CUDA device: tiles are timed on the GPU that they are for")
    major, minor = torch.cuda.get_device_capability()
    capability = 10 * major + minor
    if options.share is not None:
        share, of = (int(part) for part in options.share.split("/"))
        compile_share(options.model, capability, options.bank, device, share, of)
        return
    begin_s = time.monotonic()
    compile_all(options, device, options.seconds / 2)
    options.seconds -= time.monotonic() - begin_s
    recorder = open_recorder("attention tiles", options)
    served = [
        (trial, case_of(trial, capability, recorder.device))
        for trial in trials(options.model, capability, options.rows, options.bank)
    ]
    with torch.inference_mode():
        for _, case in served:
            recorder.run([case])
            if options.json is not None:
                write_table(options.json, recorder, table(recorder.rows, served), capability)
    print_table(recorder, table(recorder.rows, served), capability)


if __name__ == "__main__":
    guarded(main)
