"""What every Triton kernel takes on every GPU generation, compiled here without one: registers, spills, shared memory.

    python -m mien.bench.kernels_ahead [FILE ...] [--capability N ...] [--quick] [--json FILE] [--results DIR]

A few minutes for all; Triton keeps what it compiled. A row of results is of a kernel and a generation: the most that any form takes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mien.bench.results import append_row
from mien.kernels.gpu.specialisation import CAPABILITIES

DEVICE = "compiled ahead, no GPU"
MOST = ("registers", "shared_bytes", "scratch_bytes")


def by_kernel(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each kernel and capability: its forms, the most of MOST, and the spills of all."""
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["kernel"].strip("_"), row["capability"]].append(row)
    return [
        {"bench": "ahead", "case": {"kernel": kernel, "capability": capability}, "forms": len(of)}
        | {name: max(row[name] for row in of) for name in MOST}
        | {"spill_bytes": sum(row["spill_bytes"] for row in of)}
        for (kernel, capability), of in groups.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each kernel, form and capability; write them to a JSON file if one is given."""
    parser = argparse.ArgumentParser(
        prog="python -m mien.bench.kernels_ahead", description="Compile the GPU kernels ahead of time."
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="of kernels/gpu, without .py; all if not given")
    parser.add_argument(
        "--capability", type=int, nargs="+", default=CAPABILITIES, choices=CAPABILITIES, help="all if not given"
    )
    parser.add_argument("--quick", action="store_true", help="a part: what pytest compiles without -m slow")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the rows there, without the PTX")
    parser.add_argument("--results", type=Path, default=None, metavar="DIR", help="append rows for the tables there")
    options = parser.parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET", "0") != "0":
        sys.exit("kernels_ahead: error: TRITON_INTERPRET is set, so nothing would be compiled; unset it")
    if find_spec("triton") is None:
        sys.exit("kernels_ahead: error: triton is not installed (Linux only); install it with: pip install triton")
    from mien.kernels.gpu.compile import compile_ahead, forms, kernel_files

    files = options.files or kernel_files()
    if unknown := sorted(set(files) - set(kernel_files())):
        sys.exit(f"kernels_ahead: error: no kernels in {', '.join(unknown)}; there are {', '.join(kernel_files())}")
    rows = []
    print(
        f"{'kernel':<32} {'form':<36} {'sm':>4} {'warps':>5} {'regs':>5} {'spill B':>8} {'shared B':>9} {'scratch B':>9}"
    )
    for file, form, capability in forms(files, options.capability, quick=options.quick):
        took = compile_ahead(form, capability)
        print(
            f"{took.kernel.strip('_'):<32} {took.label:<36} {capability:>4} {took.num_warps:>5} {took.registers:>5} "
            f"{took.spill_bytes:>8} {took.shared_bytes:>9} {took.scratch_bytes:>9}",
            flush=True,
        )
        row = {"file": file, **dataclasses.asdict(took)}
        del row["ptx"]
        rows.append(row)
    if options.results is not None:
        for found in by_kernel(rows):
            append_row(options.results, found, DEVICE)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
