"""Encoders behind a lane in miniature: every edited frame becomes a packet, and what is missing is told in the row."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from mien.bench import latency, stream_encoders
from mien.bench.device_peaks import Peaks
from mien.bench.paced import Pace
from mien.bench.random_lane import LaneParts, LaneShape, RandomLane
from mien.bench.recorder import Recorder, line_of
from mien.bench.stream_encoders import INCLUDES, StreamEncoders, pictures_of
from mien.engine.errors import InputError, UnavailableError

FRAME = (96, 80)
CLIP = Path(__file__).resolve().parents[2] / "examples" / "sample.mp4"  # of the tree: a wheel holds none


@pytest.fixture(scope="module")
def lane() -> RandomLane:
    with torch.no_grad():
        return RandomLane(LaneParts.make("mini", "cpu"), LaneShape(2, 2, 1, FRAME, any_rows=True))


def recorder() -> Recorder:
    return Recorder("latency", "cpu", peaks=Peaks({"float32": 1.0}, 1.0), tell=lambda line: None)


def asked(*kinds: str) -> argparse.Namespace:
    return argparse.Namespace(
        streams=(2,),
        fps=(4.0,),
        rows=2,
        steps=1,
        composition="replace",
        length=0.5,
        wait_ms=4.0,
        encode=kinds,
        clip=CLIP,
    )


def test_rows_with_an_encoder_stand_beside_those_without(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    monkeypatch.setattr(latency, "WARM_S", 0.5)
    here = recorder()
    with torch.no_grad():
        latency.measure(here, LaneParts.make("mini", "cpu"), asked("none", "x264"), FRAME)
    plain, encoded = here.rows
    assert "encode" not in plain["case"] and "encode_p50_ms" not in plain, "rows of before stay comparable"
    assert plain["includes"].endswith("no decoding or encoding of video")
    assert encoded["case"] == {**plain["case"], "encode": "x264", "form": "mien"}
    assert encoded["includes"] == INCLUDES and encoded["encoder"].startswith("x264 ")
    assert 0 < encoded["encode_p50_ms"] <= encoded["encode_p99_ms"] and encoded["encode_mbit_per_s"] > 0
    assert 0 < encoded["encode_cores"] < 2 and encoded["p50_ms"] > encoded["encode_p50_ms"]
    assert "encode p50" in line_of(encoded) and "encode p50" not in line_of(plain)


def test_each_frame_becomes_the_next_packet_of_its_stream(lane: RandomLane) -> None:
    pytest.importorskip("av")
    noise = lane.source.clone()
    encoders = StreamEncoders("x264", lane, 30.0, "cpu", held=2, clip=CLIP)
    for _ in range(4):
        encoders.bring([0, 1])
        assert not torch.equal(lane.source[0], lane.source[1]), "the streams are at other places of the clip"
        lane.edited.copy_(lane.source)
        encoders.take([0, 1])
        for frame in [encoders.out(0), encoders.out(1)]:
            frame._work.result()
            assert frame.out_s() is not None
    encoders.close()
    assert len(encoders.encoded) == 8 and all(each.size_bytes and each.cpu_s >= 0 for each in encoders.encoded)
    assert torch.equal(lane.source, noise)


def test_a_failed_encoder_is_told(lane: RandomLane) -> None:
    pytest.importorskip("av")
    encoders = StreamEncoders("x264", lane, 30.0, "cpu", held=2, clip=CLIP)
    encoders._contexts[0] = None
    encoders.take([0])
    frame = encoders.out(0)
    with pytest.raises(AttributeError):
        frame._work.result()
    with pytest.raises(AttributeError):
        frame.out_s()
    encoders.close()
    here = recorder()

    def fails(*_: Any) -> Any:
        raise ValueError("broken\nin two lines")

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(latency, "deliver", fails)
        latency.measure(here, LaneParts.make("mini", "cpu"), asked("x264"), FRAME)
    assert here.failed == 1 and here.rows[0]["failed"] == "ValueError: broken"


def test_what_is_missing_is_left_out_in_words(
    lane: RandomLane, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pace = Pace(2, 4.0, 2, 2)
    with monkeypatch.context() as patch:
        patch.setattr(stream_encoders, "find_spec", lambda name: None)
        with pytest.raises(UnavailableError, match="PyAV is not installed"):
            latency.deliver(lane, "cpu", pace, "x264", CLIP)
        here = recorder()
        with torch.no_grad():
            latency.measure(here, LaneParts.make("mini", "cpu"), asked("x264"), FRAME)
        assert here.failed == 0 and here.rows[0]["left_out"] == "PyAV is not installed"
    pytest.importorskip("av")
    from mien.runtime import encoders

    monkeypatch.setattr(encoders, "why_no_nvenc", lambda *_: "No capable devices found")
    with pytest.raises(UnavailableError, match="NVENC does not open: No capable devices found"):
        latency.deliver(lane, "cpu", pace, "nvenc", CLIP)
    with pytest.raises(InputError, match=r"--clip .*none\.mp4 cannot be read"):
        pictures_of(tmp_path / "none.mp4", FRAME)
    assert pictures_of(CLIP, FRAME, 3).shape == (3, 120, 96)
    with pytest.raises(SystemExit) as ended:
        latency.main(["--encode", "x264", "--clip", str(tmp_path / "none.mp4")])
    assert ended.value.code == 2
