"""Every method through the whole pipeline: frame by frame equals several at a time, whatever the threads, and no frame is lost.

Of each run every answer of the method is kept, by the crop it saw: floats, before they are rounded into planes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from mien.engine.bundle import Bundle  # noqa: E402
from mien.engine.checkpoints.importing import import_bundle  # noqa: E402
from mien.engine.checkpoints.sources import Settings, Sources  # noqa: E402
from mien.engine.config import EngineConfig  # noqa: E402
from mien.engine.editor import Editor  # noqa: E402
from mien.engine.spec import EditSpec  # noqa: E402
from mien.engine.types import Array, Frame  # noqa: E402
from mien.runtime.edit_video import VideoJob, edit_video  # noqa: E402
from mien.runtime.source import VideoReader  # noqa: E402
from tests import published  # noqa: E402

CLIP = Path(__file__).resolve().parents[2] / "examples" / "sample.mp4"
START_S, FRAMES, PX = 1.0, 3, 64
PROMPT: dict[str, Any] = {"prompt": "a superhero", "num_steps": 2, "guidance_scale": 2.0}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "wplus": ("plain", {"method": "wplus", "edits": {"age": 2.0}, "num_steps": 2}),
    "wplus extended": (
        "plain",
        {"method": "wplus", "edits": {"age": 2.0}, "options": {"extended": 1.0}, "num_steps": 2},
    ),
    "controlnet": ("plain", {"method": "controlnet", **PROMPT}),
    "instruct_pix2pix": ("instruct", {"method": "instruct_pix2pix", **PROMPT}),
    "text2video_zero": ("plain", {"method": "text2video_zero", "options": {"control": "canny"}, **PROMPT}),
    "pix2video": ("plain", {"method": "pix2video", "strength": 0.9, **PROMPT}),
}
ONE, MANY = EngineConfig(threads=1), EngineConfig(threads=2, frames_at_once=2)


@pytest.fixture(scope="module")
def editor_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, EngineConfig], Editor]:
    """An editor for a case."""
    root = tmp_path_factory.mktemp("published")
    settings = Settings(sampling="lcm_lora", prediction=None, crop_px=PX, licences={})
    sources = {
        "plain": Sources(
            unet=published.write_repository(root / "sd15"),
            wplus=published.write_wplus(root),
            e4e=published.write_e4e(root),
            controlnet=published.write_controlnet(root / "controlnet"),
            directions=(published.write_directions(root / "w_direction"),),
        ),
        "instruct": Sources(unet=published.write_repository(root / "ip2p", in_channels=8)),
    }
    bundle_of = cache(lambda kind: import_bundle(kind, sources[kind], settings, root / "bundles").bundle)

    def made(case: str, config: EngineConfig) -> Editor:
        kind, spec = CASES[case]
        bundle: Bundle = bundle_of(kind)
        return Editor(bundle, spec=EditSpec(composition="replace", **spec), config=config)

    return made


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    with VideoReader(CLIP, START_S, None) as video:
        return list(islice(video, FRAMES))


def answers_of(editor: Editor, work: Callable[[Editor], object]) -> dict[bytes, Array]:
    """What the method answered while `work` ran, by the crop."""
    assert editor._edit is not None
    method, found = editor._edit.method, dict[bytes, Array]()
    finish = type(method).finish

    def kept(track: Any, view: Any) -> Any:
        answer: Any = finish(method, track, view)
        found[view.crop.tobytes()] = answer.cover[0]
        return answer

    method.finish = kept  # type: ignore[method-assign]
    work(editor)
    return found


def assert_same(one: dict[bytes, Array], other: dict[bytes, Array]) -> None:
    assert one.keys() == other.keys() and one
    for crop, picture in one.items():
        np.testing.assert_allclose(other[crop], picture, rtol=1e-4, atol=1e-4)


def planes_apart(one: Sequence[Frame], other: Sequence[Frame]) -> int:
    """The largest difference of two clips of as many frames."""
    pairs = zip(one, other, strict=True)
    return max(int(np.abs(a.astype(int) - b).max()) for x, y in pairs for a, b in zip(x.planes, y.planes, strict=True))


@pytest.mark.parametrize("case", list(CASES))
def test_a_file_is_edited_alike_frame_by_frame_and_several_at_a_time(
    case: str, editor_of: Callable[[str, EngineConfig], Editor], frames: list[Frame], tmp_path: Path
) -> None:
    edited, answers = list[Frame](), dict[bytes, Array]()

    def by_frame(editor: Editor) -> None:
        survey = editor.survey()
        for frame in frames:
            survey.add(frame)
        plan = survey.finish()
        edited.extend(plan.edit(frame).frame for frame in frames)

    answers = answers_of(editor_of(case, ONE), by_frame)
    assert len(answers) == FRAMES and planes_apart(edited, frames) > 8
    stop_s = START_S + (FRAMES - 0.5) * float((frames[1].pts - frames[0].pts) * frames[0].time_base)
    job = VideoJob(str(CLIP), tmp_path / "out.mkv", "ffv1", start_s=START_S, stop_s=stop_s, threads=1)
    assert_same(answers, answers_of(editor_of(case, MANY), lambda editor: edit_video(job, editor)))
    with VideoReader(job.target) as result:
        assert planes_apart(edited, list(result)) <= 1


@pytest.mark.parametrize("case", list(CASES))
def test_a_stream_is_edited_alike_in_pieces_and_at_every_length(
    case: str, editor_of: Callable[[str, EngineConfig], Editor], frames: list[Frame]
) -> None:
    editor, edited = editor_of(case, ONE), dict[int, list[Frame]]()

    def whole(editor: Editor) -> None:
        edited[FRAMES] = list(editor.run(frames))

    answers = answers_of(editor, whole)
    assert len(edited[FRAMES]) == FRAMES and planes_apart(edited[FRAMES], frames) > 8

    def pieces(editor: Editor) -> None:
        stream = editor.stream()
        parts = [[stream.edit(frame).frame for frame in part] for part in (frames[:1], frames[1:])]
        assert planes_apart(sum(parts, start=[]), edited[FRAMES]) <= 1

    assert_same(answers, answers_of(editor, pieces))
    for length in (1, 2):
        part = list(editor.run(iter(frames[:length])))
        assert len(part) == length and planes_apart(part, edited[FRAMES][:length]) <= 1
    at_once = editor_of(case, MANY)
    assert_same(answers, answers_of(at_once, lambda editor: edited.update({0: list(editor.run(frames))})))
    assert planes_apart(edited[0], edited[FRAMES]) <= 1
