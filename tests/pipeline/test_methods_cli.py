"""Every method from the command line, over miniature bundles imported from the command line, on the repository's own clip."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from mien.engine import edits as methods  # noqa: E402
from mien.runtime.app import run  # noqa: E402
from mien.runtime.source import VideoReader  # noqa: E402
from tests import published  # noqa: E402

CLIP = Path(__file__).resolve().parents[2] / "examples" / "sample.mp4"
FRAMES, PART = 3, ("--from", "1.0", "--to", "1.1")
PROMPT = ("--prompt", "a superhero", "--guidance-scale", "2")
CASES = {
    "wplus": ("plain", "wplus", ("--edit", "age=2")),
    "wplus delta": ("plain", "wplus", ("--edit", "age=2", "--composition", "delta")),
    "controlnet": ("plain", "controlnet", (*PROMPT, "--option", "control=landmarks")),
    "instruct_pix2pix": ("instruct", "instruct_pix2pix", PROMPT),
    "text2video_zero": ("plain", "text2video_zero", (*PROMPT, "--option", "control=canny")),
    "pix2video": ("plain", "pix2video", PROMPT),
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
    rest = ("--crop", "128", "--sampling", "lcm_lora", "--into", str(root / "bundles"))
    assert run(["models", "import", "plain", *(str(w) for pair in parts.items() for w in pair), *rest]) == 0
    instruct = published.write_repository(root / "ip2p", in_channels=8)
    assert run(["models", "import", "instruct", "--unet", str(instruct), *rest]) == 0
    return root / "bundles"


@pytest.mark.parametrize("case", list(CASES))
def test_a_method_edits_the_face_and_nothing_else(case: str, folder: Path, tmp_path: Path) -> None:
    bundle, method, words = CASES[case]
    out, report_file = tmp_path / "out.mkv", tmp_path / "report.json"
    asked = ["edit", str(CLIP), str(out), *PART, "--bundle", str(folder / bundle), "--method", method, *words]
    assert run([*asked, "--steps", "2", "--codec", "ffv1", "--threads", "1", "--report", str(report_file)]) == 0
    report = json.loads(report_file.read_text())
    assert (report["frames_in"], report["frames_out"], report["frames_edited"]) == (FRAMES, FRAMES, FRAMES)
    assert (report["frames_failed"], report["frames_dropped"]) == (0, 0)
    with VideoReader(CLIP, 1.0, 1.1) as source, VideoReader(out) as result:
        pairs = list(zip(source, result, strict=True))
    assert len(pairs) == FRAMES
    for (before, after), (_, x0, y0, x1, y1) in zip(pairs, report["paste_boxes"], strict=True):
        for a, b, half in zip(before.planes, after.planes, (1, 2, 2), strict=True):
            changed = a != b
            assert changed.any(), "random weights change the picture somehow"
            changed[y0 // half : y1 // half, x0 // half : x1 // half] = False
            assert not changed.any()


def test_strength_0_gives_the_input_back(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    asked = ["edit", str(CLIP), str(out), *PART, "--bundle", str(folder / "plain"), "--method", "controlnet", *PROMPT]
    assert run([*asked, "--strength", "0", "--codec", "ffv1"]) == 0
    with VideoReader(CLIP, 1.0, 1.1) as source, VideoReader(out) as result:
        for before, after in zip(source, result, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(before.planes, after.planes, strict=True))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "controlnet"), "nothing to edit"),
        (("--method", "controlnet", "--edit", "age=1"), "is told a prompt, it has no edit 'age'"),
        (("--method", "instruct_pix2pix", *PROMPT), "needs a UNet of 8 channels"),
        (("--method", "controlnet", *PROMPT, "--option", "control=edges"), "control is 'edges'; accepted: canny"),
        (("--method", "controlnet", *PROMPT, "--option", "colour=red"), "has no option 'colour'"),
        (("--method", "wplus", "--edit", "age=2", "--crop-size", "130"), "multiples of 8"),
        (("--method", "wplus", "--edit", "age=9"), "accepted: -8 to 8"),
        (("--method", "controlnet", *PROMPT, "--backend", "onnxruntime"), "use --backend torch"),
        (
            ("--method", "controlnet", "--prompt", " ".join(["face"] * 76) + "\nof a photo"),
            "fit: 'face\\nof a photo'; shorten it",
        ),
        (
            ("--method", "pix2video", *PROMPT, "--option", "residual_cfg=self", "--composition", "delta"),
            "--composition replace",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line(
    words: tuple[str, ...], message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.mkv"
    code = run(["edit", str(CLIP), str(out), *PART, "--bundle", str(folder / "plain"), *words])
    error = capsys.readouterr().err.strip()
    assert code in (2, 3) and message in error and "\n" not in error, error
    assert not out.exists()


TOYS = {
    "toy": """
        from mien.engine.edits import Answer


        class Toy:
            @staticmethod
            def is_active(spec):
                return True

            @staticmethod
            def networks(spec, manifest):
                return ()

            @staticmethod
            def in_order(spec, manifest):
                return False

            @staticmethod
            def regions(spec, manifest):
                return ("face",)

            def __init__(self, spec, bundle, networks):
                pass

            def wants_code(self):
                return False

            def encode(self, track, crop):
                raise AssertionError

            def finish(self, track, view):
                return Answer(cover=(-view.crop, view.mask))


        METHOD = Toy
        """,
    "prompted_toy": """
        from mien.engine.edits.controlnet import prompted
        from mien.engine.prompt_edit import PromptEdit, Recipe, bind_model, guidance_scale


        class PlainEdit(PromptEdit):
            def __init__(self, spec, bundle, networks):
                model, scale = bind_model(bundle, networks), guidance_scale(spec, bundle.manifest)
                told = prompted(model, spec, scale, "")
                recipe = Recipe(self.edited(spec, bundle.manifest), {"source": 1.0}, lambda track, t: told)
                super().__init__(spec, bundle.manifest, model, recipe)


        METHOD = PlainEdit
        """,
}


@pytest.mark.parametrize("name", list(TOYS))
def test_a_method_of_ones_own_is_one_file(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{name}.py").write_text(dedent(TOYS[name]))
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    out, bundle = tmp_path / "out.mkv", "tiny" if name == "toy" else str(folder / "plain")
    asked = ["edit", str(CLIP), str(out), *PART, "--bundle", bundle, "--method", name, *PROMPT, "--codec", "ffv1"]
    assert run([*asked, "--steps", "1", "--threads", "1"]) == 0
    with VideoReader(CLIP, 1.0, 1.1) as source, VideoReader(out) as result:
        pairs = list(zip(source, result, strict=True))
    assert len(pairs) == FRAMES
    assert all((before.planes[0] != after.planes[0]).any() for before, after in pairs)
