"""Editing faces by a lane: `FaceEdit`'s two halves, and the smaller steps that a pipeline takes between them.

`begin` brings a frame and asks for a face's regions, `mask` reads them, `edit` puts faces of several frames into these; then a frame
is fetched. Each hands work to streams of the device and returns; what waits for the device are `mask` and `planes` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mien.engine.clock import Clock
from mien.engine.compose import FaceMemory, PixelBox, Placement, Planes, crop_scale, share_beside
from mien.engine.cuda.float8_trial import Float8Trial
from mien.engine.cuda.frame_pool import FrameForm, FrameOnDevice, FramePool
from mien.engine.cuda.graphs import Graphs
from mien.engine.cuda.lane import FaceLane, LaneNetworks, LaneRow, LaneSizes
from mien.engine.cuda.lane_spec import LaneSpec
from mien.engine.cuda.parsing import Parsed, Parsing
from mien.engine.cuda.pixels import Pixels
from mien.engine.cuda.streams import Streams
from mien.engine.cuda.tracks import TrackSlots
from mien.engine.face.align import crop_to_frame, paste_box, widened
from mien.engine.face.mask import GRID_PX, FaceMasks
from mien.engine.face.points import invert, transform
from mien.engine.frame_crop import crop_frame
from mien.engine.manifest import Manifest
from mien.engine.prompt_edit import PromptEdit
from mien.engine.rows import RowCounts
from mien.engine.spec import EditSpec
from mien.engine.types import Array, FaceTrack, Frame

FRAMES_BESIDE_A_BATCH = 24
"""That wait in the links of a pipeline, or are under way in its other stages."""

WAITING_FACES = 256
BATCHES = (1, 2, 4, 8)
PARTS = ("unet", "vae_encoder", "vae_decoder", "parser")


@dataclass(slots=True, eq=False)
class LaneJob:
    """One face of one frame, begun. mask: (P, P), once it was read. others: the frame's other faces, until the face is edited."""

    on_device: FrameOnDevice
    track: FaceTrack
    memory: FaceMemory
    affine: Array
    box: PixelBox
    points: Array
    weight: float
    parsed: Parsed
    mask: Array | None = None
    others: tuple[LaneJob, ...] = ()

    def beside(self, others: Sequence[LaneJob]) -> LaneJob:
        """As `FaceJob.beside`, once all masks have been read."""
        self.others = tuple(others)
        return self


@dataclass(frozen=True, slots=True, eq=False)
class _Session:
    """What is made for frames of one form."""

    pool: FramePool
    parsing: Parsing
    lane: FaceLane
    tracks: TrackSlots


class LaneEdit:
    """Edits faces for one spec on a device; see the file's first lines, and `FaceEdit`, whose place it takes.

    parts: modules by name: unet, vae_encoder, vae_decoder, parser. batches: how many faces the lane takes at a time. new_graphs: makes
    what records graphs of its own; None to run eagerly. compiles, trial: see `FaceLane`. `begin` and `mask` come in frame order, each in
    one thread.
    """

    frames_at_once = 1

    def __init__(
        self,
        spec: EditSpec,
        manifest: Manifest,
        method: PromptEdit,
        regions: tuple[str, ...],
        parts: Mapping[str, Any],
        crop_px: int,
        clock: Clock,
        streams: Streams,
        *,
        batches: tuple[int, ...] = BATCHES,
        threads: int = 1,
        new_graphs: Callable[[], Graphs] | None = None,
        compiles: bool = False,
        trial: Float8Trial | None = None,
    ) -> None:
        self.method, self.crop_px, self.most = method, crop_px, batches[-1]
        self._scale = crop_scale(spec, manifest.edits)
        self._regions, self._within, self._parts = regions, spec.region, parts
        self._clock, self._streams, self._new_graphs, self._threads = clock, streams, new_graphs, threads
        self._compiles, self._trial = compiles, trial
        wishes, model = method.wishes, method.model
        self._spec = LaneSpec(
            model.schedule,
            model.prediction,
            tuple(wishes.timesteps),
            wishes.edited,
            wishes.source,
            wishes.step,
            "delta" if method.composition == "delta" else "replace",
            wishes.policy,
        )
        self._sizes = LaneSizes(crop_px, GRID_PX, batches, max(16, 2 * self.most), manifest.latent_channels)
        self._stream = streams.stream()
        self._session: _Session | None = None
        self._newest: FrameOnDevice | None = None

    @property
    def in_order(self) -> bool:
        """Whether a track's frames must come in calls of their own, one after another."""
        return bool(self._spec.policy.frames)

    @property
    def counts(self) -> RowCounts:
        """Calls of the lane, and the faces that were their rows."""
        return RowCounts() if self._session is None else self._session.lane.counts

    @property
    def notes(self) -> tuple[str, ...]:
        """What a report should say of the networks, once all is edited."""
        return () if self._trial is None else (self._trial.note,)

    def crop(self, frame: Frame, affine: Array) -> Array:
        """(3, S, S) float32 RGB in [-1, 1] of a frame, on the host; for codes, of which a track needs few."""
        return crop_frame(frame, affine, self.crop_px, threads=self._threads)

    def begin(self, frame: Frame, place: Placement, memory: FaceMemory) -> LaneJob | None:
        """Bring the frame, if this is its first face, and ask for the face's regions; None where it lies outside."""
        quad = widened(place.quad, self._scale)
        affine = crop_to_frame(quad, self.crop_px)
        box = paste_box(quad, frame.width_px, frame.height_px)
        if box[2] - box[0] < 2 or box[3] - box[1] < 2:
            return None
        if memory.track.w_sum is None and self.method.wants_code():
            with self._clock("code"):
                self.method.encode(memory.track, self.crop(frame, crop_to_frame(place.quad, self.crop_px)))
        session = self._session_for(frame)
        if self._newest is None or self._newest.frame is not frame:
            with self._clock("upload"):
                self._newest = session.pool.upload(frame)
        with self._clock("parse"):
            parsed = session.parsing.begin(self._newest, affine)
        points = transform(invert(affine), place.points)
        track = replace(memory.track)  # as it is now; a later frame may add a code
        return LaneJob(self._newest, track, memory, affine, box, points, place.weight, parsed)

    def mask(self, job: LaneJob) -> None:
        """Read a face's regions and draw its mask, averaged with the track's past ones."""
        with self._clock("parse"):
            probabilities, picture = job.parsed.wait()
        with self._clock("mask"):
            masks = FaceMasks(probabilities, job.points, self.crop_px, picture)
            job.mask = job.memory.steady("region", masks.soft(self._regions, self._within))
            job.parsed.close()

    def edit(self, jobs: Sequence[LaneJob]) -> None:
        """Put at most `most` faces, masked, into their frames."""
        session = self._ready()
        with self._clock("networks"):
            for job in jobs:
                job.on_device.open(self._stream)
            session.lane.edit([self._row(session, job) for job in jobs], self._stream)
            for job in jobs:
                job.on_device.touched(self._stream)

    def answers(self, jobs: Sequence[LaneJob]) -> list[Planes]:
        """The planes of the jobs' one frame with all faces edited, for each job the same."""
        for job in jobs:
            self.mask(job)
        for start in range(0, len(jobs), self.most):
            self.edit(jobs[start : start + self.most])
        if not jobs:
            return []
        jobs[0].on_device.fetch()
        return [self.planes(jobs[0].on_device)] * len(jobs)

    def planes(self, on_device: FrameOnDevice) -> Planes:
        """A frame that is being fetched, once it has arrived."""
        with self._clock("download"):
            return on_device.planes()

    def finish(
        self, frame: Frame, planes: Planes, job: LaneJob, answered: Planes | None = None
    ) -> tuple[Planes, PixelBox | None]:
        """The edited planes and the face's box."""
        return answered or self.answers([job])[0], job.box

    def _row(self, session: _Session, job: LaneJob) -> LaneRow:
        assert job.mask is not None
        mine = session.tracks.of(job.track)
        assert mine.slot is not None
        if mine.told != job.track.w_count:
            told = [self.method.recipe.conditions(job.track, t) for t in self._spec.timesteps]
            side = self.crop_px // self._sizes.factor
            noise = self.method.denoiser.noise(job.track, np.empty((1, self._sizes.channels, side, side), np.float32))
            session.lane.tell(mine.slot, told, noise, self._stream)
            mine.told = job.track.w_count
        others, job.others = job.others, ()
        share = share_beside(job, others, self.crop_px) if self._spec.composition == "delta" else None
        mask = job.mask if share is None else job.mask * share
        row = LaneRow(job.on_device.slot, job.affine, job.box, mask, job.weight, mine.slot, mine.held)
        mine.held += 1
        return row

    def _ready(self) -> _Session:
        assert self._session is not None, "a face is edited after it was begun"
        return self._session

    def _session_for(self, frame: Frame) -> _Session:
        form = FrameForm.of(frame)
        if self._session is None or self._session.pool.form != form:
            self._session = self._made_for(form)
        return self._session

    def _made_for(self, form: FrameForm) -> _Session:
        pool = FramePool(self._streams, form, self.most + FRAMES_BESIDE_A_BATCH)
        pixels = Pixels(pool.source, pool.edited, form.matrix, form.color_range)
        networks = LaneNetworks(*(self._parts[name] for name in PARTS[:3]))
        first, second = (None, None) if self._new_graphs is None else (self._new_graphs(), self._new_graphs())
        parser = self._parts["parser"]
        parsing = Parsing(parser, pixels, self.crop_px, self._streams, WAITING_FACES, first)
        how: Any = {"compiles": self._compiles, "trial": self._trial}
        lane = FaceLane(networks, self._spec, pixels, self._sizes, self._streams, second, **how)
        lane.prepare(self._stream)
        return _Session(pool, parsing, lane, TrackSlots(self._sizes.tracks))
