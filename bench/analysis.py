"""How well the detector, landmark and parser networks and the tracker do on real clips, against teachers the project did not train.

    python -m mien.bench.analysis --shared DIR [--bundle tiny | --networks DIR] [--frames 60] [--cache DIR] [CLIP ...]

Teachers are those of DIR/tools/judge.py: YuNet's boxes and the MediaPipe mesh. Frames are taken in runs of ten, spread over the clip; the
tracker is given every frame and compared on those. Tracks are those that an edit of the file sees: visible in the frame, and confirmed
before the clip ends.
    faces        YuNet's with score > 0.8, at least 40 px wide and turned by 60 degrees at most (by the mesh), on those frames
    recall_320/640  share of them that a detection on a picture of that long side meets with IoU >= 0.5
    tracked      share of them that a track meets with IoU >= 0.5
    false_tracks  tracks a frame that meet no YuNet box of score >= 0.6 with IoU 0.3
    false_640    detections a frame that meet no YuNet box of score >= 0.6 with IoU 0.3; with_presence: those with believed landmarks
    error        mean distance of the 68 points from the mesh's, % of the inter-ocular distance; worst: of the 95th percentile frame
    jitter       RMS of the second difference of (our points minus the mesh's), / sqrt(6), % of the inter-ocular distance; own_jitter: the
                 same of our points themselves, mesh_jitter: of the mesh's
    face_iou     of the parser's face region with the mesh's oval in the aligned crop
    hair_iou     of the parser's hair with the hair teacher's outside of that oval, where it is 1 % of the crop or more; the teacher sees
                 the whole head, twice as far as the crop, as what it was made for: on the crop alone it takes ears and walls for hair
    ae_db        PSNR of the aligned crop through the autoencoder and back; a dash with --networks
For the clip without faces also the share of all its frames in which there is a track.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import onnxruntime

from mien.bench.analysis_teacher import Teachers, corners, to_be_found
from mien.engine.bundle import Bundle
from mien.engine.config import EngineConfig
from mien.engine.face.align import crop_to_frame, ffhq_quad
from mien.engine.face.detect import Detector
from mien.engine.face.landmarks import Landmarker
from mien.engine.face.points import Box, box_crop, inter_ocular, invert, iou, landmark_crop, transform
from mien.engine.face.track import Tracker
from mien.engine.frame_crop import crop_frame
from mien.engine.types import Array, Face, Frame
from mien.export.tiny.teachers import MESH_TO_68, OVAL
from mien.runtime.source import open_video

RUN = 10
SEEN = 0.6
NO_FACE = "int_onebyone_noface"
NETWORKS = ("detector", "landmarks", "parser")
AUTOENCODER = ("vae_encoder", "vae_decoder")
FACE, HAIR = 1, 2


class Answer(NamedTuple):
    """The tracker's faces in a frame, and, if the frame is a chosen one, YuNet's boxes (n, 5) and those to be found."""

    tracks: list[Face]
    boxes: Array | None = None
    faces: Sequence[Box] = ()


class _File:
    """A network of an ONNX file, for weights that are in no bundle yet."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._names = [o.name for o in self._session.get_outputs()]

    def __call__(self, **arrays: Array) -> dict[str, Array]:
        return dict(zip(self._names, self._session.run(None, arrays), strict=True))


@dataclass(slots=True)
class Figures:
    """What one clip showed, one entry a face or a frame."""

    frames: int = 0
    met_320: list[bool] = field(default_factory=list)
    met_640: list[bool] = field(default_factory=list)
    tracked: list[bool] = field(default_factory=list)
    false_tracks: int = 0
    false_640: int = 0
    believed: int = 0
    touched: list[bool] = field(default_factory=list)  # an entry for every frame of the clip
    errors: list[float] = field(default_factory=list)
    overlaps: list[float] = field(default_factory=list)
    hair: list[float] = field(default_factory=list)
    runs: list[list[tuple[Array, Array]]] = field(default_factory=list)  # (ours, mesh's) over consecutive frames
    psnr_db: list[float] = field(default_factory=list)


def frames_of(path: Path, count: int) -> Iterator[tuple[int, Frame, bool]]:
    """(index, frame, whether it is chosen): about `count` are, in runs of RUN frames spread over the clip."""
    with open_video(path) as video:
        total = video.info.frame_count_estimate or 100
        period = max(RUN, round(total * RUN / max(count, 1)))
        for i, frame in enumerate(video):
            yield i, frame, i % period < RUN


def aligned_crop(frame: Frame, points: Array) -> Array:
    """The (3, 256, 256) crop that the networks edit, RGB in [-1, 1]."""
    return crop_frame(frame, crop_to_frame(ffhq_quad(points), 256), 256)


def region_ious(parser: Any, points: Array, mesh: Array, crop: Array, hair: Array) -> tuple[float, float | None]:
    """IoU at 128 px of the parser's face with the mesh's oval in the aligned crop that `points` give, and of its hair
    with a teacher's (256, 256) outside of the oval; None where there is hardly any.
    """
    small = crop.reshape(3, 128, 2, 128, 2).mean((2, 4))[None].astype(np.float32)
    found = parser(image=small)["probabilities"][0].argmax(0)
    ring = (transform(invert(crop_to_frame(ffhq_quad(points), 256)), mesh[OVAL]) - 0.5) / 2
    drawn = np.zeros((128, 128), np.uint8)
    cv2.fillPoly(drawn, [np.round(ring * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
    oval = drawn > 0
    hair = (hair.reshape(128, 2, 128, 2).mean((1, 3)) >= 0.5) & ~oval
    return mask_iou(found == FACE, oval), mask_iou(found == HAIR, hair) if hair.mean() >= 0.01 else None


def mask_iou(a: Array, b: Array) -> float:
    """IoU of two masks."""
    return float((a & b).sum() / max((a | b).sum(), 1))


def measure(path: Path, count: int, networks: dict[str, Any], teachers: Teachers | None) -> Figures:
    """All figures of one clip; without teachers, every detection is false."""
    out, last = Figures(), -2
    detector, landmarker = Detector(networks["detector"]), Landmarker(networks["landmarks"])
    tracker = Tracker(detector, landmarker)
    answers: list[Answer] = []
    for index, frame, taken in frames_of(path, count):
        followed = tracker.update(frame)
        if not taken:
            answers.append(Answer(followed))
            continue
        out.frames += 1
        boxes, meshes = teachers(path.stem, index, frame) if teachers else (np.zeros((0, 5)), np.zeros((0, 478, 2)))
        faces, meshes = to_be_found(boxes, meshes)
        answers.append(Answer(followed, boxes, faces))
        wide, narrow = detector(frame, 640), detector(frame, 320)
        out.met_320 += [any(iou(d.box, f) >= 0.5 for d in narrow) for f in faces]
        out.met_640 += [any(iou(d.box, f) >= 0.5 for d in wide) for f in faces]
        false = [d for d in wide if unseen(d.box, boxes)]
        presences = [p for _, p in landmarker(frame, [box_crop(d.box, 128) for d in false])]
        out.false_640 += len(false)
        out.believed += sum(p > 0.5 for p in presences)
        pairs = []
        for face, mesh in zip(faces, meshes, strict=True):
            start = max((d.box for d in wide if iou(d.box, face) >= 0.3), key=lambda b: iou(b, face), default=face)
            (points, _), *_ = landmarker(frame, [box_crop(start, 128)])
            for _ in range(2):
                (points, _), *_ = landmarker(frame, [landmark_crop(points, 128)])
            wanted = mesh[MESH_TO_68]
            out.errors.append(float(np.hypot(*(points - wanted).T).mean()) / max(inter_ocular(wanted), 1.0))
            crop = aligned_crop(frame, points)
            assert teachers is not None
            face_iou, hair_iou = region_ious(networks["parser"], points, mesh, crop, teachers.hair(frame, points))
            out.overlaps.append(face_iou)
            out.hair += [] if hair_iou is None else [hair_iou]
            if "vae_encoder" in networks:
                latents = networks["vae_encoder"](image=crop[None])["latents"]
                again = np.clip(networks["vae_decoder"](latents=latents)["image"][0], -1, 1)
                out.psnr_db.append(float(10 * np.log10(4 / np.mean((again - crop) ** 2))))
            pairs.append((points, wanted))
        if len(pairs) == 1:
            if index != last + 1 or not out.runs:
                out.runs.append([])
            out.runs[-1].append(pairs[0])
            last = index
    enter_tracks(out, answers, tracker)
    return out


def unseen(box: Box, boxes: Array) -> bool:
    """Whether YuNet's boxes (n, 5) show nothing there."""
    return all(iou(box, corners(b)) < 0.3 for b in boxes if b[4] >= SEEN)


def enter_tracks(out: Figures, answers: list[Answer], tracker: Tracker) -> None:
    """Add what the tracker's confirmed tracks show, to be called after the clip's last frame."""
    for answer in answers:
        tracks = [f.box_px for f in answer.tracks if tracker.confirmed(f.track_id)]
        out.touched.append(bool(tracks))
        if answer.boxes is not None:
            out.tracked += [any(iou(t, face) >= 0.5 for t in tracks) for face in answer.faces]
            out.false_tracks += sum(unseen(t, answer.boxes) for t in tracks)


def jitter(runs: list[list[tuple[Array, Array]]]) -> tuple[float, float, float]:
    """Jitter of ours against the mesh's, of ours, and of the mesh's, in inter-ocular distances; nan without three frames in a row."""
    sums: list[list[float]] = [[], [], []]
    for run in runs:
        ours, theirs = (np.stack([pair[k] for pair in run]) for k in (0, 1))
        if len(run) < 3:
            continue
        unit = float(np.mean([inter_ocular(p) for p in theirs]))
        for into, track in zip(sums, (ours - theirs, ours, theirs), strict=True):
            into.append(float(np.mean(np.diff(track, 2, axis=0) ** 2) / 6 / unit**2))
    mean = [float(np.sqrt(np.mean(s))) if s else float("nan") for s in sums]
    return mean[0], mean[1], mean[2]


def percent(values: list[Any]) -> str:
    """Mean of shares as a percentage, or a dash."""
    return f"{100 * float(np.mean(values)):7.2f}" if values else "      -"


def main() -> None:
    """Print one row a clip and the totals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", help="names of clips without ending; all where none is given")
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--bundle", default="tiny")
    parser.add_argument("--networks", type=Path, help="folder with <name>/<name>.onnx instead of a bundle")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--cache", type=Path, help="folder to keep the teachers' answers in")
    args = parser.parse_args()
    if args.networks is not None:
        networks: dict[str, Any] = {name: _File(args.networks / name / f"{name}.onnx") for name in NETWORKS}
    else:
        bundle = Bundle.open(args.bundle)
        networks = {
            name: bundle.load(name, "onnxruntime", EngineConfig(threads=1)) for name in (*NETWORKS, *AUTOENCODER)
        }
    teachers = Teachers(args.shared, args.cache)
    paths = sorted((args.shared / "data" / "videos").iterdir())
    columns = (
        "frames faces recall_320 recall_640 tracked false_tracks false_640 with_presence error worst jitter own_jitter"
    )
    columns += " mesh_jitter face_iou hair_iou ae_db"
    print(f"{'clip':22}" + "".join(f" {c:>13}" for c in columns.split()))
    every: list[Figures] = []
    for path in paths:
        if args.clips and path.stem not in args.clips:
            continue
        empty = path.stem == NO_FACE
        figures = measure(path, args.frames * (4 if empty else 1), networks, None if empty else teachers)
        print(row(path.stem, figures), flush=True)
        if empty:
            print(f"  of its {len(figures.touched)} frames with a track: {percent(figures.touched).strip()} %")
        else:
            every.append(figures)
    total = Figures(
        sum(f.frames for f in every),
        false_tracks=sum(f.false_tracks for f in every),
        false_640=sum(f.false_640 for f in every),
        believed=sum(f.believed for f in every),
    )
    for name in ("met_320", "met_640", "tracked", "errors", "overlaps", "hair", "psnr_db", "runs"):
        getattr(total, name).extend(v for f in every for v in getattr(f, name))
    print(row("all with faces", total))


def row(name: str, f: Figures) -> str:
    """One line of the table, percentages where a share is meant."""
    worst = f"{100 * float(np.percentile(f.errors, 95)):7.2f}" if f.errors else "      -"
    shakes = [f"{100 * v:.2f}" for v in jitter(f.runs)]
    cells = [
        str(f.frames),
        str(len(f.met_640)),
        percent(f.met_320),
        percent(f.met_640),
        percent(f.tracked),
        f"{f.false_tracks / max(f.frames, 1):.3f}",
        f"{f.false_640 / max(f.frames, 1):.3f}",
    ]
    cells += [
        f"{f.believed / max(f.frames, 1):.3f}",
        percent(f.errors),
        worst,
        *shakes,
        percent(f.overlaps),
        percent(f.hair),
    ]
    cells.append(f"{np.mean(f.psnr_db):.1f}" if f.psnr_db else "-")
    return f"{name:22}" + "".join(f" {c:>13}" for c in cells)


if __name__ == "__main__":
    main()
