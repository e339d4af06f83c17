"""What the analysis command says of the tracker."""

from __future__ import annotations

from typing import cast

import numpy as np

from mien.bench.analysis import Figures, enter_tracks
from mien.engine.face.points import Box
from mien.engine.face.track import Tracker
from mien.engine.types import Array, Face

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


def entered(answers: list[tuple[list[Face], Array | None]], *confirmed: int) -> Figures:
    figures = Figures()
    enter_tracks(figures, answers, cast(Tracker, _Confirmed(*confirmed)))
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
