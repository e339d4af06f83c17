"""Faces and frames that share the denoiser's calls are what they are alone: from the command line, and method by method."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from mien.engine import edits as methods  # noqa: E402
from mien.engine.bundle import Bundle  # noqa: E402
from mien.engine.config import EngineConfig  # noqa: E402
from mien.engine.editor import DENOISERS  # noqa: E402
from mien.engine.edits import View  # noqa: E402
from mien.engine.rows import RowBatcher, RowGathering  # noqa: E402
from mien.engine.spec import EditSpec  # noqa: E402
from mien.engine.types import Array, FaceTrack, Frame  # noqa: E402
from mien.runtime.app import run  # noqa: E402
from mien.runtime.source import VideoReader  # noqa: E402
from tests import published  # noqa: E402

CLIP = Path(__file__).resolve().parents[2] / "examples" / "sample.mp4"
PX, STEPS, RATE = 64, 2, 30
PATIENCE_S = 60.0
PROMPT = EditSpec(prompt="a superhero", num_steps=STEPS, guidance_scale=2.0)
CANNY = (("control", "canny"),)
# Each with its calls a step and its rows a call.
FREE: dict[str, tuple[EditSpec, int, int]] = {
    "wplus": (replace(PROMPT, edits=(("age", 2.0),)), 1, 2),
    "wplus delta": (replace(PROMPT, edits=(("age", 2.0),), composition="delta"), 1, 3),
    "controlnet": (replace(PROMPT, method="controlnet", options=CANNY), 2, 2),
    "controlnet residual": (replace(PROMPT, method="controlnet", options=(*CANNY, ("residual_cfg", "self"))), 2, 1),
}
IN_ORDER: dict[str, tuple[EditSpec, int, int]] = {
    "wplus extended": (replace(PROMPT, edits=(("age", 2.0),), options=(("extended", 1.0),)), 1, 2),
    "text2video_zero canny": (replace(PROMPT, method="text2video_zero", options=CANNY), 2, 2),
    "pix2video": (replace(PROMPT, method="pix2video"), 1, 2),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    parts = {
        "--unet": published.write_repository(root / "sd15"),
        "--wplus": published.write_wplus(root),
        "--e4e": published.write_e4e(root),
        "--controlnet": published.write_controlnet(root / "controlnet"),
        "--directions": published.write_directions(root / "w_direction"),
    }
    asked = [str(word) for pair in parts.items() for word in pair] + ["--taesd", *map(str, published.write_taesd(root))]
    rest = ("--crop", str(PX), "--sampling", "lcm_lora", "--into", str(root / "bundles"))
    assert run(["models", "import", "plain", *asked, *rest]) == 0
    return root / "bundles" / "plain"


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Bundle, dict[str, Any]]:
    bundle, config = Bundle.open(folder), EngineConfig(threads=1)
    by_format = {"onnx": "onnxruntime", "safetensors": "torch"}
    return bundle, {name: bundle.load(name, by_format[spec.format], config) for name, spec in bundle.networks.items()}


def views(count: int) -> list[View]:
    """Pictures that have little in common."""
    rng = np.random.default_rng(3)
    mask: Array = np.zeros((PX, PX), np.float32)
    mask[8:-8, 8:-8] = 1.0
    crops = rng.uniform(-1, 1, (count, 3, 8, 8)).astype(np.float32).repeat(8, 2).repeat(8, 3)
    return [View(crop, mask, rng.uniform(20, 45, (68, 2))) for crop in crops]


def bound(spec: EditSpec, loaded: Any, gathering: RowGathering | None = None) -> Any:
    bundle, networks = loaded
    if gathering is not None:
        networks = networks | {n: RowBatcher(networks[n], gathering) for n in DENOISERS if n in networks}
    return methods.load(spec.method)(spec, bundle, networks)


def track_of(method: Any, number: int, view: View) -> FaceTrack:
    track = FaceTrack(number)
    if method.wants_code():
        method.encode(track, view.crop)
    return track


def picture(answer: Any) -> Array:
    found: Array = answer.difference if answer.difference is not None else answer.cover[0]
    return found


def at_once(method: Any, gathering: RowGathering, work: list[tuple[FaceTrack, View]]) -> list[Array]:
    """Each in a thread, all at work before the first begins."""
    begun = threading.Barrier(len(work))

    def finish(track: FaceTrack, view: View) -> Array:
        with gathering.at_work():
            begun.wait(PATIENCE_S)
            return picture(method.finish(track, view))

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(finish, *zip(*work, strict=True)))


def close(got: list[Array], wanted: list[Array]) -> None:
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert min(np.abs(a - wanted[0]).max() for a in wanted[1:]) > 1e-2, "in another order they would differ"


@pytest.mark.parametrize("case", list(FREE))
def test_frames_of_a_face_share_calls(case: str, loaded: Any) -> None:
    spec, calls, rows = FREE[case]
    frames, gathering = views(3), RowGathering(range(1, 17), float("inf"))
    alone, method = bound(spec, loaded), bound(spec, loaded, gathering)
    wanted = [picture(alone.finish(track_of(alone, 7, frames[0]), view)) for view in frames]
    track = track_of(method, 7, frames[0])
    close(at_once(method, gathering, [(track, view) for view in frames]), wanted)
    assert gathering.counts().as_dict() == {
        "calls": calls * STEPS, "rows": 3 * calls * rows * STEPS, "padded": 0, "mean": 3.0 * rows,
    }  # fmt: skip


@pytest.mark.parametrize("case", list(IN_ORDER))
def test_faces_of_a_frame_share_calls_where_frames_need_each_other(case: str, loaded: Any) -> None:
    spec, calls, rows = IN_ORDER[case]
    assert methods.load(spec.method).in_order(spec, loaded[0].manifest)
    clips, gathering = [views(6)[:3], views(6)[3:]], RowGathering(range(1, 17), float("inf"))
    alone, method = bound(spec, loaded), bound(spec, loaded, gathering)
    wanted = []
    for number, clip in enumerate(clips):
        track = track_of(alone, number, clip[0])
        wanted.append([picture(alone.finish(track, view)) for view in clip])
    tracks = [track_of(method, number, clip[0]) for number, clip in enumerate(clips)]
    for i in range(3):
        close(
            at_once(method, gathering, [(t, clip[i]) for t, clip in zip(tracks, clips, strict=True)]),
            [w[i] for w in wanted],
        )
    counts = gathering.counts()
    assert (counts.calls, counts.rows) == (3 * calls * STEPS, 2 * 3 * calls * rows * STEPS)


@contextmanager
def frames_of(path: Path) -> Iterator[list[Frame]]:
    with VideoReader(path) as reader:
        yield list(reader)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_command_line_gives_the_same_frames_in_the_same_order(count: int, folder: Path, tmp_path: Path) -> None:
    made = {}
    for size in (1, 4):
        out, report = tmp_path / f"{size}.mkv", tmp_path / f"{size}.json"
        asked = ["edit", str(CLIP), str(out), "--from", "1", "--to", str(1 + count / RATE - 0.001), "--codec", "ffv1"]
        asked += ["--bundle", str(folder), "--method", "controlnet", "--prompt", "a superhero", "--guidance-scale", "2"]
        asked += ["--steps", str(STEPS), "--threads", "1", "--report", str(report), "--batch-size", str(size)]
        assert run(asked) == 0
        made[size] = json.loads(report.read_text())
        assert made[size]["settings"]["batch_size"] == size
    assert made[1]["rows"] is None and made[4]["rows"]["rows"] == count * STEPS * 2 * 2
    assert made[4]["rows"]["mean"] >= 2.0, "the rows of one frame at least"
    assert made[4]["frames_out"] == made[4]["frames_edited"] == count and not made[4]["frames_failed"]
    with frames_of(tmp_path / "1.mkv") as one, frames_of(tmp_path / "4.mkv") as four:
        assert len(one) == len(four) == count
        for a, b in zip(one, four, strict=True):
            assert a.pts == b.pts
            for x, y in zip(a.planes, b.planes, strict=True):
                assert np.abs(x.astype(int) - y).max() <= 1


@pytest.mark.parametrize(
    ("method", "says"), [("controlnet", "up to 8 rows of faces and frames"), ("pix2video", "of faces of a frame, each")]
)
def test_the_plan_says_what_may_share_a_call(
    method: str, says: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["edit", str(CLIP), str(tmp_path / "out.mkv"), "--bundle", str(folder), "--method", method, "--prompt", "a"]
    assert run([*asked, "--batch-size", "8", "--dry-run"]) == 0
    assert says in capsys.readouterr().out
    assert run([*asked, "--batch-size", "0"]) == 2
    assert "batch_size is 0: use a whole number from 1 to 64" in capsys.readouterr().err
