"""Edits that want crops of different widths: which pass makes which, and that passes add up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from mien.engine.clock import Clock
from mien.engine.compose import FaceEdit, FaceMemory, Placement
from mien.engine.edits import Answer, MethodClass, View
from mien.engine.face.align import ffhq_quad
from mien.engine.manifest import AttributeEdit, Manifest
from mien.engine.passes import FacePasses, split
from mien.engine.spec import EditSpec
from mien.engine.survey import begin_faces, finish_faces
from mien.engine.types import Array, FaceTrack, Frame

SIZE = 64
EDIT = AttributeEdit("smile", "", (-1.0, 1.0), "a", (), ("all",), 300, 1.0, "delta")
EDITS = {
    "smile": EDIT,
    "hair": replace(EDIT, name="hair", crop_scale=1.5),
    "beard": replace(EDIT, name="beard"),
    "new": replace(EDIT, name="new", composition="replace"),
}


def method_class(in_order: bool = False) -> MethodClass:
    return cast(MethodClass, SimpleNamespace(in_order=lambda spec, manifest: in_order))


def manifest() -> Manifest:
    return cast(Manifest, SimpleNamespace(edits=EDITS))


def parts(spec: EditSpec, *, in_order: bool = False) -> list[tuple[dict[str, float], float | None]]:
    return [(dict(one.active), one.crop_scale) for one in split(spec, manifest(), method_class(in_order))]


def test_edits_of_one_width_are_one_pass() -> None:
    together = EditSpec(edits=(("smile", 1.0), ("hair", 0.5), ("beard", 0.2)))
    assert parts(together) == [({"hair": 0.5}, 1.5), ({"smile": 1.0, "beard": 0.2}, 1.0)], "the widest first"
    for whole in (EditSpec(edits=(("smile", 1.0), ("beard", 1.0), ("hair", 0.0))), EditSpec(edits=(("hair", 1.0),))):
        assert split(whole, manifest(), method_class()) == (whole,)


@pytest.mark.parametrize(
    "told",
    [{"crop_scale": 1.2}, {"composition": "replace"}, {"prompt": "old"}, {"edits": (("hair", 1.0), ("new", 1.0))}],
)
def test_what_does_not_add_up_is_one_pass(told: dict[str, Any]) -> None:
    spec = replace(EditSpec(edits=(("smile", 1.0), ("hair", 1.0))), **told)
    assert split(spec, manifest(), method_class()) == (spec,)


def test_a_bank_is_of_one_crop() -> None:
    spec = EditSpec(edits=(("smile", 1.0), ("hair", 1.0)))
    assert len(parts(spec)) == 2 and parts(spec, in_order=True) == [({"smile": 1.0, "hair": 1.0}, None)]


class Adding:
    """Adds an amount, and counts the codes that it is asked for."""

    def __init__(self, amount: float) -> None:
        self.amount, self.codes = amount, 0

    def wants_code(self) -> bool:
        return True

    def encode(self, track: FaceTrack, crop: Array) -> None:
        self.codes += 1
        track.add_code(np.zeros((1, 12, 64), np.float32))

    def finish(self, track: FaceTrack, view: View) -> Answer:
        return Answer(np.full((3, SIZE, SIZE), self.amount, np.float32))


@pytest.fixture
def passes(network_of: Any) -> list[FaceEdit]:
    everywhere = np.zeros((1, 4, 128, 128), np.float32)
    everywhere[:, 1] = 1.0
    parser = network_of(lambda image: {"probabilities": everywhere})
    return [
        FaceEdit(EditSpec(edits=((name, 1.0),)), EDITS, Adding(amount), ("all",), parser, SIZE, Clock())
        for name, amount in (("hair", 0.2), ("smile", -0.1))
    ]


def test_one_pass_comes_onto_the_other(passes: list[FaceEdit], face: Array, frame_of: Callable[..., Frame]) -> None:
    frame, place = frame_of(0), Placement(1, ffhq_quad(face), face)
    memory = FaceMemory(FaceTrack(1))
    begun = begin_faces(FacePasses(passes), frame, [place], {1: memory})
    got = finish_faces(FacePasses(passes), begun)
    assert [cast(Adding, one.method).codes for one in passes] == [1, 0], "a track has one code, whoever makes it"
    planes, boxes = frame.planes, []
    for one in passes:
        job = one.begin(frame, place, FaceMemory(memory.track))
        assert job is not None
        planes, box = one.finish(frame, planes, job)
        boxes.append(box)
    assert got.boxes == (boxes[0],), "the wide crop holds the narrow one"
    for mine, by_hand in zip(got.frame.planes, planes, strict=True):
        np.testing.assert_array_equal(mine, by_hand)
    assert len(memory.masks) == 2, "each width has masks of its own"


def test_a_pass_outside_of_the_frame_is_left_out(
    passes: list[FaceEdit], face: Array, frame_of: Callable[..., Frame]
) -> None:
    """A face beyond the frame's edge, of which the wide crop alone sees anything."""
    frame = frame_of(0)
    quad = ffhq_quad(face)
    reach = float(np.abs(quad[1]).sum())
    out = face + [frame.width_px - quad[0, 0] + 1.2 * reach, 0.0]
    made, memories = FacePasses(passes), {i: FaceMemory(FaceTrack(i)) for i in (1, 2)}
    places = [Placement(1, ffhq_quad(out), out), Placement(2, quad, face)]
    begun = begin_faces(made, frame, places, memories)
    assert [[job is None for job in face.settled().jobs] for face in begun.jobs] == [[False, True], [False, False]]
    assert [len(answer) for answer in made.answers(begun.jobs)] == [2, 2]
    assert len(finish_faces(made, begun).boxes) == 2


def test_where_masks_meet_each_pass_shares_them(
    passes: list[FaceEdit], face: Array, frame_of: Callable[..., Frame]
) -> None:
    """The wide crops of two faces meet, and the narrow ones; one of three faces is in the wide pass alone."""
    frame = frame_of(0, width=480)
    reach = float(np.abs(ffhq_quad(face)[1]).sum())
    faces = [face, face + [60.0, 5.0], face + [480 - face[:, 0].mean() + 1.2 * reach, 0.0]]
    places = [Placement(i, ffhq_quad(points), points) for i, points in enumerate(faces)]

    def shares(edit: Any) -> list[Any]:
        return [
            [None if job is None else job.share for job in getattr(face, "jobs", (face,))]
            for face in begin_faces(edit, frame, places, {i: FaceMemory(FaceTrack(i)) for i in range(3)}).jobs
        ]

    together, alone = shares(FacePasses(passes)), [shares(one) for one in passes]
    assert [len(found) for found in alone] == [3, 2]
    for number, found in enumerate(together[:2]):
        for share, (by_hand,) in zip(found, (one[number] for one in alone), strict=True):
            assert share.min() < 0.7
            np.testing.assert_array_equal(share, by_hand)
    assert together[2][1] is None
