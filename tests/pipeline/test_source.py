"""VideoReader: what it hands out, what it converts, and what it refuses in one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mien.engine.errors import MediaError
from mien.engine.types import Array
from mien.runtime.planes import video_frame
from mien.runtime.source import VideoReader, open_video

MakeClip = Callable[..., Path]


def plain_planes(path: Path, name: str | None = None) -> list[list[Array]]:
    """Planes of every frame, by PyAV alone."""
    rows = []
    with av.open(str(path)) as source:
        for frame in source.decode(video=0):
            picture = frame if name is None else frame.reformat(format=name)
            wide = 2 if "10le" in picture.format.name else 1
            rows.append(
                [
                    np.frombuffer(memoryview(p), np.uint8)
                    .reshape(p.height, p.line_size)[:, : p.width * wide]
                    .copy()
                    .view(np.uint16 if wide == 2 else np.uint8)
                    for p in picture.planes
                ]
            )
    return rows


@pytest.mark.parametrize(
    ("name", "wishes"),
    [
        ("cfr.mp4", {}),
        ("b_frames.mp4", {"options": {"bf": "2"}}),
        ("deep.mp4", {"pix_fmt": "yuv420p10le"}),
        ("full.mkv", {"pix_fmt": "yuvj420p"}),
        ("odd.mkv", {"codec": "ffv1", "size": (97, 63)}),
        ("hevc.mp4", {"codec": "libx265", "options": {"x265-params": "log-level=none"}}),
    ],
)
def test_native_planes_come_bit_for_bit(make_clip: MakeClip, name: str, wishes: dict[str, object]) -> None:
    path = make_clip(name, **wishes)
    wanted = plain_planes(path)
    with VideoReader(path) as reader:
        assert reader.info.converted_from is None
        frames = list(reader)
        assert [f.index for f in frames] == list(range(12))
        assert len(frames) == len(wanted)
        for frame, planes in zip(frames, wanted, strict=True):
            for got, expected in zip(frame.planes, planes, strict=True):
                assert got.dtype == expected.dtype
                np.testing.assert_array_equal(got, expected)
        assert (frames[0].width_px, frames[0].height_px) == (reader.info.width, reader.info.height)


def test_times_are_the_files(make_clip: MakeClip, vfr_times: tuple[tuple[int, int], ...]) -> None:
    path = make_clip("vfr.mp4", times=vfr_times, time_base=Fraction(1, 15360))
    with open_video(path) as reader:
        assert reader.info.time_base == Fraction(1, 15360)
        assert [(f.pts, f.duration) for f in reader] == list(vfr_times)
        assert [(f.pts, f.duration) for f in reader] == list(vfr_times), "a second iteration begins again"


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "becomes"),
    [
        ("ffv1", "yuv422p", "yuv420p"),
        ("ffv1", "yuv444p10le", "yuv420p10le"),
        ("rawvideo", "rgb24", "yuv420p"),
        ("ffv1", "gray", "yuv420p"),
        ("rawvideo", "nv12", "yuv420p"),
    ],
)
def test_other_formats_are_converted_once_and_said(make_clip: MakeClip, codec: str, pix_fmt: str, becomes: str) -> None:
    ending = ".mkv" if codec == "ffv1" else ".avi"
    path = make_clip("other" + ending, codec=codec, pix_fmt=pix_fmt, options={})
    with VideoReader(path) as reader:
        frames = list(reader)
        stored = reader.info.converted_from
    assert len(frames) == 12
    assert frames[0].pixel_format == becomes
    assert stored is not None
    with av.open(str(path)) as source:
        first = next(source.decode(video=0))
        assert stored == first.format.name
        wanted = first.to_ndarray(format="rgb24").astype(int)
    frame = frames[0]
    picture = video_frame(frame.planes, frame.pixel_format)
    shown = picture.reformat(
        format="rgb24", src_color_range="JPEG" if frame.color_range == "full" else "MPEG"
    ).to_ndarray()
    assert np.abs(shown.astype(int) - wanted).mean() < 6, "the picture must look the same"


@pytest.mark.parametrize(
    ("color", "height", "expected"),
    [
        (None, 64, ("bt601", "limited")),
        (None, 720, ("bt709", "limited")),
        ((1, 1, 1, 1), 64, ("bt709", "limited")),
        ((6, 2, 6, 6), 720, ("bt601", "full")),
        ((9, 1, 9, 14), 64, ("bt2020", "limited")),
    ],
)
def test_colour_is_resolved(
    make_clip: MakeClip, color: tuple[int, int, int, int] | None, height: int, expected: tuple[str, str]
) -> None:
    path = make_clip("c.mp4", color=color, size=(64, height), times=[(0, 512), (512, 512)])
    with VideoReader(path) as reader:
        frame = next(iter(reader))
        assert (frame.matrix, frame.color_range) == expected
        assert (reader.info.matrix, reader.info.color_range) == expected


@pytest.mark.parametrize(("counterclockwise", "clockwise"), [(90, 270), (-90, 90), (180, 180), (0, 0)])
@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_rotation(make_clip: MakeClip, counterclockwise: int, clockwise: int, ending: str) -> None:
    with VideoReader(make_clip("turned" + ending, rotation=counterclockwise)) as reader:
        assert reader.info.rotation == clockwise
        assert next(iter(reader)).rotation == clockwise


def test_cover_art_is_not_a_video(make_clip: MakeClip) -> None:
    with VideoReader(make_clip("with_cover.mp4", cover=True, audio="aac")) as reader:
        assert (reader.info.width, reader.info.codec, reader.info.has_audio) == (96, "h264", True)
        assert len(list(reader)) == 12


def test_a_song_with_cover_has_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="ipod") as out:
        sound = out.add_stream("aac", rate=48000)
        sound.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48000, 0
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    with pytest.raises(MediaError, match="no video stream"):
        VideoReader(path)


def test_a_part(make_clip: MakeClip) -> None:
    times = [(i * 512, 512) for i in range(100)]
    path = make_clip("long.mp4", times=times, options={"g": "10", "bf": "2"})
    whole = plain_planes(path)
    with VideoReader(path, 2.56, 3.0) as reader:
        frames = list(reader)
    assert [f.pts for f in frames] == [i * 512 for i in range(64, 75)]
    assert [f.index for f in frames] == list(range(11))
    np.testing.assert_array_equal(frames[0].planes[0], whole[64][0])
    with pytest.raises(MediaError, match="no frame from 9 s"):
        VideoReader(path, 9.0)
    with pytest.raises(MediaError, match="is empty: the end must lie"):
        VideoReader(path, 2.0, 1.0)
    with pytest.raises(MediaError, match="start is nan"):
        VideoReader(path, float("nan"))


def test_broken_packets_cost_only_themselves(make_clip: MakeClip) -> None:
    times = [(i * 40, 40) for i in range(40)]
    path = make_clip("whole.mkv", codec="ffv1", times=times, time_base=Fraction(1, 1000), options={"g": "1"})
    broken = {3, 17, 37, 38}
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as source:
        for number, packet in enumerate(p for p in source.demux(video=0) if p.size):
            if number in broken:
                place = data.find(bytes(packet))
                assert place > 0
                data[place : place + packet.size] = b"\xff" * packet.size
    damaged = path.with_name("damaged.mkv")
    damaged.write_bytes(bytes(data))
    with VideoReader(damaged) as reader:
        got = [frame.pts for frame in reader]
        assert reader.broken_packets == len(broken)
    assert got == [i * 40 for i in range(40) if i not in broken]


def test_a_truncated_file_gives_what_is_there(make_clip: MakeClip) -> None:
    path = make_clip("whole.mkv", times=[(i * 512, 512) for i in range(60)], options={"g": "5", "bf": "0"})
    part = path.with_name("part.mkv")
    part.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with VideoReader(part) as reader:
        count = len(list(reader))
    assert 15 <= count < 60


def test_a_size_that_changes_is_said(tmp_path: Path) -> None:
    path = tmp_path / "changing.ts"
    with open(path, "wb") as joined:
        for size in ((96, 64), (128, 64)):
            piece = tmp_path / "piece.ts"
            with av.open(str(piece), "w", format="mpegts") as out:
                stream = out.add_stream("libx264", rate=25, options={"bf": "0"})
                stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
                for _ in range(5):
                    out.mux(stream.encode(av.VideoFrame(*size, "yuv420p")))
                out.mux(stream.encode(None))
            joined.write(piece.read_bytes())
    with (
        VideoReader(path) as reader,
        pytest.raises(MediaError, match=r"changes size at frame \d+: 128x64, it began as"),
    ):
        list(reader)


def not_a_video(folder: Path) -> list[tuple[Path, str]]:
    """Bad inputs and a piece of the line each must give."""
    files = {
        "empty.mp4": b"",
        "words.txt": b"these are only words\n" * 50,
        "words.mp4": b"these are only words\n" * 50,
        "noise.mkv": os.urandom(5000),
        "half.mp4": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom\0\0\1\0mdat" + bytes(200),
        "page.html": b"<html><body>404</body></html>",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "folder.mp4").mkdir()
    expected = dict.fromkeys(files, "video") | {"empty.mp4": "is empty"}
    rows = [(folder / name, words) for name, words in expected.items()]
    return [*rows, (folder / "folder.mp4", "is a folder"), (folder / "missing.mp4", "no such file")]


def test_what_is_not_a_video_is_refused_in_one_line(tmp_path: Path) -> None:
    for path, words in not_a_video(tmp_path):
        with pytest.raises(MediaError, match=words) as caught:
            VideoReader(path)
        assert "\n" not in str(caught.value), path
        assert path.name in str(caught.value)
        assert caught.value.exit_code == 2


def test_a_colon_in_a_name_is_no_protocol(make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_clip("12:30.mp4")
    monkeypatch.chdir(tmp_path)
    for name in ("12:30.mp4", f"file://{tmp_path}/12:30.mp4"):
        with VideoReader(name) as reader:
            assert len(list(reader)) == 12
