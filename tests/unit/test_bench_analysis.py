"""What the analysis command says of the tracker."""

from __future__ import annotations

from typing import cast

import numpy as np

from mien.bench.analysis import Answer, Figures, enter_tracks
from mien.bench.analysis_teacher import counts, to_be_found
from mien.engine.face.points import Box
from mien.engine.face.track import Tracker
from mien.engine.types import Array, Face
from mien.export.tiny.teachers import MESH_TO_68

FACE_PX: Box = (99.5, 99.5, 149.5, 159.5)
YUNET_FACE = (100.0, 100.0, 50.0, 60.0)
NO_BOX: Array = np.zeros((0, 5))


class _Confirmed:
    def __init__(self, *track_ids: int) -> None:
        self._ids = track_ids

    def confirmed(self, track_id: int) -> bool:
        return track_id in self._ids


def seen(track_id: int, box: Box) -> Face:
    return Face(track_id, box, np.zeros((68, 2), np.float32), 0.9)


def frontal(nose_px: float = 50.0) -> Array:
    """A mesh (478, 2) whose eyes' outer corners are 40 pixels apart, the nose's tip at 50 between them."""
    mesh = np.zeros((478, 2))
    for point, at in zip((36, 45, 30), ((30, 50), (70, 50), (nose_px, 70)), strict=True):
        mesh[MESH_TO_68[point]] = at
    return mesh


def meshes_of(boxes: Array) -> Array:
    """A frontal mesh for every box that counts."""
    return np.stack([frontal() for box in boxes if counts(box)] or [frontal()])[: sum(map(counts, boxes))]


def entered(answers: list[tuple[list[Face], Array | None]], *confirmed: int) -> Figures:
    figures = Figures()
    rows = [
        Answer(tracks) if boxes is None else Answer(tracks, boxes, to_be_found(boxes, meshes_of(boxes))[0])
        for tracks, boxes in answers
    ]
    enter_tracks(figures, rows, cast(Tracker, _Confirmed(*confirmed)))
    return figures


def yunet(score: float, *box: float) -> Array:
    return np.array([[*box, score]])


def test_a_confirmed_track_on_a_face_is_a_find_and_beside_it_a_false_one() -> None:
    beside = (400.0, 100.0, 450.0, 160.0)
    answers = [([seen(1, FACE_PX), seen(2, beside)], yunet(0.9, *YUNET_FACE)), ([], yunet(0.9, *YUNET_FACE))]
    figures = entered([*answers, ([seen(2, beside)], None)], 1, 2)
    assert figures.tracked == [True, False] and figures.false_tracks == 1
    assert figures.touched == [True, False, True], "every frame counts here, chosen or not"


def test_unconfirmed_tracks_are_none() -> None:
    figures = entered([([seen(1, FACE_PX)], yunet(0.9, *YUNET_FACE)), ([seen(1, FACE_PX)], NO_BOX)])
    assert figures.tracked == [False] and not figures.false_tracks and not any(figures.touched)


def test_doubtful_and_small_faces_need_no_track_but_excuse_one() -> None:
    small = (100.0, 100.0, 30.0, 36.0)
    on_small = (99.5, 99.5, 129.5, 135.5)
    figures = entered([([seen(1, FACE_PX)], yunet(0.7, *YUNET_FACE)), ([seen(1, on_small)], yunet(0.9, *small))], 1)
    assert not figures.tracked and not figures.false_tracks


def test_a_face_in_profile_need_not_be_found() -> None:
    boxes = np.concatenate([yunet(0.9, *YUNET_FACE), yunet(0.95, 300.0, 100.0, 50.0, 60.0)])
    meshes = np.stack([frontal(), frontal(nose_px=82.0)])  # its nose 1.6 half distances out: tan(60) times .9 is 1.56
    faces, kept = to_be_found(boxes, meshes)
    assert faces == [FACE_PX] and len(kept) == 1
    assert len(to_be_found(boxes, np.stack([frontal(), frontal(81.0)]))[0]) == 2
