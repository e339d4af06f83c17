"""How well the detector, landmark and parser networks do on real clips, against teachers the project did not train.

    python -m mien.bench.analysis --shared DIR [--bundle tiny | --networks DIR] [--frames 60] [--cache DIR] [CLIP ...]

Teachers are those of DIR/tools/judge.py: YuNet's boxes and the MediaPipe mesh. Frames are taken in runs of ten, spread over the clip.
    faces        YuNet's with score > 0.8 and at least 40 px wide, on those frames
    recall_320/640  share of them that a detection on a picture of that long side meets with IoU >= 0.5
    false_640    detections a frame that meet no YuNet box of score >= 0.6 with IoU 0.3; with_presence: those with believed landmarks
    error        mean distance of the 68 points from the mesh's, % of the inter-ocular distance; worst: of the 95th percentile frame
    jitter       RMS of the second difference of (our points minus the mesh's), / sqrt(6), % of the inter-ocular distance; own_jitter: the
                 same of our points themselves, mesh_jitter: of the mesh's
    face_iou     of the parser's face region with the mesh's oval in the aligned crop
    ae_db        PSNR of the aligned crop through the autoencoder and back; a dash with --networks
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

from mien.engine.bundle import Bundle
from mien.engine.config import EngineConfig
from mien.engine.face.align import crop_to_frame, ffhq_quad
from mien.engine.face.detect import Detector
from mien.engine.face.landmarks import Landmarker, bit_depth
from mien.engine.face.points import box_crop, inter_ocular, invert, iou, landmark_crop, transform
from mien.engine.types import Array, Frame
from mien.export.tiny.teachers import MESH_TO_68, OVAL
from mien.kernels.crop_yuv import crop_yuv
from mien.runtime.source import open_video

RUN = 10
MIN_FACE_PX, SURE, SEEN = 40.0, 0.8, 0.6
NO_FACE = "int_onebyone_noface"
NETWORKS = ("detector", "landmarks", "parser")
AUTOENCODER = ("vae_encoder", "vae_decoder")
FACE = 1


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
    false_640: int = 0
    believed: int = 0
    touched: int = 0
    errors: list[float] = field(default_factory=list)
    overlaps: list[float] = field(default_factory=list)
    runs: list[list[tuple[Array, Array]]] = field(default_factory=list)  # (ours, mesh's) over consecutive frames
    psnr_db: list[float] = field(default_factory=list)


def chosen(path: Path, count: int) -> Iterator[tuple[int, Frame]]:
    """(index, frame) in runs of RUN frames, about `count` of them spread over the clip."""
    with open_video(path) as video:
        total = video.info.frame_count_estimate or 100
        period = max(RUN, round(total * RUN / max(count, 1)))
        for i, frame in enumerate(video):
            if i % period < RUN:
                yield i, frame


def rgb_of(frame: Frame) -> Array:
    """(H, W, 3) uint8 through the same matrix and range that the crops use."""
    side = max(frame.width_px, frame.height_px)
    affine = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    picture = crop_yuv(
        frame.planes, affine, side, matrix=frame.matrix, color_range=frame.color_range, bit_depth=bit_depth(frame)
    )
    inside = picture[:, : frame.height_px, : frame.width_px].transpose(1, 2, 0)
    return np.ascontiguousarray(np.clip(inside * 127.5 + 128.0, 0, 255).astype(np.uint8))


class Teachers:
    """The judge's answers on a frame, kept in a folder between runs because they are slow."""

    def __init__(self, shared: Path, cache: Path | None) -> None:
        spec = importlib.util.spec_from_file_location("judge", shared / "tools" / "judge.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self._judge: Any = module.Judge()
        self._cache = cache

    def __call__(self, clip: str, index: int, frame: Frame) -> tuple[Array, Array]:
        """Boxes (n, 5) x, y, width, height, score, and the meshes (m, 478, 2) of those that count, in order."""
        kept = None if self._cache is None else self._cache / f"{clip}_{index}.npz"
        if kept is not None and kept.exists():
            stored = np.load(kept)
            return stored["boxes"], stored["meshes"]
        rgb = rgb_of(frame)
        boxes = np.asarray(self._judge.boxes(rgb))
        meshes = [self._judge.mesh(rgb, box)[0][:, :2] for box in boxes if counts(box)]
        answer = boxes, np.stack(meshes) if meshes else np.zeros((0, 478, 2))
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.savez(kept, boxes=answer[0], meshes=answer[1])
        return answer


def counts(box: Array) -> bool:
    """Whether a YuNet face must be found."""
    return bool(box[4] > SURE and box[2] >= MIN_FACE_PX)


def corners(box: Array) -> tuple[float, float, float, float]:
    """x, y, width, height -> x0, y0, x1, y1, pixel centres at integers."""
    x, y, w, h = (float(v) for v in box[:4])
    return x - 0.5, y - 0.5, x + w - 0.5, y + h - 0.5


def aligned_crop(frame: Frame, points: Array) -> Array:
    """The (3, 256, 256) crop that the networks edit, RGB in [-1, 1]."""
    affine = crop_to_frame(ffhq_quad(points), 256)
    return crop_yuv(
        frame.planes, affine, 256, matrix=frame.matrix, color_range=frame.color_range, bit_depth=bit_depth(frame)
    )


def mesh_oval_iou(parser: Any, points: Array, mesh: Array, crop: Array) -> float:
    """IoU of the parser's face with the mesh's oval, at 128 px, in the aligned crop that `points` give."""
    small = crop.reshape(3, 128, 2, 128, 2).mean((2, 4))[None].astype(np.float32)
    face = parser(image=small)["probabilities"][0].argmax(0) == FACE
    ring = (transform(invert(crop_to_frame(ffhq_quad(points), 256)), mesh[OVAL]) - 0.5) / 2
    oval = np.zeros((128, 128), np.uint8)
    cv2.fillPoly(oval, [np.round(ring * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
    return float((face & (oval > 0)).sum() / max((face | (oval > 0)).sum(), 1))


def measure(path: Path, count: int, networks: dict[str, Any], teachers: Teachers | None) -> Figures:
    """All figures of one clip; without teachers, every detection is false."""
    out, last = Figures(), -2
    detector, landmarker = Detector(networks["detector"]), Landmarker(networks["landmarks"])
    for index, frame in chosen(path, count):
        out.frames += 1
        boxes, meshes = teachers(path.stem, index, frame) if teachers else (np.zeros((0, 5)), np.zeros((0, 478, 2)))
        wide, narrow = detector(frame, 640), detector(frame, 320)
        faces = [corners(b) for b in boxes if counts(b)]
        out.met_320 += [any(iou(d.box, f) >= 0.5 for d in narrow) for f in faces]
        out.met_640 += [any(iou(d.box, f) >= 0.5 for d in wide) for f in faces]
        false = [d for d in wide if all(iou(d.box, corners(b)) < 0.3 for b in boxes if b[4] >= SEEN)]
        presences = [p for _, p in landmarker(frame, [box_crop(d.box, 128) for d in false])]
        out.false_640 += len(false)
        out.believed += sum(p > 0.5 for p in presences)
        out.touched += any(p > 0.5 for p in presences)
        pairs = []
        for face, mesh in zip(faces, meshes, strict=True):
            start = max((d.box for d in wide if iou(d.box, face) >= 0.3), key=lambda b: iou(b, face), default=face)
            (points, _), *_ = landmarker(frame, [box_crop(start, 128)])
            for _ in range(2):
                (points, _), *_ = landmarker(frame, [landmark_crop(points, 128)])
            wanted = mesh[MESH_TO_68]
            out.errors.append(float(np.hypot(*(points - wanted).T).mean()) / max(inter_ocular(wanted), 1.0))
            crop = aligned_crop(frame, points)
            out.overlaps.append(mesh_oval_iou(networks["parser"], points, mesh, crop))
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
    return out


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
    columns = "frames faces recall_320 recall_640 false_640 with_presence error worst jitter own_jitter mesh_jitter face_iou ae_db"
    print(f"{'clip':22}" + "".join(f" {c:>10}" for c in columns.split()))
    every: list[Figures] = []
    for path in paths:
        if args.clips and path.stem not in args.clips:
            continue
        empty = path.stem == NO_FACE
        figures = measure(path, args.frames * (4 if empty else 1), networks, None if empty else teachers)
        print(row(path.stem, figures), flush=True)
        if empty:
            print(f"  frames of it with a believed face: {100 * figures.touched / figures.frames:.2f} %")
        else:
            every.append(figures)
    total = Figures(
        sum(f.frames for f in every), false_640=sum(f.false_640 for f in every), believed=sum(f.believed for f in every)
    )
    for name in ("met_320", "met_640", "errors", "overlaps", "psnr_db", "runs"):
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
        f"{f.false_640 / max(f.frames, 1):.3f}",
    ]
    cells += [f"{f.believed / max(f.frames, 1):.3f}", percent(f.errors), worst, *shakes, percent(f.overlaps)]
    cells.append(f"{np.mean(f.psnr_db):.1f}" if f.psnr_db else "-")
    return f"{name:22}" + "".join(f" {c:>10}" for c in cells)


if __name__ == "__main__":
    main()
