"""Engine against plain way: the same bundle, clip and edits, in turns within one process, medians of all turns."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mien.bench.plain import PlainWay
from mien.engine.bundle import Bundle
from mien.engine.config import EngineConfig
from mien.engine.editor import Editor
from mien.engine.spec import EditSpec
from mien.runtime.edit_video import VideoJob, edit_video


def compare(
    clip: Path, bundle: Bundle, spec: EditSpec, config: EngineConfig, *, turns: int, tell: Callable[[str], object]
) -> dict[str, Any]:
    """Run both `turns` times; a result row. Networks are loaded before the clocks start, on both sides."""
    as_mien_edit = replace(config, frames_at_once=config.num_threads)
    editor, plain = Editor(bundle, spec=spec, config=as_mien_edit), PlainWay(bundle, spec, config)
    engine_fps: list[float] = []
    plain_fps: list[float] = []
    report = None
    edited = 0
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(1, turns + 1):
            job = VideoJob(str(clip), Path(folder) / "engine.mp4", threads=config.threads, overwrite=True)
            report = edit_video(job, editor)
            engine_fps.append(report.frames_in / report.wall_s)
            frames, edited, wall_s = plain.edit_clip(clip, Path(folder) / "plain.mp4")
            plain_fps.append(frames / wall_s)
            tell(f"turn {turn}: engine {engine_fps[-1]:.2f} fps, plain way {plain_fps[-1]:.2f} fps")
    assert report is not None
    return {
        "bench": "plain",
        "clip": clip.name,
        "frames": report.frames_in,
        "engine_frames_edited": report.frames_edited,
        "plain_frames_edited": edited,
        "edits": dict(spec.active),
        "steps": spec.num_steps,
        "turns": turns,
        "bundle": {"name": bundle.name, "version": bundle.manifest.version, "sha256": bundle.sha256},
        "backend": editor.selection.backend.name if editor.selection else None,
        "threads": config.num_threads,
        "engine_passes": report.passes,
        "engine_fps_turns": [round(value, 3) for value in engine_fps],
        "plain_fps_turns": [round(value, 3) for value in plain_fps],
        "engine_fps": round(statistics.median(engine_fps), 3),
        "plain_fps": round(statistics.median(plain_fps), 3),
        "ratio": round(statistics.median(engine_fps) / statistics.median(plain_fps), 3),
    }
