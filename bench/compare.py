"""`mien bench quality SOURCE RESULT`: an edited clip against its source, frame by frame at equal indices.

Both files are streamed; of past frames only the last is kept, and a few numbers of each. What is measured: metrics.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from mien.bench.frame_rgb import Window
from mien.bench.metrics import METRICS, Figure, table_of
from mien.bench.metrics_clip import ClipEmbedder
from mien.bench.metrics_embedder import FaceEmbedder, IdentityEmbedder, OwnEmbedder
from mien.bench.metrics_measurer import FollowFace, JudgeMeasurer, Measurer, OwnMeasurer
from mien.bench.metrics_of_face import FaceFigures
from mien.bench.metrics_of_frames import ClipFigures, MotionFigures, OutsideFigures
from mien.bench.metrics_picture import FramePair
from mien.bench.quality_report import check_folder
from mien.bench.quality_table import text_of
from mien.bench.quality_teacher import Teacher
from mien.bench.results import commit, machine
from mien.engine.backend import select
from mien.engine.bundle import Bundle
from mien.engine.config import EngineConfig
from mien.engine.errors import InputError, MediaError, RunError
from mien.engine.types import Frame
from mien.runtime.part_file import PartFile, check_output
from mien.runtime.source import VideoReader, open_video

OWN = "tiny"
NETWORKS = ("detector", "landmarks", "parser", "w_encoder")
TELL_EVERY = 100


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to compare and by what. frames: from the start, None for all; report: of `mien edit`, whose boxes then count.

    judge: its file; identity: a bundle with that network; clip: a CLIPModel's folder; prompt: for CLIP-Text.
    """

    source: Path
    result: Path
    frames: int | None = None
    judge: Path | None = None
    report: Path | None = None
    identity: str | None = None
    clip: Path | None = None
    prompt: str | None = None

    def __post_init__(self) -> None:
        """Raise InputError for what cannot be compared, before any work."""
        if self.frames is not None and self.frames < 1:
            raise InputError(f"--frames is {self.frames}: use a whole number from 1")
        if self.prompt is not None and self.clip is None:
            raise InputError("--prompt needs a CLIP to read it: give --clip FOLDER")
        for path in (self.source, self.result):
            if path.is_dir():
                raise MediaError(
                    f"{path} is a folder: give two videos, or --bundle NAME to run a bundle over its clips"
                )


class Comparison:
    """Takes pairs of frames in order; `figures` at the end."""

    def __init__(self, wanted: Wanted, config: EngineConfig) -> None:
        bundle = Bundle.open(OWN)
        own = {name: bundle.load(name, select(config).backend, config) for name in NETWORKS}
        self._boxes = None if wanted.report is None else read_boxes(wanted.report)
        measure: Measurer
        if wanted.judge is None:
            name, size = f"{bundle.name} {bundle.manifest.version}", bundle.manifest.crop_size_px
            measure = OwnMeasurer(name, size, own["landmarks"], own["parser"])
        else:
            measure = JudgeMeasurer(wanted.judge.name, Teacher(wanted.judge))
        embed: FaceEmbedder = OwnEmbedder(bundle, own["w_encoder"])
        if wanted.identity is not None:
            embed = IdentityEmbedder(Bundle.open(wanted.identity, cache_folder=config.cache_folder), config)
        follow = FollowFace(own["detector"], own["landmarks"])
        clip = None if wanted.clip is None else ClipEmbedder(wanted.clip, config.num_threads)
        self._face = FaceFigures(follow, measure, embed, is_identity=wanted.identity is not None)
        self._frames = ClipFigures(clip, wanted.prompt), MotionFigures(), OutsideFigures(self._boxes)
        self.frames = 0

    def add(self, source: Frame, result: Frame) -> None:
        """One frame and its result."""
        pair = FramePair.of(source, result)
        self._face.add(pair, (self._boxes or {}).get(self.frames, ()))
        for part in self._frames:
            part.add(pair)
        self.frames += 1

    def figures(self) -> tuple[dict[str, Figure], dict[str, int]]:
        """By the keys of METRICS; and frames, frames_with_face, frames_face_lost of the face that was seen longest."""
        figures, counts = self._face.figures()
        for part in self._frames:
            figures |= part.figures()
        figures = {key: figures[key] for key in METRICS if key in figures}
        return figures, {"frames": self.frames, **counts}


def report_pair(wanted: Wanted, config: EngineConfig, out: Path, tell: Callable[[str], None]) -> None:
    """Compare, tell the table, write compare.json into a folder."""
    check_folder(out)
    figures, about = compare_clips(wanted, config, tell)
    about |= {"machine": machine(), "commit": commit()}
    tell(", ".join(f"{key.replace('_', ' ')} {value}" for key, value in about.items()))
    tell("\n".join(["", *text_of(table_of(figures)), ""]))
    tell(f"wrote {write_json(out, about, figures)}")


def compare_clips(
    wanted: Wanted, config: EngineConfig, tell: Callable[[str], None]
) -> tuple[dict[str, Figure], dict[str, Any]]:
    """The figures of a pair, and what was compared. Raises MediaError where sizes or frame counts differ."""
    with open_video(wanted.source) as source, open_video(wanted.result) as result:
        sizes = [(video.info.width, video.info.height) for video in (source, result)]
        if sizes[0] != sizes[1]:
            a, b = (f"{width}x{height}" for width, height in sizes)
            raise MediaError(f"{wanted.source} is {a}, {wanted.result} {b}: give a result of the source's size")
        comparison = Comparison(wanted, config)
        count = _count(wanted, source, result)
        for before, after in islice(zip(source, result, strict=False), count):
            comparison.add(before, after)
            if comparison.frames % TELL_EVERY == 0:
                tell(f"{comparison.frames} of {count} frames")
    figures, counts = comparison.figures()
    width, height = sizes[0]
    return figures, {
        "source": str(wanted.source),
        "result": str(wanted.result),
        "width": width,
        "height": height,
        **counts,
    }


def _count(wanted: Wanted, source: VideoReader, result: VideoReader) -> int:
    """Frames to compare; decoding alone is a small part of the work, so that a difference shows before it."""
    counts = [sum(1 for _ in islice(video, wanted.frames)) for video in (source, result)]
    if counts[0] != counts[1]:
        least = f"give --frames {min(counts)} to compare the first ones, or cut them alike"
        a, b = counts
        raise MediaError(f"{wanted.source} has {a} frames, {wanted.result} {b}: they are compared one to one: {least}")
    return counts[0]


def read_boxes(path: Path) -> dict[int, list[Window]]:
    """The paste boxes of a report of `mien edit`, by frame. Raises MediaError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = [[int(value) for value in row] for row in content["paste_boxes"]]
    except OSError as error:
        raise MediaError(f"--report is {path}: cannot read it: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise MediaError(f"--report is {path}, which has no paste_boxes: give what mien edit --report wrote") from None
    boxes: dict[int, list[Window]] = {}
    for row in rows:
        if len(row) != 5:
            raise MediaError(f"--report is {path}: a paste box is {row}: frame, x0, y0, x1, y1 are accepted")
        boxes.setdefault(row[0], []).append((row[1], row[2], row[3], row[4]))
    return boxes


def write_json(folder: Path, about: Mapping[str, Any], figures: Mapping[str, Figure]) -> Path:
    """Write FOLDER/compare.json, whole or not at all. Raises MediaError, RunError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make {folder}: {error.strerror}: write elsewhere") from None
    part = PartFile(check_output(folder / "compare.json", None, overwrite=True), overwrite=True)
    whole = {**about, "metrics": {key: figure.as_dict() for key, figure in figures.items()}}
    try:
        part.write(json.dumps(whole, indent=1, allow_nan=False).encode() + b"\n")
        part.commit()
    except BaseException:
        part.abort()
        raise
    return part.path
