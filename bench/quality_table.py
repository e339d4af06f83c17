"""What the runs of `mien bench quality --bundle` come to: one row per edit, once for the clips at hand and once for those held out.

A figure that should stay small (or, jaw_r and lips_r, near 1) is each clip's worst over its strengths; a row holds the mean over the
clips and the worst clip with its name, and how many clips it is of, where that is not all. Leakage is at each end of an edit's range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mien.bench.quality import Quality, Series
from mien.bench.quality_scores import Blend, Score
from mien.bench.quality_statistics import SLACK, from_nothing, is_monotone, spearman

OWN_DRIFT = "own-embedder drift"
OUTSIDE = "outside box"

# heading -> (value of one run's figures, whether small is good)
FIGURES: dict[str, tuple[Callable[[dict[str, Any]], float | None], bool]] = {
    "jawOpen r": (lambda f: f["jaw_r"], False),
    "lips r": (lambda f: f["lips_r"], False),
    "background": (lambda f: f["background"], True),
    OUTSIDE: (lambda f: f["outside"], True),
    OWN_DRIFT: (lambda f: f["own_drift"], True),
    "flicker": (lambda f: f["flicker"], True),
    "warp ratio": (lambda f: f["warp_ratio"], True),
    "face lost": (lambda f: f["face_lost"], True),
}
REGIONS = ("eyes", "brows", "nose", "oval", "mouth")


def _drift(name: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda figures: figures["drift"][name] if figures["drift"] else None


FIGURES |= {f"drift {name}": (_drift(name), True) for name in REGIONS}
UNJUDGED = ("background", OUTSIDE, OWN_DRIFT, "flicker")


def worst_of(series: Series, heading: str) -> float | None:
    """A clip's worst over its strengths other than 0."""
    value, small = FIGURES[heading]
    found = [v for s, f in series.runs.items() if s and (v := value(f)) is not None]
    return (max if small else min)(found) if found else None


def ends_of(strengths: Sequence[float]) -> list[float]:
    """The upper end of rising strengths and the lower one, as far as the edit has those sides."""
    return [s for s, beyond in ((strengths[-1], strengths[-1] > 0), (strengths[0], strengths[0] < 0)) if beyond]


def leak_of(series: Sequence[Series], strength: float, score: Score) -> dict[str, Any] | None:
    """Of the blendshape that moves most where it should not: its name, mean absolute change over the clips, the share of the
    edit's own response, where that is of blendshapes, too, and of how many clips.
    """
    runs = [s.runs[strength] for s in series]
    rows = [run["leakage"] for run in runs if run["leakage"]]
    if not rows:
        return None
    means = {k: float(np.mean([row[k] for row in rows])) for k in rows[0]}
    name = max(means, key=lambda k: means[k])
    responses = [run["response"] for run in runs if run["response"] is not None]
    own = abs(float(np.mean(responses))) if responses and isinstance(score, Blend) else None
    share = None if own is None else means[name] / max(own, 1e-6)
    return {"blendshape": name, "change": means[name], "share": share, "clips": len(rows)}


def row_of(quality: Quality, edit: str, series: Sequence[Series], which: str) -> dict[str, Any]:
    """An edit's figures over some clips."""
    score, strengths = quality.scores[edit], quality.strengths[edit]
    whole = [s for s in series if len(s.responses()) == len(strengths)]
    values = np.array([[r for _, r in s.responses()] for s in whole])
    grown = [from_nothing(strengths, row) for row in values.tolist()]
    ranks = [r for pair in grown if (r := spearman(*pair)) is not None]
    row: dict[str, Any] = {
        "edit": edit,
        "set": which,
        "clips": len(series),
        "answered": len(whole),
        "score": score.unit,
    }
    row["response"] = dict(zip(map(str, strengths), values.mean(0).tolist(), strict=True)) if whole else {}
    row["monotone"] = float(np.mean([is_monotone(v) for _, v in grown])) if whole else None
    row["monotone_2pct"] = float(np.mean([is_monotone(v, SLACK) for _, v in grown])) if whole else None
    row["spearman"], row["spearman_clips"] = float(np.mean(ranks)) if ranks else None, len(ranks)
    leaks = {str(s): leak for s in ends_of(strengths) if (leak := leak_of(series, s, score)) is not None}
    row["leakage"] = leaks or None
    for heading, (_, small) in FIGURES.items():
        found = [(v, s.clip) for s in series if (v := worst_of(s, heading)) is not None]
        row[heading] = None
        if found:
            value, clip = (max if small else min)(found)
            mean = float(np.mean([v for v, _ in found]))
            row[heading] = {"mean": mean, "worst": float(value), "clip": clip, "clips": len(found)}
    return row


def rows_of(quality: Quality) -> list[dict[str, Any]]:
    """Two rows an edit, those of sets without a clip left out."""
    rows = []
    for edit in quality.scores:
        for held_out, which in ((False, "at hand"), (True, "held out")):
            series = [s for s in quality.series if s.edit == edit and s.held_out == held_out]
            if series:
                rows.append(row_of(quality, edit, series, which))
    return rows


def missing(quality: Quality) -> list[str]:
    """What was not measured, and why, one line each."""
    lines = list(quality.notes)
    if not quality.judged:
        gone = [h for h in FIGURES if h not in UNJUDGED]
        lines.append(f"no --judge: missing are each edit's own score, leakage, {', '.join(gone)}")
        lines.append(
            "no --judge: the response is the mean Lab distance where pixels changed, with the strength's sign;"
        )
        lines.append(
            "no --judge: background is where the bundle's own parser sees it, flicker that of the whole paste box"
        )
    return lines


def tables(quality: Quality) -> list[tuple[str, list[list[str]]]]:
    """(title, rows of cells, headings first): the response, what else changed, and its worst clips."""
    rows = rows_of(quality)
    shown = [h for h in FIGURES if quality.judged or h in UNJUDGED]
    response = [["edit", "clips", "n", "monotone", "in 2 %", "Spearman", "response by strength", "score"]]
    rest = [["edit", "clips", *(["leakage at full strength", "of response"] if quality.judged else []), *shown]]
    worst = [["edit", "clips", *shown]]
    for row in rows:
        name = [row["edit"], row["set"]]
        by = "  ".join(f"{float(s):+.2g}: {digits(r, sign=True)}" for s, r in row["response"].items())
        shares = [percent(row["monotone"]), percent(row["monotone_2pct"])]
        shares.append(digits(row["spearman"]) + _of(row["spearman_clips"], row["answered"]))
        response.append([*name, str(row["answered"]), *shares, by, row["score"]])
        ends = [(f"{float(s):+.2g}", leak) for s, leak in (row["leakage"] or {}).items()]
        leaks = [
            "  ".join(f"{s}: {k['change']:.3f} {k['blendshape']}{_of(k['clips'], row['clips'])}" for s, k in ends),
            "  ".join(f"{s}: {percent(k['share'])}" for s, k in ends),
        ]
        means = [digits(row[h]["mean"]) + _of(row[h]["clips"], row["clips"]) if row[h] else "-" for h in shown]
        rest.append([*name, *((leak or "-" for leak in leaks) if quality.judged else []), *means])
        worst.append([*name, *(f"{digits(row[h]['worst'])} {row[h]['clip']}" if row[h] else "-" for h in shown)])
    about = "mean over the clips of each clip's worst strength"
    return [("Response", response), (f"What else changed: {about}", rest), ("The worst clip of each", worst)]


def _of(count: int, clips: int) -> str:
    """Of how many clips a figure is, where that is not all that there are."""
    return "" if count == clips or not count else f" (n {count})"


def digits(value: float | None, *, sign: bool = False) -> str:
    """Three significant digits or a dash."""
    if value is None:
        return "-"
    size = abs(value)
    text = f"{value:.1e}" if 0 < size < 1e-3 else f"{value:.0f}" if size >= 1000 else f"{value:.3g}"
    return f"+{text}" if sign and value > 0 else text


def percent(value: float | None) -> str:
    """A share as a percentage or a dash."""
    return "-" if value is None else f"{100 * value:.0f} %"


def text_of(table: list[list[str]]) -> list[str]:
    """Lines with aligned columns."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
