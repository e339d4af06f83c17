"""Importing what does not go together: one line that names the file and the cause, exit code 2, and nothing left behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from mien.engine.checkpoints.direction_edits import direction_edits  # noqa: E402
from mien.engine.checkpoints.importing import import_bundle  # noqa: E402
from mien.engine.checkpoints.sources import Settings, Sources  # noqa: E402
from mien.engine.errors import BundleError, RunError, UnavailableError  # noqa: E402
from mien.runtime.app import run  # noqa: E402
from mien.runtime.commands import models_import  # noqa: E402
from tests import published  # noqa: E402
from tests.published import Files, write_everything  # noqa: E402


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_everything(tmp_path_factory.mktemp("published"))


Words = list[str | Path]
WRONG: dict[str, tuple[Callable[[Files, Path], Words], str]] = {
    "no such file": (lambda f, t: ["--unet", t / "none"], r"--unet .*none: there is no such file or folder"),
    "no text encoder": (
        lambda f, t: ["--unet", f.repo / "unet"],
        r"no text_encoder beside the UNet: give --text-encoder",
    ),
    "no vae": (
        lambda f, t: ["--unet", f.repo / "unet", "--text-encoder", f.repo, "--prediction", "epsilon"],
        r"has no vae beside the UNet: give --vae FILE_OR_FOLDER or --taesd FILE FILE",
    ),
    "no tokenizer": (
        lambda f, t: ["--unet", f.single, "--prediction", "epsilon"],
        r"no tokenizer was found: give --tokenizer FOLDER, .* a single-file checkpoint has none",
    ),
    "prediction unknown": (
        lambda f, t: ["--unet", f.single, "--tokenizer", f.repo],
        r"does not tell whether it predicts the noise or v.*give --prediction",
    ),
    "a prediction that is none": (lambda f, t: ["--unet", f.repo, "--prediction", "eps"], r"'eps' is unknown"),
    "a sampling that is none": (
        lambda f, t: ["--unet", f.repo, "--sampling", "lcm_lor"],
        r"'lcm_lor' is unknown; did you mean 'lcm_lora'",
    ),
    "lcm for a plain UNet": (
        lambda f, t: ["--unet", f.repo, "--sampling", "lcm"],
        r"has no guidance embedding: see lcm_lora",
    ),
    "averages of a folder": (lambda f, t: ["--unet", f.repo, "--ema"], r"--ema is for a single file .* is a folder"),
    "averages that are not there": (
        lambda f, t: ["--unet", f.single, "--tokenizer", f.repo, "--ema"],
        r"no averaged weights .* leave out --ema",
    ),
    "half an adapter": (lambda f, t: ["--unet", f.repo, "--wplus", f.wplus], r"--wplus is given without --e4e"),
    "directions alone": (lambda f, t: ["--unet", f.repo, "--directions", f.directions], r"give --wplus and --e4e too"),
    "two autoencoders": (
        lambda f, t: ["--unet", f.repo, "--vae", f.repo, "--taesd", f.encoder, f.decoder],
        r"--vae and --taesd both give the autoencoder",
    ),
    "taesd's halves swapped": (
        lambda f, t: ["--unet", f.repo, "--taesd", f.decoder, f.encoder],
        r"taesd_decoder.safetensors: layer 1 is the first .* not TAESD's encoder",
    ),
    "sd21 text for sd15": (
        lambda f, t: ["--unet", f.repo, "--text-encoder", f.sd21],
        r"makes embeddings 48 wide .* the UNet reads text 32 wide",
    ),
    "sd21 control for sd15": (
        lambda f, t: ["--unet", f.repo, "--controlnet", f.controlnet21],
        r"reads text 48 wide, the UNet text 32 wide: take one of the UNet's family",
    ),
    "a unet as control": (
        lambda f, t: ["--unet", f.repo, "--controlnet", f.repo / "unet"],
        r"UNet2DConditionModel, not (of )?a controlnet",
    ),
    "sd15's adapter for sd21": (
        lambda f, t: ["--unet", f.sd21, "--wplus", f.wplus, "--e4e", f.e4e],
        r"makes tokens 32 wide, the UNet reads 48: the W\+ Adapter is for SD1.5",
    ),
    "another file as lora": (lambda f, t: ["--unet", f.repo, "--lora", f"{f.encoder}:1"], r"are not a LoRA's down, up"),
    "a scale that is none": (
        lambda f, t: ["--unet", f.repo, "--lora", f"{f.lora}:x"],
        r"the scale 'x' is not a number",
    ),
    "an endless scale": (lambda f, t: ["--unet", f.repo, "--lora", f"{f.lora}:inf"], r"scale inf is not a finite"),
    "landmarks as parser": (
        lambda f, t: ["--unet", f.repo, "--parser", f.landmarks],
        r"MobileNetV2-GDConv, not BiSeNet",
    ),
    "crop": (lambda f, t: ["--unet", f.repo, "--crop", "100"], r"--crop is 100; accepted: multiples of 8"),
    "licence of nothing": (lambda f, t: ["--unet", f.repo, "--licence", "unets=MIT"], r"'unets'; did you mean 'unet'"),
    "licence without text": (lambda f, t: ["--unet", f.repo, "--licence", "MIT"], r"'MIT' is not PART=TEXT"),
    "depth named otherwise": (
        lambda f, t: ["--unet", f.repo, "--depth", published.write_depth(t / "d.onnx", image="input")],
        r"has input \(1, 3, '\?', '\?'\), depth .*; a depth network is image",
    ),
    "depth of another side": (
        lambda f, t: ["--unet", f.repo, "--depth", published.write_depth(t / "d.onnx", sides=(384, 384))],
        r"a depth network is image \(1, 3, 512, 512\)",
    ),
    "no onnx": (lambda f, t: ["--unet", f.repo, "--depth", f.lora], r"is not an ONNX file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_and_nothing_stays(
    case: str, files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words, message = WRONG[case]
    into = tmp_path / "bundles"
    code = run(["models", "import", "wrong", "--into", str(into), *map(str, words(files, tmp_path))])
    told = capfd.readouterr()
    assert (code, told.out) == (2, "") and told.err.startswith("mien: error: ") and told.err.count("\n") == 1
    assert re.search(message, told.err), told.err
    assert not into.exists() or list(into.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Tiny", "cannot be a bundle's name"),
        ("../x", "cannot be a bundle's name"),
        ("tiny", "that of a bundle inside mien"),
    ],
)
def test_names(name: str, message: str, files: Files, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=message):
        import_bundle(name, Sources(files.repo), Settings(), tmp_path)


def test_a_stylegan1_boundary_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "stylegan_ffhq_age_w_boundary.npy", np.eye(1, 512))
    with pytest.raises(BundleError, match="is a direction of StyleGAN1"):
        direction_edits([tmp_path])


def test_only_bundles_are_replaced(files: Files, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("years")
    with pytest.raises(BundleError, match="is not a bundle, so it is not replaced"):
        import_bundle("work", Sources(files.repo), Settings(), tmp_path, overwrite=True)
    assert (tmp_path / "work" / "thesis.txt").read_text() == "years"
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot make a folder in"):
        import_bundle("mini", Sources(files.repo), Settings(), tmp_path / "file")


def test_without_its_packages_the_hint_is_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models_import, "find_spec", lambda name: None if name == "transformers" else name)
    with pytest.raises(UnavailableError, match=r"importing needs transformers: pip install 'mien\[export\]'$"):
        models_import.require_packages()
