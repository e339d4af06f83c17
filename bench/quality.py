"""`mien bench quality --bundle`: every edit of a bundle at several strengths over clips, measured in process without any codec.

Clips are the outer loop: the face is followed and the teachers are asked once per clip, every edit and strength shares the
answers. What is measured: quality_measure.py; by which score: quality_scores.py; what is made of it: quality_table.py and
quality_report.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np

from mien.bench.quality_measure import Place, Run
from mien.bench.quality_scores import Score, score_of
from mien.bench.quality_statistics import strengths_of
from mien.bench.quality_teacher import Teacher
from mien.engine import edits as methods
from mien.engine.backend import Network, select
from mien.engine.bundle import Bundle
from mien.engine.compose import crop_scale
from mien.engine.config import EngineConfig
from mien.engine.editor import Editor
from mien.engine.errors import EditError, InputError, MienError
from mien.engine.face.mask import BACKGROUND, GRID_PX
from mien.engine.face.track import Tracker
from mien.engine.frame_crop import crop_frame
from mien.engine.spec import EditSpec
from mien.engine.survey import CODE_EVERY
from mien.engine.types import Array, Face, FaceTrack, Frame
from mien.runtime.source import open_video

CELL_PX = 224
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 92]

Places = dict[int, Place]
"""By frame index."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What to run. strengths: shares of the ends of each edit's range, or None; held_out: every n-th clip, 0 for none."""

    edits: tuple[str, ...]
    strengths: tuple[float, ...] | None = None
    frames: int = 90
    held_out: int = 3
    steps: int | None = None


@dataclass(slots=True)
class Series:
    """One edit over one clip. runs: the figures by strength; strip: JPEG of the middle frame, source first."""

    edit: str
    clip: str
    held_out: bool
    runs: dict[float, dict[str, Any]] = field(default_factory=dict)
    strip: bytes = b""

    def responses(self) -> list[tuple[float, float]]:
        """(strength, response) by rising strength, without what could not be measured."""
        return [(s, run["response"]) for s, run in sorted(self.runs.items()) if run["response"] is not None]


@dataclass(slots=True)
class Quality:
    """All of a run. skipped: clip -> why."""

    scores: dict[str, Score]
    strengths: dict[str, list[float]]
    judged: bool
    series: list[Series] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def parse_strengths(text: str | None) -> tuple[float, ...] | None:
    """`-1,-0.5,0,0.5,1` -> shares of a range's ends. Raises EditError."""
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise EditError(f"--strengths is {text!r}: give numbers from -1 to 1, like -1,-0.5,0,0.5,1") from None
    if len(set(values)) < 2 or not all(-1 <= v <= 1 for v in values):
        raise EditError(f"--strengths is {text!r}: give at least two different numbers from -1 to 1")
    return values


class Followed:
    """A tracker's answers on a clip, to be given again: following does not depend on the edit, and takes its time."""

    def __init__(self, tracker: Tracker, frames: Sequence[Frame]) -> None:
        self.scene = 0
        self._rows = {frame.index: (tracker.update(frame), tracker.scene) for frame in frames}
        self.confirmed = tracker.confirmed

    def update(self, frame: Frame) -> list[Face]:
        """The faces that were seen in this frame."""
        faces, self.scene = self._rows[frame.index]
        return faces


class _Editor(Editor):
    """An editor whose surveys follow faces as they were followed before."""

    followed: Followed | None = None

    def tracker(self) -> Tracker | None:
        """What was followed before, where there is something."""
        return super().tracker() if self.followed is None else cast(Tracker, self.followed)


class Bench:
    """A bundle with its networks loaded once, and a teacher or none."""

    def __init__(self, bundle: Bundle, config: EngineConfig, wishes: Wishes, teacher: Teacher | None) -> None:
        if wishes.frames < 1 or wishes.held_out < 0:
            raise InputError(f"--frames is {wishes.frames}, --held-out {wishes.held_out}: from 1, and from 0")
        self._bundle, self._config, self._wishes, self._teacher = bundle, config, wishes, teacher
        names = wishes.edits or tuple(bundle.edits)
        ranges = {name: bundle.edit(name).range for name in names}
        chosen = {name: strengths_of(wishes.strengths, *ends) for name, ends in ranges.items()}
        if bare := [name for name, values in chosen.items() if not any(values)]:
            raise EditError(f"--strengths leaves nothing for {', '.join(bare)}: give a share of a side that it has")
        scores = {name: score_of(name, judged=teacher is not None) for name in names}
        self.quality = Quality(scores, chosen, teacher is not None, notes=list(teacher.notes) if teacher else [])
        if not names:
            raise EditError(f"the bundle {bundle.name!r} has no edits to measure")
        backend = select(config).backend
        self._networks: dict[str, Network] = {n: bundle.load(n, backend, config) for n in bundle.networks}
        method = methods.load("wplus")(EditSpec(), bundle, self._networks)
        self._followed: Followed | None = None
        self._encode: Callable[[FaceTrack, Array], None] = method.encode

    def run(self, clips: Sequence[Path], tell: Callable[[str], None]) -> Quality:
        """Measure all clips; one that cannot be read or shows no face is skipped with a line."""
        each = self._wishes.held_out
        for number, clip in enumerate(clips):
            try:
                with open_video(clip) as video:
                    frames = list(islice(video, self._wishes.frames))
                places = self._places(frames)
            except MienError as error:
                self._skip(clip, str(error), tell)
                continue
            if not all(places.values()):
                self._skip(clip, "no face to edit", tell)
            elif self._teacher is not None and not all(any(p.seen for p in of.values()) for of in places.values()):
                self._skip(clip, "the judge is sure of no face where the edit goes", tell)
            else:
                held_out = each > 0 and number % each == each - 1
                self._clip(clip, frames, places, held_out, f"{number + 1}/{len(clips)}", tell)
        return self.quality

    def _skip(self, clip: Path, why: str, tell: Callable[[str], None]) -> None:
        self.quality.skipped[clip.name] = why
        tell(f"skipped {clip.name}: {why}")

    def _editor(self, name: str, strength: float) -> _Editor:
        spec = EditSpec(num_steps=self._wishes.steps)
        editor = _Editor(self._bundle, {name: strength}, spec, self._config, networks=self._networks)
        editor.followed = self._followed if strength else None
        return editor

    def _width(self, name: str) -> float:
        """How wide a crop an edit is made in."""
        return crop_scale(EditSpec(edits=((name, 1.0),)), self._bundle.edits)

    def _places(self, frames: list[Frame]) -> dict[float, Places]:
        """Where the engine edits, by how wide the crop is: the same for all edits and strengths of a width."""
        self._followed, out = None, dict[float, Places]()
        for name, values in self.quality.strengths.items():
            if (width := self._width(name)) not in out:
                out[width] = self._places_of(self._editor(name, max(values, key=abs)), frames)
        return out

    def _places_of(self, editor: _Editor, frames: list[Frame]) -> Places:
        if self._followed is None and (tracker := editor.tracker()) is not None:
            self._followed = editor.followed = Followed(tracker, frames)
        survey = editor.survey()
        for frame in frames:
            survey.add(frame)
        plan, out = survey.finish(), Places()
        last: Frame | None = None
        for frame in frames:
            jobs = plan.begin(frame).jobs
            if not jobs:
                last = None
                continue
            job = jobs[0]
            place = out[frame.index] = Place(job.box, job.affine)
            if len(out) % CODE_EVERY == 1:
                place.code = self._code(job.crop)
            if self._teacher is not None:
                place.seen = self._teacher.look(frame, job.box, last)
                last = frame if place.seen is not None else None
            else:
                place.empty = self._empty(job.crop)
        return out

    def _code(self, crop: Array) -> Array:
        track = FaceTrack(0)
        self._encode(track, crop)
        return np.asarray(track.w_sum)

    def _empty(self, crop: Array) -> Array:
        size = (crop.shape[1], crop.shape[2])
        small = cv2.resize(crop.transpose(1, 2, 0), (GRID_PX, GRID_PX), interpolation=cv2.INTER_AREA)
        seen = self._networks["parser"](image=np.ascontiguousarray(small.transpose(2, 0, 1)[None]))
        return np.asarray(cv2.resize(seen["probabilities"][0][BACKGROUND], size) > 0.5)

    def _clip(
        self,
        clip: Path,
        frames: list[Frame],
        places: dict[float, Places],
        held_out: bool,
        count: str,
        tell: Callable[[str], None],
    ) -> None:
        for name, values in self.quality.strengths.items():
            series, here = Series(name, clip.name, held_out), places[self._width(name)]
            shown = sorted(here)[len(here) // 2]
            cells = [_cell(frames[shown], here[shown])]
            for strength in values:
                run = Run(self.quality.scores[name], strength, self._teacher)
                series.runs[strength], cell = self._strength(name, strength, run, frames, here, shown)
                cells.append(cell)
            series.strip = cv2.imencode(".jpg", np.ascontiguousarray(np.hstack(cells)[..., ::-1]), JPEG)[1].tobytes()
            self.quality.series.append(series)
            said = "  ".join(f"{s:+.2g}: {r:+.4f}" for s, r in series.responses())
            tell(f"{count} {clip.name:24} {name:12} {'held out  ' if held_out else ''}{said}")

    def _strength(
        self, name: str, strength: float, run: Run, frames: list[Frame], places: Places, shown: int
    ) -> tuple[dict[str, Any], Array]:
        """Figures, and the picture of the middle frame. At strength 0 nothing runs: every frame is its source."""
        survey = self._editor(name, strength).survey()
        for frame in frames if strength else ():
            survey.add(frame)
        plan, cell = survey.finish(), np.zeros(0)
        for frame in frames:
            edited, place = plan.edit(frame), places.get(frame.index)
            code = None
            if strength and place is not None and place.code is not None:
                code = self._code(crop_frame(edited.frame, place.affine, self._bundle.manifest.crop_size_px))
            if strength:
                run.add(frame, edited.frame, edited.boxes, place, code)
            if frame.index == shown:
                cell = _cell(edited.frame, places[shown])
        return run.figures() | ({} if strength else {"response": 0.0}), cell


def _cell(frame: Frame, place: Place) -> Array:
    """(CELL_PX, CELL_PX, 3) uint8 of the square around the paste box."""
    x0, y0, x1, y1 = place.box
    k = max(x1 - x0, y1 - y0) / CELL_PX
    affine = np.array([[k, 0, (x0 + x1) / 2 - k * CELL_PX / 2], [0, k, (y0 + y1) / 2 - k * CELL_PX / 2]])
    picture = crop_frame(frame, affine, CELL_PX)
    return np.rint(picture.transpose(1, 2, 0) * 127.5 + 127.5).astype(np.uint8)
