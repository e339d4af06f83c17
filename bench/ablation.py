"""`python -m mien.bench.ablation CLIP...`: what keeps a video steady, one thing added at a time, on the same crops and masks.

The variants are those of ablation_variants.py, the figures those of ablation_clip.py and quality_measure.py; the table's last
is of all clips. Writes ablation.json, and ablation.png of the first clip.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mien.bench.ablation_clip import CELL_PX, Ablation
from mien.bench.ablation_variants import PLAIN, REPORTED
from mien.bench.quality_report import check_folder
from mien.bench.quality_table import digits, text_of
from mien.bench.quality_teacher import Teacher
from mien.bench.results import commit, machine
from mien.engine.bundle import Bundle
from mien.engine.config import EngineConfig
from mien.engine.editor import check_edits
from mien.engine.errors import InputError, MienError, RunError
from mien.engine.guidance import GUIDED_DOWN_TO
from mien.engine.spec import EditSpec, parse_edit
from mien.engine.types import Array
from mien.runtime.source import open_video

COLUMNS, LABEL_PX, GAIN = 6, 250, 8
DRIFT = ("mouth", "eyes", "brows", "nose", "oval")


def contact_sheet(rows: Sequence[tuple[str, list[Array]]]) -> Array:
    """RGB: a row of pictures over the clip for each title, and at its end GAIN times what its middle frame differs by from
    the one before.
    """
    lines = []
    for title, pictures in rows:
        label: Array = np.full((CELL_PX, LABEL_PX, 3), 255, np.uint8)
        cv2.putText(label, title, (4, CELL_PX // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
        middle = len(pictures) // 2
        apart = np.abs(pictures[middle].astype(np.int16) - pictures[max(middle - 1, 0)])
        shown = [pictures[round(i)] for i in np.linspace(0, len(pictures) - 1, COLUMNS)]
        lines.append(np.hstack([label, *shown, np.clip(GAIN * apart, 0, 255).astype(np.uint8)]))
    return np.vstack(lines)


def table(clips: Sequence[Mapping[str, Mapping[str, Any]]]) -> list[list[str]]:
    """By variant: means over the clips, of times the median, which a busy minute does not move; headings first."""
    drift = [k for k in DRIFT if all(row["drift"] for rows in clips for row in rows.values())]
    plain = {k: k.replace("_", " ") for k in ("flicker", "warp_ratio", "own_drift", "response", "jaw_r")}
    plain |= {"psnr_db": "PSNR", "of_input_db": "of input", "detail": "detail", "denoising_ms": "denoise ms"}
    plain |= {"times_plain": "times 2", "whole_ms": "whole ms"}
    out = [["variant", *plain.values(), *(f"drift {k}" for k in drift), "KB a track"]]
    for title in clips[0]:
        rows = [clip[title] for clip in clips]
        cells = [digits(_middle([row[k] for row in rows], k.endswith("_ms"))) for k in plain]
        cells += [digits(_middle([row["drift"][k] for row in rows])) for k in drift]
        out.append([title, *cells, f"{max(row['track_bytes'] for row in rows) / 1024:.0f}"])
    return out


def _middle(values: Sequence[float | None], median: bool = False) -> float | None:
    known = [v for v in values if v is not None]
    return float((np.median if median else np.mean)(known)) if known else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, run, print the table, write ablation.json and ablation.png."""
    parser = argparse.ArgumentParser(prog="python -m mien.bench.ablation", description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, nargs="+", metavar="CLIP")
    parser.add_argument("--judge", type=Path, metavar="JUDGE.py", help="without it drift by region is not measured")
    parser.add_argument("--edit", type=parse_edit, default=("smile", 1.0), metavar="NAME=STRENGTH")
    parser.add_argument("--frames", type=int, default=40, help="of each clip, from its start")
    parser.add_argument("--steps", type=int, default=2, help="denoising steps")
    parser.add_argument("--strength", type=float, default=0.5, help="share of the noise schedule, of every variant")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="per network; 0 for all cores")
    parser.add_argument("--bundle", default="tiny")
    parser.add_argument("--out", type=Path, default=Path("out/ablation"), metavar="FOLDER")
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except MienError as error:
        print(f"mien: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def _run(options: argparse.Namespace) -> None:
    if options.frames < 2:
        raise InputError(f"--frames is {options.frames}: use a whole number from 2")
    check_folder(options.out)
    wanted: Any = {"strength": options.strength, "num_steps": options.steps, "seed": options.seed}
    spec, bundle = EditSpec(edits=(options.edit,), **wanted), Bundle.open(options.bundle)
    check_edits(spec, bundle)
    config = EngineConfig(threads=options.threads)
    ablation = Ablation(bundle, spec, config, Teacher(options.judge) if options.judge else None)
    about: dict[str, Any] = {
        "bundle": f"{bundle.name} {bundle.manifest.version}",
        "machine": machine(),
        "commit": commit(),
    }
    about |= {"threads": config.num_threads, "frames": options.frames, "spec": spec.to_dict()}
    about |= {"timesteps": ablation.timesteps, "judge": str(options.judge or "none")}
    print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)
    clips: dict[str, dict[str, dict[str, Any]]] = {}
    sheet: Array | None = None
    for path in options.clips:
        with open_video(path) as video:
            frames = list(islice(video, options.frames))
        try:
            lanes, sources = ablation.clip(frames)
        except RunError as error:
            raise RunError(f"{path}: {error}") from None
        plain = next(lane.method for lane in lanes if lane.variant is PLAIN)
        clips[path.name] = {lane.variant.title: lane.figures(plain) for lane in lanes}
        if sheet is None:
            sheet = contact_sheet([("source", sources), *((lane.variant.title, lane.pictures) for lane in lanes)])
        print("\n".join(["", path.name, *text_of(table([clips[path.name]]))]), flush=True)
    rows = table(list(clips.values()))
    print("\n".join(["", f"mean of {len(clips)} clips", *text_of(rows), "", "Reported elsewhere:", *REPORTED]))
    if not any(t >= GUIDED_DOWN_TO * bundle.manifest.schedule.num_timesteps for t in ablation.timesteps):
        print("no level is in the upper half of the schedule: variant 6 never guides; give a higher --strength")
    options.out.mkdir(parents=True, exist_ok=True)
    written = {"about": about, "clips": clips, "mean": rows, "reported": REPORTED}
    (options.out / "ablation.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    assert sheet is not None
    cv2.imwrite(str(options.out / "ablation.png"), np.ascontiguousarray(sheet[..., ::-1]))
    print(f"wrote {options.out / 'ablation.json'} and ablation.png")


if __name__ == "__main__":
    main()
