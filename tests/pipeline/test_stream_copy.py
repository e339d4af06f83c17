"""StreamCopy: of a part little is read, Ctrl-C is heard meanwhile, and sound that does not fit is found before any work."""

from __future__ import annotations

import io
import signal
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest
from av.error import ArgumentError

from mien.engine.errors import MediaError, RunError
from mien.runtime import stream_copy
from mien.runtime.demux import packets_of
from mien.runtime.held_signals import HeldSignals
from mien.runtime.sink import VideoWriter
from mien.runtime.source import VideoReader, open_video
from mien.runtime.stream_copy import StreamCopy, check_copy

MakeClip = Callable[..., Path]
LONG = [(i * 512, 512) for i in range(1000)]
"""Forty seconds."""


@pytest.fixture
def read_times(monkeypatch: pytest.MonkeyPatch) -> list[Fraction]:
    """When each packet was due that a StreamCopy read, video included."""
    times: list[Fraction] = []

    def counted(*arguments: object) -> object:
        for packet in packets_of(*arguments):  # type: ignore[arg-type]
            times.append((packet.dts if packet.dts is not None else packet.pts) * packet.time_base)
            yield packet

    monkeypatch.setattr(stream_copy, "packets_of", counted)
    return times


@pytest.mark.parametrize("ending", [".mkv", ".mp4"])
def test_of_a_part_little_is_read(make_clip: MakeClip, tmp_path: Path, read_times: list[Fraction], ending: str) -> None:
    clip = make_clip("clip.mkv", times=LONG, audio="aac", subtitles=ending == ".mkv")
    path, out = tmp_path / f"long{ending}", tmp_path / "o.mkv"
    with VideoReader(clip) as reader, VideoWriter(path, reader, copy_streams_from=clip) as writer:  # interleaves
        for frame in reader:
            writer.write(frame)
    for start, stop in ((None, 1.0), (30.0, 31.0)):
        read_times.clear()
        with (
            VideoReader(path, start, stop) as reader,
            VideoWriter(out, reader, overwrite=True, copy_streams_from=path) as writer,
        ):
            for frame in reader:
                writer.write(frame)
        assert max(read_times) <= stop + 1
        assert min(read_times) >= (start or 0) - 16, "a key frame before the ten seconds of lead"
        with av.open(str(out)) as result:
            sound = [p.pts * p.time_base for p in result.demux(audio=0) if p.size]
        assert -0.03 < sound[0] <= 0 and 0.9 < sound[-1] < 1.01


def test_a_subtitle_begun_before_the_part_stays_for_what_is_left_of_it(make_clip: MakeClip, tmp_path: Path) -> None:
    # At 0.1 to 0.3 s, 0.32 to 0.4 s.
    path = make_clip("in.mkv", times=[(i * 512, 512) for i in range(25)], subtitles=True)
    with (
        VideoReader(path, 0.2) as reader,
        VideoWriter(tmp_path / "o.mkv", reader, copy_streams_from=path) as writer,
    ):
        for frame in reader:
            writer.write(frame)
    with av.open(str(tmp_path / "o.mkv")) as result:
        shown = [
            (float(p.pts * p.time_base), float(p.duration * p.time_base)) for p in result.demux(subtitles=0) if p.size
        ]
    with open_video(tmp_path / "o.mkv") as video:
        assert next(iter(video)).pts == 0
    assert shown == [pytest.approx((0.0, 0.1), abs=0.041), pytest.approx((0.12, 0.08), abs=0.041)]


def test_a_container_that_seeks_too_far_is_read_from_its_beginning(
    make_clip: MakeClip, read_times: list[Fraction], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_clip("long.mkv", times=LONG, audio="aac")
    monkeypatch.setattr(stream_copy, "LEAD_S", -8)
    with VideoReader(path, 20.0, 21.0) as reader:
        info = reader.info
    with av.open(io.BytesIO(), "w", format="matroska") as out:
        copy = StreamCopy(str(path), info, out, ".mkv")
        kept = list(copy._packets_of_part())
        copy.close()
    assert len([p for p in kept if 20 <= p.pts * p.time_base < 21]) == pytest.approx(47, abs=1)


def test_ctrl_c_is_heard_between_two_packets(make_clip: MakeClip) -> None:
    path = make_clip("a.mkv", audio="aac")
    with VideoReader(path) as reader:
        info = reader.info
    muxed: list[object] = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with av.open(io.BytesIO(), "w", format="matroska") as out:
            copy = StreamCopy(str(path), info, out, ".mkv")
            copy._mux = lambda packet, shift: (muxed.append(packet), signal.raise_signal(signal.SIGINT))  # type: ignore[method-assign,assign]
            with pytest.raises(KeyboardInterrupt), HeldSignals() as held:
                copy.advance(None, [Fraction(0)], held)
            copy.close()
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(muxed) == 1


@pytest.mark.parametrize(
    ("audio", "ending", "fits"),
    [
        ("aac", ".mp4", True),
        ("libopus", ".mp4", True),
        ("libopus", ".mov", False),
        ("flac", ".mp4", True),
        ("flac", ".mov", False),
        ("pcm_s16le", ".mov", True),
        ("pcm_s16le", ".mkv", True),
        ("wavpack", ".mp4", False),
    ],
)
def test_sound_that_does_not_fit_is_found_before_any_work(
    make_clip: MakeClip, tmp_path: Path, audio: str, ending: str, fits: bool
) -> None:
    """What the trial says is what the whole run meets."""
    path, out = make_clip("a.mkv", audio=audio), tmp_path / f"o{ending}"
    container = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}[ending]
    with VideoReader(path) as reader:
        if not fits:
            name = audio.removeprefix("lib")
            with pytest.raises(MediaError, match=rf"{ending} cannot hold the source's {name} audio: write \.mkv"):
                check_copy(str(path), reader.info, container, ending)
            return
        check_copy(str(path), reader.info, container, ending)
        with VideoWriter(out, reader, copy_streams_from=path) as writer:
            for frame in reader:
                writer.write(frame)
    assert out.exists()


def test_an_encoder_or_muxer_that_fails_in_its_own_way_is_one_line(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every error of FFmpeg is an OSError."""
    path = make_clip("a.mp4", audio="aac")

    def fail(*_: object) -> None:
        raise ArgumentError(22, "Invalid argument")

    monkeypatch.setattr(StreamCopy, "advance", fail)
    with VideoReader(path) as reader, pytest.raises(RunError, match=r"encoding .*o\.mp4 failed at frame 12: Invalid"):
        with VideoWriter(tmp_path / "o.mp4", reader, copy_streams_from=path) as writer:
            for frame in reader:
                writer.write(frame)
    assert not list(tmp_path.glob("*o.*"))


def test_a_stream_that_appears_in_mid_file_costs_nothing(make_clip: MakeClip) -> None:
    class Late:
        """A container whose list of streams grows late: PyAV raises IndexError once."""

        def __init__(self) -> None:
            self.failed = False

        def demux(self, *_: object) -> object:
            if not self.failed:
                self.failed = True
                raise IndexError(1)
            yield from [av.Packet(b"x"), av.Packet(b"y")]

    assert [bytes(p) for p in packets_of(Late(), [])] == [b"x", b"y"]  # type: ignore[arg-type]


def test_joined_clips_follow_one_another_with_their_sound(make_clip: MakeClip, tmp_path: Path) -> None:
    """cat a.ts b.ts: the second clip's clock begins again."""
    clips = [make_clip(f"{i}.ts", times=LONG[:50], time_base=Fraction(1, 12800), audio="aac") for i in range(2)]
    joined, out = tmp_path / "joined.ts", tmp_path / "o.mp4"
    joined.write_bytes(b"".join(path.read_bytes() for path in clips))
    with (
        VideoReader(joined) as reader,
        VideoWriter(out, reader, copy_streams_from=joined, constant_rate=True) as writer,
    ):
        for frame in reader:
            writer.write(frame)
    assert any("its 2 clips were put one behind the other" in note for note in writer.notes)
    with av.open(str(out)) as result:
        rows: dict[str, list[Fraction]] = {"video": [], "audio": []}
        for packet in result.demux():
            if packet.size:
                rows[packet.stream.type].append(packet.pts * packet.time_base)
    video, audio = sorted(rows["video"]), rows["audio"]
    assert len(video) == 100 and len(audio) > 180
    assert {round(b - a, 3) for a, b in pairwise(video)} == {Fraction(1, 25)}
    second = [time_s for time_s in audio if time_s >= video[50] - Fraction(1, 20)]
    assert len(second) == pytest.approx(len(audio) / 2, abs=4), "the second clip's sound is with its picture"
    assert max(b - a for a, b in pairwise(audio)) < Fraction(1, 10) and abs(audio[-1] - video[-1]) < Fraction(1, 10)


def test_packets_out_of_order_advance_on_the_results_clock(make_clip: MakeClip) -> None:
    """A tick of 1/90000 s is none in a clock of 1/48000 s: the muxer would refuse it."""
    path = make_clip("a.ts", audio="aac")
    with VideoReader(path) as reader:
        info = reader.info
    with av.open(io.BytesIO(), "w", format="mp4") as out:
        copy = StreamCopy(str(path), info, out, ".mp4")
        out.start_encoding()
        packets = list(copy._packets)
        for packet in packets:
            packet.pts = packet.dts = packets[0].dts
            copy._mux(packet, Fraction(0))
        copy.close()
    assert copy.notes == [f"{len(packets) - 1} copied packets whose times ran backwards were put in order"]


def test_sound_whose_format_is_not_known_is_said(make_clip: MakeClip) -> None:
    """It is listed in the file's header, and comes long after it: nothing told its rate."""
    path = make_clip("late.ts", times=LONG, time_base=Fraction(1, 12800), audio="aac")
    with VideoReader(path) as reader, pytest.raises(MediaError, match="aac audio begins so late that its format"):
        check_copy(str(path), reader.info, "matroska", ".mkv")
