"""How a method's answer gets into a frame: what is added, what is covered, and in which order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import pytest

from mien.engine.clock import Clock
from mien.engine.compose import FaceEdit, FaceMemory, Placement, crop_scale, share_beside
from mien.engine.edits import Answer, View
from mien.engine.face.align import crop_to_frame, ffhq_quad, paste_box
from mien.engine.face.points import invert, transform
from mien.engine.manifest import AttributeEdit
from mien.engine.rows import RowBatcher, RowGathering
from mien.engine.spec import EditSpec
from mien.engine.survey import BegunFrame, begin_faces, finish_faces
from mien.engine.types import Array, FaceTrack, Frame

SIZE = 64
EDIT = AttributeEdit("a", "a", (-1.0, 1.0), "a", (), ("all",), 300, 1.0, "delta", hides=True)


class Method:
    """Adds 0.2 everywhere, and covers with black where it is allowed to."""

    def __init__(self) -> None:
        self.hidden: Array | None = None

    def wants_code(self) -> bool:
        return False

    def encode(self, track: FaceTrack, crop: Array) -> None:
        raise AssertionError("no code is wanted")

    def finish(self, track: FaceTrack, view: View) -> Answer:
        self.hidden = hidden = view.hidden
        share: Array = np.zeros((SIZE, SIZE), np.float32)
        share[24:40, 24:40] = 1.0
        black = np.full((3, SIZE, SIZE), -1.0, np.float32)
        return Answer(np.full((3, SIZE, SIZE), 0.2, np.float32), None if hidden is None else (black, share))


def edited(
    frame: Frame, face: Array, parser: Any, weight: float, hides: bool, blend: str = "feather"
) -> tuple[Frame, Array, Method]:
    method = Method()
    edit = AttributeEdit(**{f: getattr(EDIT, f) for f in EDIT.__slots__} | {"hides": hides})
    made = FaceEdit(EditSpec(edits=(("a", 1.0),), blend=blend), {"a": edit}, method, ("face",), parser, SIZE, Clock())
    place = Placement(1, ffhq_quad(face), face, weight)
    job = made.begin(frame, place, FaceMemory(FaceTrack(1)))
    assert job is not None
    planes, box = made.finish(frame, frame.planes, job)
    assert box == job.box
    return frame, planes[0].astype(float), method


@pytest.fixture
def parser(network_of: Any) -> Any:
    everywhere = np.zeros((1, 4, 128, 128), np.float32)
    everywhere[:, 1] = 1.0
    return network_of(lambda image: {"probabilities": everywhere})


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_a_cover_takes_the_place_of_what_was_there(
    face: Array, frame_of: Callable[..., Frame], parser: Any, weight: float
) -> None:
    frame, with_cover, method = edited(frame_of(0), face, parser, weight, hides=True)
    assert method.hidden is not None and method.hidden.max() == 1.0
    _, without, plain = edited(frame_of(0), face, parser, weight, hides=False)
    assert plain.hidden is None
    x, y = (round(v) for v in ffhq_quad(face)[0])
    source = frame.planes[0].astype(float)
    assert without[y, x] - source[y, x] == pytest.approx(weight * 0.2 * 127.5 * 219 / 255, abs=1.0), "limited range"
    assert with_cover[y, x] == pytest.approx((1 - weight) * without[y, x] + weight * 16, abs=1.0)
    np.testing.assert_array_equal(with_cover[without == source], source[without == source])


def test_poisson_gives_an_even_offset_up(face: Array, frame_of: Callable[..., Frame], parser: Any) -> None:
    frame, feathered, _ = edited(frame_of(0), face, parser, 1.0, hides=False)
    _, blended, _ = edited(frame, face, parser, 1.0, hides=False, blend="poisson")
    source = frame.planes[0].astype(float)
    assert np.abs(feathered - source).max() > 20
    assert np.abs(blended - source).max() <= 1


@pytest.mark.parametrize("blend", ["feather", "poisson"])
def test_what_has_an_outline_ends_in_a_line(
    face: Array, frame_of: Callable[..., Frame], parser: Any, blend: str
) -> None:
    """At the frame's own detail, finer than the crop; blended over its rim it has no line."""
    outline = ((0.3, 0.3), (0.7, 0.3), (0.7, 0.7), (0.3, 0.7))
    frame = frame_of(0)
    frame = replace(
        frame, planes=(np.full_like(frame.planes[0], 180), *(np.full_like(p, 128) for p in frame.planes[1:]))
    )

    class Draws(Method):
        def finish(self, track: FaceTrack, view: View) -> Answer:
            share: Array = np.zeros((SIZE, SIZE), np.float32)
            share[20:44, 20:44] = 1.0
            share = cv2.GaussianBlur(share, (0, 0), 0.7)
            difference = share * (-0.9 - view.crop)
            return Answer(difference, (view.crop + difference, share))

    lumas = []
    for edit in (replace(EDIT, outline=outline), EDIT):
        spec = EditSpec(edits=(("a", 1.0),), blend=blend)
        made = FaceEdit(spec, {"a": edit}, Draws(), ("face",), parser, SIZE, Clock())
        job = made.begin(frame, Placement(1, ffhq_quad(face), face), FaceMemory(FaceTrack(1)))
        assert job is not None
        planes, _ = made.finish(frame, frame.planes, job)
        lumas.append(planes[0][round(ffhq_quad(face)[0, 1])].astype(int))
    with_line, without = lumas
    if blend == "poisson":
        np.testing.assert_array_equal(with_line, without)
    else:
        assert with_line.min() < 40 and without.min() < 40
        between = [((row > 60) & (row < 160)).sum() for row in lumas]
        assert between[0] < between[1] / 2


@pytest.mark.parametrize("spec", [{}, {"blend": "poisson"}, {"region": "all"}])
def test_locks_end_at_the_frames_own_edge(
    face: Array, frame_of: Callable[..., Frame], network_of: Any, spec: dict[str, Any]
) -> None:
    """Not only at the crop's, whose pixel is several of the frame; but where the mask is another's, cut or blended, there."""
    frame = frame_of(0)
    quad = ffhq_quad(face)
    edge = round(quad[0, 0]) - 37  # a column of the frame, within a pixel of the crop
    luma, u, v = (np.full_like(plane, 128) for plane in frame.planes)
    luma[:], luma[:, :edge] = 180, 60
    frame = replace(frame, planes=(luma, u, v))
    probabilities = np.zeros((1, 4, 128, 128), np.float32)
    columns = transform(invert(crop_to_frame(quad, 128)), np.array([[edge, quad[0, 1]]], float))[0, 0] - np.arange(128)
    probabilities[:, 2] = np.clip(0.5 + columns / 6, 0, 1)
    probabilities[:, 0] = 1 - probabilities[:, 2]
    parser = network_of(lambda image: {"probabilities": probabilities})
    active = EditSpec(edits=(("a", 1.0),), **spec)
    plain = AttributeEdit(**{f: getattr(EDIT, f) for f in EDIT.__slots__} | {"hides": False})
    made = FaceEdit(active, {"a": plain}, Method(), ("locks",), parser, SIZE, Clock())
    job = made.begin(frame, Placement(1, quad, face), FaceMemory(FaceTrack(1)))
    assert job is not None and (job.guide is not None) == (not spec)
    planes, _ = made.finish(frame, frame.planes, job)
    changed = planes[0][round(quad[0, 1])].astype(float) - luma[round(quad[0, 1])]
    if not spec:
        full = 0.2 * 127.5 * 219 / 255
        assert changed[edge - 3] == pytest.approx(full, abs=2) and np.abs(changed[edge + 1 :]).max() <= 2
        assert changed[edge - 1] > 0.8 * full
    else:
        assert np.abs(np.diff(changed[edge - 12 : edge + 12])).max() < 10


class Coding(Method):
    """Wants codes, and remembers the crop that it made one of."""

    coded: Array

    def wants_code(self) -> bool:
        return True

    def encode(self, track: FaceTrack, crop: Array) -> None:
        self.coded = crop
        track.add_code(np.zeros((1, 12, 64), np.float32))


def test_a_wide_crop_is_of_the_edit_and_not_of_the_code(
    face: Array, frame_of: Callable[..., Frame], parser: Any
) -> None:
    wide = AttributeEdit(**{f: getattr(EDIT, f) for f in EDIT.__slots__} | {"crop_scale": 1.5})
    crops, codes, boxes = [], [], []
    for edit in (EDIT, wide):
        method = Coding()
        made = FaceEdit(EditSpec(edits=(("a", 1.0),)), {"a": edit}, method, ("face",), parser, SIZE, Clock())
        job = made.begin(frame_of(0), Placement(1, ffhq_quad(face), face), FaceMemory(FaceTrack(1)))
        assert job is not None
        crops.append(job.crop)
        codes.append(method.coded)
        boxes.append(job.box)
        np.testing.assert_allclose(job.points.mean(0), face_in_crop(face, edit.crop_scale), atol=1e-9)
    np.testing.assert_array_equal(codes[0], codes[1])
    assert (crops[0] != crops[1]).any()
    frame, quad = frame_of(0), ffhq_quad(face)
    centre, *axes = quad
    by_hand = np.stack([centre, *(1.5 * axis for axis in axes)])
    assert boxes == [paste_box(q, frame.width_px, frame.height_px) for q in (quad, by_hand)] and boxes[0] != boxes[1]


def face_in_crop(face: Array, scale: float) -> Array:
    """The mean landmark in pixels of a crop `scale` times as wide as FFHQ's."""
    middle = transform(invert(crop_to_frame(ffhq_quad(face), SIZE)), face).mean(0)
    return np.asarray((middle - (SIZE - 1) / 2) / scale + (SIZE - 1) / 2)


def test_the_crop_is_as_wide_as_every_edit_allows() -> None:
    def scaled(scale: float) -> AttributeEdit:
        return AttributeEdit(**{f: getattr(EDIT, f) for f in EDIT.__slots__} | {"crop_scale": scale})

    edits = {"hair": scaled(1.3), "long": scaled(1.6), "face": scaled(1.0)}
    for wanted, scale in (({"hair": 1.0}, 1.3), ({"hair": 1.0, "long": 1.0}, 1.3), ({"long": 1.0, "face": 0.5}, 1.0)):
        assert crop_scale(EditSpec(edits=tuple(wanted.items())), edits) == scale
    assert crop_scale(EditSpec(edits=(("face", 0.0), ("long", 1.0))), edits) == 1.6, "a strength of 0 is no edit"
    assert crop_scale(EditSpec(prompt="a beard"), edits) == 1.0
    assert crop_scale(EditSpec(edits=(("face", 1.0),), crop_scale=1.2), edits) == 1.2


class Asking(Method):
    """Adds what a network makes of its crop's brightness: two rows a face."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def finish(self, track: FaceTrack, view: View) -> Answer:
        mean = np.full((2, 1), view.crop.mean() + track.track_id, np.float32)
        added = self.network(x=mean)["x"].mean()
        return Answer(np.full((3, SIZE, SIZE), added, np.float32))


def test_faces_of_a_frame_share_a_call(
    face: Array, frame_of: Callable[..., Frame], parser: Any, network_of: Any
) -> None:
    """Three faces at once: one call of their six rows, and the planes they make one after the other."""
    frame = frame_of(0, width=640)
    edit = AttributeEdit(**{f: getattr(EDIT, f) for f in EDIT.__slots__} | {"hides": False})
    places = [Placement(i, ffhq_quad(face + [170.0 * i - 40, 0]), face + [170.0 * i - 40, 0]) for i in range(3)]
    memories = {i: FaceMemory(FaceTrack(i)) for i in range(3)}
    results, calls = [], []
    for gathering in (None, RowGathering((1, 2, 4, 8), float("inf"))):
        network = network_of(lambda x: {"x": 0.1 * x})
        spec, regions = EditSpec(edits=(("a", 1.0),)), ("face",)
        method = Asking(network if gathering is None else Together(RowBatcher(network, gathering), 3))
        made = FaceEdit(spec, {"a": edit}, method, regions, parser, SIZE, Clock(), gathering=gathering)
        results.append(finish_faces(made, begin_faces(made, frame, places, memories)))
        calls.append(network.calls)
    assert calls == [3, 1] and len(results[0].boxes) == 3 and results[0].boxes == results[1].boxes
    for one, other in zip(results[0].frame.planes, results[1].frame.planes, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (results[0].frame.planes[0] != frame.planes[0]).any()


class Together:
    """A network whose first calls wait for each other, so that none is run before all are at work."""

    def __init__(self, network: Any, callers: int) -> None:
        self.network, self.begun = network, threading.Barrier(callers)

    def __call__(self, **arrays: Array) -> Any:
        self.begun.wait(30.0)
        return self.network(**arrays)


class Adding(Method):
    """Adds 0.2 everywhere and covers nothing."""

    def finish(self, track: FaceTrack, view: View) -> Answer:
        return Answer(np.full((3, SIZE, SIZE), 0.2, np.float32))


def neighbours(
    frame: Frame, face: Array, parser: Any, distance: float, weights: tuple[float, float] = (1.0, 1.0)
) -> tuple[BegunFrame, Frame, list[Frame]]:
    """Two faces so many pixels apart, begun; both edited; and each edited alone."""
    edit = AttributeEdit(**{f: getattr(EDIT, f) for f in EDIT.__slots__} | {"hides": False})
    made = FaceEdit(EditSpec(edits=(("a", 1.0),)), {"a": edit}, Adding(), ("all",), parser, SIZE, Clock())
    points = [face, face + [distance, 10.0]]
    places = [Placement(i, ffhq_quad(p), p, w) for i, (p, w) in enumerate(zip(points, weights, strict=True))]
    memories = {i: FaceMemory(FaceTrack(i)) for i in range(2)}
    alone = [finish_faces(made, begin_faces(made, frame, [p], {p.track_id: FaceMemory(FaceTrack(0))})) for p in places]
    begun = begin_faces(made, frame, places, memories)
    return begun, finish_faces(made, begun).frame, [one.frame for one in alone]


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 0.6)])
def test_where_masks_meet_differences_do_not_add_up(
    face: Array, frame_of: Callable[..., Frame], parser: Any, weights: tuple[float, float]
) -> None:
    frame = frame_of(0, width=640)
    begun, both, alone = neighbours(frame, face, parser, 90.0, weights)
    assert all(job.share is not None and job.share.min() < 0.7 and job.share.max() == 1.0 for job in begun.jobs)
    changes = [picture.planes[0].astype(int) - frame.planes[0] for picture in (both, *alone)]
    most, one, other = changes[0], *changes[1:]
    meeting = (one > 10) & (other > 10)
    assert meeting.sum() > 1000 and (one + other).max() > 1.3 * one.max()
    assert most.max() <= one.max() + 1, "no more than a face alone"
    assert (most >= np.minimum(np.maximum(one, other), one + other) - 2).all(), "and no less"
    clear = (one == 0) | (other == 0)
    assert np.abs(most - one - other)[clear].max() <= 1


def test_faces_apart_are_edited_as_if_alone(face: Array, frame_of: Callable[..., Frame], parser: Any) -> None:
    frame = frame_of(0, width=960)
    begun, both, (one, other) = neighbours(frame, face, parser, 500.0)
    assert [job.share for job in begun.jobs] == [None, None]
    middle = int(face[:, 0].mean() + 250)
    columns = (middle, middle // 2, middle // 2)
    for plane, left, right, column in zip(both.planes, one.planes, other.planes, columns, strict=True):
        np.testing.assert_array_equal(plane[:, :column], left[:, :column])
        np.testing.assert_array_equal(plane[:, column:], right[:, column:])
    assert (one.planes[0] != frame.planes[0]).any() and (other.planes[0] != frame.planes[0]).any()


def test_shares_are_the_same_on_a_coarser_grid() -> None:
    @dataclass
    class Face:
        mask: Array
        affine: Array
        box: tuple[int, int, int, int] = (0, 0, 96, 96)
        weight: float = 1.0

    y, x = np.mgrid[:64, :64] / 63.0
    smooth = (np.sin(np.pi * x) * np.sin(np.pi * y)).astype(np.float32)
    places = [np.array([[1.0, 0.1 * k, 12.0 * k], [-0.1 * k, 1.1, 5.0]]) for k in range(2)]

    def share(size: int) -> Array:
        faces = [Face(cv2.resize(smooth, (size, size), interpolation=cv2.INTER_AREA), place) for place in places]
        found = share_beside(faces[0], faces[1:], 64)
        assert found is not None and found.shape == (size, size)
        return cv2.resize(found, (32, 32), interpolation=cv2.INTER_AREA)

    assert share(64).min() < 0.75
    np.testing.assert_allclose(share(32), share(64), atol=0.02)
    assert share_beside(Face(smooth, places[0]), [], 64) is None
