"""What one `mien edit` asks for: its options checked and resolved before a network is loaded or a frame decoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mien.engine import edits as methods
from mien.engine.backend import Selection
from mien.engine.bundle import Bundle
from mien.engine.config import EngineConfig
from mien.engine.errors import EditError, MediaError
from mien.engine.spec import MAX_STEPS, EditSpec, Faces
from mien.runtime.edit_video import VideoJob
from mien.runtime.encoders import CHOICES, ENCODERS, MAX_CRF, PRESETS, Choice, Codec
from mien.runtime.part_file import check_output
from mien.runtime.picture import PICTURE_ENDINGS
from mien.runtime.sink import FORMATS

Kind = Literal["video", "picture"]


@dataclass(frozen=True, slots=True)
class EditRequest:
    """A checked request. job: the files, also where they are pictures. report: where the report goes."""

    kind: Kind
    spec: EditSpec
    config: EngineConfig
    bundle: Bundle
    backend: Selection
    job: VideoJob
    report: Path | None

    def describe(self) -> dict[str, Any]:
        """The request as plain values, for --dry-run."""
        about, job = self.bundle.manifest, self.job
        return {
            "input": job.source,
            "output": str(job.target),
            "kind": self.kind,
            "edits": dict(self.spec.active),
            "method": self.spec.method,
            "bundle": f"{about.name} {about.version} ({self.bundle.folder})",
            "steps": self.spec.num_steps or about.default_num_steps,
            "faces": self.spec.faces,
            "region": self.spec.region or "as the edits say",
            "backend": f"{self.backend.backend.name} ({self.backend.reason})",
            "device": self.config.device,
            "precision": self.config.precision,
            "execution": self.config.execution,
            "threads": self.config.num_threads,
            "batch": self._batch(),
            "encoder": self._encoder() if self.kind == "video" else "picture",
            "from_s": job.start_s,
            "to_s": job.stop_s,
            "compare": str(job.compare) if job.compare else None,
            "report": str(self.report) if self.report else None,
        }

    def settings(self) -> dict[str, Any]:
        """What the user asked for, for the report."""
        job = self.job
        return self.spec.to_dict() | {
            "codec": job.codec,
            "crf": job.crf,
            "preset": job.preset,
            "encoder": job.encoder,
            "from_s": job.start_s,
            "to_s": job.stop_s,
            "precision": self.config.precision,
            "execution": self.config.execution,
            "threads": self.config.num_threads,
            "batch_size": self.config.batch_size,
        }

    def _encoder(self) -> str:
        job = self.job
        by = "" if not job.encoding.wants_nvenc else " by NVENC" + ("" if job.encoder == "nvenc" else " where it opens")
        return f"{job.codec}{by}, crf {job.crf}, {job.preset}"

    def _batch(self) -> str:
        if self.config.batch_size == 1:
            return "each call by itself"
        in_order = methods.load(self.spec.method).in_order(self.spec, self.bundle.manifest)
        whose = "faces of a frame, each frame needs the one before" if in_order else "faces and frames"
        return f"up to {self.config.batch_size} rows of {whose}"


def parse_faces(text: str) -> Faces:
    """`largest`, `all` or a whole number. Raises EditError."""
    if text in ("largest", "all"):
        return "largest" if text == "largest" else "all"
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise EditError(f"--faces is {text!r}: use largest, all, or a whole number from 1")


def check_steps(steps: int | None) -> int | None:
    """The number of steps, in 1..50 or None. Raises EditError."""
    if steps is not None and not 1 <= steps <= MAX_STEPS:
        raise EditError(f"--steps is {steps}: use a whole number from 1 to {MAX_STEPS}")
    return steps


def check_encoder(codec: str, crf: int, preset: str) -> Codec:
    """The codec by its name. Raises MediaError for a value outside its range."""
    if not 0 <= crf <= MAX_CRF:
        raise MediaError(f"--crf is {crf}: use a whole number from 0 (best) to {MAX_CRF}")
    if preset not in PRESETS:
        raise MediaError(f"unknown preset {preset!r}: use one of {', '.join(PRESETS)}")
    for known in ENCODERS:
        if codec == known:
            return known
    raise MediaError(f"unknown codec {codec!r}: use one of {', '.join(ENCODERS)}")


def check_choice(encoder: str) -> Choice:
    """Who encodes, by its name. Raises MediaError."""
    for known in CHOICES:
        if encoder == known:
            return known
    raise MediaError(f"unknown encoder {encoder!r}: use one of {', '.join(CHOICES)}")


def check_part(start_s: float | None, stop_s: float | None) -> None:
    """Raise MediaError for a part of the clip that is none."""
    for name, value in (("--from", start_s), ("--to", stop_s)):
        if value is not None and not 0.0 <= value < float("inf"):
            raise MediaError(f"{name} is {value:g}: use a number of seconds of 0 or more")
    if stop_s is not None and stop_s <= (start_s or 0.0):
        raise MediaError(f"--from {start_s or 0:g} to --to {stop_s:g} is empty: --to must be later")


def check_target(job: VideoJob) -> Kind:
    """Whether OUT can be written, and what it will be. Raises MediaError; writes nothing."""
    target = job.target
    ending = target.suffix.lower()
    if ending not in FORMATS and ending not in PICTURE_ENDINGS:
        accepted = ", ".join([*FORMATS, *PICTURE_ENDINGS])
        raise MediaError(f"OUT {target} has the ending {ending or 'none'!r}: use one of {accepted}")
    if job.codec == "ffv1" and FORMATS.get(ending) == "mov":
        raise MediaError("ffv1 does not go into .mov: give OUT with .mkv or .mp4, or --codec h264")
    check_output(target, job.source, overwrite=job.overwrite)
    return "picture" if ending in PICTURE_ENDINGS else "video"


def compare_target(target: Path, kind: Kind) -> Path:
    """Where the side-by-side goes: OUT.compare.mp4, or OUT.compare and OUT's ending for a picture."""
    return target.with_name(f"{target.name}.compare{'.mp4' if kind == 'video' else target.suffix}")
