"""The operations of a UNet one by one, at the shapes it runs them with, beside torch's own: time, rate, error. Then those of frames.

    python -m mien.bench.kernels_gpu [--device cuda] [--model sd15] [--only attention surfaces norm gate float8 step] [--rows 8 1]

Forms: `mien` is what the engine calls (Triton on a GPU); `torch` is eager torch; `torch, joining`, torch with the joining of keys and
values counted; `torch, cudnn`, torch's attention by cuDNN. Inputs are random and, but for surfaces, warm: the layer before has just
written them. Rows `all of a UNet` are sums over one call of the network, each operation as often as it runs there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial

import torch

from mien.bench.kernels_surfaces import surface_cases
from mien.bench.kernels_unet import attention_works, float8_works, gate_works, norm_works, step_works
from mien.bench.options import add_options, exit_by, guarded, open_recorder
from mien.bench.random_networks import LAYOUTS, SIZES_PX
from mien.bench.recorder import Case, Recorder
from mien.bench.results import Row
from mien.bench.timing import significant
from mien.bench.unet_ops import Attention, Gate, Norm, Op, UNetOps, bank_layers, read_ops

KINDS = ("attention", "surfaces", "norm", "gate", "float8", "step")
BANK_FRAMES = (0, 1, 2)
WARM = "the operation, inputs warm"


def dtype_on(device: str) -> torch.dtype:
    """Half precision on a GPU."""
    return torch.float16 if device != "cpu" else torch.float32


def op_case(op: Op, rows: int, device: str) -> Case:
    """The case of one operation with so many rows."""
    name: dict[str, str | int | float]
    dtype = dtype_on(device)
    size, dtype_name = dtype.itemsize, str(dtype).removeprefix("torch.")
    if isinstance(op, Attention):
        keys = sum(op.segments)
        name = {
            "op": "attention",
            "shape": f"{op.n_queries} of d{op.dim} x {op.num_heads}",
            "keys": "+".join(map(str, op.segments)),
        }
        flops = 4.0 * rows * op.n_queries * keys * op.channels
        moved = 2.0 * rows * (op.n_queries + keys) * op.channels * size
        make = partial(attention_works, op, rows, device, dtype)
    elif isinstance(op, Norm):
        words = " ".join(word for word, has in (("shift", op.shift), ("silu", op.silu)) if has)
        name = {"op": "group norm", "shape": f"{op.channels} x {op.side}x{op.side} {words}".strip()}
        flops, moved = 0.0, 3.0 * rows * op.channels * op.side**2 * size
        make = partial(norm_works, op, rows, device, dtype)
    else:
        name = {"op": "geglu", "shape": f"{op.tokens} x {op.width}"}
        flops, moved = 0.0, 3.0 * rows * op.tokens * op.width * size
        make = partial(gate_works, op, rows, device, dtype)
    name |= {"rows": rows, "dtype": dtype_name}
    return Case(name, make, flops, moved, dtype=dtype_name, against="torch", includes=WARM)


def step_case(rows: int, side: int, device: str) -> Case:
    """The case of the sampler's step; latents are float32."""
    dtype = dtype_on(device)
    return Case(
        {"op": "consistency step", "shape": f"4 x {side}x{side}", "rows": rows, "dtype": "float32"},
        partial(step_works, rows, side, device, dtype),
        bytes=rows * 4.0 * side**2 * (dtype.itemsize + 3 * 4),
        against="torch",
        includes=WARM,
    )


def float8_case(tokens: int, channels: int, rows: int, device: str) -> Case:
    """The case of rounding what a layer reads to 8 bits."""
    dtype = dtype_on(device)
    named = {"dtype": str(dtype).removeprefix("torch.")}
    return Case(
        {"op": "to float8", "shape": f"{tokens} x {channels}", "rows": rows, **named},
        partial(float8_works, (rows * tokens, channels), device, dtype),
        bytes=float(rows * tokens * channels * (dtype.itemsize + 1)),
        against="torch",
        includes=WARM,
    )


def self_attention(ops: UNetOps) -> list[Attention]:
    """At every shape, with a bank of none, one and two frames."""
    found = {(op.n_queries, op.channels, op.num_heads) for op in ops.counts if isinstance(op, Attention) and is_own(op)}
    return [
        Attention(queries, (queries,) * (1 + frames), channels, heads, weighted=frames > 0)
        for frames in BANK_FRAMES
        for queries, channels, heads in sorted(found, reverse=True)
    ]


def is_own(op: Attention) -> bool:
    """Whether it is self-attention."""
    return op.segments[0] == op.n_queries


def cases(ops: UNetOps, side: int, kinds: Sequence[str], rows: Sequence[int], device: str) -> Iterator[Case]:
    """Every case, what matters most first. side: of the latents."""
    gates = {(op.tokens, op.width) for op in ops.counts if isinstance(op, Gate)}
    read = sorted({(op.n_queries, op.channels) for op in self_attention(ops)} | gates, reverse=True)
    for count in rows:
        if "attention" in kinds:
            yield from (op_case(op, count, device) for op in self_attention(ops))
        if "surfaces" in kinds and count == rows[0] and device != "cpu":
            yield from surface_cases(device)
        for kind, of in (("norm", Norm), ("gate", Gate)):
            if kind in kinds:
                yield from (op_case(op, count, device) for op in ops.counts if isinstance(op, of))
        if "float8" in kinds:
            yield from (float8_case(tokens, channels, count, device) for tokens, channels in read)
        if "step" in kinds:
            yield step_case(count, side, device)
        if "attention" in kinds:
            others = (op for op in ops.counts if isinstance(op, Attention) and not is_own(op))
            yield from (op_case(op, count, device) for op in others)


def record_totals(recorder: Recorder, ops: UNetOps, rows: Sequence[int], device: str) -> None:
    """Rows `all of a UNet`: what its operations of a kind take together, where each of them was measured."""
    p50 = {tuple(row["case"].items()): row["p50_ms"] for row in recorder.rows if "p50_ms" in row}
    for count in rows:
        for kind, title in ((Attention, "attention"), (Norm, "group norm"), (Gate, "geglu")):
            for form in ("mien", "torch"):
                times = [
                    (number, p50.get((*op_case(op, count, device).name.items(), ("form", form))))
                    for op, number in ops.counts.items()
                    if isinstance(op, kind)
                ]
                if times and all(ms is not None for _, ms in times):
                    total = sum(number * float(ms) for number, ms in times if ms is not None)
                    figures: Row = {"total_ms": significant(total), "calls": sum(number for number, _ in times)}
                    recorder.record({"op": title, "shape": "all of a UNet", "rows": count}, form, figures)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a line a row, append the rows to a results folder if one is given."""
    parser = argparse.ArgumentParser(
        prog="python -m mien.bench.kernels_gpu", description="Time the kernels of the UNet."
    )
    add_options(parser)
    parser.add_argument("--model", choices=sorted(LAYOUTS), default="sd15", help="whose shapes")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--rows", nargs="+", type=int, default=(8, 1), help="of a batch")
    parser.add_argument("--cold", action="store_true", help="flush the caches before every call")
    options = parser.parse_args(arguments)
    if min(options.rows) < 1:
        parser.error("--rows must be at least 1")
    layout, size_px = LAYOUTS[options.model], SIZES_PX[options.model]
    ops = read_ops(layout, size_px, layers=bank_layers(layout))
    recorder = open_recorder("kernels", options, cold=options.cold)
    with torch.inference_mode():
        recorder.run(cases(ops, size_px // 8, options.only, options.rows, recorder.device))
    record_totals(recorder, ops, options.rows, recorder.device)
    exit_by(recorder)


if __name__ == "__main__":
    guarded(main)
