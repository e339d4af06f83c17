"""Real clips through reader and writer with nothing edited: every frame, time, duration and sound packet must survive."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from mien.runtime.encoders import Codec
from mien.runtime.sink import VideoWriter
from mien.runtime.source import VideoReader

# A short one of each kind: full range without sound and with a late start, sound before zero, uneven times, square pixels not.
CLIPS = ["asl_eat.mkv", "asl_brother.mkv", "lp_d5.mp4", "vr_1.mp4"]


def check(path: Path, out: Path, codec: Codec, packets_by_stream: Callable[..., object]) -> None:
    """Copy a clip frame by frame and compare what comes back; ffv1 to the bit."""
    with (
        VideoReader(path) as reader,
        VideoWriter(out, reader, codec=codec, preset="ultrafast", copy_streams_from=path) as writer,
    ):
        for frame in reader:
            writer.write(frame)
    shifts, ticks = set(), Fraction(0)
    count = 0
    with VideoReader(path) as before, VideoReader(out) as after:
        if before.info.time_base != after.info.time_base:
            ticks = max(before.info.time_base, after.info.time_base)
        for a, b in zip(before, after, strict=True):
            assert a.pts is not None
            assert b.pts is not None
            shifts.add(b.pts * b.time_base - a.pts * a.time_base)
            assert abs(a.duration * a.time_base - b.duration * b.time_base) <= ticks
            count += 1
            if codec == "ffv1":
                for x, y in zip(a.planes, b.planes, strict=True):
                    np.testing.assert_array_equal(x, y)
    assert count == writer.frames > 40
    assert max(shifts) - min(shifts) <= ticks
    assert packets_by_stream(path) == packets_by_stream(out)


@pytest.mark.parametrize("codec", ["h264", "ffv1"])
@pytest.mark.parametrize("name", CLIPS)
def test_a_few(
    shared_data: Path, tmp_path: Path, packets_by_stream: Callable[..., object], name: str, codec: Codec
) -> None:
    path = shared_data / "videos" / name
    check(path, tmp_path / ("o.mkv" if codec == "ffv1" else f"o{path.suffix}"), codec, packets_by_stream)


@pytest.mark.slow
def test_all(shared_data: Path, tmp_path: Path, packets_by_stream: Callable[..., object]) -> None:
    paths = sorted((shared_data / "videos").iterdir())
    assert paths
    for path in paths:
        out = tmp_path / f"o{path.suffix}"
        check(path, out, "h264", packets_by_stream)
        out.unlink()
