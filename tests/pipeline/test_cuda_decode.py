"""The GPU's pictures become the file's frames, and whatever goes wrong with them costs nothing but time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mien.engine.errors import RunError
from mien.engine.types import Array, Frame
from mien.runtime.cuda_decode import GpuFrames, frames_of
from mien.runtime.source import VideoReader

CLIP = Path(__file__).resolve().parents[2] / "examples" / "sample.mp4"
COUNT = 12


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first frames of the clip, with B-frames, so that packets come in another order than pictures."""
    from mien.runtime.sink import VideoWriter

    out = tmp_path_factory.mktemp("nvdec") / "short.mp4"
    with VideoReader(CLIP, stop_s=COUNT / 30, threads=1) as reader:
        writer = VideoWriter(out, reader, preset="medium", threads=1, constant_rate=True)
        for frame in reader:
            writer.write(frame)
        writer.close()
    return out


def nv12(frame: Frame) -> Array:
    y, u, v = frame.planes
    return np.concatenate([y, np.stack([u, v], 2).reshape(u.shape[0], -1)])


def decoder(
    frames: list[Frame], change: Callable[[int, Array], Array | None] = lambda i, p: p
) -> Callable[[str], Iterator[Array]]:
    """What NVDEC would give, in memory that it uses again."""

    def pictures(path: str) -> Iterator[Array]:
        memory = nv12(frames[0])
        for i, frame in enumerate(frames):
            picture = change(i, nv12(frame))
            if picture is None:
                raise RunError("NVDEC has lost its way")
            if picture.shape != memory.shape:
                yield picture
                continue
            memory[...] = picture
            yield memory

    return pictures


def alike(got: list[Frame], want: list[Frame]) -> bool:
    assert [(f.index, f.pts, f.duration, f.matrix) for f in got] == [
        (f.index, f.pts, f.duration, f.matrix) for f in want
    ]
    return all((a == b).all() for f, g in zip(got, want, strict=True) for a, b in zip(f.planes, g.planes, strict=True))


@pytest.fixture(scope="module")
def frames(short: Path) -> list[Frame]:
    with VideoReader(short, threads=1) as reader:
        found = list(reader)
    assert len(found) == COUNT
    return found


def test_pictures_become_the_files_frames(short: Path, frames: list[Frame]) -> None:
    notes: list[str] = []
    with VideoReader(short, threads=1) as reader:
        whole = GpuFrames(reader, decoder(frames), notes)
        assert alike(list(whole), frames)
        assert alike(list(whole), frames), "a second pass begins anew"
    assert not notes


@pytest.mark.parametrize(
    "change, note",
    [
        (lambda i, p: p + np.uint8(i == 0), "first picture is not the CPU's; the CPU decoded from frame 0 on"),
        (lambda i, p: None if i == 5 else p, "lost its way; the CPU decoded from frame 5 on"),
        (lambda i, p: p[:-2] if i == 7 else p, r"for a frame of 1280x720; the CPU decoded from frame 7 on"),
    ],
)
def test_what_goes_wrong_is_decoded_by_the_cpu(
    change: Callable[..., Array], note: str, short: Path, frames: list[Frame]
) -> None:
    notes: list[str] = []
    with VideoReader(short, threads=1) as reader:
        whole = GpuFrames(reader, decoder(frames, change), notes)
        assert alike(list(whole), frames) and alike(list(whole), frames)
    assert len(notes) == 1 and note in notes[0]


def test_pictures_that_lack_at_the_end_come_from_the_cpu(short: Path, frames: list[Frame]) -> None:
    notes: list[str] = []
    with VideoReader(short, threads=1) as reader:
        assert alike(list(GpuFrames(reader, decoder(frames[:-3]), notes)), frames)
        more = [*frames, frames[-1]]
        assert alike(list(GpuFrames(reader, decoder(more), notes)), frames)
    assert ["gave 9 pictures for 12 packets" in notes[0], "more pictures than the 12" in notes[1]] == [True, True]


def test_a_reader_stays_where_there_is_nothing_to_gain(short: Path) -> None:
    with VideoReader(short, threads=1) as reader:
        assert frames_of(reader, "cpu", []) is reader
    with VideoReader(short, stop_s=0.2, threads=1) as reader:
        assert frames_of(reader, "cuda:0", []) is reader
