"""The files of `mien bench quality --bundle`: report.json, report.html and a contact sheet per edit; all of them or none.

The HTML holds everything it shows: pictures are data URIs. Files are made in a folder beside the target and moved at the end.
"""

from __future__ import annotations

import base64
import html
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mien.bench.quality import CELL_PX, Quality, Series
from mien.bench.quality_table import FIGURES, digits, missing, rows_of, tables, worst_of
from mien.engine.errors import MediaError, RunError
from mien.engine.types import Array
from mien.runtime.held_signals import HeldSignals

LABEL_PX, HEAD_PX = 190, 26
_STYLE = """body{font:14px/1.4 sans-serif;margin:24px;color:#222}table{border-collapse:collapse;margin:8px 0 24px}
td,th{border:1px solid #ccc;padding:2px 8px;text-align:left;font-variant-numeric:tabular-nums}th{background:#f2f2f2}
figure{margin:0 0 12px}img{max-width:100%;display:block}figcaption{font-size:13px}.held{background:#fff6dd}"""


def check_folder(out: Path) -> None:
    """Refuse a target that cannot be a folder, before any work. Raises MediaError."""
    if out.exists() and not out.is_dir():
        raise MediaError(f"--out is {out}, a file: give a folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"--out is {out}: cannot make {out.parent}: {error.strerror}") from None
    if not os.access(out if out.is_dir() else out.parent, os.W_OK | os.X_OK):
        raise MediaError(f"--out is {out}: permission denied: give another folder")


def write_report(quality: Quality, about: Mapping[str, Any], out: Path) -> list[Path]:
    """Write all files, in the place of an earlier run's; none where anything fails or interrupts. about: what was run, on what.
    Their paths.
    """
    try:
        part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    except OSError as error:
        raise RunError(f"cannot write beside {out}: {error.strerror}: free some space or write elsewhere") from None
    try:
        (part / "report.json").write_text(json.dumps(figures(quality, about), indent=1), encoding="utf-8")
        (part / "report.html").write_text(page(quality, about), encoding="utf-8")
        for edit in quality.scores:
            series = [s for s in quality.series if s.edit == edit]
            if series:
                sheet = contact_sheet(series, quality.strengths[edit])
                (part / f"sheet_{edit}.png").write_bytes(cv2.imencode(".png", sheet[..., ::-1])[1].tobytes())
        with HeldSignals():
            out.mkdir(exist_ok=True)
            names = sorted(path.name for path in part.iterdir())
            for name in names:
                os.replace(part / name, out / name)
            for earlier in set(out.glob("sheet_*.png")) - {out / name for name in names}:
                earlier.unlink()
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror}: free some space or write elsewhere") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return [out / name for name in names]


def figures(quality: Quality, about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything measured, in plain JSON types."""
    series = [
        {"edit": s.edit, "clip": s.clip, "held_out": s.held_out, "runs": {str(k): v for k, v in s.runs.items()}}
        for s in quality.series
    ]
    whole = {**about, "missing": missing(quality), "skipped": quality.skipped}
    whole |= {"strengths": quality.strengths, "summary": rows_of(quality), "series": series}
    plain: dict[str, Any] = json.loads(json.dumps(whole, default=float))
    return plain


def contact_sheet(series: Sequence[Series], strengths: Sequence[float]) -> Array:
    """(H, W, 3) uint8: a row a clip, the source and then a column a strength; names at the left, strengths above."""
    strips = [np.asarray(cv2.imdecode(np.frombuffer(s.strip, np.uint8), cv2.IMREAD_COLOR))[..., ::-1] for s in series]
    width = LABEL_PX + CELL_PX * (len(strengths) + 1)
    sheet = np.full((HEAD_PX + CELL_PX * len(strips), width, 3), 255, np.uint8)
    for column, text in enumerate(["source", *(f"{s:+.3g}" for s in strengths)]):
        _write(sheet, text, LABEL_PX + column * CELL_PX + 8, 18)
    for row, (one, strip) in enumerate(zip(series, strips, strict=True)):
        top = HEAD_PX + row * CELL_PX
        _write(sheet, one.clip[:24], 6, top + CELL_PX // 2)
        if one.held_out:
            _write(sheet, "held out", 6, top + CELL_PX // 2 + 20)
        sheet[top : top + CELL_PX, LABEL_PX : LABEL_PX + strip.shape[1]] = strip
    return sheet


def _write(sheet: Array, text: str, x: int, y: int) -> None:
    cv2.putText(sheet, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)


def page(quality: Quality, about: Mapping[str, Any]) -> str:
    """The HTML, with everything it shows inside."""
    said = "".join(f"<tr><th>{_text(k)}</th><td>{_text(v)}</td></tr>" for k, v in about.items())
    body = [f"<h1>mien bench quality: {_text(about.get('bundle', ''))}</h1><table>{said}</table>"]
    notes = [*missing(quality), *(f"skipped {clip}: {why}" for clip, why in quality.skipped.items())]
    notes.append("own-embedder drift: cosine distance of the bundle's own W+ codes; not a published identity metric")
    body.append("<ul>" + "".join(f"<li>{_text(note)}</li>" for note in notes) + "</ul>")
    body += [f"<h2>{_text(title)}</h2>{_table(table)}" for title, table in tables(quality)]
    for edit in quality.scores:
        series = [s for s in quality.series if s.edit == edit]
        strengths = ", ".join(f"{s:+.3g}" for s in quality.strengths[edit])
        body.append(f"<h2 id='{_text(edit)}'>{_text(edit)}</h2><p>Score: {_text(quality.scores[edit].unit)}.</p>")
        body.append(_table(_clips(series, quality.strengths[edit])))
        for one in series:
            name = f"{one.clip}{' (held out)' if one.held_out else ''}: source, then {strengths}"
            picture = base64.b64encode(one.strip).decode("ascii")
            caption = f"<figcaption>{_text(name)}</figcaption>"
            body.append(f"<figure>{caption}<img alt='{_text(name)}' src='data:image/jpeg;base64,{picture}'></figure>")
    head = f"<meta charset='utf-8'><title>mien bench quality</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(body)}</body></html>\n"


def _clips(series: Sequence[Series], strengths: Sequence[float]) -> list[list[str]]:
    shown = [h for h in FIGURES if any(worst_of(s, h) is not None for s in series)]
    table = [["clip", "frames", *(f"response at {s:+.3g}" for s in strengths), *shown]]
    for one in series:
        values = [digits(one.runs[s]["response"], sign=True) for s in strengths]
        frames = max(run["frames"] for run in one.runs.values())
        name = one.clip + (" (held out)" if one.held_out else "")
        table.append([name, str(frames), *values, *(digits(worst_of(one, h)) for h in shown)])
    return table


def _table(table: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(cell)}</th>" for cell in table[0])
    rows = []
    for row in table[1:]:
        kind = " class='held'" if any("held out" in cell for cell in row) else ""
        rows.append(f"<tr{kind}>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _text(value: Any) -> str:
    return html.escape(str(value), quote=True)
