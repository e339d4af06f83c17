"""The front door: a bundle, a config and an `EditSpec` become something that edits frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mien.engine import edits as methods
from mien.engine.backend import Network, Selection, select
from mien.engine.bundle import Bundle
from mien.engine.choose import largest
from mien.engine.clock import Clock, OnTime
from mien.engine.compose import FaceEdit, FaceEditing, FaceMemory, Placement
from mien.engine.config import EngineConfig
from mien.engine.errors import BundleError, EditError, UnavailableError
from mien.engine.face.align import ffhq_quad
from mien.engine.face.detect import Detector
from mien.engine.face.gate import turn_weight
from mien.engine.face.landmarks import Landmarker
from mien.engine.face.track import Tracker
from mien.engine.manifest import NetworkFormat
from mien.engine.passes import FacePasses, split
from mien.engine.rows import RowBatcher, RowCounts, RowGathering
from mien.engine.spec import EditSpec
from mien.engine.stream import Stream, edit_in_flight
from mien.engine.survey import EditedFrame, Survey, begin_faces, finish_faces
from mien.engine.types import FaceTrack, Frame
from mien.kernels import cpp

FOLLOWING = ("detector", "landmarks")
ANALYSIS = (*FOLLOWING, "parser")
DENOISERS = ("denoiser", "difference", "unet", "controlnet")
"""Networks whose rows are gathered."""

ON_HOST = "every crop went through the host's memory"
SLOW_KERNELS = (
    "this installation lacks the C++ paths: numpy crops and composites in their place, several times as slow"
    " (mien doctor says how to get them)"
)


class Editor:
    """Edits the faces of videos and pictures.

    bundle: a name, a folder or an opened bundle. edits: name -> strength; in the place of those of `spec`. spec:
    everything else the user wants. config: what it runs on. on_time: told how long each part of the work took, from
    whichever thread does it. networks: already loaded ones, by name, in the place of the bundle's files. gathering: where the
    denoiser's rows meet those of other editors that have the same networks; None for one of its own, as `config` says.
    Raises EditError for an edit the bundle does not have or a strength outside its range; BundleError,
    UnavailableError as loading does. With no edit of a strength other than 0 nothing is loaded and every frame comes
    back as the object it was. `survey`, `stream` and `edit_picture` may be used at the same time from different
    threads only on different editors.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle = "tiny",
        edits: Mapping[str, float] | None = None,
        spec: EditSpec | None = None,
        config: EngineConfig | None = None,
        *,
        on_time: OnTime | None = None,
        networks: Mapping[str, Network] | None = None,
        gathering: RowGathering | None = None,
    ) -> None:
        spec = spec or EditSpec()
        self.spec = spec if edits is None else replace(spec, edits=tuple(edits.items()))
        self.config = config or EngineConfig()
        self.bundle = (
            bundle if isinstance(bundle, Bundle) else Bundle.open(bundle, cache_folder=self.config.cache_folder)
        )
        check_edits(self.spec, self.bundle)
        self.selection: Selection | None = None
        self._clock = Clock(on_time)
        self._edit: FaceEditing | None = None
        self._notes: list[str] = []
        self.gathering = gathering
        if gathering is None and self.config.batch_size > 1:
            self.gathering = RowGathering(self.config.batch_sizes, self.config.batch_wait_s)
        method_class = methods.load(self.spec.method)
        if method_class.is_active(self.spec):
            self._load(method_class, networks)

    def _load(self, method_class: methods.MethodClass, networks: Mapping[str, Network] | None) -> None:
        manifest = self.bundle.manifest
        if cpp.native is None:
            self._notes.append(SLOW_KERNELS)
        in_order = method_class.in_order(self.spec, manifest)
        at_once = 1 if in_order else self.config.frames_at_once
        each = replace(self.config, frames_at_once=at_once).for_one_frame()
        wanted = ANALYSIS + method_class.networks(self.spec, manifest)
        size = self.spec.crop_px or manifest.crop_size_px
        if "vae_encoder" in wanted:
            check_crop(self.spec, self.bundle)
        if networks is None:
            chosen = {name: select(self.config, self._format(name)) for name in wanted}
            self.selection = chosen[wanted[-1]]
            whole = (*FOLLOWING, *DENOISERS) if self.gathering is not None else FOLLOWING  # those of one call at a time
            loaded = {  # denoisers last: torch's one pool of threads is as large as the last load says
                name: self.bundle.load(name, selection.backend, self.config if name in whole else each)
                for name, selection in sorted(chosen.items(), key=lambda item: item[0] in DENOISERS)
            }
        else:
            loaded = dict(networks)
            if missing := [name for name in wanted if name not in loaded]:
                raise BundleError(
                    f"the edits need the networks {', '.join(wanted)}; {', '.join(missing)} were not given"
                )
        plain = dict(loaded)
        if self.gathering is not None:
            loaded |= {name: RowBatcher(loaded[name], self.gathering) for name in wanted if name in DENOISERS}
        options: Any = {"threads": each.num_threads, "frames_at_once": at_once, "gathering": self.gathering}
        made = []
        for spec in split(self.spec, manifest, method_class):
            method, regions = method_class(spec, self.bundle, loaded), method_class.regions(spec, manifest)
            parser, clock = loaded["parser"], self._clock
            made.append(FaceEdit(spec, manifest.edits, method, regions, parser, size, clock, **options))
        self._edit = made[0] if len(made) == 1 else FacePasses(made)
        if self.config.device != "cpu" and len(made) > 1:
            self._stay_on_host("the edits want crops of several widths")
        elif self.config.device != "cpu":
            self._edit = self._on_device(method, regions, plain, size) or self._edit
        self._detector = Detector(loaded["detector"])
        self._landmarker = Landmarker(loaded["landmarks"], self.config.num_threads)

    def _on_device(
        self, method: methods.Method, regions: tuple[str, ...], networks: Mapping[str, Network], size: int
    ) -> FaceEditing | None:
        """What keeps pixels on the device, where the bundle and the spec allow it; else a note says why not."""
        from mien.engine.cuda.on_device import on_device

        found = on_device(self.config, self.spec, self.bundle.manifest, method, regions, networks, size, self._clock)
        if isinstance(found, str):
            self._stay_on_host(found)
            return None
        return found

    def _stay_on_host(self, why: str) -> None:
        """Note it. Raises UnavailableError for a precision that only a lane has."""
        if self.config.precision == "float8":
            raise UnavailableError(
                f"precision 'float8' is of edits that stay on the device, and {why}: use float16, or auto"
            )
        self._notes.append(f"{ON_HOST}: {why}")

    def _format(self, network: str) -> NetworkFormat:
        """Of a network's file; of one that the bundle has not, loading says so."""
        return self.bundle.networks[network].format if network in self.bundle.networks else "onnx"

    @property
    def notes(self) -> list[str]:
        """What a report should say of how it edits, in full once it has edited."""
        return [*self._notes, *getattr(self._edit, "notes", ())]

    @property
    def row_counts(self) -> RowCounts | None:
        """Of the batches so far; None where no rows are gathered."""
        on_device: RowCounts | None = getattr(self._edit, "counts", None)
        return on_device or (None if self.gathering is None else self.gathering.counts())

    @property
    def active(self) -> bool:
        """Whether any edit is left to do."""
        return self._edit is not None

    def tracker(self) -> Tracker | None:
        """A new tracker on this editor's networks; None where nothing is to be edited."""
        return Tracker(self._detector, self._landmarker, self._clock) if self._edit is not None else None

    def survey(self) -> Survey:
        """Begin the two-pass editing of a file: `add` every frame, `finish` for the plan, `plan.edit` every frame
        again.
        """
        return Survey(self.spec, self._edit, self.tracker(), self._clock)

    def stream(self) -> Stream:
        """Begin the one-pass editing of a stream."""
        return Stream(self.spec, self._edit, self.tracker(), self._clock)

    def run(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Edit frames as they come, in order, one for one; `config.frames_at_once` are under work at a time, where a frame does
        not need the one before it.
        """
        for edited in edit_in_flight(self.stream(), frames):
            yield edited.frame

    def edit_picture(self, frame: Frame) -> EditedFrame:
        """Edit a single picture; `largest` and N go by the faces' size in it."""
        tracker = self.tracker()
        if tracker is None:
            return EditedFrame(frame)
        faces = largest(tracker.update(frame), self.spec.faces)
        points = {f.track_id: f.landmarks_px.astype(float) for f in faces}
        placed = [Placement(k, ffhq_quad(p), p, turn_weight(p)) for k, p in points.items()]
        places = [place for place in placed if place.weight > 0.0]
        memories = {f.track_id: FaceMemory(FaceTrack(f.track_id)) for f in faces}
        return finish_faces(self._edit, begin_faces(self._edit, frame, places, memories))


def check_edits(spec: EditSpec, bundle: Bundle) -> None:
    """Raise EditError for an edit that the bundle does not have, or a strength outside its range, also where it is
    0.
    """
    for name, strength in spec.edits:
        low, high = bundle.edit(name).range
        if not low <= strength <= high:
            raise EditError(f"the strength of edit {name!r} is {strength:g}; accepted: {low:g} to {high:g}")


def check_crop(spec: EditSpec, bundle: Bundle) -> None:
    """Raise EditError for a size of the crop that the bundle's autoencoder does not take."""
    network = bundle.networks.get("vae_encoder")
    taken = None if network is None else network.inputs["image"].shape[-1]
    if taken is not None and spec.crop_px not in (None, taken):
        raise EditError(f"crop_px is {spec.crop_px}; the bundle {bundle.manifest.name!r} takes {taken}: leave it out")
