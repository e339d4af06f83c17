"""What the runs of `mien bench quality --bundle` come to: one row per edit, once for the clips at hand and once for those held out.

A figure that should stay small (or, jaw_r, near 1) is each clip's worst over its strengths; a row holds the mean over the
clips and the worst clip with its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mien.bench.quality import Quality, Series
from mien.bench.quality_scores import Blend
from mien.bench.quality_statistics import SLACK, is_monotone, spearman

OWN_DRIFT = "own-embedder drift"
OUTSIDE = "outside box"

# heading -> (value of one run's figures, whether small is good)
FIGURES: dict[str, tuple[Callable[[dict[str, Any]], float | None], bool]] = {
    "jawOpen r": (lambda f: f["jaw_r"], False),
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


def full(series: Series) -> dict[str, Any]:
    """The figures at the strength farthest from 0, the upper one of two."""
    return series.runs[max(series.runs, key=lambda s: (abs(s), s))]


def leak_of(series: Sequence[Series]) -> tuple[str, float] | None:
    """The blendshape that moves most at full strength where it should not, and its mean absolute change over the clips."""
    rows = [leak for s in series if (leak := full(s)["leakage"])]
    if not rows:
        return None
    means = {k: float(np.mean([row[k] for row in rows])) for k in rows[0]}
    name = max(means, key=lambda k: means[k])
    return name, means[name]


def row_of(quality: Quality, edit: str, series: Sequence[Series], which: str) -> dict[str, Any]:
    """An edit's figures over some clips."""
    score = quality.scores[edit]
    whole = [s for s in series if len(s.responses()) == len(quality.strengths[edit])]
    values = np.array([[r for _, r in s.responses()] for s in whole])
    ranks = [r for row in values if (r := spearman(quality.strengths[edit], row)) is not None]
    row: dict[str, Any] = {
        "edit": edit,
        "set": which,
        "clips": len(series),
        "answered": len(whole),
        "score": score.unit,
    }
    row["response"] = (
        dict(zip(map(str, quality.strengths[edit]), values.mean(0).tolist(), strict=True)) if whole else {}
    )
    row["monotone"] = float(np.mean([is_monotone(v) for v in values])) if whole else None
    row["monotone_2pct"] = float(np.mean([is_monotone(v, SLACK) for v in values])) if whole else None
    row["spearman"] = float(np.mean(ranks)) if ranks else None
    leak, at_full = leak_of(series), [r for s in series if (r := full(s)["response"]) is not None]
    row["leakage"] = None if leak is None else {"blendshape": leak[0], "change": leak[1]}
    row["leak_share"] = None
    if leak is not None and at_full and isinstance(score, Blend):
        row["leak_share"] = leak[1] / max(abs(float(np.mean(at_full))), 1e-6)
    for heading, (_, small) in FIGURES.items():
        found = [(v, s.clip) for s in series if (v := worst_of(s, heading)) is not None]
        row[heading] = None
        if found:
            value, clip = (max if small else min)(found)
            row[heading] = {"mean": float(np.mean([v for v, _ in found])), "worst": float(value), "clip": clip}
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
        shares = [percent(row["monotone"]), percent(row["monotone_2pct"]), digits(row["spearman"])]
        response.append([*name, str(row["answered"]), *shares, by, row["score"]])
        leak = row["leakage"]
        leaks = [f"{leak['change']:.3f} {leak['blendshape']}" if leak else "-", percent(row["leak_share"])]
        rest.append([*name, *(leaks if quality.judged else []), *(digits(row[h] and row[h]["mean"]) for h in shown)])
        worst.append([*name, *(f"{digits(row[h]['worst'])} {row[h]['clip']}" if row[h] else "-" for h in shown)])
    about = "mean over the clips of each clip's worst strength"
    return [("Response", response), (f"What else changed: {about}", rest), ("The worst clip of each", worst)]


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
