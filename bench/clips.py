"""Edit every clip of a folder and let an independent judge compare each result with its source.

    python -m mien.bench.clips CLIPS --judge judge.py --edit smile=1 [--steps 2] [--out DIR] [--frames 90] [--only NAME ...]

The judge is a script outside the project, called as `judge.py SOURCE RESULT --frames N --json FILE --report REPORT`. Results are lossless
(ffv1 in mkv). Prints a row a clip and a summary line; writes `summary.json` into the output folder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mien.engine.errors import MediaError

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


def row_of(figures: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """The figures that the table shows."""
    exact = all(figures[k] for k in ("pts_equal", "durations_equal", "audio_equal", "audio_in_sync"))
    row: dict[str, Any] = {
        "exact": exact and figures["frames_in"] == figures["frames_out"] and figures["changed_outside_px"] == 0,
        "edited": report["frames_edited"] / max(report["frames_in"], 1),
        "identical": figures["planes_identical"],
        "fps": report["fps"],
    }
    if figures.get("frames_with_face"):
        before, after = (_smile(figures[f"blend_{side}"]) for side in ("source", "result"))
        row |= {"smile_source": before, "smile_change": after - before, "flicker": figures["flicker"]}
        row |= {f"drift_{k}": v for k, v in figures["drift"].items()}
        row["psnr_face_db"] = figures["psnr_face_db"]
    return row


def _smile(blend: dict[str, float]) -> float:
    return (blend["mouthSmileLeft"] + blend["mouthSmileRight"]) / 2


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--judge", type=Path, required=True)
    parser.add_argument("--edit", action="append", required=True)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--bundle", default="tiny")
    parser.add_argument("--out", type=Path, default=Path("out/clips"))
    parser.add_argument("--frames", type=int, default=90)
    parser.add_argument("--only", nargs="*", default=[])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, dict[str, Any]] = {}
    for clip in clips_in([args.clips]):
        if args.only and clip.stem not in args.only:
            continue
        result, report = args.out / f"{clip.stem}.mkv", args.out / f"{clip.stem}.report.json"
        edit_clip(clip, result, report, args.edit, args.steps, args.bundle)
        rows[clip.stem] = row = row_of(
            judge_clip(args.judge, clip, result, report, args.frames), json.loads(report.read_text())
        )
        shown = " ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
        print(f"{clip.stem:20} {shown}", flush=True)
    judged = [row for row in rows.values() if "smile_change" in row]
    summary = {
        "clips": len(rows),
        "exact": sum(row["exact"] for row in rows.values()),
        "smile_up_0.15": sum(row["smile_change"] >= 0.15 for row in judged),
        "judged": len(judged),
        "flicker_max": max((row["flicker"] for row in judged), default=None),
    }
    for region in ("eyes", "brows", "nose", "oval"):
        summary[f"drift_{region}_max"] = max((row[f"drift_{region}"] for row in judged), default=None)
    (args.out / "summary.json").write_text(json.dumps({"edits": args.edit, "summary": summary, "rows": rows}, indent=1))
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
