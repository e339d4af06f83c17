"""`python -m mien.bench.clips`: what it compares itself, what it takes from the judge, and what it says of all clips."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mien.bench import clips
from mien.bench.clips import main, outside_boxes, row_of, summary_of

REPORT = {"paste_boxes": [[0, 8, 8, 40, 40], [2, 16, 16, 48, 48]], "frames_edited": 2, "frames_in": 4, "fps": 30.0}
BLEND = {"mouthSmileLeft": 0.1, "mouthSmileRight": 0.3}


def write(path: Path, changed: dict[int, tuple[int, int]]) -> Path:
    """Four frames, lossless; `changed` by frame: the column and row of a sample of luma that is another."""
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for index in range(4):
            planes = np.full((96, 64), 100 + index, np.uint8)
            if index in changed:
                x, y = changed[index]
                planes[y, x] += 1
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def judged(smile: float = 0.6, **more: Any) -> dict[str, Any]:
    """What a judge says of a pair."""
    figures: dict[str, Any] = dict.fromkeys(("pts_equal", "durations_equal", "audio_equal", "audio_in_sync"), True)
    figures |= {"frames_in": 4, "frames_out": 4, "changed_outside_px": 0, "planes_identical": 2}
    figures |= {"frames_with_face": 4, "face_lost_frames": 1, "flicker": 1.1, "psnr_face_db": 33.0}
    figures |= {"blend_source": BLEND, "blend_result": dict.fromkeys(BLEND, smile)}
    return figures | {"drift": dict.fromkeys(("mouth", "eyes", "brows", "nose", "oval"), 0.01)} | more


def test_every_sample_outside_of_a_frames_own_boxes_counts(tmp_path: Path) -> None:
    source = write(tmp_path / "source.mkv", {})
    inside = write(tmp_path / "inside.mkv", {0: (39, 39), 2: (47, 16)})
    assert outside_boxes(source, inside, REPORT) == 0
    beside = write(tmp_path / "beside.mkv", {0: (40, 39), 1: (20, 20), 2: (15, 16), 3: (0, 0)})
    assert outside_boxes(source, beside, REPORT) == 4, "a pixel beside a box, and frames without one, to the last"


def test_what_the_judge_forgives_is_not_exact() -> None:
    assert row_of(judged(), REPORT, 0)["exact"]
    row = row_of(judged(), REPORT, 3)
    assert not row["exact"] and row["changed_outside"] == 3
    assert not row_of(judged(changed_outside_px=1), REPORT, 0)["exact"]
    assert not row_of(judged(frames_out=3), REPORT, 0)["exact"]


def test_a_row_keeps_in_how_many_frames_the_face_was_seen_and_lost() -> None:
    row = row_of(judged(), REPORT, 0)
    assert (row["frames_with_face"], row["face_lost_frames"]) == (4, 1)
    assert row["smile_source"] == pytest.approx(0.2) and row["smile_change"] == pytest.approx(0.4)
    none = row_of({k: v for k, v in judged().items() if "blend" not in k} | {"frames_with_face": 0}, REPORT, 0)
    assert none["frames_with_face"] == 0 and "smile_change" not in none


def test_the_summary_has_mean_and_range_of_the_smile() -> None:
    rows = [row_of(judged(smile), REPORT, 0) for smile in (0.3, 0.5, 1.0)]
    rows.append(row_of(judged(frames_with_face=0), REPORT, 9))
    summary = summary_of(rows)
    assert summary["smile_change"] == pytest.approx([0.4, 0.1, 0.8]) and summary["smile_up_0.15"] == 2
    assert (summary["clips"], summary["judged"], summary["exact"]) == (4, 3, 3)
    assert (summary["face_lost_frames"], summary["frames_with_face"]) == (3, 12)
    assert summary_of([])["smile_change"] is None


def test_a_run_compares_what_was_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(clip: Path, result: Path, report: Path, *_: object) -> None:
        write(result, {3: (5, 5)} if clip.stem == "b" else {})
        report.write_text(json.dumps(REPORT))

    monkeypatch.setattr(clips, "edit_clip", edit)
    monkeypatch.setattr(clips, "judge_clip", lambda *_: judged())
    (tmp_path / "clips").mkdir()
    for name in "abc":
        write(tmp_path / "clips" / f"{name}.mkv", {})
    words = [str(tmp_path / "clips"), "--judge", "none", "--edit", "smile=1", "--out", str(tmp_path / "out")]
    main([*words, "--only", "a", "b"])
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {name: row["exact"] for name, row in told["rows"].items()} == {"a": True, "b": False}
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary == told["summary"] and summary["smile_change"] == pytest.approx([0.4, 0.4, 0.4])


def test_names_of_no_clip_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.mkv", {})
    words = [str(tmp_path), "--judge", "none", "--edit", "smile=1", "--out", str(tmp_path / "out")]
    for more, said in ((["--only", "a", "bee"], "--only names no clip: bee; the clips are a"), ([], "no such clip")):
        with pytest.raises(SystemExit) as ended:
            main([*words, *more] if more else [str(tmp_path / "none"), *words[1:]])
        shown = capsys.readouterr().err
        assert ended.value.code == 2 and said in shown and shown.count("\n") == 1
    assert not (tmp_path / "out").exists()
