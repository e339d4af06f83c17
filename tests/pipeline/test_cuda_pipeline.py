"""The stages of a lane: faces gathered over frames, order and tail; and a clip edited by a lane on the CPU as by way of numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from mien.engine.bundle import Bundle  # noqa: E402
from mien.engine.clock import Clock  # noqa: E402
from mien.engine.config import EngineConfig  # noqa: E402
from mien.engine.cuda.face_edit import PARTS, LaneEdit  # noqa: E402
from mien.engine.cuda.on_device import why_not  # noqa: E402
from mien.engine.cuda.streams import HostStreams  # noqa: E402
from mien.engine.editor import Editor  # noqa: E402
from mien.engine.errors import RunError  # noqa: E402
from mien.engine.spec import EditSpec  # noqa: E402
from mien.engine.survey import EditedFrame, Survey  # noqa: E402
from mien.engine.types import Array, Frame  # noqa: E402
from mien.runtime.app import run  # noqa: E402
from mien.runtime.clock import StageClocks  # noqa: E402
from mien.runtime.cuda_pipeline import FRAMES_A_FACE, GatherStage, lane_stages  # noqa: E402
from mien.runtime.edit_video import VideoJob, edit_video  # noqa: E402
from mien.runtime.pipeline import Pipeline  # noqa: E402
from mien.runtime.run_report import about_editor  # noqa: E402
from mien.runtime.source import VideoReader  # noqa: E402
from mien.runtime.stage import MapStage  # noqa: E402
from tests import published  # noqa: E402

CLIP = Path(__file__).resolve().parents[2] / "examples" / "sample.mp4"
PX = 128


@dataclass(frozen=True)
class Item:
    frame: Any
    begun: Any = None
    edited: Any = None
    failure: RunError | None = None


@dataclass
class FakeFrame:
    number: int
    log: list[Any]

    def fetch(self) -> None:
        self.log.append(f"fetch {self.number}")


@dataclass
class FakeJob:
    on_device: FakeFrame
    box: tuple[int, int, int, int] = (0, 0, 2, 2)


@dataclass(frozen=True)
class Begun:
    jobs: tuple[FakeJob, ...]


@dataclass
class FakeLane:
    most: int = 3
    in_order: bool = False
    fails_at: int | None = None
    log: list[Any] = field(default_factory=list)

    def item(self, number: int, faces: int) -> Item:
        frame = FakeFrame(number, self.log)
        return Item(number, Begun(tuple(FakeJob(frame) for _ in range(faces))))

    def mask(self, job: FakeJob) -> None:
        pass

    def edit(self, jobs: Sequence[FakeJob]) -> None:
        numbers = [job.on_device.number for job in jobs]
        self.log.append(numbers)
        if self.fails_at in numbers:
            raise RunError("no")

    def planes(self, on_device: FakeFrame) -> Any:
        raise AssertionError


def through(stage: GatherStage, items: Sequence[Item]) -> list[list[int]]:
    """The frames that leave at each item, and at the end."""
    out = [[done.frame for done in stage.process(item)] for item in items]
    return [*out, [done.frame for done in stage.drain()]]


def test_faces_of_several_frames_share_a_call_and_frames_leave_in_order() -> None:
    lane = FakeLane()
    left = through(GatherStage(lane), [lane.item(i, faces) for i, faces in enumerate((1, 0, 1, 4, 0, 1))])
    assert lane.log == [[0, 2, 3], [3, 3, 3], "fetch 0", "fetch 2", "fetch 3", [5], "fetch 5"]
    assert left == [[], [], [], [0, 1, 2, 3], [4], [], [5]]


def test_frames_that_need_the_one_before_have_calls_of_their_own() -> None:
    lane = FakeLane(in_order=True)
    left = through(GatherStage(lane), [lane.item(i, faces) for i, faces in enumerate((2, 1, 4))])
    assert [call for call in lane.log if isinstance(call, list)] == [[0, 0], [1], [2, 2, 2], [2]]
    assert left == [[0], [1], [2], []]


def test_a_face_waits_no_longer_than_it_may() -> None:
    lane, now = FakeLane(most=8), [0.0]
    stage = GatherStage(lane, 0.010, clock=lambda: now[0])
    assert not list(stage.process(lane.item(0, 1)))
    now[0] = 0.009
    assert not list(stage.process(lane.item(1, 1)))
    now[0] = 0.010
    assert [done.frame for done in stage.process(lane.item(2, 1))] == [0, 1, 2]


def test_frames_without_faces_do_not_pile_up_behind_one_that_waits() -> None:
    lane = FakeLane()
    left = through(GatherStage(lane), [lane.item(i, int(i == 0)) for i in range(20)])
    assert max(map(len, left)) == FRAMES_A_FACE * lane.most + 1
    assert [number for numbers in left for number in numbers] == list(range(20))


def test_a_call_that_fails_costs_its_frames_their_edit_and_nothing_else() -> None:
    lane = FakeLane(most=2, fails_at=1)
    stage = GatherStage(lane)
    done = [item for i in range(4) for item in stage.process(lane.item(i, 1))] + list(stage.drain())
    assert [item.frame for item in done] == [0, 1, 2, 3]
    assert [item.failure is not None for item in done] == [True, True, False, False]
    assert "fetch 0" not in lane.log and "fetch 3" in lane.log


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    root = tmp_path_factory.mktemp("published")
    parts = {
        "--unet": published.write_repository(root / "sd15"),
        "--wplus": published.write_wplus(root),
        "--e4e": published.write_e4e(root),
        "--directions": published.write_directions(root / "w_direction"),
    }
    asked = [str(word) for pair in parts.items() for word in pair] + ["--taesd", *map(str, published.write_taesd(root))]
    rest = ("--crop", str(PX), "--sampling", "lcm_lora", "--into", str(root / "bundles"))
    assert run(["models", "import", "plain", *asked, *rest]) == 0
    return Bundle.open(root / "bundles" / "plain")


@pytest.fixture(scope="module")
def networks(bundle: Bundle) -> dict[str, Any]:
    return {name: bundle.load(name, "torch", EngineConfig(threads=1)) for name in bundle.networks}


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    with VideoReader(CLIP, stop_s=0.3, threads=1) as reader:
        return list(reader)[:6]


PROMPT = EditSpec(prompt="a face", edits=(("age", 2.0),), num_steps=1)
SPECS = {
    "replace": PROMPT,
    "delta": replace(PROMPT, composition="delta", num_steps=2),
    "extended": replace(PROMPT, options=(("extended", 1.0),), guidance_scale=2.0),
    "anchor": replace(PROMPT, method="text2video_zero", edits=()),
}


def lane_of(spec: EditSpec, bundle: Bundle, networks: dict[str, Any], editor: Editor) -> LaneEdit:
    plain: Any = editor.stream()._edit
    assert why_not(spec, bundle.manifest, plain.method, PX) is None
    parts = {name: networks[name].module for name in PARTS}
    regions = plain.method.regions(spec, bundle.manifest)
    return LaneEdit(spec, bundle.manifest, plain.method, regions, parts, PX, Clock(), HostStreams(), batches=(1, 4))


def surveyed(editor: Editor, frames: list[Frame], edit: Any) -> Any:
    survey = Survey(editor.spec, edit, editor.tracker(), Clock())
    for frame in frames:
        survey.add(frame)
    return survey.finish()


@pytest.mark.parametrize("case", list(SPECS))
def test_a_clip_by_a_lane_is_the_clip_by_way_of_numpy(
    case: str, bundle: Bundle, networks: dict[str, Any], frames: list[Frame]
) -> None:
    spec = SPECS[case]
    editor = Editor(bundle, spec=spec, networks=networks)
    plain: Any = editor.stream()._edit
    plan = surveyed(editor, frames, plain)
    want = [plan.edit(frame) for frame in frames]
    lane = lane_of(spec, bundle, networks, editor)
    plan, done = surveyed(editor, frames, lane), list[EditedFrame]()
    stages = (
        MapStage("prepare", lambda frame: Item(frame, plan.begin(frame))),
        *lane_stages(lane),
        MapStage("encode", lambda item: done.append(item.edited)),
    )
    Pipeline(frames, stages).run()
    assert [edited.frame.index for edited in done] == [frame.index for frame in frames]
    assert sum(edited.edited for edited in want) >= 4
    for got, as_wanted, frame in zip(done, want, frames, strict=True):
        assert got.boxes == as_wanted.boxes
        if got.edited:
            assert farthest(got.frame, as_wanted.frame) <= 1
            assert farthest(got.frame, frame) > 10
        else:
            assert got.frame is frame


def test_a_file_is_edited_and_reported_as_ever(
    bundle: Bundle, networks: dict[str, Any], tmp_path: Path, frames: list[Frame]
) -> None:
    spec, results = replace(PROMPT, edits=()), []
    for kind in ("plain", "lane"):
        clocks = StageClocks()
        editor = Editor(bundle, spec=spec, networks=networks, on_time=clocks.add_part)
        if kind == "lane":
            editor._edit = lane_of(spec, bundle, networks, editor)
        job = VideoJob(str(CLIP), tmp_path / f"{kind}.mkv", codec="ffv1", stop_s=0.2, threads=1)
        report = edit_video(job, editor, clocks=clocks)
        report.about = about_editor(editor)
        with VideoReader(job.target, threads=1) as reader:
            results.append((report.as_dict(), list(reader)))
    (plain, want), (lane, got) = results
    for key in ("frames_in", "frames_out", "frames_edited", "frames_passed_through", "passes", "tracks", "paste_boxes"):
        assert lane[key] == plain[key], key
    assert lane["frames_edited"] == len(got) == len(want) >= 4
    assert {"prepare", "mask", "edit", "download", "encode"} <= lane["stages"].keys()
    assert plain["rows"] is None and lane["rows"]["rows"] == lane["frames_edited"] and lane["rows"]["mean"] > 1
    assert max(farthest(a, b) for a, b in zip(got, want, strict=True)) <= 1


def test_one_frame_at_a_time_is_the_same(bundle: Bundle, networks: dict[str, Any], frames: list[Frame]) -> None:
    editor = Editor(bundle, spec=PROMPT, networks=networks)
    want = list(editor.run(frames))
    other = Editor(bundle, spec=PROMPT, networks=networks)
    other._edit = lane_of(PROMPT, bundle, networks, other)
    for got, frame in zip(other.run(frames), want, strict=True):
        assert farthest(got, frame) <= 1


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"blend": "poisson"}, "blend poisson"),
        ({"options": (("similarity", 0.9),)}, "similarity"),
        ({"guidance_scale": 2.0, "options": (("residual_cfg", "self"),)}, "residual_cfg"),
        ({"method": "pix2video", "edits": ()}, "guided_update"),
    ],
)
def test_what_a_lane_cannot_do_it_says(
    changes: dict[str, Any], word: str, bundle: Bundle, networks: dict[str, Any]
) -> None:
    spec = replace(PROMPT, **changes)
    plain: Any = Editor(bundle, spec=spec, networks=networks).stream()._edit
    assert word in (why_not(spec, bundle.manifest, plain.method, PX) or "")
    assert why_not(replace(spec, blend="feather"), bundle.manifest, object(), PX) is not None


def farthest(a: Frame, b: Frame) -> int:
    def apart(x: Array, y: Array) -> int:
        return int(np.abs(x.astype(int) - y.astype(int)).max())

    return max(apart(x, y) for x, y in zip(a.planes, b.planes, strict=True))
