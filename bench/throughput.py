"""`mien bench throughput`: frames a second of the face lane, from surfaces on the device to surfaces on the device.

    python -m mien.bench.throughput [--device cuda] [--streams 1 8 16] [--rows 1 8] [--steps 1 2 4] [--frame 1280x720 ...]
        [--composition replace delta]

Every frame has one face: its surface is copied, the face cropped, encoded, denoised, decoded and put back. Decoding and encoding of
video, and finding the face, are not included. The UNet has the W+ adapter and sees the frame before at 32x32 and below; weights
are random. `delta` is the difference of two rows, the edited and the source's, and two pictures decoded.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product

import torch

from mien.bench.options import add_options, exit_by, guarded, open_recorder
from mien.bench.random_lane import LaneParts, LaneShape, RandomLane
from mien.bench.random_networks import LAYOUTS
from mien.bench.recorder import Case, Works
from mien.engine.errors import InputError

COMPOSITIONS = ("replace", "delta")


def parse_frame(text: str) -> tuple[int, int]:
    """Width and height out of WxH. Raises InputError."""
    width, cross, height = text.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal() and 16 <= min(int(width), int(height)) <= 8192):
        raise InputError(f"--frame is {text!r}: give a width and a height from 16 to 8192, as in 1280x720")
    return int(width), int(height)


def shapes(
    streams: Sequence[int],
    rows: Sequence[int],
    steps: Sequence[int],
    frames: Sequence[tuple[int, int]],
    compositions: Sequence[str],
) -> Iterator[LaneShape]:
    """Every combination with at least as many streams as rows; the first of each list first, steps changing fastest."""
    for composition, frame, count, row in product(compositions, frames, streams, rows):
        if count % row == 0:
            for step in steps:
                yield LaneShape(count, row, step, frame, "delta" if composition == "delta" else "replace")


def lane_works(parts: LaneParts, shape: LaneShape) -> Works:
    """The lane's calls, one for each group of streams."""
    return Works({"mien": RandomLane(parts, shape).turns()})


def case_of(parts: LaneParts, shape: LaneShape) -> Case:
    """Of one lane."""
    name: dict[str, str | int | float] = {
        "composition": shape.composition,
        "streams": shape.streams,
        "rows": shape.rows,
    }
    name |= {"steps": shape.steps, "frame": f"{shape.frame[0]}x{shape.frame[1]}", "model": parts.model}
    dtype = "float16" if parts.device != "cpu" else "float32"
    return Case(
        {**name, "dtype": dtype},
        partial(lane_works, parts, shape),
        flops=shape.flops(parts) * shape.rows,
        frames=shape.rows,
        dtype=dtype,
        captured=False,
        includes="copy of the surface, crop, encode, denoise, decode, composite",
        more={"weights": "random"},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a line a row, append the rows to a results folder if one is given."""
    parser = argparse.ArgumentParser(prog="mien bench throughput", description="Frames a second of the face lane.")
    add_options(parser)
    parser.add_argument("--model", choices=sorted(LAYOUTS), default="sd15", help="mini is for tests")
    parser.add_argument("--streams", nargs="+", type=int, default=(8, 1, 16), help="that frames come from")
    parser.add_argument("--rows", nargs="+", type=int, default=(8, 1), help="faces of a call, of as many streams")
    parser.add_argument("--steps", nargs="+", type=int, default=(1, 2, 4), help="of denoising")
    parser.add_argument("--frame", nargs="+", default=["1280x720"], metavar="WxH", help="of the video")
    parser.add_argument("--composition", nargs="+", choices=COMPOSITIONS, default=COMPOSITIONS)
    options = parser.parse_args(arguments)
    frames = [parse_frame(text) for text in options.frame]
    wanted = list(shapes(options.streams, options.rows, options.steps, frames, options.composition))
    if not wanted:
        parser.error("no number of --streams is a multiple of one of --rows")
    recorder = open_recorder("throughput", options)
    with torch.no_grad():
        parts = LaneParts.make(options.model, recorder.device)
        recorder.run(case_of(parts, shape) for shape in wanted)
    exit_by(recorder)


if __name__ == "__main__":
    guarded(main)
