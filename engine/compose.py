"""One face of one frame, edited: crop, parse, mask, warp, method, and back into the planes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import cv2
import numpy as np

from mien.engine.backend import Network
from mien.engine.blend import poisson
from mien.engine.clock import Clock
from mien.engine.edits import Answer, Method, View
from mien.engine.face.align import crop_pixel, crop_to_frame, enlarged, paste_box, widened
from mien.engine.face.face_motion import FaceMotion, MotionPlan, face_motion
from mien.engine.face.mask import GRID_PX, FaceMasks, around, blur
from mien.engine.face.points import invert, iou, transform
from mien.engine.frame_crop import bit_depth, crop_frame, shrunk
from mien.engine.manifest import AttributeEdit
from mien.engine.outline import end_in_line, likely_cover
from mien.engine.rows import RowGathering
from mien.engine.spec import EditSpec
from mien.engine.types import Array, FaceTrack, Frame
from mien.kernels.composite_yuv import composite_delta_yuv, composite_replace_yuv

Planes = tuple[Array, Array, Array]
PixelBox = tuple[int, int, int, int]
Answered = tuple[Array, Answer | None]
"""The crop that a method saw, and its answer."""

# Weight of a frame's own mask against the track's: the parser's edges flicker, and a mask that flickers shows.
MASK_SHARE = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Where a face lies in a frame. quad: (3, 2) smoothed, see face/align.py. points: (68, 2) smoothed.

    weight: of the edit, in (0, 1].
    """

    track_id: int
    quad: Array
    points: Array
    weight: float = 1.0


@dataclass(slots=True)
class FaceMemory:
    """What is kept of a face between frames: its track's codes, noise and bank, and its soft masks on the parser's grid."""

    track: FaceTrack
    masks: dict[str, Array] = field(default_factory=dict)

    def steady(self, name: str, mask: Array) -> Array:
        """The mask averaged with the track's past ones."""
        if name in self.masks:
            mask = self.masks[name] + np.float32(MASK_SHARE) * (mask - self.masks[name])
        self.masks[name] = mask
        return mask


@dataclass(frozen=True, slots=True, eq=False)
class FaceJob:
    """One face of one frame, begun: what `FaceEdit.finish` needs, and nothing that a later frame changes.

    crop: (3, S, S), not moved. motion: None where nothing moves. mask: (S, S). points: (68, 2) in crop pixels, not moved. hidden:
    (S, S) or None, where edits may hide what was there. guide: (P, P, 4), by which the mask ends at the frame's own edges, or None, see
    `edge_guide`. share: (S, S) in (0, 1], of the difference; None for all of it.
    """

    track: FaceTrack
    affine: Array
    box: PixelBox
    crop: Array
    motion: FaceMotion | None
    mask: Array
    points: Array
    hidden: Array | None
    weight: float
    guide: Array | None = None
    share: Array | None = None

    def beside(self, others: Sequence[FaceJob]) -> FaceJob:
        """The job among the frame's other faces: differences add up, so where masks meet each face has its share alone."""
        return replace(self, share=share_beside(self, others, self.crop.shape[1]))

    def settled(self) -> FaceJob:
        """The job with its track's code as it is now; a later frame may add to it."""
        return replace(self, track=replace(self.track))


class Masked(Protocol):
    """A face of a frame with its mask (P, P) of the crop; affine: crop to frame."""

    @property
    def box(self) -> PixelBox: ...  # noqa: D102
    @property
    def affine(self) -> Array: ...  # noqa: D102
    @property
    def mask(self) -> Any: ...  # noqa: D102
    @property
    def weight(self) -> float: ...  # noqa: D102


def share_beside(face: Masked, others: Sequence[Masked], crop_px: int) -> Array | None:
    """(P, P) in (0, 1]: a face's share of what is added to the frame where others' masks lie over its own; None for all of it."""
    met = [other for other in others if iou(face.box, other.box) > 0.0]
    if not met:
        return None
    size = face.mask.shape[0]
    scale = crop_px / size
    to_crop = np.array([[scale, 0.0, scale / 2 - 0.5], [0.0, scale, scale / 2 - 0.5], [0.0, 0.0, 1.0]])
    total = np.float32(face.weight) * face.mask
    for other in met:
        there = np.vstack([invert(face.affine), [0.0, 0.0, 1.0]]) @ np.vstack([other.affine, [0.0, 0.0, 1.0]])
        there = (np.linalg.inv(to_crop) @ there @ to_crop)[:2]
        total = total + np.float32(other.weight) * cv2.warpAffine(other.mask, there, (size, size))
    return np.asarray(1 / np.maximum(total, 1))


def crop_scale(spec: EditSpec, edits: Mapping[str, AttributeEdit]) -> float:
    """How many times as wide as FFHQ's the crop is: as the spec says, else as wide as every active edit allows."""
    if spec.crop_scale is not None:
        return spec.crop_scale
    return min((edits[name].crop_scale for name, _ in spec.active), default=1.0)


class FaceEditing(Protocol):
    """What survey and stream need of `FaceEdit`, and of what takes its place on a GPU (see cuda/face_edit.py).

    What `begin` answers has `beside`, and `settled` where `frames_at_once` is above 1; see `FaceJob`.
    """

    @property
    def method(self) -> Method: ...  # noqa: D102
    @property
    def crop_px(self) -> int: ...  # noqa: D102
    @property
    def frames_at_once(self) -> int: ...  # noqa: D102
    def crop(self, frame: Frame, affine: Array) -> Array: ...  # noqa: D102
    def begin(self, frame: Frame, place: Placement, memory: FaceMemory) -> Any: ...  # noqa: D102
    def answers(self, jobs: Sequence[Any]) -> Sequence[Any]: ...  # noqa: D102
    def finish(  # noqa: D102
        self, frame: Frame, planes: Planes, job: Any, answered: Any = None
    ) -> tuple[Planes, PixelBox | None]: ...


class FaceEdit:
    """Edits faces for one spec, in two halves: `begin` for one face comes in frame order, and its memory is the caller's;

    `finish` may run for `frames_at_once` frames at a time, in any order. gathering: where the method's networks gather rows;
    then the method has a frame's faces at once, in threads.
    """

    def __init__(
        self,
        spec: EditSpec,
        edits: Mapping[str, AttributeEdit],
        method: Method,
        regions: tuple[str, ...],
        parser: Network,
        crop_px: int,
        clock: Clock,
        *,
        threads: int = 1,
        frames_at_once: int = 1,
        gathering: RowGathering | None = None,
    ) -> None:
        active = [(edits[name], strength) for name, strength in spec.active]
        self.method = method
        self._regions = regions
        hiding = [(edit, strength) for edit, strength in active if edit.hides]
        self._hiding = sorted({region for edit, _ in hiding for region in edit.regions})
        self._within, self._poisson = spec.region, spec.blend == "poisson"
        outlines = [edit.outline for edit, _ in hiding]
        self._outlines = outlines if all(outlines) and not self._poisson else []
        self._hides_by = max((strength for _, strength in hiding), default=0.0)
        self._is_guided = "locks" in regions and self._within is None and not self._poisson
        self._plan = MotionPlan.of(active)
        self.crop_px, self._scale = crop_px, crop_scale(spec, edits)
        self._parser, self._threads, self._clock = parser, threads, clock
        self.frames_at_once, self._gathering = frames_at_once, gathering
        self._nothing = np.zeros((3, crop_px, crop_px), np.float32)

    def crop(self, frame: Frame, affine: Array) -> Array:
        """(3, S, S) float32 RGB in [-1, 1] of a frame."""
        return crop_frame(frame, affine, self.crop_px, threads=self._threads)

    def begin(self, frame: Frame, place: Placement, memory: FaceMemory) -> FaceJob | None:
        """Crop, parse and mask; None where the face lies outside the frame."""
        quad = widened(place.quad, self._scale)
        affine = crop_to_frame(quad, self.crop_px)
        box = paste_box(quad, frame.width_px, frame.height_px)
        if box[2] - box[0] < 2 or box[3] - box[1] < 2:
            return None
        with self._clock("crop"):
            crop = self.crop(frame, affine)
        if memory.track.w_sum is None and self.method.wants_code():
            with self._clock("code"):
                own = crop if self._scale == 1.0 else self.crop(frame, crop_to_frame(place.quad, self.crop_px))
                self.method.encode(memory.track, own)
        with self._clock("parse"):
            image = shrunk(crop, GRID_PX)
            probabilities = self._parser(image=image)["probabilities"][0]
        with self._clock("mask"):
            points = transform(invert(affine), place.points)
            masks = FaceMasks(probabilities, points, self.crop_px, image[0])
            motion = self._motion(masks, points, memory, crop, affine, place.weight)
            mask = masks.enlarged(self._steady(memory, "region", masks.soft(self._regions, self._within)))
            hidden = None
            if self._hiding:
                hidden = masks.enlarged(self._steady(memory, "hidden", masks.soft(self._hiding, self._within)))
            guide = self._steady(memory, "guide", masks.guide(self._regions)) if self._is_guided else None
        return FaceJob(memory.track, affine, box, crop, motion, mask, points, hidden, place.weight, guide)

    def answers(self, jobs: Sequence[FaceJob]) -> list[Answered]:
        """The method's, for the faces of one frame."""
        if self._gathering is None or len(jobs) < 2:
            return [self._timed_answer(job) for job in jobs]
        with self._clock("networks"), ThreadPoolExecutor(len(jobs), "mien:face") as pool:
            return list(pool.map(self._answer, jobs))

    def _timed_answer(self, job: FaceJob) -> Answered:
        with self._clock("networks"):
            return self._answer(job)

    def _answer(self, job: FaceJob) -> Answered:
        with nullcontext() if self._gathering is None else self._gathering.at_work():
            crop, points = job.crop, job.points
            if self.method.wants_code() and job.motion is not None:
                crop, points = job.motion.of_crop(crop), job.motion.of_points(points, self.crop_px)
            if not self._outlines or job.hidden is None:
                return crop, self.method.finish(job.track, View(crop, job.mask, points, job.hidden))
            answer = self.method.finish(job.track, View(crop, job.mask, points))
            if answer is not None and answer.difference is not None:
                answer = self._ending_in_line(job, crop, points, answer.difference, np.minimum(job.mask, job.hidden))
            return crop, answer

    def _ending_in_line(self, job: FaceJob, crop: Array, points: Array, difference: Array, room: Array) -> Answer:
        likely = likely_cover(self._outlines, points, self.crop_px)
        pixel = crop_pixel(job.affine)
        return Answer(*end_in_line(crop, difference, likely, room, self._hides_by, pixel))

    def finish(
        self, frame: Frame, planes: Planes, job: FaceJob, answered: Answered | None = None
    ) -> tuple[Planes, PixelBox | None]:
        """The planes with this face edited, and the box that may have changed; the same planes and None where there is
        nothing to do.

        planes: the frame's own, or those in which other faces have been edited already; the crop always comes from the
        frame. answered: by the method, None to ask it.
        """
        crop, answer = answered or self._timed_answer(job)
        if answer is not None and self._poisson:
            with self._clock("blend"):
                answer = poisson(answer, crop, job.mask)
        if answer is None and job.motion is None:
            return planes, None
        with self._clock("composite"):
            weight = np.float32(job.weight)
            shared: Any = {"box": job.box, "threads": self._threads, "matrix": frame.matrix}
            shared |= {"color_range": frame.color_range, "bit_depth": bit_depth(frame)}
            warp, cover = (None, None) if job.motion is None else (job.motion.field, job.motion.cover)
            difference = None if answer is None else answer.difference
            mask = job.mask if job.guide is None else around(job.mask)
            mask = mask if job.share is None else mask * job.share
            mask = mask if job.weight == 1.0 else mask * weight
            if difference is not None or warp is not None:
                added = self._nothing if difference is None else difference
                planes = composite_delta_yuv(
                    planes, job.affine, added, mask, warp, job.guide, frame=frame.planes, **shared
                )
            if cover is not None:
                picture, share = cover
                if difference is not None:
                    picture = picture + mask * difference
                planes = composite_replace_yuv(planes, job.affine, picture, share, **shared)
            if answer is not None and answer.cover is not None:
                picture, share = answer.cover
                finer = enlarged(job.affine, len(share) / self.crop_px)
                planes = composite_replace_yuv(planes, finer, picture, share * weight, **shared)
        return planes, job.box

    def _motion(
        self, masks: FaceMasks, points: Array, memory: FaceMemory, crop: Array, affine: Array, weight: float
    ) -> FaceMotion | None:
        if not self._plan:
            return None
        support = masks.support()
        if self._within is not None:
            support = support * blur(masks.region(self._within), 2.0)
        support = self._steady(memory, "support", support)
        steady = partial(self._steady, memory)
        return face_motion(self._plan.times(weight), points, crop, support, crop_pixel(affine), steady)

    def _steady(self, memory: FaceMemory, name: str, mask: Array) -> Array:
        """A mask averaged over the track's crops of this width."""
        return memory.steady(f"{name}, {self._scale:g} wide", mask)
