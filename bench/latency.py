"""`mien bench latency`: from frame in to frame out, of streams that deliver frames at a fixed rate.

    python -m mien.bench.latency [--device cuda] [--streams 1 8] [--fps 25 30 60] [--steps 2] [--frame 1280x720] [--length S]
        [--encode none x264 nvenc] [--clip FILE]

A frame is in when its surface is due on the device, and out when the edited surface is complete there; with --encode, when its packet is
out of an encoder of the stream's own, which has a thread and what was downloaded. One face a frame, in batches of whatever waits, at most
--rows; random weights. Decoding of video is not included, encoding where a row says so. A stream keeps one frame waiting and drops it when
the next one comes, as a live source does; a first second is not counted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from mien.bench.options import add_options, exit_by, guarded, open_recorder
from mien.bench.paced import Batch, Delivered, Pace, run_paced
from mien.bench.random_lane import LaneParts, LaneShape, RandomLane
from mien.bench.random_networks import LAYOUTS
from mien.bench.recorder import TIME_UP, Recorder
from mien.bench.stream_encoders import CLIP, KINDS, StreamEncoders
from mien.bench.throughput import parse_frame
from mien.engine.errors import UnavailableError

WARM_S = 1.0


class _Done:
    """A batch that is done when an event of the device is past; at once on a CPU."""

    def __init__(self, event: Any = None) -> None:
        self._event = event

    def is_done(self) -> bool:
        """Never waits."""
        return self._event is None or bool(self._event.query())


def starter(lane: RandomLane, device: str, encoders: StreamEncoders | None = None) -> Any:
    """What begins a batch on a lane."""

    def start(streams: Sequence[int]) -> Batch:
        if encoders is not None:
            encoders.bring(streams)
        lane.edit(streams)
        if encoders is not None:
            encoders.take(streams)
        if device == "cpu":
            return _Done()
        event = torch.cuda.Event()
        event.record()
        return _Done(event)

    return start


def figures(found: Delivered, pace: Pace) -> dict[str, Any]:
    """Of a row of results."""
    offered = pace.streams * pace.frames
    row: dict[str, Any] = {f"p{p}_ms": round(found.percentile_ms(p), 3) for p in (50, 95, 99)}
    row |= {"frames": offered, "drops": found.drops, "drop_share": round(found.drops / offered, 5)}
    row["rows_per_batch"] = round(sum(found.batches) / max(len(found.batches), 1), 3)
    row |= {"samples": len(found.latencies_s), "weights": "random"}
    return row | {"includes": "surface due to surface complete; no decoding or encoding of video"}


def measure(recorder: Recorder, parts: LaneParts, options: argparse.Namespace, frame: tuple[int, int]) -> None:
    """Every number of streams, rate and encoder, as far as the time goes."""
    for streams in options.streams:
        rows = min(options.rows, streams)
        lane: RandomLane | None = None
        for fps, kind in product(options.fps, options.encode):
            name = {
                "streams": streams,
                "fps": fps,
                "steps": options.steps,
                "frame": f"{frame[0]}x{frame[1]}",
                "rows": rows,
            }
            name |= {"composition": options.composition, "model": parts.model}
            name |= {} if kind == "none" else {"encode": kind}
            if recorder.left_s < options.length + WARM_S:
                recorder.record(name, "mien", {"left_out": TIME_UP}, {})
                continue
            if lane is None:
                shape = LaneShape(streams, rows, options.steps, frame, options.composition, any_rows=True)
                lane = RandomLane(parts, shape)
            pace = Pace(streams, fps, round((options.length + WARM_S) * fps), rows, options.wait_ms / 1e3)
            try:
                recorder.record(name, "mien", deliver(lane, parts.device, pace, kind, options.clip))
            except UnavailableError as error:
                recorder.record(name, "mien", {"left_out": str(error)}, {})
            except Exception as error:  # a case that fails is a row, and the others go on
                recorder.fail(name, "mien", error)


def deliver(lane: RandomLane, device: str, pace: Pace, kind: str, clip: Path) -> dict[str, Any]:
    """The figures of one pace. kind: who encodes, `none` for nobody. Raises UnavailableError where that one is not there."""
    cold = round(WARM_S * pace.fps * pace.streams)
    if kind == "none":
        found = run_paced(starter(lane, device), pace, clock=time.perf_counter, sleep=time.sleep)
        return figures(found.skip(cold), pace)
    encoders = StreamEncoders(kind, lane, pace.fps, device, held=pace.held, clip=clip)
    try:
        start = starter(lane, device, encoders)
        found = run_paced(start, pace, clock=time.perf_counter, sleep=time.sleep, out=encoders.out)
    finally:
        encoders.close()
    return figures(found.skip(cold), pace) | encoders.figures(cold)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a line a row, append the rows to a results folder if one is given."""
    parser = argparse.ArgumentParser(prog="mien bench latency", description="Frame in to frame out at a fixed rate.")
    add_options(parser)
    parser.add_argument("--model", choices=sorted(LAYOUTS), default="sd15", help="mini is for tests")
    parser.add_argument("--streams", nargs="+", type=int, default=(8, 1), help="that deliver frames")
    parser.add_argument("--fps", nargs="+", type=float, default=(30.0, 25.0, 60.0), help="of each stream")
    parser.add_argument("--steps", type=int, default=2, help="of denoising")
    parser.add_argument("--rows", type=int, default=8, help="most faces of a batch")
    parser.add_argument("--wait-ms", type=float, default=4.0, help="that a frame waits for others")
    parser.add_argument("--frame", default="1280x720", metavar="WxH", help="of the video")
    parser.add_argument("--composition", choices=("replace", "delta"), default="replace")
    parser.add_argument("--length", type=float, default=10.0, help="seconds of video, the first second not counted")
    parser.add_argument(
        "--encode", nargs="+", choices=KINDS, default=("none",), help="each frame, in threads of the host"
    )
    parser.add_argument("--clip", type=Path, default=CLIP, metavar="FILE", help="whose pictures are encoded")
    options = parser.parse_args(arguments)
    frame = parse_frame(options.frame)
    if min(*options.streams, options.rows, options.steps) < 1 or min(*options.fps, options.length) <= 0:
        parser.error("--streams, --rows and --steps must be at least 1, --fps and --length above 0")
    if set(options.encode) != {"none"} and not options.clip.is_file():
        parser.error(f"--clip {options.clip} is not there: give a video whose pictures are to be encoded")
    recorder = open_recorder("latency", options)
    with torch.no_grad():
        measure(recorder, LaneParts.make(options.model, recorder.device), options, frame)
    exit_by(recorder)


if __name__ == "__main__":
    guarded(main)
