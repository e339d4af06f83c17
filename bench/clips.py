"""Edit every clip of a folder and let an independent judge compare each result with its source.

    python -m mien.bench.clips CLIPS --judge judge.py --edit smile=1 [--steps 2] [--out DIR] [--frames 90] [--only NAME ...]

The judge is a script outside the project, called as `judge.py SOURCE RESULT --frames N --json FILE --report REPORT`. Results are lossless
(ffv1 in mkv). What lies outside of the paste boxes is compared here, sample by sample over all frames: the judge forgives what is near a
face. Prints a row a clip and a summary line; writes `summary.json` into the output folder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from mien.bench.frame_rgb import Window
from mien.bench.quality_measure import changed_outside
from mien.engine.errors import InputError, MediaError, MienError
from mien.runtime.source import open_video

SUFFIXES = {".mp4", ".mkv", ".mov", ".webm"}


def clips_in(paths: Iterable[Path]) -> list[Path]:
    """The clips given, and those of folders given, by name. Raises MediaError for what is neither, or where none is left."""
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise MediaError(f"no such clip or folder: {path}")
        found += sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
    if not found:
        raise MediaError(f"no clips to measure: give videos, or folders with {', '.join(sorted(SUFFIXES))}")
    return sorted(set(found), key=lambda p: (p.name, str(p)))


def named(clips: Sequence[Path], names: Collection[str]) -> list[Path]:
    """The clips of these stems, all where none is given. Raises InputError for names of no clip."""
    if unknown := sorted(set(names) - {clip.stem for clip in clips}):
        known = ", ".join(clip.stem for clip in clips)
        raise InputError(f"--only names no clip: {', '.join(unknown)}; the clips are {known}")
    return [clip for clip in clips if not names or clip.stem in names]


def edit_clip(clip: Path, result: Path, report: Path, edits: list[str], steps: int, bundle: str) -> None:
    """Run `mien edit` losslessly. Raises CalledProcessError where it fails."""
    command = [
        sys.executable,
        "-m",
        "mien.runtime",
        "edit",
        str(clip),
        str(result),
        "--codec",
        "ffv1",
        "--overwrite",
    ]
    command += ["--steps", str(steps), "--bundle", bundle, "--report", str(report)]
    for edit in edits:
        command += ["--edit", edit]
    subprocess.run(command, check=True)


def judge_clip(judge: Path, clip: Path, result: Path, report: Path, frames: int) -> dict[str, Any]:
    """The judge's figures on a pair."""
    answer = result.with_suffix(".json")
    command = [sys.executable, str(judge), str(clip), str(result), "--report", str(report), "--json", str(answer)]
    subprocess.run([*command, "--frames", str(frames)], check=True, stdout=subprocess.DEVNULL)
    figures: dict[str, Any] = json.loads(answer.read_text())
    return figures


def outside_boxes(clip: Path, result: Path, report: Mapping[str, Any]) -> int:
    """Samples that differ outside of the report's paste boxes, of all planes and frames."""
    boxes = dict[int, tuple[Window, ...]]()
    for index, x0, y0, x1, y1 in report["paste_boxes"]:
        boxes[index] = (*boxes.get(index, ()), (x0, y0, x1, y1))
    with open_video(clip) as source, open_video(result) as edited:
        pairs = enumerate(zip(source, edited, strict=False))  # the judge counts the frames
        return sum(changed_outside(before, after, boxes.get(index, ())) for index, (before, after) in pairs)


def row_of(figures: Mapping[str, Any], report: Mapping[str, Any], outside: int) -> dict[str, Any]:
    """The figures that the table shows. outside: see `outside_boxes`."""
    unchanged = outside == figures["changed_outside_px"] == 0
    exact = all(figures[k] for k in ("pts_equal", "durations_equal", "audio_equal", "audio_in_sync"))
    row: dict[str, Any] = {
        "exact": exact and figures["frames_in"] == figures["frames_out"] and unchanged,
        "changed_outside": outside,
        "edited": report["frames_edited"] / max(report["frames_in"], 1),
        "identical": figures["planes_identical"],
        "fps": report["fps"],
        "frames_with_face": figures.get("frames_with_face", 0),
    }
    if row["frames_with_face"]:
        row["face_lost_frames"] = figures["face_lost_frames"]
        before, after = (_smile(figures[f"blend_{side}"]) for side in ("source", "result"))
        row |= {"smile_source": before, "smile_change": after - before, "flicker": figures["flicker"]}
        row |= {f"drift_{k}": v for k, v in figures["drift"].items()}
        row["psnr_face_db"] = figures["psnr_face_db"]
    return row


def _smile(blend: dict[str, float]) -> float:
    return (blend["mouthSmileLeft"] + blend["mouthSmileRight"]) / 2


def summary_of(rows: Collection[Mapping[str, Any]]) -> dict[str, Any]:
    """Over all clips. smile_change: mean, least and most of the clips in which the judge sees a face."""
    judged = [row for row in rows if "smile_change" in row]
    changes = [row["smile_change"] for row in judged]
    summary = {
        "clips": len(rows),
        "exact": sum(row["exact"] for row in rows),
        "judged": len(judged),
        "smile_up_0.15": sum(change >= 0.15 for change in changes),
        "smile_change": [round(f(changes), 3) for f in (fmean, min, max)] if changes else None,
        "face_lost_frames": sum(row["face_lost_frames"] for row in judged),
        "frames_with_face": sum(row["frames_with_face"] for row in judged),
        "flicker_max": max((row["flicker"] for row in judged), default=None),
    }
    for region in ("eyes", "brows", "nose", "oval"):
        summary[f"drift_{region}_max"] = max((row[f"drift_{region}"] for row in judged), default=None)
    return summary


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, run, print; exit with 2 for wrong input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--judge", type=Path, required=True)
    parser.add_argument("--edit", action="append", required=True)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--bundle", default="tiny")
    parser.add_argument("--out", type=Path, default=Path("out/clips"))
    parser.add_argument("--frames", type=int, default=90)
    parser.add_argument("--only", nargs="*", default=[])
    args = parser.parse_args(arguments)
    try:
        clips = named(clips_in([args.clips]), args.only)
    except MienError as error:
        print(f"mien: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    args.out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, dict[str, Any]] = {}
    for clip in clips:
        result, report = args.out / f"{clip.stem}.mkv", args.out / f"{clip.stem}.report.json"
        edit_clip(clip, result, report, args.edit, args.steps, args.bundle)
        figures, told = judge_clip(args.judge, clip, result, report, args.frames), json.loads(report.read_text())
        rows[clip.stem] = row = row_of(figures, told, outside_boxes(clip, result, told))
        shown = " ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
        print(f"{clip.stem:20} {shown}", flush=True)
    summary = summary_of(rows.values())
    (args.out / "summary.json").write_text(json.dumps({"edits": args.edit, "summary": summary, "rows": rows}, indent=1))
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
