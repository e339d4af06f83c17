"""NVENC where it opens: what it writes is read again, close to what went in, with its times; live, a packet comes for each frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.engine.types import Frame
from mien.runtime.encoders import Codec, Encoding, nvenc_encoder, open_encoder, why_no_nvenc
from mien.runtime.planes import video_frame
from mien.runtime.sink import VideoWriter
from mien.runtime.source import VideoReader

pytestmark = pytest.mark.gpu

CLIP = Path(__file__).resolve().parents[2] / "examples" / "sample.mp4"
FORMATS = [("h264", "yuv420p"), ("hevc", "yuv420p"), ("hevc", "yuv420p10le")]


@pytest.fixture(params=FORMATS, ids=lambda param: "-".join(param))
def nvenc(request: pytest.FixtureRequest) -> tuple[Codec, str]:
    codec, pixel_format = request.param
    why = why_no_nvenc(nvenc_encoder(Encoding(codec, device="cuda:0"), pixel_format), 1280, 720)
    if why is not None:
        pytest.skip(f"NVENC does not open for {codec} in {pixel_format}: {why}")
    return codec, pixel_format


def deepen(frame: Frame) -> Frame:
    """The same in 10 bit, its low bits in use."""
    planes: Any = tuple(np.left_shift(plane, 2, dtype=np.uint16) | (plane & 3) for plane in frame.planes)
    return replace(frame, planes=planes, pixel_format="yuv420p10le")


def frames(reader: VideoReader, pixel_format: str) -> Iterator[Frame]:
    for frame in reader:
        yield deepen(frame) if pixel_format == "yuv420p10le" else frame


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
@pytest.mark.parametrize("constant_rate", [False, True])
def test_a_clip_goes_there_and_back(nvenc: tuple[Codec, str], tmp_path: Path, ending: str, constant_rate: bool) -> None:
    codec, pixel_format = nvenc
    out, wanted = tmp_path / f"out{ending}", []
    with VideoReader(CLIP, stop_s=0.8) as reader:
        info: Any = replace(reader.info, pixel_format=pixel_format)
        how: dict[str, Any] = {"encoder": "nvenc", "device": "cuda:0", "constant_rate": constant_rate}
        with VideoWriter(out, info, codec=codec, preset="medium", **how) as writer:
            for frame in frames(reader, pixel_format):
                writer.write(frame)
                wanted.append(frame)
    assert writer.encoder.name == f"{codec}_nvenc" and not writer.notes
    with VideoReader(out) as result:
        got = list(result)
        tags = ("matrix", "color_range", "matrix_tag", "primaries_tag", "transfer_tag")
        assert [getattr(result.info, tag) for tag in tags] == [getattr(info, tag) for tag in tags]
    assert len(got) == len(wanted)
    tick = max(got[0].time_base, wanted[0].time_base)
    scale = 4 if pixel_format == "yuv420p10le" else 1
    for a, b in zip(got, wanted, strict=True):
        assert a.pts is not None and b.pts is not None
        assert abs(a.pts * a.time_base - b.pts * b.time_base) <= tick
        for ours, theirs in zip(a.planes, b.planes, strict=True):
            assert np.abs(ours.astype(int) - theirs.astype(int)).mean() < 2 * scale


def test_live_there_is_a_packet_for_each_frame_at_once(nvenc: tuple[Codec, str]) -> None:
    codec, pixel_format = nvenc
    encoder = nvenc_encoder(Encoding(codec, 23, device="cuda:0"), pixel_format, is_live=True)
    with VideoReader(CLIP, stop_s=0.5) as reader:
        context = open_encoder(encoder, reader.info.width, reader.info.height, Fraction(30))
        for number, frame in enumerate(frames(reader, pixel_format)):
            picture = video_frame(frame.planes, encoder.pixel_format)
            picture.pts = number
            assert [packet.pts for packet in context.encode(picture)] == [number]
