"""Edits a picture file: read, edit, put the difference back, write."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Protocol

import numpy as np

from mien.engine.types import Frame
from mien.runtime.clock import StageClocks
from mien.runtime.edit_video import Edited
from mien.runtime.picture import Picture, check_picture_output, read_picture, write_picture
from mien.runtime.run_report import RunReport


class PictureEditor(Protocol):
    """What this job needs of an editor."""

    def edit_picture(self, frame: Frame) -> Edited: ...  # noqa: D102


def edit_picture(
    source: str,
    target: Path,
    editor: PictureEditor,
    *,
    clocks: StageClocks | None = None,
    compare: Path | None = None,
    overwrite: bool = False,
) -> RunReport:
    """Edit one picture; outside the paste boxes a lossless OUT has the source's pixels bit for bit.

    compare: where source and result are written side by side. Raises MediaError before the edit, RunError and what the
    engine raises afterwards; OUT is whole when this returns, and untouched when it raises.
    """
    begun_s = time.perf_counter()
    report = RunReport(source, os.fspath(target), frames_in=1, clocks=clocks or StageClocks())
    for path in (target, compare):
        if path is not None:
            check_picture_output(path, source, overwrite=overwrite)
    with report.clocks["read"].timed():
        picture = read_picture(source)
    for path in (target, compare):
        if path is not None:
            check_picture_output(path, source, picture, overwrite=overwrite)
    with report.clocks["edit"].timed(), report.clocks.within("edit"):
        edited = editor.edit_picture(picture.frame)
        result = picture.apply(edited.frame, edited.boxes) if edited.edited else picture
    with report.clocks["write"].timed():
        if compare is not None:
            write_picture(beside(picture, result), compare, overwrite=overwrite)
        write_picture(result, target, overwrite=overwrite)
    report.frames_out = 1
    report.frames_edited, report.frames_passed_through = int(edited.edited), int(not edited.edited)
    report.paste_boxes = [(0, *box) for box in edited.boxes]
    report.tracks = len(edited.boxes)
    report.notes += picture.notes
    report.wall_s = time.perf_counter() - begun_s
    report.latency.add(report.wall_s)
    return report


def beside(source: Picture, result: Picture) -> Picture:
    """Two pictures of one size as one, the source on the left."""
    alpha = None
    if source.alpha is not None and result.alpha is not None:
        alpha = np.concatenate([source.alpha, result.alpha], axis=1)
    return Picture(np.concatenate([source.rgb, result.rgb], axis=1), alpha)
