"""One clip for `bench/ablation.py`: its faces followed and cropped once, the crops edited by every variant in turns.

The turns go frame by frame, so that a busy machine slows all variants alike. Figures by `quality_measure.Run`; and of the
crop, inside the mask, over the frames where it is not empty:
psnr_db     of the result against the source, mean squared error over all frames
of_input_db of the result against the source as the edit's landmark template has moved it, which is every variant's input
detail      mean |Laplacian| of the luma, result over source: below 1 is blur, which takes flicker away too
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np

from mien.bench.ablation_variants import PLAIN, VARIANTS, Ablated, Variant, held_bytes
from mien.bench.metrics_picture import psnr_db
from mien.bench.quality_measure import Place, Run
from mien.bench.quality_scores import score_of
from mien.bench.quality_teacher import Teacher
from mien.engine.backend import Network, select
from mien.engine.bundle import Bundle
from mien.engine.clock import Clock
from mien.engine.compose import FaceEdit, FaceJob
from mien.engine.config import EngineConfig
from mien.engine.editor import Editor
from mien.engine.errors import InputError, RunError
from mien.engine.frame_crop import crop_frame
from mien.engine.spec import EditSpec
from mien.engine.survey import CODE_EVERY, BegunFrame, finish_faces
from mien.engine.types import Array, FaceTrack, Frame
from mien.kernels.color import LUMA

CELL_PX = 176


@dataclass(slots=True)
class Lane:
    """One variant on one clip. errors: of the frames that have some, see `errors_of`; pictures: (CELL_PX, CELL_PX, 3) uint8 of the crop."""

    variant: Variant
    method: Ablated
    edit: FaceEdit
    run: Run
    tracks: dict[int, FaceTrack] = field(default_factory=dict)
    errors: list[Array] = field(default_factory=list)
    pictures: list[Array] = field(default_factory=list)

    def figures(self, plain: Ablated) -> dict[str, Any]:
        """Of the clip. plain: what the times are compared with, crop by crop."""
        ran, spent = self.run.figures(), np.asarray(self.method.denoising_ms)
        return {
            **{k: ran[k] for k in ("frames", "flicker", "warp_ratio", "drift", "own_drift", "response", "jaw_r")},
            **self._inside(),
            "denoising_ms": float(np.median(spent)),
            "times_plain": float(np.median(spent / np.asarray(plain.denoising_ms))),
            "whole_ms": float(np.median(self.method.whole_ms)),
            "track_bytes": max(held_bytes(track) for track in self.tracks.values()),
        }

    def _inside(self) -> dict[str, float | None]:
        if not self.errors:
            return dict.fromkeys(("psnr_db", "of_input_db", "detail"))
        source, moved, detail, before = np.mean(self.errors, 0)
        shown = {"psnr_db": psnr_db(source), "of_input_db": psnr_db(moved)}
        return {**shown, "detail": float(detail / max(before, 1e-9))}


class Ablation:
    """A bundle and a spec, run over clips by every variant."""

    def __init__(self, bundle: Bundle, spec: EditSpec, config: EngineConfig, teacher: Teacher | None) -> None:
        if len(spec.active) != 1:
            raise InputError("give one --edit NAME=STRENGTH, of a strength other than 0")
        self._bundle, self._spec, self._config, self._teacher = bundle, spec, config, teacher
        backend = select(config).backend
        self._networks: dict[str, Network] = {n: bundle.load(n, backend, config) for n in bundle.networks}
        self._coder = Ablated(PLAIN, spec, bundle, self._networks)
        self.timesteps = self._coder.timesteps

    def lane(self, variant: Variant) -> Lane:
        """A variant, ready for a clip."""
        manifest, (name, strength) = self._bundle.manifest, self._spec.active[0]
        spec, parser = variant.spec(self._spec), self._networks["parser"]
        method, regions = Ablated(variant, spec, self._bundle, self._networks), Ablated.regions(spec, manifest)
        options: Any = {"threads": self._config.num_threads}
        edit = FaceEdit(spec, manifest.edits, method, regions, parser, manifest.crop_size_px, Clock(), **options)
        return Lane(
            variant, method, edit, Run(score_of(name, judged=self._teacher is not None), strength, self._teacher)
        )

    def clip(self, frames: Sequence[Frame]) -> tuple[list[Lane], list[Array]]:
        """Every variant over a clip's frames; and pictures of the source. Raises RunError without a face to edit."""
        spec = PLAIN.spec(self._spec)
        survey = Editor(self._bundle, spec=spec, config=self._config, networks=self._networks).survey()
        for frame in frames:
            survey.add(frame)
        plan, lanes, sources = survey.finish(), [self.lane(variant) for variant in VARIANTS], list[Array]()
        last: Frame | None = None
        for frame in frames:
            begun, place = plan.begin(frame), None
            if begun.jobs:
                place = self._place(frame, begun.jobs[0], last, len(sources))
                sources.append(picture_of(begun.jobs[0].crop))
            last = frame if place is not None and place.seen is not None else None
            for lane in lanes:
                self._edit(lane, begun, place)
        if not sources:
            raise RunError("no face to edit")
        return lanes, sources

    def _place(self, frame: Frame, job: FaceJob, last: Frame | None, number: int) -> Place:
        place = Place(job.box, job.affine, self._code(job.crop) if number % CODE_EVERY == 0 else None)
        if self._teacher is not None:
            place.seen = self._teacher.look(frame, job.box, last)
        return place

    def _code(self, crop: Array) -> Array:
        track = FaceTrack(0)
        self._coder.encode(track, crop)
        return track.mean_code()

    def _edit(self, lane: Lane, begun: BegunFrame, place: Place | None) -> None:
        jobs = []
        for job in begun.jobs:
            known = job.track
            track = lane.tracks.setdefault(known.track_id, FaceTrack(known.track_id, known.w_sum, known.w_count))
            lane.method.encode_anew(track, job.crop)
            jobs.append(replace(job, track=track))
        edited, code = finish_faces(lane.edit, BegunFrame(begun.frame, tuple(jobs))), None
        if place is not None:
            result = crop_frame(edited.frame, place.affine, jobs[0].crop.shape[1])
            code = None if place.code is None else self._code(result)
            if (errors := errors_of(jobs[0], result)) is not None:
                lane.errors.append(errors)
            lane.pictures.append(picture_of(result))
        lane.run.add(begun.frame, edited.frame, edited.boxes, place, code)


def errors_of(job: FaceJob, result: Array) -> Array | None:
    """(4,) inside the mask: mean squared error to the crop and to the crop as it was moved, on 0 to 255; mean |Laplacian| of
    the result's luma and of the source's. None where the mask is empty: nothing can be said there.
    """
    where = job.mask > 0.5
    if not where.any():
        return None
    moved = job.crop if job.motion is None else job.motion.of_crop(job.crop)
    squares = [float(np.square(127.5 * (result - other)[:, where]).mean()) for other in (job.crop, moved)]
    lumas = [np.tensordot(LUMA, picture, 1) for picture in (result, job.crop)]
    return np.array([*squares, *(float(np.abs(cv2.Laplacian(luma, cv2.CV_32F))[where].mean()) for luma in lumas)])


def picture_of(crop: Array) -> Array:
    """(3, S, S) in [-1, 1] -> (CELL_PX, CELL_PX, 3) uint8."""
    small = cv2.resize(crop.transpose(1, 2, 0), (CELL_PX, CELL_PX), interpolation=cv2.INTER_AREA)
    return np.asarray(np.clip(np.rint(small * 127.5 + 127.5), 0, 255), np.uint8)
