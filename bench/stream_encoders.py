"""One video encoder a stream behind a lane: edited surfaces are downloaded, and encoded in a thread of the stream's own.

Pictures of a clip go through the lane instead of noise, which no encoder is made for. PyAV is needed, and imported here alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mien.bench.random_lane import RandomLane
from mien.engine.errors import InputError, RunError, UnavailableError

KINDS = ("none", "x264", "nvenc")
CLIP = Path(__file__).resolve().parents[1] / "examples" / "sample.mp4"
PICTURES = 24  # of the clip, forwards and backwards
PRESET, CRF = "veryfast", 23
INCLUDES = "surface due to packet out of the stream's encoder, by way of the host; no decoding of video"


@dataclass(frozen=True, slots=True)
class Encoded:
    """A frame that became a packet. begin_s, end_s: by the clock, of its encoding from the planes on the host; cpu_s: of its thread."""

    begin_s: float
    end_s: float
    cpu_s: float
    size_bytes: int


class Out:
    """A frame on its way to its packet."""

    def __init__(self, work: Future[float]) -> None:
        self._work = work

    def out_s(self) -> float | None:
        """When its packet came out; never waits. Raises what went wrong."""
        return self._work.result() if self._work.done() else None


class StreamEncoders:
    """Encoders of H.264 for a lane's streams, without reordering or lookahead, a thread each.

    kind: x264 or nvenc. held: frames of a stream that may be between `take` and the end of their `out`. encoded: what came out.
    Raises UnavailableError where PyAV is missing or the encoder does not open, InputError for a clip that cannot be read.
    """

    def __init__(self, kind: str, lane: RandomLane, fps: float, device: str, *, held: int, clip: Path = CLIP) -> None:
        if find_spec("av") is None:
            raise UnavailableError("PyAV is not installed")
        from mien.runtime.encoders import Encoding, cpu_encoder, nvenc_encoder, open_encoder, why_no_nvenc

        self.kind, self._lane, self._frame, self._held = kind, lane, lane.shape.frame, held
        width, height = self._frame
        if width % 2 or height % 2:
            raise InputError(f"--frame is {width}x{height}: H.264 needs an even size")
        asked = Encoding("h264", CRF, PRESET, device=device)
        build = nvenc_encoder if kind == "nvenc" else cpu_encoder
        encoder = build(asked, "nv12", reorders=False, is_live=True)
        if kind == "nvenc" and (why := why_no_nvenc(encoder, width, height)) is not None:
            raise UnavailableError(f"NVENC does not open: {why}")
        streams, rate = lane.shape.streams, Fraction(fps).limit_denominator(1001)
        self._contexts: list[Any] = [open_encoder(encoder, width, height, rate) for _ in range(streams)]
        self._pictures = pictures_of(clip, self._frame).to(lane.source.device)
        self._noise = lane.source.clone()
        shape = (streams, held, *lane.edited.shape[1:])
        self._host = torch.empty(shape, dtype=torch.uint8, pin_memory=device != "cpu")
        self._taken, self._gone = [0] * streams, [0] * streams
        self._threads = [ThreadPoolExecutor(1) for _ in range(streams)]
        self.encoded: list[Encoded] = []

    def bring(self, streams: Sequence[int]) -> None:
        """Give surfaces the clip's next pictures, ahead of their edit; on the current CUDA stream."""
        last, all_streams = len(self._pictures) - 1, len(self._taken)
        for stream in streams:
            at = (self._taken[stream] + stream * last // all_streams) % max(2 * last, 1)
            self._lane.source[stream].copy_(self._pictures[last - abs(last - at)])

    def take(self, streams: Sequence[int]) -> None:
        """Download edited surfaces, behind their edit on the current CUDA stream."""
        for stream in streams:
            slot = self._taken[stream] % self._held
            self._host[stream, slot].copy_(self._lane.edited[stream], non_blocking=True)
            self._taken[stream] += 1

    def out(self, stream: int) -> Out:
        """Begin to encode the oldest frame that was taken; its download is over."""
        number = self._gone[stream]
        self._gone[stream] += 1
        return Out(self._threads[stream].submit(self._encode, stream, number))

    def _encode(self, stream: int, number: int) -> float:
        import av

        begin_s, cpu_s = time.perf_counter(), time.thread_time()
        width, height = self._frame
        frame = av.VideoFrame(width, height, "nv12")
        rows = self._host[stream, number % self._held].numpy()
        for plane, part in zip(frame.planes, (rows[:height], rows[height:]), strict=True):
            to: Any = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
            to[: len(part), :width] = part[:, :width]
        frame.pts = number
        packets = self._contexts[stream].encode(frame)
        if [packet.pts for packet in packets] != [number]:
            raise RunError(f"frame {number} went in and packets {[packet.pts for packet in packets]} came out")
        end_s = time.perf_counter()
        self.encoded.append(Encoded(begin_s, end_s, time.thread_time() - cpu_s, packets[0].size))
        return end_s

    def figures(self, skip: int = 0) -> dict[str, Any]:
        """Of a row of results, the first frames not counted: encode_p50_ms, encode_p99_ms, the cores that encoding kept busy on average,
        the rate of one stream's packets if all its frames were encoded.
        """
        row: dict[str, Any] = {"encoder": f"{self.kind} {PRESET} crf {CRF}", "includes": INCLUDES}
        counted = self.encoded[skip:] or self.encoded
        if not counted:
            return row
        wall_ms = [1e3 * (each.end_s - each.begin_s) for each in counted]
        row |= {f"encode_p{p}_ms": round(float(np.percentile(wall_ms, p)), 3) for p in (50, 99)}
        lasted_s = max(each.end_s for each in counted) - min(each.begin_s for each in counted)
        row["encode_cores"] = round(sum(each.cpu_s for each in counted) / lasted_s, 3)
        bits = 8 * sum(each.size_bytes for each in counted) / len(counted)
        return row | {"encode_mbit_per_s": round(bits * float(self._contexts[0].framerate) / 1e6, 3)}

    def close(self) -> None:
        """End the threads, and give the lane its noise back."""
        for thread in self._threads:
            thread.shutdown(cancel_futures=True)
        self._lane.source.copy_(self._noise)


def pictures_of(clip: Path, frame: tuple[int, int], count: int = PICTURES) -> Tensor:
    """The first pictures of a clip in NV12, (count, 3/2 H, W) uint8, scaled to a width and height. Raises InputError."""
    import av
    from av.error import FFmpegError

    found = []
    try:
        with av.open(str(clip)) as container:
            for picture in container.decode(video=0):
                found.append(picture.reformat(*frame, "nv12").to_ndarray())
                if len(found) == count:
                    break
    except (FFmpegError, OSError) as error:
        raise InputError(f"--clip {clip} cannot be read: {error}") from error
    if not found:
        raise InputError(f"--clip {clip} has no picture")
    return torch.from_numpy(np.stack(found))
