"""What a judge sees of a true change and of the edit of that name, on the same rendered heads: how near a perfect edit would come.

A judge has its own ways: a true smile, too, lowers the jawOpen it sees, a true raise of the brows moves its eyeLookDown. Its word on
renders of the truth is the measure for its word on edits. Of each of both:
    response   change of the edit's own score, see `quality_scores.py`; mean over the frames
    jaw_r      correlation of jawOpen with the source's over a head's frames, mean over the heads whose jaw moves
    leakage    the mean change, without its sign, of the other blendshape that moves most, over the response; and its name
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mien.bench.quality_measure import STILL_JAW
from mien.bench.quality_scores import Blend, score_of
from mien.bench.quality_statistics import motion_kept
from mien.bench.quality_teacher import start_judge
from mien.engine.types import Array

Blends = Mapping[str, float]


class Judge:
    """A judge's blendshapes of a picture. Raises what `start_judge` does."""

    def __init__(self, path: Path) -> None:
        module, self._judge = start_judge(path)
        self._names = module.BLEND_NAMES

    def __call__(self, rgb: Array) -> Blends | None:
        """Of the largest face of a picture (H, W, 3), 0..255; None where it sees none."""
        rgb = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
        boxes = self._judge.boxes(rgb)
        if not len(boxes):
            return None
        mesh, _ = self._judge.mesh(rgb, max(boxes, key=lambda box: box[2] * box[3]))
        return dict(zip(self._names, map(float, self._judge.blendshapes(mesh)), strict=True))


@dataclass(frozen=True, slots=True)
class Head:
    """What the judge sees of a head's frames as they are, as they truly would be, and edited."""

    source: Sequence[Blends]
    truth: Sequence[Blends]
    result: Sequence[Blends]


def watch(
    judge: Callable[[Array], Blends | None], source: Sequence[Array], truth: Sequence[Array], result: Sequence[Array]
) -> Head:
    """The frames (H, W, 3), 0..255, in which the judge sees a face each time."""
    seen = [tuple(judge(p) for p in pictures) for pictures in zip(source, truth, result, strict=True)]
    kept = [(a, b, c) for a, b, c in seen if a is not None and b is not None and c is not None]
    return Head(*([row[k] for row in kept] for k in range(3)))


def figures(edit: str, heads: Sequence[Head]) -> dict[str, Any]:
    """{"true_response": ..., "true_jaw_r", "true_leakage", "true_leak", "edit_response", ...}; empty without a blendshape score."""
    score = score_of(edit, judged=True)
    if not isinstance(score, Blend) or not any(head.source for head in heads):
        return {}
    out: dict[str, Any] = {}
    for kind, results in (("true", [h.truth for h in heads]), ("edit", [h.result for h in heads])):
        changes = [
            {k: after[k] - before[k] for k in before}
            for head, result in zip(heads, results, strict=True)
            for before, after in zip(head.source, result, strict=True)
        ]
        response = float(np.mean([score.of(change) for change in changes]))
        others = {
            k: float(np.mean([abs(change[k]) for change in changes]))
            for k in changes[0]
            if k not in score.own | {"_neutral"}
        }
        leak = max(others, key=lambda k: others[k])
        jaws = [
            ([blends["jawOpen"] for blends in head.source], [blends["jawOpen"] for blends in result])
            for head, result in zip(heads, results, strict=True)
        ]
        kept = [r for a, b in jaws if (r := motion_kept(a, b, STILL_JAW)) is not None]
        out |= {
            f"{kind}_response": response,
            f"{kind}_jaw_r": float(np.mean(kept)) if kept else None,
            f"{kind}_leakage": others[leak] / abs(response) if response else math.inf,
            f"{kind}_leak": leak,
        }
    return out


HEADER = f"{'':16} what the judge sees | response true, edit | jaw r true, edit | other blendshape over the response: true, edit"


def line(name: str, found: Mapping[str, Any]) -> str:
    """A row of the table from `figures`."""
    jaws = [f"{found[f'{k}_jaw_r']:.3f}" if found[f"{k}_jaw_r"] is not None else "-" for k in ("true", "edit")]
    leaks = [f"{found[f'{k}_leakage']:.2f} {found[f'{k}_leak']}" for k in ("true", "edit")]
    return (
        f"{name:16} {'':19} | {found['true_response']:+13.3f} {found['edit_response']:+.3f} |"
        f" {jaws[0]:>9} {jaws[1]:>6} | {leaks[0]:>32}, {leaks[1]}"
    )
