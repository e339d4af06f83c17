"""The exact-truth test: edit a rendered talking head and compare it with the same head rendered with the change.

    python -m mien.bench.truth --assets DIR [--bundle tiny] [--edit smile ...] [--heads 3] [--frames 12] [--judge JUDGE] [--out DIR]

A head (`truth_heads.py`) is drawn as it is and once more with what the edit should do to it; the first goes through the engine, in
memory, as yuv420p. The truth's size is ours to choose (a clear, ordinary smile), so next to the figures at the edit's full strength
stands the best of 0.5, 0.75 and 1 of it. What no expression or shape of the model tells (hair, glasses, make-up, age) is not measured.
Every row is an edit at one end of its range; `source` is what doing nothing scores, `warp` the edit without its direction:
    face dB      PSNR against the truth over skin, eyes and mouth of both drawings, exact masks; mean of the heads
    best         the share of the full strength where that is highest, and its PSNR
    out dB       PSNR against the truth outside of the face: must stay at the source's
    bg           mean change of background pixels, grey levels
    error        distance of the landmark network's points on the result from its points on the truth, over the points that truly move
                 (exact, by the model), % of the inter-ocular distance
    share        of the true motion that the network sees done: its displacement source to result, projected on the exact one
    seen         the same of the truth itself: what a perfect edit would get
    cos          of the two displacements: 1 is the right direction
Frames in which no face is edited are counted as missed and left out. With --judge a second table says what a judge sees of the
truth and of the edit (`truth_judge.py`). Writes truth.json and EDIT_up.png, EDIT_down.png.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mien.bench import truth_judge
from mien.bench.frame_rgb import rgb_of
from mien.bench.truth_heads import CONTENT, TRUTHS, Change, Heads, Take
from mien.bench.truth_measure import SheetRow, Shot, sheet_row, write_sheet
from mien.engine.backend import Network, select
from mien.engine.bundle import Bundle
from mien.engine.config import EngineConfig
from mien.engine.editor import Editor
from mien.engine.face.landmarks import Landmarker
from mien.engine.types import Frame

SHARES = (0.5, 0.75, 1.0)
PER_SHEET = 6


class Renderer(Protocol):
    """What draws the heads: `Heads`, or a test's own."""

    def clip(self, head: int, count: int, change: Change | None = None) -> Sequence[Take]:
        """`count` frames of a head, with a change where one is given."""


@dataclass(slots=True)
class Row:
    """An edit at one end of its range. heads: figures of every head with an edited frame; sheet: some of its frames; judged: what a
    judge sees of them.
    """

    edit: str
    strength: float
    frames: int = 0
    missed: int = 0
    heads: list[dict[str, float]] = field(default_factory=list)
    sheet: list[SheetRow] = field(default_factory=list)
    judged: list[truth_judge.Head] = field(default_factory=list)

    def mean(self, key: str) -> float:
        """Of the heads' figures, nan left out."""
        values = [h[key] for h in self.heads if key in h and not math.isnan(h[key])]
        return float(np.mean(values)) if values else math.nan

    def summary(self) -> dict[str, Any]:
        """Means over the heads and the best strength."""
        out: dict[str, Any] = {
            "edit": self.edit,
            "strength": self.strength,
            "frames": self.frames,
            "missed": self.missed,
        }
        out |= {key: self.mean(key) for key in dict.fromkeys(k for h in self.heads for k in h)}
        if self.heads:
            best = max(SHARES, key=lambda share: self.mean(f"face_db_at_{share:g}"))
            out |= {"best_share": best, "best_face_db": self.mean(f"face_db_at_{best:g}")}
            out |= truth_judge.figures(self.edit, self.judged)
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in out.items()}


class Test:
    """Runs edits of one bundle on heads of one renderer."""

    __test__ = False

    def __init__(
        self, bundle: Bundle, heads: Renderer, *, steps: int | None = None, judge: truth_judge.Judge | None = None
    ) -> None:
        self._bundle, self._heads, self._steps, self._config = bundle, heads, steps, EngineConfig()
        self._judge = judge
        backend = select(self._config).backend
        self._networks: dict[str, Network] = {n: bundle.load(n, backend, self._config) for n in bundle.networks}
        self._landmarker = Landmarker(self._networks["landmarks"], self._config.num_threads)
        self._sources: dict[tuple[int, int], Sequence[Take]] = {}

    def edited(
        self, bundle: Bundle, name: str, strength: float, frames: Sequence[Frame]
    ) -> tuple[list[Frame], list[int]]:
        """The frames through the engine in two passes, and which of them hold an edited face."""
        editor = Editor(bundle, {name: strength}, config=self._config, networks=self._networks)
        if self._steps is not None:
            spec = replace(editor.spec, num_steps=self._steps)
            editor = Editor(bundle, spec=spec, config=self._config, networks=self._networks)
        survey = editor.survey()
        for frame in frames:
            survey.add(frame)
        plan = survey.finish()
        answers = [plan.edit(frame) for frame in frames]
        return [a.frame for a in answers], [i for i, a in enumerate(answers) if a.edited]

    def measure(self, name: str, strength: float, change: Change, heads: Sequence[int], count: int) -> Row:
        """One row; `strength` is the full one."""
        row, warp = Row(name, strength), warp_alone(self._bundle, name)
        for head in heads:
            if (head, count) not in self._sources:
                self._sources[head, count] = self._heads.clip(head, count)
            source = self._sources[head, count]
            shot = Shot.of(source, self._heads.clip(head, count, change), self._landmarker)
            results, keep = self.edited(self._bundle, name, strength, shot.frames)
            row.frames, row.missed = row.frames + count, row.missed + count - len(keep)
            if not keep:
                continue
            figures = shot.figures(results, keep, self._landmarker)
            for key, value in shot.figures(shot.frames, keep, self._landmarker).items():
                figures[f"source_{key}"] = value
            if warp is not None:
                moved, _ = self.edited(warp, name, strength, shot.frames)
                figures |= {f"warp_{k}": v for k, v in shot.figures(moved, keep, self._landmarker).items()}
            for share in SHARES:
                some = results if share == 1 else self.edited(self._bundle, name, share * strength, shot.frames)[0]
                figures[f"face_db_at_{share:g}"] = shot.figures(some, keep, self._landmarker)["face_db"]
            row.heads.append({"head": head, **figures})
            if self._judge is not None:
                pictures = [rgb_of(results[i]) for i in keep]
                seen = ([shot.source[i] for i in keep], [shot.truth[i] for i in keep], pictures)
                row.judged.append(truth_judge.watch(self._judge, *seen))
            for i in {keep[len(keep) // 5], keep[-1]} if len(row.sheet) < PER_SHEET else ():
                row.sheet.append(sheet_row(shot, results[i], i, f"{name}={strength:g} head {head} frame {i}"))
        return row


def warp_alone(bundle: Bundle, name: str) -> Bundle | None:
    """The bundle with the edit's direction dropped; None where that is the same edit or none at all."""
    edit = bundle.edit(name)
    if edit.direction is None or not edit.template:
        return None
    edits = {**bundle.manifest.edits, name: replace(edit, direction=None)}
    return replace(bundle, manifest=replace(bundle.manifest, edits=edits))


def ends(bundle: Bundle, name: str) -> list[tuple[float, Change]]:
    """The strengths to run an edit at, at most 1 and -1, and what it truly does there."""
    low, high = bundle.edit(name).range
    both = ((min(high, 1.0), TRUTHS[name][0]), (max(low, -1.0), TRUTHS[name][1]))
    return [(strength, change) for strength, change in both if change is not None and strength != 0.0]


HEADER = (
    f"{'edit':16} missed | face dB  source   warp  result | best share, dB | out dB source, result |   bg |"
    " error source, result | share (seen)   cos"
)


def line(s: Mapping[str, Any]) -> str:
    """A row of the table from a row's summary."""
    start = f"{s['edit']}={s['strength']:g}"
    if "face_db" not in s:
        return f"{start:16} {s['missed']:2}/{s['frames']:<3} | no face was found in any frame"

    def show(key: str, width: int, digits: int) -> str:
        value = s.get(key)
        return f"{'-':>{width}}" if value is None else f"{value:{width}.{digits}f}"

    return (
        f"{start:16} {s['missed']:2}/{s['frames']:<3} |         {show('source_face_db', 7, 2)} {show('warp_face_db', 6, 2)}"
        f" {show('face_db', 7, 2)} | {show('best_share', 6, 2)} {show('best_face_db', 7, 2)} |"
        f" {show('source_outside_db', 10, 2)} {show('outside_db', 10, 2)} | {show('background', 4, 2)} |"
        f" {show('source_error', 12, 2)} {show('error', 7, 2)} | {show('share', 5, 2)} ({show('seen', 4, 2)})  {show('cosine', 5, 2)}"
    )


def run(
    bundle: Bundle,
    heads: Renderer,
    names: Sequence[str],
    count: int,
    frames: int,
    out: Path,
    steps: int | None = None,
    judge: truth_judge.Judge | None = None,
) -> dict[str, Any]:
    """Measure, print and write everything; what truth.json holds."""
    chosen = list(names) or list(bundle.edits)
    measurable = [name for name in chosen if bundle.edit(name) and name in TRUTHS]
    left = [name for name in chosen if name not in TRUTHS]
    print(f"{bundle.name} {bundle.manifest.version} {bundle.sha256[:12]}, {count} heads of {frames} frames")
    print(HEADER)
    test, rows = Test(bundle, heads, steps=steps, judge=judge), []
    for name in measurable:
        for strength, change in ends(bundle, name):
            row = test.measure(name, strength, change, range(count), frames)
            rows.append(
                {**row.summary(), "heads": [{k: None if math.isnan(v) else v for k, v in h.items()} for h in row.heads]}
            )
            print(line(rows[-1]), flush=True)
            if row.sheet:
                write_sheet(out / f"{name}_{'up' if strength > 0 else 'down'}.png", row.sheet)
    if judged := [r for r in rows if "true_response" in r]:
        print(truth_judge.HEADER)
        for r in judged:
            print(truth_judge.line(f"{r['edit']}={r['strength']:g}", r))
    if left:
        print(f"not measurable this way: {', '.join(left)}")
    about = {
        "bundle": bundle.name,
        "version": bundle.manifest.version,
        "sha256": bundle.sha256,
        "heads": count,
        "frames": frames,
    }
    whole = {**about, "rows": rows, "not_measurable": left}
    out.mkdir(parents=True, exist_ok=True)
    (out / "truth.json").write_text(json.dumps(whole, indent=1, allow_nan=False) + "\n")
    return whole


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True, help="folder with the head model")
    parser.add_argument("--bundle", default="tiny")
    parser.add_argument(
        "--edit", action="append", default=[], help="an edit's name; all of the bundle's where none is given"
    )
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--steps", type=int, help="denoising steps; the bundle's own where not given")
    parser.add_argument("--judge", type=Path, help="judge.py, to say what a judge sees of the truth and of the edit")
    parser.add_argument("--out", type=Path, default=Path("out/truth"))
    parser.add_argument("--kept", type=Path, help="drawings are kept there between runs; OUT/kept where not given")
    parser.add_argument(
        "--smiling", type=float, default=CONTENT, help=f"the smile that the heads wear all along, {CONTENT} to 1"
    )
    args = parser.parse_args()
    if args.heads < 1 or args.frames < 1:
        parser.error("--heads and --frames start at 1")
    if not CONTENT <= args.smiling <= 1:
        parser.error(f"--smiling is {CONTENT} to 1")
    heads = Heads(args.assets, args.kept or args.out / "kept", smiling=args.smiling)
    judge = truth_judge.Judge(args.judge) if args.judge else None
    run(Bundle.open(args.bundle), heads, args.edit, args.heads, args.frames, args.out, args.steps, judge)


if __name__ == "__main__":
    main()
