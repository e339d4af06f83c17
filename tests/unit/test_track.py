"""The tracker on planted faces: stable numbers, losses, cuts, duplicates and false alarms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from mien.engine.face.detect import Detection
from mien.engine.face.points import face_box, invert, transform
from mien.engine.face.scene import CutDetector, difference, thumbnail
from mien.engine.face.track import Tracker
from mien.engine.types import Array, Frame

MakeFrame = Callable[..., Frame]


@dataclass
class World:
    """Faces by frame number: a detector and a landmarker that know the truth. hidden: frames without belief."""

    faces: dict[int, list[Array]]
    hidden: frozenset[int] = frozenset()
    score: float = 0.8
    presence: float = 0.8
    decoys: list[tuple[float, float, float, float]] = field(default_factory=list)
    detections: list[tuple[int, int]] = field(default_factory=list)

    def detect(self, frame: Frame, long_side_px: int = 320) -> list[Detection]:
        self.detections.append((frame.index, long_side_px))
        hidden = frame.index in self.hidden
        found = [] if hidden else [Detection(face_box(p), self.score) for p in self.faces.get(frame.index, [])]
        return found + [Detection(box, 0.7) for box in self.decoys]

    def landmarks(self, frame: Frame, affines: list[Array]) -> list[tuple[Array, float]]:
        out = []
        for affine in affines:
            centre = transform(affine, np.array([[63.5, 63.5]]))[0]
            near = [p for p in self.faces.get(frame.index, []) if np.hypot(*(p.mean(0) - centre)) < 60]
            if near and frame.index not in self.hidden:
                out.append((min(near, key=lambda p: np.hypot(*(p.mean(0) - centre))), self.presence))
            else:
                out.append((transform(affine, transform(invert(affine), np.tile(centre, (68, 1)))), 0.1))
        return out

    def tracker(self) -> Tracker:
        return Tracker(self.detect, self.landmarks)


def follow(world: World, frames: list[Frame]) -> tuple[Tracker, list[list[int]]]:
    tracker = world.tracker()
    return tracker, [[f.track_id for f in tracker.update(frame)] for frame in frames]


def test_one_face_one_number_and_few_detections(face: Array, frame_of: MakeFrame) -> None:
    world = World({i: [face + [0.8 * i, 0.3 * i]] for i in range(40)})
    tracker, ids = follow(world, [frame_of(i) for i in range(40)])
    assert ids == [[1]] * 40 and tracker.confirmed(1) and tracker.scene == 1
    assert [i for i, _ in world.detections] == [0, 2, 10, 18, 26, 34]
    assert world.detections[0] == (0, 640) and (10, 320) in world.detections


def test_faces_that_pass_each_other_keep_their_numbers(face: Array, frame_of: MakeFrame) -> None:
    small = (face - [160, 110]) * 0.6
    faces = {i: [small + [80 + 2.5 * i, 80], small + [240 - 2.5 * i, 190]] for i in range(60)}
    world = World(faces)
    tracker, uppers = world.tracker(), set[int]()
    for i in range(60):
        got = {f.track_id: f.landmarks_px.mean(0) for f in tracker.update(frame_of(i))}
        assert set(got) == {1, 2}
        upper = min(got, key=lambda k: float(got[k][1]))
        uppers.add(upper)
    assert len(uppers) == 1


def test_a_short_loss_keeps_the_number_and_calls_the_detector(face: Array, frame_of: MakeFrame) -> None:
    world = World({i: [face] for i in range(30)}, hidden=frozenset({11, 12, 13}))
    _, ids = follow(world, [frame_of(i) for i in range(30)])
    assert ids[11:14] == [[], [], []] and all(seen == [1] for i, seen in enumerate(ids) if i not in (11, 12, 13))
    assert {11, 12, 13, 14} <= {i for i, _ in world.detections}


@pytest.mark.parametrize(
    ("sides", "scale", "after"),
    [(0.9, 1.0, 1), (1.4, 1.0, 1), (1.7, 1.0, 2), (1.0, 1.3, 1), (1.0, 1.5, 2), (1.0, 0.65, 2)],
)
def test_a_face_that_leaps_keeps_its_number(
    sides: float, scale: float, after: int, face: Array, frame_of: MakeFrame
) -> None:
    """Within a side and a half of its box, at about its size; else it is another face, and the first ends."""
    small = (face - [160, 110]) * 0.4 + [80, 90]
    x0, y0, x1, y1 = face_box(small)
    centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    there = (small - centre) * scale + centre + [sides * np.sqrt((x1 - x0) * (y1 - y0)), 0.0]
    tracker, ids = follow(World({i: [small if i < 12 else there] for i in range(24)}), [frame_of(i) for i in range(24)])
    assert ids == [[1]] * 12 + [[after]] * 12 and tracker.alive == {after}


def test_a_lost_face_takes_no_others_detection(face: Array, frame_of: MakeFrame) -> None:
    """Of two neighbours one is hidden: the other, within its reach, keeps its own number."""
    one, other = ((face - [160, 110]) * 0.4 + [x, 90] for x in (80, 150))
    world = World({i: [one, other] if i < 12 else [other] for i in range(24)})
    _, ids = follow(world, [frame_of(i) for i in range(24)])
    assert ids == [[1, 2]] * 12 + [[2]] * 12


def test_of_tracks_that_ended_the_last_are_known(
    face: Array, frame_of: MakeFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mien.engine.face.track.REMEMBERED_TRACKS", 3)
    steady, passing = ((face - [160, 110]) * 0.4 + [x, 90] for x in (80, 240))
    faces = {i: [steady, passing] if i % 20 < 6 else [steady] for i in range(100)}
    tracker, ids = follow(World(faces, score=0.95, presence=0.95), [frame_of(i) for i in range(100)])
    assert {k for seen in ids for k in seen} == {1, 2, 3, 4, 5, 6} and tracker.alive == {1}
    assert [k for k in range(1, 7) if tracker.confirmed(k)] == [1, 5, 6]


def test_a_long_loss_ends_the_track(face: Array, frame_of: MakeFrame) -> None:
    world = World({i: [face] for i in range(50)}, hidden=frozenset(range(11, 30)))
    tracker, ids = follow(world, [frame_of(i) for i in range(50)])
    assert ids[10] == [1] and ids[32] == [2] and ids[49] == [2]
    assert tracker.alive == {2}


def test_a_cut_ends_every_track_at_once(face: Array, frame_of: MakeFrame) -> None:
    world = World({i: [face] for i in range(20)})
    tracker, ids = follow(world, [frame_of(i, shift=0.0 if i < 9 else 2.0) for i in range(20)])
    assert ids == [[1]] * 9 + [[2]] * 11 and tracker.scene == 2
    assert 9 in {i for i, _ in world.detections}


def test_false_alarms_are_never_confirmed(frame_of: MakeFrame) -> None:
    """A detector that insists on an empty place: the landmark network does not believe, so there is no track."""
    world = World({}, decoys=[(50.0, 50.0, 120.0, 130.0)])
    tracker, ids = follow(world, [frame_of(i) for i in range(20)])
    assert ids == [[]] * 20 and not tracker.alive


def test_one_detection_that_both_doubt_is_not_enough(face: Array, frame_of: MakeFrame) -> None:
    """Seen once and followed by the landmark network, but the detector never sees it again."""
    world = World({i: [face] for i in range(20)})
    seen_once = world.detect
    world.detect = lambda frame, long_side_px=320: seen_once(frame) if frame.index == 0 else []  # type: ignore[method-assign]
    tracker, ids = follow(world, [frame_of(i) for i in range(20)])
    assert ids[:2] == [[1], [1]] and ids[2:] == [[]] * 18
    assert not tracker.confirmed(1)


def test_sure_networks_confirm_at_once(face: Array, frame_of: MakeFrame) -> None:
    tracker = World({0: [face]}, score=0.95, presence=0.99).tracker()
    assert [f.track_id for f in tracker.update(frame_of(0))] == [1] and tracker.confirmed(1)


def test_duplicates_end(face: Array, frame_of: MakeFrame) -> None:
    """Two tracks that converge on one face: the older one stays."""
    small = (face - [160, 110]) * 0.6
    faces = {i: [small + [100, 120], small + [220 - 10 * min(i, 12), 120]] for i in range(30)}
    _, ids = follow(World(faces), [frame_of(i) for i in range(30)])
    assert ids[0] == [1, 2] and ids[29] == [1]


@pytest.mark.parametrize(("scale", "sides"), [(1.0, {320, 640}), (0.17, {640}), (0.1, {640, 1280})])
def test_small_faces_get_wider_pictures(scale: float, sides: set[int], face: Array, frame_of: MakeFrame) -> None:
    """A scene begins with the wide picture; then a face of half the frame, a twelfth, a twentieth."""
    there = (face - [160, 110]) * scale + [160, 110]
    world = World({i: [there] for i in range(20)})
    follow(world, [frame_of(i) for i in range(20)])
    assert {side for _, side in world.detections} == sides and world.detections[0][1] == 640
    assert {side for _, side in world.detections[1:]} >= sides - {640}


def test_cut_detector_ignores_light_and_motion(frame_of: MakeFrame) -> None:
    cuts = CutDetector()
    assert cuts(frame_of(0))
    for i in range(1, 12):
        frame = frame_of(i, shift=0.04 * i)
        lit = (frame.planes[0] * (0.6 if i % 5 == 0 else 1.0) + 10).astype(np.uint8)
        assert not cuts(replace(frame, planes=(lit, *frame.planes[1:])))
    assert cuts(frame_of(12, shift=3.0))


def test_another_size_of_the_frame_is_a_cut(frame_of: MakeFrame) -> None:
    cuts, frame = CutDetector(), frame_of(0)
    half = replace(frame, planes=tuple(np.ascontiguousarray(plane[::2, ::2]) for plane in frame.planes))  # type: ignore[arg-type]
    assert difference(thumbnail(frame), thumbnail(half)) < CutDetector.LEAST
    assert [cuts(shown) for shown in (frame, frame, half, half, frame)] == [True, False, True, False, True]
    cuts.reset()
    assert cuts(frame)
