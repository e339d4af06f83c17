"""A face edited in passes: edits that allow crops of different widths (hair, and what lies in the face) are each made in a crop of
their own, as if they were alone, one onto the other. Differences add up, so it needs `delta` composition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mien.engine.compose import Answered, FaceEdit, FaceJob, FaceMemory, PixelBox, Placement, Planes
from mien.engine.edits import Method, MethodClass
from mien.engine.manifest import Manifest
from mien.engine.spec import EditSpec
from mien.engine.types import Array, Frame


def split(spec: EditSpec, manifest: Manifest, method: MethodClass) -> tuple[EditSpec, ...]:
    """A spec for every width of crop that the active edits allow, the widest first; the spec itself where there is one width, where
    it says the width, or where the passes would not add up: a new crop would paste over the other's, and a bank holds one crop.
    """
    widths = {name: manifest.edits[name].crop_scale for name, _ in spec.active}
    compositions = (
        {manifest.edits[name].composition for name in widths} if spec.composition == "auto" else {spec.composition}
    )
    if len({*widths.values()}) < 2 or spec.crop_scale is not None or compositions != {"delta"}:
        return (spec,)
    if spec.prompt or method.in_order(spec, manifest):
        return (spec,)
    return tuple(
        replace(spec, edits=tuple(edit for edit in spec.active if widths[edit[0]] == width), crop_scale=width)
        for width in sorted({*widths.values()}, reverse=True)
    )


@dataclass(frozen=True, slots=True)
class PassJobs:
    """One face of one frame, begun in every pass; None for a pass whose crop lies outside the frame."""

    jobs: tuple[FaceJob | None, ...]

    def beside(self, others: Sequence[PassJobs]) -> PassJobs:
        """As `FaceJob.beside`, pass by pass."""
        jobs = (
            None if job is None else job.beside([found for other in others if (found := other.jobs[i]) is not None])
            for i, job in enumerate(self.jobs)
        )
        return PassJobs(tuple(jobs))

    def settled(self) -> PassJobs:
        """As `FaceJob.settled`."""
        return PassJobs(tuple(None if job is None else job.settled() for job in self.jobs))


class FacePasses:
    """Takes the place of a `FaceEdit` for several of them, over the same tracks."""

    def __init__(self, passes: Sequence[FaceEdit]) -> None:
        self._passes = tuple(passes)
        self.method: Method = next((p.method for p in passes if p.method.wants_code()), passes[0].method)
        self.crop_px, self.frames_at_once = passes[0].crop_px, passes[0].frames_at_once

    def crop(self, frame: Frame, affine: Array) -> Array:
        """(3, S, S) float32 RGB in [-1, 1] of a frame."""
        return self._passes[0].crop(frame, affine)

    def begin(self, frame: Frame, place: Placement, memory: FaceMemory) -> PassJobs | None:
        """Begin every pass; None where the face lies outside the frame."""
        jobs = tuple(one.begin(frame, place, memory) for one in self._passes)
        return PassJobs(jobs) if any(job is not None for job in jobs) else None

    def answers(self, jobs: Sequence[PassJobs]) -> list[tuple[Answered | None, ...]]:
        """Every pass's, for the faces of one frame."""
        columns = []
        for i, one in enumerate(self._passes):
            begun = [job for face in jobs if (job := face.jobs[i]) is not None]
            answered = iter(one.answers(begun))
            columns.append([None if face.jobs[i] is None else next(answered) for face in jobs])
        return list(zip(*columns, strict=True))

    def finish(
        self, frame: Frame, planes: Planes, job: PassJobs, answered: Sequence[Answered | None] | None = None
    ) -> tuple[Planes, PixelBox | None]:
        """The planes with one pass after the other in them, and the box around all that may have changed."""
        boxes: list[PixelBox] = []
        for one, begun, answer in zip(self._passes, job.jobs, answered or [None] * len(job.jobs), strict=True):
            if begun is None:
                continue
            planes, box = one.finish(frame, planes, begun, answer)
            boxes += [] if box is None else [box]
        if not boxes:
            return planes, None
        left, top, right, bottom = zip(*boxes, strict=True)
        return planes, (min(left), min(top), max(right), max(bottom))
