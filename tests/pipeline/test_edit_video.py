"""The two-pass job on a made clip, with an editor that needs no networks."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mien.engine.errors import MediaError, RunError
from mien.engine.survey import EditedFrame
from mien.engine.types import Frame
from mien.runtime.clock import StageClocks
from mien.runtime.edit_video import Progress, VideoJob, edit_video
from mien.runtime.source import VideoReader

MakeClip = Callable[..., Path]
BOX = (8, 10, 40, 50)


class Plan:
    tracks = ("one face",)
    frames_at_once = 3

    def __init__(self, seen: list[int], failing: set[int], error: type[Exception]) -> None:
        self.seen, self.failing, self.error = seen, failing, error

    def begin(self, frame: Frame) -> Frame:
        assert frame.index in self.seen
        return frame

    def finish(self, frame: Frame) -> EditedFrame:
        time.sleep(0.002 * (frame.index % 3))  # later frames overtake
        if frame.index in self.failing:
            raise self.error(f"frame {frame.index} broke")
        if frame.index % 4 == 3:
            return EditedFrame(frame)
        y = frame.planes[0].copy()
        x0, y0, x1, y1 = BOX
        y[y0:y1, x0:x1] //= 2
        return EditedFrame(replace(frame, planes=(y, *frame.planes[1:])), (BOX,))


@dataclass
class Darken:
    """Halves luma in a box, in three frames of four; fails where told."""

    failing: frozenset[int] = frozenset()
    error: type[Exception] = RunError
    active: bool = True

    def survey(self) -> Darken:
        self.seen: list[int] = []
        return self

    def add(self, frame: Frame) -> None:
        self.seen.append(frame.index)

    def finish(self) -> Plan:
        return Plan(self.seen, set(self.failing), self.error)


class Idle(Darken):
    """Nothing to edit: one pass."""

    def finish(self) -> Plan:
        plan = Plan([], set(), RunError)
        plan.tracks = ()  # type: ignore[assignment]
        plan.begin, plan.finish = lambda frame: frame, EditedFrame  # type: ignore[assignment, method-assign]
        return plan


def read(path: Path) -> list[Frame]:
    with VideoReader(path) as reader:
        return list(reader)


def test_a_lossless_result_differs_only_in_the_boxes(
    make_clip: MakeClip, packets_by_stream: Callable[..., object], tmp_path: Path
) -> None:
    path, out = make_clip("in.mp4", audio="aac"), tmp_path / "out.mkv"
    clocks, told = StageClocks(), []
    report = edit_video(VideoJob(str(path), out, codec="ffv1"), Darken(), clocks=clocks, progress=told.append)
    before, after = read(path), read(out)
    assert len(after) == len(before) == 12
    x0, y0, x1, y1 = BOX
    for a, b in zip(before, after, strict=True):
        changed = a.planes[0] != b.planes[0]
        assert changed.any() == (a.index % 4 != 3)
        changed[y0:y1, x0:x1] = False
        assert not changed.any()
        np.testing.assert_array_equal(a.planes[1], b.planes[1])
        np.testing.assert_array_equal(a.planes[2], b.planes[2])
    assert packets_by_stream(path) == packets_by_stream(out)
    values = report.as_dict()
    assert (values["frames_in"], values["frames_out"], values["passes"], values["tracks"]) == (12, 12, 2, 1)
    assert (values["frames_edited"], values["frames_passed_through"], values["frames_dropped"]) == (9, 3, 0)
    assert values["paste_boxes"] == [[i, *BOX] for i in range(12) if i % 4 != 3]
    assert values["fps"] == pytest.approx(12 / values["wall_s"], rel=0.01)
    assert {"decode", "analyse", "prepare", "edit", "encode"} == set(values["stages"])
    assert values["stages"]["decode"]["calls"] == 24
    assert values["stages"]["encode"]["calls"] == 12
    assert sum(row["share"] for row in values["stages"].values()) == pytest.approx(1, abs=0.01)
    assert values["latency_ms"]["p50"] > 0
    assert values["peak_rss_bytes"] > 1e7
    assert [told[-1]] == [Progress(2, 2, 12, 12)]


def test_the_report_file(make_clip: MakeClip, tmp_path: Path) -> None:
    report = edit_video(VideoJob(str(make_clip("in.mp4")), tmp_path / "out.mp4"), Darken())
    report.write(tmp_path / "report.json")
    wanted = """input output frames_in frames_out frames_edited frames_passed_through frames_dropped passes tracks paste_boxes
        wall_s fps stages latency_ms peak_rss_bytes backend device bundle settings versions"""
    text = (tmp_path / "report.json").read_text()
    values = json.loads(text)
    assert set(wanted.split()) <= set(values)
    assert values["paste_boxes"] == report.as_dict()["paste_boxes"] != []
    assert text.splitlines()[-3:] == [f"  {json.dumps(values['paste_boxes'][-1])}", " ]", "}"], (
        "a box a line, at the end"
    )
    report.paste_boxes.clear()
    assert json.loads(report.as_json())["paste_boxes"] == []
    assert set(values["latency_ms"]) == {"p50", "p95", "p99"}
    assert set(values["stages"]["edit"]) == {"calls", "total_s", "share", "p50_ms", "p95_ms", "p99_ms"}


def test_nothing_to_edit_takes_one_pass(make_clip: MakeClip, tmp_path: Path) -> None:
    path, out = make_clip("in.mp4"), tmp_path / "out.mkv"
    report = edit_video(VideoJob(str(path), out, codec="ffv1"), Idle(active=False))
    assert (report.passes, report.frames_edited, report.frames_passed_through) == (1, 0, 12)
    for a, b in zip(read(path), read(out), strict=True):
        for x, y in zip(a.planes, b.planes, strict=True):
            np.testing.assert_array_equal(x, y)


def test_a_failed_edit_goes_through_and_is_counted(make_clip: MakeClip, tmp_path: Path) -> None:
    path, out = make_clip("in.mp4"), tmp_path / "out.mkv"
    report = edit_video(VideoJob(str(path), out, codec="ffv1"), Darken(frozenset({0, 5})))
    assert (report.frames_failed, report.frames_passed_through, report.frames_out) == (2, 5, 12)
    assert "2 frames went through unedited, the first because: frame 0 broke" in report.notes
    np.testing.assert_array_equal(read(path)[5].planes[0], read(out)[5].planes[0])


@pytest.mark.parametrize(("error", "failing", "expected"), [(RunError, range(12), RunError), (KeyError, {4}, KeyError)])
def test_all_failing_or_a_programming_error_fails_the_run(
    make_clip: MakeClip, tmp_path: Path, error: type[Exception], failing: set[int], expected: type[Exception]
) -> None:
    path = make_clip("in.mp4")
    with pytest.raises(expected, match="broke"):
        edit_video(VideoJob(str(path), tmp_path / "out.mp4"), Darken(frozenset(failing), error))
    assert os.listdir(tmp_path) == ["in.mp4"]


@pytest.mark.parametrize(("rotation", "axis", "first"), [(0, 1, True), (90, 0, True), (-90, 0, False), (180, 1, False)])
def test_compare_shows_both(make_clip: MakeClip, tmp_path: Path, rotation: int, axis: int, first: bool) -> None:
    path, out = make_clip("in.mp4", rotation=rotation), tmp_path / "out.mkv"
    edit_video(VideoJob(str(path), out, codec="ffv1", crf=4, compare=tmp_path / "out.mkv.compare.mp4"), Darken())
    both = read(tmp_path / "out.mkv.compare.mp4")
    assert len(both) == 12
    left, right = np.split(both[0].planes[0].astype(int), 2, axis=axis)
    source, result = (left, right) if first else (right, left)
    assert np.abs(source - read(path)[0].planes[0]).mean() < 4
    assert np.abs(result - read(out)[0].planes[0]).mean() < 4
    assert np.abs(source - read(out)[0].planes[0]).mean() > 8
    assert both[0].rotation == read(path)[0].rotation


def test_a_part_of_a_clip(make_clip: MakeClip, tmp_path: Path) -> None:
    path, out = make_clip("in.mp4", times=[(i * 512, 512) for i in range(50)]), tmp_path / "out.mkv"
    report = edit_video(VideoJob(str(path), out, codec="ffv1", start_s=0.4, stop_s=0.8), Darken())
    assert (report.frames_in, len(read(out))) == (10, 10)
    np.testing.assert_array_equal(read(out)[3].planes[0], read(path)[13].planes[0])


def test_what_cannot_be_done_is_said_before_anything_is_decoded(make_clip: MakeClip, tmp_path: Path) -> None:
    class Untouched(Darken):
        def survey(self) -> Darken:
            raise AssertionError("the job had begun")

    odd = make_clip("odd.mkv", codec="ffv1", size=(97, 63))
    even = make_clip("even.mkv", audio="wavpack")
    rows = [
        (VideoJob(str(odd), tmp_path / "o.mp4"), "odd size 97x63"),
        (VideoJob(str(even), tmp_path / "o.mov", codec="ffv1"), "ffv1 does not go into .mov"),
        (VideoJob(str(even), tmp_path / "o.mov"), "cannot hold the source's wavpack audio"),
        (VideoJob(str(even), tmp_path / "o.mp4", compare=tmp_path / "o.mp4"), "the same file"),
        (VideoJob(str(even), tmp_path / "o.mkv", start_s=99.0), "no frame from 99 s"),
        (VideoJob(str(tmp_path / "none.mp4"), tmp_path / "o.mkv"), "no such file"),
    ]
    for job, words in rows:
        with pytest.raises(MediaError, match=words):
            edit_video(job, Untouched())
    assert sorted(os.listdir(tmp_path)) == ["even.mkv", "odd.mkv"]


def test_broken_frames_are_noted(make_clip: MakeClip, tmp_path: Path) -> None:
    times = [(i * 40, 40) for i in range(12)]
    path = make_clip(
        "in.mkv", codec="ffv1", times=times, time_base=Fraction(1, 1000), pix_fmt="yuv422p", options={"g": "1"}
    )
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    report = edit_video(VideoJob(str(path), tmp_path / "out.mkv"), Darken())
    assert 0 < report.frames_out < 12
    assert report.notes[0] == "yuv422p was converted to yuv420p"


@pytest.mark.parametrize("field_order", ["tff=1", "fake-interlaced=0"])
def test_an_interlaced_source_is_noted(make_clip: MakeClip, tmp_path: Path, field_order: str) -> None:
    path = make_clip(
        "in.mp4", options={"x264-params": field_order, "flags": "+ildct" if "tff" in field_order else "+cgop"}
    )
    report = edit_video(VideoJob(str(path), tmp_path / "out.mp4"), Darken())
    assert [note for note in report.notes if "interlaced" in note] == (
        ["the source is interlaced: its lines stay, but the result is flagged progressive; deinterlace it first"]
        if "tff" in field_order
        else []
    )


def remux_with_index_in_front(source: Path, target: Path, moved_by: int) -> None:
    with av.open(str(source)) as read_from:
        options = {"movflags": "faststart", "avoid_negative_ts": "disabled"}
        with av.open(str(target), "w", container_options=options) as out:
            copy = out.add_stream_from_template(read_from.streams.video[0])
            for packet in read_from.demux(video=0):
                if packet.pts is not None and packet.dts is not None:
                    packet.pts, packet.dts, packet.stream = packet.pts + moved_by, packet.dts + moved_by, copy
                    out.mux(packet)


def test_a_file_that_is_cut_short_is_noted(make_clip: MakeClip, tmp_path: Path) -> None:
    """Its index promises every frame. A part of it is nobody's promise, and what an edit list hides is not missing."""
    whole, cut, trimmed = (
        make_clip("in.mp4", times=[(i * 512, 512) for i in range(50)]),
        tmp_path / "c.mp4",
        tmp_path / "t.mp4",
    )
    remux_with_index_in_front(whole, cut, 0)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 6 // 10])
    with VideoReader(cut) as reader:
        list(reader)
        found = reader.frames_promised - reader.frames_missing
        assert reader.frames_promised == 50 and 5 < found < 45
    note = f"the header says 50 frames, {found} could be read: the source is cut short"
    assert note in edit_video(VideoJob(str(cut), tmp_path / "o1.mp4"), Darken()).notes
    assert edit_video(VideoJob(str(cut), tmp_path / "o2.mp4", stop_s=0.2), Darken()).notes == []
    remux_with_index_in_front(whole, trimmed, -6400)
    report = edit_video(VideoJob(str(trimmed), tmp_path / "o3.mp4"), Darken())
    assert report.frames_out < 50 and report.notes == []


INTERRUPTED = """
    import sys, time
    from pathlib import Path
    from mien.engine.survey import EditedFrame
    from mien.runtime.edit_video import VideoJob, edit_video

    class Slow:
        active = True
        tracks = ()
        frames_at_once = 1
        def survey(self): return self
        def add(self, frame): pass
        def begin(self, frame): return frame
        def finish(self, frame=None):
            if frame is None:
                return self
            time.sleep(0.2)
            if frame.index == 2:
                print("ready", flush=True)
            return EditedFrame(frame)

    try:
        edit_video(VideoJob(sys.argv[1], Path(sys.argv[2]), compare=Path(sys.argv[3])), Slow())
    except KeyboardInterrupt:
        sys.exit(130)
"""


def test_ctrl_c_leaves_nothing(make_clip: MakeClip, tmp_path: Path) -> None:
    path = make_clip("in.mp4", times=[(i * 512, 512) for i in range(200)], audio="aac")
    arguments = [str(path), str(tmp_path / "out.mp4"), str(tmp_path / "both.mp4")]
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(INTERRUPTED), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    assert len(list(tmp_path.glob(".*.part.mp4"))) == 2, "the run should be on its way"
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=300)
    assert (child.returncode, errors) == (130, b"")
    assert os.listdir(tmp_path) == ["in.mp4"]


def test_a_report_on_a_full_disk_names_its_file(make_clip: MakeClip, tmp_path: Path) -> None:
    report = edit_video(VideoJob(str(make_clip("in.mp4")), tmp_path / "out.mp4"), Darken())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        with pytest.raises(RunError, match=r"cannot write .*report\.json: .*free some space"):
            report.write(tmp_path / "report.json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("name", ["o.mp4", "o.mkv"])
def test_the_shortest_clips_become_hevc(make_clip: MakeClip, tmp_path: Path, count: int, name: str) -> None:
    path = make_clip("in.mp4", times=[(i * 512, 512) for i in range(count)])
    edit_video(VideoJob(str(path), tmp_path / name, codec="hevc"), Darken())
    assert len(read(tmp_path / name)) == count
