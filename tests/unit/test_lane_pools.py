"""Memory used in turn, on a device that works late: nothing is lent, written or read before what came before is done."""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mien.engine.bank import EXTENDED, OWN  # noqa: E402
from mien.engine.compose import FaceMemory, Placement  # noqa: E402
from mien.engine.cuda.frame_pool import FrameForm, FramePool  # noqa: E402
from mien.engine.cuda.lane import FaceLane, LaneRow  # noqa: E402
from mien.engine.cuda.parsing import Parsing, area_matrix  # noqa: E402
from mien.engine.cuda.pixels import Pixels  # noqa: E402
from mien.engine.cuda.pools import Lease, Rows, Slots, Staging, TokenPool  # noqa: E402
from mien.engine.cuda.tracks import TrackSlots  # noqa: E402
from mien.engine.errors import RunError  # noqa: E402
from mien.engine.survey import begin_faces  # noqa: E402
from mien.engine.types import Array, FaceTrack, Frame  # noqa: E402
from tests import lane_parts as made  # noqa: E402
from tests.late_device import LateStreams  # noqa: E402

FIELDS: Any = {"a": (torch.int32, ()), "b": (torch.float32, (2, 3)), "c": (torch.int64, (5,))}


@cache
def picture_frame(index: int) -> Frame:
    return Frame(made.picture(index), "yuv420p", "bt709", "limited", index, index, Fraction(1, 25))


def clip_through_a_pool(device: LateStreams, dropped: tuple[int, ...] = ()) -> int:
    """20 frames, 3 at a time, through a pool of 3; how many come back wrong. The work puts a frame's number into its corner."""
    pool, worker, wrong = FramePool(device, FrameForm.of(picture_frame(0)), 3), device.stream(), 0
    under_work: deque[Any] = deque()

    def done() -> int:
        brought = under_work.popleft()
        if brought.frame.index in dropped:
            return 0
        planes = brought.planes()
        want = [plane.copy() for plane in brought.frame.planes]
        want[0][0, :4] = brought.frame.index
        return int(any((got != plane).any() for got, plane in zip(planes, want, strict=True)))

    for index in range(20):
        if len(under_work) == 3:
            wrong += done()
        brought = pool.upload(picture_frame(index))
        brought.open(worker)
        slot = brought.slot
        worker.run(lambda slot=slot, index=index: pool.edited.y[slot, 0, :4].fill_(index))
        brought.touched(worker)
        if index not in dropped:
            brought.fetch()
        under_work.append(brought)
    while under_work:
        wrong += done()
    device.finish()
    return wrong


@pytest.mark.parametrize("seed", range(5))
def test_frames_come_back_whole_however_late_the_device_works(seed: int) -> None:
    assert clip_through_a_pool(LateStreams(seed)) == 0
    assert clip_through_a_pool(LateStreams(seed), dropped=(3, 4, 11)) == 0


def test_streams_that_hear_of_no_event_are_noticed() -> None:
    assert any(clip_through_a_pool(LateStreams(seed, deaf=True)) for seed in range(5))


def test_a_pool_says_when_it_is_empty_and_knows_its_frames() -> None:
    pool = FramePool(LateStreams(0), FrameForm.of(picture_frame(0)), 2)
    kept = [pool.upload(picture_frame(i)) for i in range(2)]
    with pytest.raises(RunError, match="all 2 frames on the device are in use"):
        pool.upload(picture_frame(2))
    kept.pop()
    odd = Frame(made.picture(0, 10), "yuv420p10le", "bt709", "limited", 7, 7, Fraction(1, 25))
    with pytest.raises(RunError, match="frame 7 is 96x80 at 10 bit"):
        pool.upload(odd)
    pool.upload(picture_frame(3))


def test_a_slot_is_lent_again_when_its_last_work_is_done() -> None:
    device = LateStreams(1)
    slots, stream, other, log = Slots(device, 1, "things"), device.stream(), device.stream(), list[str]()
    lease, event = Lease(slots, stream), device.event()
    other.run(lambda: log.append("worked"))
    other.record(event)
    lease.after.append(event)
    lease.close()
    lease.close()
    assert slots.free == 1 and not log
    assert slots.take() == 0 and log == ["worked"]


def test_packed_rows_hold_what_was_written() -> None:
    rows = Rows(FIELDS, 3)
    for name in FIELDS:
        field = rows.array(name)
        field[:] = np.arange(field.size).reshape(field.shape)
    twin = rows.on(rows.raw.clone())
    for name, (dtype, shape) in FIELDS.items():
        assert twin[name].dtype == dtype and twin[name].shape == (3, *shape)
        assert twin[name].flatten().tolist() == list(range(twin[name].numel()))
        assert twin[name].data_ptr() % 16 == rows.raw.data_ptr() % 16


@pytest.mark.parametrize("seed", range(3))
def test_a_pinned_block_is_written_again_when_it_has_arrived(seed: int) -> None:
    device = LateStreams(seed)
    rows = Rows({"a": (torch.int32, ())}, 1)
    staging, stream, seen = Staging(device, rows, depth=2), device.stream(), list[int]()
    for value in range(9):
        staging.fill().array("a")[0] = value
        staging.send(rows, stream)
        stream.run(lambda: seen.append(int(rows["a"][0])))
    device.finish()
    assert seen == list(range(9))


def test_tokens_lie_one_after_another() -> None:
    pool = TokenPool({"k": (3, 4), "v": (2, 8)}, (5,), torch.float32, torch.device("cpu"))
    tensors = {"k": torch.randn(2, 3, 4), "v": torch.randn(2, 2, 8)}
    lines = pool.joined(tensors)
    assert lines.shape == (2, pool.width)
    views = pool.views(lines)
    assert all(torch.equal(views[name], tensors[name]) and views[name].stride(2) == 1 for name in tensors)
    assert views["k"].data_ptr() == lines.data_ptr()


def test_a_track_keeps_its_slot_until_others_need_it() -> None:
    slots, tracks = TrackSlots(2), [FaceTrack(i) for i in range(3)]
    first, second = slots.of(tracks[0]), slots.of(tracks[1])
    assert {first.slot, second.slot} == {0, 1}
    first.held = 5
    assert slots.of(tracks[0]) is first
    third = slots.of(tracks[2])
    assert third.slot == 1 and second.slot is None, "the one that waited longest went"
    assert slots.of(tracks[1]).held == 0 and slots.of(tracks[2]) is third and first.slot is None
    tracks[2].forget_frames()
    assert slots.of(tracks[2]) is not third
    assert TrackSlots(2).of(tracks[2]).told is None, "another lane's slot is not this one's"


@pytest.mark.parametrize("size", [128, 192, 250, 512])
def test_pictures_become_small_as_opencv_makes_them(size: int) -> None:
    picture = np.random.default_rng(size).uniform(-1, 1, (size, size)).astype(np.float32)
    matrix = area_matrix(size, 128)
    want = cv2.resize(picture, (128, 128), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(matrix @ picture @ matrix.T, want, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_parsed_faces_are_their_own(seed: int) -> None:
    device = LateStreams(seed)
    pool = FramePool(device, FrameForm.of(picture_frame(0)), 2)
    pixels = Pixels(pool.source, pool.edited, **made.COLOUR)
    parser = torch.nn.Conv2d(3, 4, 1).requires_grad_(False)
    parsing = Parsing(parser, pixels, 256, device, 2)
    waiting: deque[Any] = deque()
    for index in range(6):
        brought = pool.upload(picture_frame(index))
        place = made.affine(10 + index, 5, 0.2)
        waiting.append((brought, parsing.begin(brought, place), expected(parser, pixels, index, place)))
        if len(waiting) == 2:
            del brought
            check(*waiting.popleft())
    check(*waiting.popleft())


def expected(parser: Any, pixels: Pixels, index: int, place: Array) -> tuple[Array, Array]:
    from mien.kernels.crop_yuv import crop_yuv

    crop = crop_yuv(picture_frame(index).planes, place, 256, bit_depth=8, **made.COLOUR)
    small = cv2.resize(crop.transpose(1, 2, 0), (128, 128), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
    return parser(torch.from_numpy(small[None]))[0].numpy(), small


def check(brought: Any, parsed: Any, want: tuple[Array, Array]) -> None:
    for got, as_wanted in zip(parsed.wait(), want, strict=True):
        np.testing.assert_allclose(got, as_wanted, atol=1e-5)
    parsed.close()


@pytest.mark.parametrize("seed", range(2))
def test_a_lane_works_late_as_it_works_at_once(seed: int) -> None:
    """More calls than there are pinned blocks, a track told anew between them."""
    parts, frames, mask = made.modules(), [made.picture(i) for i in range(3)], made.soft_mask()
    edit, places = made.Edit(), [made.affine(5 + 3 * i, 30 - 2 * i) for i in range(8)]
    results = []
    for streams in (None, LateStreams(seed)):
        lane, pixels = made.lane_of(edit, parts, frames, streams=streams)
        stream = (streams or made.HostStreams()).stream()
        calls(lane, places, mask, stream)
        if streams is not None:
            streams.finish()
        results.append([made.planes_of(pixels.edited, i) for i in range(3)])
    for at_once, late in zip(*results, strict=True):
        assert all((a == b).all() for a, b in zip(at_once, late, strict=True))


def calls(lane: FaceLane, places: list[Array], mask: Array, stream: Any) -> None:
    reference = made.Reference(made.Edit(), made.modules())
    for i, place in enumerate(places):
        if i == 4:
            other = FaceTrack(9)
            noise = reference.denoiser.noise(other, np.zeros((1, 4, made.PX // 8, made.PX // 8), np.float32))
            lane.tell(0, [reference.told(other)], noise, stream)
        lane.edit([made.row(i % 3, 0, place, mask, 0.5), made.row((i + 1) % 3, 1, place, mask, 0.5)], stream)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", ["replace", "extended"])
def test_a_clip_through_all_stages_is_the_same_on_a_late_device(kind: str, seed: int) -> None:
    edit, frames = made.Edit((400,), policy=EXTENDED if kind == "extended" else OWN), made.clip(8)
    want = made.edited_clip(made.edit_of(edit, made.HostStreams(), made.modules()), frames)
    assert [len(edited.boxes) for edited in want] == [2, 2, 0, 2, 2, 2, 2, 2]
    got = made.edited_clip(made.edit_of(edit, LateStreams(seed), made.modules()), frames)
    for ours, theirs, frame in zip(got, want, frames, strict=True):
        assert all((a == b).all() for a, b in zip(ours.frame.planes, theirs.frame.planes, strict=True))
        assert (ours.frame.planes[0] != frame.planes[0]).any() == ours.edited


@pytest.mark.parametrize(("composition", "most"), [("delta", 1.0), ("replace", 2.0)])
def test_differences_of_faces_that_meet_do_not_add_up(composition: str, most: float) -> None:
    lane = made.edit_of(made.Edit((400,), composition=composition), made.HostStreams(), made.modules())
    frame, sums = made.clip(1)[0], []
    quad = np.array([[70.0, 60.0], [34, 0], [0, 34]])
    places = [Placement(k, quad, np.full((68, 2), 70.0), 1.0) for k in range(2)]
    memories = {k: FaceMemory(FaceTrack(k)) for k in range(2)}
    jobs = begin_faces(lane, frame, places, memories).jobs

    def edit(rows: list[LaneRow], stream: Any) -> None:
        sums.append(sum(row.mask.max() for row in rows))

    lane._ready().lane.edit = edit  # type: ignore[method-assign]
    lane.answers(jobs)
    assert sums == [pytest.approx(most, abs=0.01)] and not any(job.others for job in jobs)
