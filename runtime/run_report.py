"""What a run did and how fast, as plain values for `--report`."""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mien.engine.editor import Editor
from mien.runtime.clock import StageClock, StageClocks
from mien.runtime.part_file import PartFile, check_output, write_failure
from mien.runtime.versions import versions

Box = tuple[int, int, int, int]


def peak_rss_bytes() -> int:
    """The most memory this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass(slots=True)
class RunReport:
    """One run. frames_passed_through: not edited, for whatever reason; frames_failed: of those, because an edit failed.

    paste_boxes: (frame, x0, y0, x1, y1), frame counted from 0 in the result. tracks: faces followed in the clip.
    encoder: FFmpeg's name of what made the file, None for a picture. wall_s: all passes. fps: frames_in / wall_s.
    notes: what a reader or writer did that the user should know.
    """

    input: str
    output: str
    frames_in: int = 0
    frames_out: int = 0
    frames_edited: int = 0
    frames_passed_through: int = 0
    frames_failed: int = 0
    frames_dropped: int = 0
    passes: int = 1
    tracks: int = 0
    encoder: str | None = None
    paste_boxes: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    wall_s: float = 0.0
    clocks: StageClocks = field(default_factory=StageClocks)
    latency: StageClock = field(default_factory=StageClock)
    notes: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Every field of the report file."""
        about = {"backend": None, "device": None, "bundle": None, "rows": None} | self.about
        return {
            "input": self.input,
            "output": self.output,
            "frames_in": self.frames_in,
            "frames_out": self.frames_out,
            "frames_edited": self.frames_edited,
            "frames_passed_through": self.frames_passed_through,
            "frames_failed": self.frames_failed,
            "frames_dropped": self.frames_dropped,
            "passes": self.passes,
            "tracks": self.tracks,
            "encoder": self.encoder,
            "wall_s": round(self.wall_s, 4),
            "fps": round(self.frames_in / self.wall_s, 3) if self.wall_s > 0 else 0.0,
            "stages": self.clocks.table(),
            "latency_ms": self.latency.percentiles_ms(),
            "peak_rss_bytes": peak_rss_bytes(),
            **about,
            "settings": self.settings,
            "versions": versions(),
            "notes": self.notes,
            "paste_boxes": [list(box) for box in self.paste_boxes],
        }

    def as_json(self) -> str:
        """The text of the report file; its boxes, thousands in a long clip, come last and take a line each."""
        fields = self.as_dict()
        boxes = ",\n  ".join(map(json.dumps, fields.pop("paste_boxes")))
        return json.dumps(fields, indent=1).removesuffix("\n}") + f',\n "paste_boxes": [\n  {boxes}\n ]\n}}\n'

    def write(self, path: str | Path) -> None:
        """Write it as JSON, whole or not at all; an older report is replaced. Raises MediaError, RunError."""
        part = PartFile(check_output(path, None, overwrite=True), overwrite=True)
        try:
            part.write(self.as_json().encode())
            part.commit()
        except OSError as error:
            part.abort()
            raise write_failure(part.path, error) from error
        except BaseException:
            part.abort()
            raise


def about_editor(editor: Editor) -> dict[str, Any]:
    """backend, device and bundle of a report, and the rows of its batches; the backend is None where no network was needed,
    the rows where none were gathered.
    """
    bundle = editor.bundle
    return {
        "backend": editor.selection.backend.name if editor.selection else None,
        "device": editor.config.device,
        "rows": None if (counts := editor.row_counts) is None else counts.as_dict(),
        "bundle": {"name": bundle.name, "version": bundle.manifest.version, "sha256": bundle.sha256},
    }
