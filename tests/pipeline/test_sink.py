"""VideoWriter: times, sound, colour and rotation survive; what cannot be written is said before, and leaves nothing."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mien.engine.errors import MediaError, RunError
from mien.engine.types import Frame
from mien.runtime.encoders import Codec
from mien.runtime.part_file import PartFile
from mien.runtime.sink import VideoWriter
from mien.runtime.source import VideoReader

MakeClip = Callable[..., Path]
Packets = Callable[..., list[list[bytes]]]


def read(path: Path) -> list[Frame]:
    with VideoReader(path) as reader:
        return list(reader)


def pass_through(
    source: Path, out: Path, codec: Codec = "h264", preset: str = "ultrafast", *, constant_rate: bool = False
) -> VideoWriter:
    """Write every frame of a file as it is, with its sound."""
    with (
        VideoReader(source) as reader,
        VideoWriter(
            out, reader, codec=codec, preset=preset, copy_streams_from=source, threads=1, constant_rate=constant_rate
        ) as writer,
    ):
        for frame in reader:
            writer.write(frame)
    return writer


def assert_same_times(source: list[Frame], result: list[Frame]) -> None:
    """Times and durations equal, up to one shift and a tick of the coarser clock; no tolerance where the clocks are one."""
    assert len(source) == len(result)
    one_clock = source[0].time_base == result[0].time_base
    tick = Fraction(0) if one_clock else max(source[0].time_base, result[0].time_base)

    def at(frame: Frame) -> Fraction:
        assert frame.pts is not None
        return frame.pts * frame.time_base

    shift = at(result[0]) - at(source[0])
    for a, b in zip(source, result, strict=True):
        assert abs(at(b) - at(a) - shift) <= tick
        assert abs(b.duration * b.time_base - a.duration * a.time_base) <= tick


CASES = [
    ("cfr.mp4", {}, "o.mp4", "h264"),
    ("cfr.mp4", {}, "o.mkv", "ffv1"),
    ("deep.mp4", {"pix_fmt": "yuv420p10le"}, "o.mp4", "h264"),
    ("deep.mp4", {"pix_fmt": "yuv420p10le"}, "o.mp4", "hevc"),
    ("deep.mp4", {"pix_fmt": "yuv420p10le"}, "o.mp4", "ffv1"),
    ("full.mkv", {"pix_fmt": "yuvj420p"}, "o.mkv", "h264"),
    ("full.mkv", {"pix_fmt": "yuvj420p"}, "o.mkv", "ffv1"),
    ("odd.mkv", {"codec": "ffv1", "size": (97, 63)}, "o.mp4", "ffv1"),
]


@pytest.mark.parametrize(("name", "wishes", "out_name", "codec"), CASES)
def test_round_trip(
    make_clip: MakeClip, tmp_path: Path, name: str, wishes: dict[str, object], out_name: str, codec: Codec
) -> None:
    path, out = make_clip(name, **wishes), tmp_path / out_name
    writer = pass_through(path, out, codec)
    before, after = read(path), read(out)
    assert writer.frames == len(before)
    assert_same_times(before, after)
    for a, b in zip(before, after, strict=True):
        assert (a.pixel_format, a.matrix, a.color_range) == (b.pixel_format, b.matrix, b.color_range)
        worst = max(np.abs(x.astype(int) - y.astype(int)).mean() for x, y in zip(a.planes, b.planes, strict=True))
        assert worst == 0 if codec == "ffv1" else worst < (16 if a.pixel_format == "yuv420p10le" else 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted({name, out_name}), "nothing else is left"


@pytest.mark.parametrize("out_name", ["o.mp4", "o.mov", "o.mkv"])
@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_uneven_times_stay(
    make_clip: MakeClip, tmp_path: Path, vfr_times: tuple[tuple[int, int], ...], out_name: str, codec: Codec
) -> None:
    path = make_clip("vfr.mp4", times=vfr_times, time_base=Fraction(1, 15360), audio="aac")
    pass_through(path, tmp_path / out_name, codec)
    assert_same_times(read(path), read(tmp_path / out_name))


def test_b_frames_at_a_constant_rate_keep_times(make_clip: MakeClip, tmp_path: Path) -> None:
    path = make_clip("cfr.mp4", times=[(i * 512, 512) for i in range(30)])
    pass_through(path, tmp_path / "o.mp4", preset="veryfast", constant_rate=True)
    assert_same_times(read(path), read(tmp_path / "o.mp4"))
    with av.open(str(tmp_path / "o.mp4")) as result:
        stamps = [(p.pts, p.dts) for p in result.demux(video=0) if p.size]
    assert any(a != b for a, b in stamps), "there should be B-frames here, or this test shows nothing"


def test_a_gap_stays_a_gap(make_clip: MakeClip, tmp_path: Path) -> None:
    """A frame of 40 ms followed by nothing for 80 ms: in mp4, whose durations are differences, too."""
    times = [(0, 40), (40, 40), (160, 40), (200, 40), (320, 40)]
    path = make_clip("gap.mkv", times=times, time_base=Fraction(1, 1000))
    assert [(f.pts, f.duration) for f in read(path)] == times
    for name in ("o.mp4", "o.mkv"):
        pass_through(path, tmp_path / name)
        assert_same_times(read(path), read(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "out_name", "audio", "subtitles"),
    [
        ("a.mp4", "o.mp4", "aac", False),
        ("a.mp4", "o.mkv", "aac", False),
        ("a.mkv", "o.mkv", "libopus", True),
        ("a.mkv", "o.mp4", "libopus", False),
        ("a.mkv", "o.mkv", "pcm_s16le", True),
    ],
)
def test_sound_and_subtitles_are_copied_in_step(
    make_clip: MakeClip,
    packets_by_stream: Packets,
    tmp_path: Path,
    name: str,
    out_name: str,
    audio: str,
    subtitles: bool,
) -> None:
    path = make_clip(name, times=[(i * 512, 512) for i in range(25)], audio=audio, subtitles=subtitles)
    pass_through(path, tmp_path / out_name)
    rows = packets_by_stream(path)
    assert len(rows) == 1 + subtitles
    assert min(map(len, rows)) >= 2
    assert packets_by_stream(tmp_path / out_name) == rows

    def starts(file: Path) -> list[Fraction]:
        with av.open(str(file)) as opened:
            first: dict[int, Fraction] = {}
            for packet in opened.demux():
                if packet.size and packet.pts is not None:
                    first.setdefault(packet.stream_index, packet.pts * packet.time_base)
        return [first[i] for i in sorted(first)]

    shifts = [b - a for a, b in zip(starts(path), starts(tmp_path / out_name), strict=True)]
    assert max(shifts) - min(shifts) <= Fraction(2, 1000)


def test_title_and_chapters_are_kept(make_clip: MakeClip, tmp_path: Path) -> None:
    path = make_clip("a.mp4", audio="aac")
    titled = tmp_path / "titled.mkv"
    with av.open(str(path)) as source, av.open(str(titled), "w", format="matroska") as out:
        out.metadata["title"] = "a talk"
        chapter = {"id": 1, "start": 0, "end": 200, "time_base": Fraction(1, 1000), "metadata": {"title": "opening"}}
        out.set_chapters([chapter])  # type: ignore[list-item]
        copies = {s.index: out.add_stream_from_template(s, opaque=True) for s in source.streams}
        for packet in source.demux():
            if packet.size:
                packet.stream = copies[packet.stream_index]
                out.mux(packet)
    for name in ("o.mp4", "o.mkv"):
        pass_through(titled, tmp_path / name)
        with av.open(str(tmp_path / name)) as result:
            assert {k.lower(): v for k, v in result.metadata.items()}["title"] == "a talk"
            assert [c["metadata"] for c in result.chapters()] == [{"title": "opening"}]


def test_packets_are_interleaved(make_clip: MakeClip, tmp_path: Path) -> None:
    path = make_clip("a.mp4", times=[(i * 512, 512) for i in range(100)], audio="aac")
    pass_through(path, tmp_path / "o.mp4")
    with av.open(str(tmp_path / "o.mp4")) as result:
        rows = sorted((p.pos, p.dts * p.time_base, p.stream.type) for p in result.demux() if p.size)
    latest: dict[str, Fraction] = {"video": Fraction(0), "audio": Fraction(0)}
    for _, time_s, kind in rows:
        latest[kind] = time_s
        assert abs(latest["video"] - latest["audio"]) < 1.2


@pytest.mark.parametrize("rotation", [90, -90, 180])
@pytest.mark.parametrize("out_name", ["o.mp4", "o.mkv", "o.mov"])
def test_rotation_is_kept(make_clip: MakeClip, tmp_path: Path, rotation: int, out_name: str) -> None:
    path = make_clip("turned.mp4", rotation=rotation)
    pass_through(path, tmp_path / out_name)
    assert read(tmp_path / out_name)[0].rotation == read(path)[0].rotation == -rotation % 360


@pytest.mark.parametrize("color", [(1, 1, 1, 1), (6, 2, 6, 6), (9, 1, 9, 16)])
@pytest.mark.parametrize(("out_name", "codec"), [("o.mp4", "h264"), ("o.mkv", "ffv1"), ("o.mp4", "hevc")])
def test_colour_tags_are_kept(
    make_clip: MakeClip, tmp_path: Path, color: tuple[int, int, int, int], out_name: str, codec: Codec
) -> None:
    path = make_clip("c.mp4", color=color)
    pass_through(path, tmp_path / out_name, codec)
    with VideoReader(path) as a, VideoReader(tmp_path / out_name) as b:
        for name in ("matrix_tag", "range_tag", "primaries_tag", "transfer_tag", "matrix", "color_range"):
            assert getattr(a.info, name) == getattr(b.info, name), name


def test_a_part_begins_at_zero_with_its_sound(make_clip: MakeClip, tmp_path: Path) -> None:
    path = make_clip("a.mp4", times=[(i * 512, 512) for i in range(75)], audio="aac")
    out = tmp_path / "o.mp4"
    with VideoReader(path, 1.0, 2.0) as reader, VideoWriter(out, reader, copy_streams_from=path) as writer:
        for frame in reader:
            writer.write(frame)
    after = read(out)
    assert (len(after), after[0].pts) == (25, 0)
    with av.open(str(out)) as result:
        times = [p.pts * p.time_base for p in result.demux(audio=0) if p.size]
    assert -0.025 < times[0] <= 0.0
    assert 0.95 < times[-1] < 1.0


REFUSED = [
    ("o.mp4", "h264", {"width": 97}, "odd size 97x64: use --codec ffv1"),
    ("o.mp4", "hevc", {"height": 63}, "odd size 96x63"),
    ("o.mov", "ffv1", {}, "ffv1 does not go into .mov"),
    ("o.gif", "h264", {}, "ending .gif is not a video"),
    ("o", "h264", {}, "is not a video"),
    ("nowhere/o.mp4", "h264", {}, "folder .* does not exist"),
    ("taken.mp4", "h264", {}, "exists: give another name, or --overwrite"),
    ("folder.mp4", "h264", {}, "is a folder"),
    ("source.mp4", "h264", {}, "is the input itself"),
]


@pytest.mark.parametrize(("name", "codec", "changes", "words"), REFUSED)
def test_what_cannot_be_written_is_refused_first(
    make_clip: MakeClip, tmp_path: Path, name: str, codec: Codec, changes: dict[str, int], words: str
) -> None:
    source = make_clip("source.mp4")
    (tmp_path / "taken.mp4").write_bytes(b"precious")
    (tmp_path / "folder.mp4").mkdir()
    with VideoReader(source) as reader, pytest.raises(MediaError, match=words) as caught:
        VideoWriter(tmp_path / name, replace(reader.info, **changes), codec=codec)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "taken.mp4").read_bytes() == b"precious"
    assert not list(tmp_path.glob(".*"))


def test_sound_that_does_not_fit_is_an_error_and_subtitles_a_note(make_clip: MakeClip, tmp_path: Path) -> None:
    path = make_clip("a.mkv", audio="wavpack", subtitles=True)
    with (
        VideoReader(path) as reader,
        pytest.raises(MediaError, match=r"\.mov cannot hold the source's wavpack audio: write \.mkv"),
    ):
        VideoWriter(tmp_path / "o.mov", reader, copy_streams_from=path)
    assert not list(tmp_path.glob(".*")), "a refused writer leaves nothing"
    path = make_clip("b.mkv", audio="aac", subtitles=True)
    writer = pass_through(path, tmp_path / "o.mp4")
    assert any("subtitles" in note and "left out" in note for note in writer.notes)


def test_abort_and_errors_leave_nothing(make_clip: MakeClip, tmp_path: Path) -> None:
    path = make_clip("a.mp4", audio="aac")
    out = tmp_path / "o.mp4"
    with pytest.raises(ZeroDivisionError), VideoReader(path) as reader:
        with VideoWriter(out, reader, copy_streams_from=path) as writer:
            writer.write(next(iter(reader)))
            raise ZeroDivisionError
    out.write_bytes(b"older")
    with VideoReader(path) as reader:
        writer = VideoWriter(out, reader, overwrite=True)
        writer.write(next(iter(reader)))
        writer.abort()
        writer.abort()
    assert out.read_bytes() == b"older"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "o.mp4"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_the_header_is_written_is_not_lost(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    plain = PartFile.write

    def interrupted(part: PartFile, data: bytes) -> int:
        signal.raise_signal(number)
        return plain(part, data)

    before = {each: signal.signal(each, signal.default_int_handler) for each in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(PartFile, "write", interrupted)
    try:
        with VideoReader(make_clip("in.mp4")) as source, pytest.raises(KeyboardInterrupt):
            VideoWriter(tmp_path / "out.mkv", source)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert not list(tmp_path.glob("*out*"))


def test_a_full_disk_is_one_line_and_leaves_nothing(make_clip: MakeClip, tmp_path: Path) -> None:
    """A file size limit fails writes as a full disk does; it is lifted again at once."""
    path = make_clip("a.mp4", times=[(i * 512, 512) for i in range(60)], size=(192, 128))
    out = tmp_path / "o.mkv"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 100_000):
        with VideoReader(path) as reader:
            try:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
                with pytest.raises(RunError, match="cannot write .*free some space") as caught:
                    with VideoWriter(out, reader, codec="ffv1") as writer:
                        for frame in reader:
                            writer.write(frame)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert caught.value.exit_code == 4
        assert "\n" not in str(caught.value)
        assert os.listdir(tmp_path) == ["a.mp4"]


def test_a_frame_that_does_not_fit_is_an_error(make_clip: MakeClip, tmp_path: Path) -> None:
    path = make_clip("a.mp4")
    frame = read(path)[0]
    small = replace(frame, planes=(frame.planes[0][:32], frame.planes[1][:16], frame.planes[2][:16]))
    with VideoReader(path) as reader, pytest.raises(RunError, match="does not fit"):
        with VideoWriter(tmp_path / "o.mp4", reader) as writer:
            writer.write(small)
    assert os.listdir(tmp_path) == ["a.mp4"]
