"""What the command line does when all is well: results, reports, plans, listings and what doctor says."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.runtime.app import run
from mien.runtime.picture import read_picture
from mien.runtime.source import open_video


@pytest.fixture
def edit(tmp_path: Path, make_clip: Callable[..., Path], blank_bundle: Path) -> Callable[..., tuple[int, Path]]:
    """edit("--steps", "1") -> exit code and OUT."""

    def call(*more: str, source: Path | None = None, out: str = "out.mp4") -> tuple[int, Path]:
        clip = source or make_clip("clip.mp4", audio="aac")
        target = tmp_path / out
        return run(["edit", str(clip), str(target), "--edit", "smile=1", "--bundle", str(blank_bundle), *more]), target

    return call


def frames(path: Path) -> list[Any]:
    with open_video(path) as reader:
        return list(reader)


def test_a_clip_without_a_face_goes_through(
    edit: Callable[..., tuple[int, Path]], capfd: pytest.CaptureFixture[str]
) -> None:
    code, out = edit("--codec", "ffv1", out="out.mkv")
    told = capfd.readouterr()
    assert (code, told.err) == (0, "")
    assert "out.mkv: 12 frames, 0 edited" in told.out and "no face was edited" in told.out
    assert told.out.splitlines()[0].endswith(" fps, encoded by ffv1")
    source = frames(out.with_name("clip.mp4"))
    for before, after in zip(source, frames(out), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(before.planes, after.planes, strict=True))


def test_a_picture(tmp_path: Path, edit: Callable[..., tuple[int, Path]]) -> None:
    import cv2

    pixels = np.random.default_rng(0).integers(0, 255, (63, 95, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "in.png"), pixels)
    code, out = edit("--compare", source=tmp_path / "in.png", out="out.png")
    assert code == 0
    np.testing.assert_array_equal(read_picture(out).rgb, pixels[..., ::-1])
    assert read_picture(tmp_path / "out.png.compare.png").rgb.shape == (63, 190, 3)


def test_report_and_compare(edit: Callable[..., tuple[int, Path]], tmp_path: Path, blank_bundle: Path) -> None:
    code, out = edit("--report", str(tmp_path / "report.json"), "--compare", "--steps", "3", "--threads", "1")
    assert code == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["frames_in"], report["frames_out"], report["passes"]) == (12, 12, 2)
    assert report["output"] == str(out) and report["backend"] == "onnxruntime" and report["device"] == "cpu"
    assert report["bundle"]["name"] == "blank" and len(report["bundle"]["sha256"]) == 64
    assert report["settings"]["num_steps"] == 3 and report["settings"]["edits"] == {"smile": 1.0}
    assert report["settings"]["threads"] == 1 and report["settings"]["crf"] == 18
    assert (report["encoder"], report["settings"]["encoder"]) == ("libx264", "auto") and report["notes"] == []
    assert {"decode", "analyse", "edit", "encode"} <= set(report["stages"])
    with open_video(tmp_path / "out.mp4.compare.mp4") as beside, open_video(out) as result:
        assert beside.info.width == 2 * result.info.width and len(list(beside)) == 12


def test_a_dry_run_writes_nothing(edit: Callable[..., tuple[int, Path]], capfd: pytest.CaptureFixture[str]) -> None:
    code, out = edit("--dry-run", "--compare", "--to", "0.2")
    told = capfd.readouterr().out
    assert code == 0
    assert "onnxruntime (auto)" in told and "blank 1" in told and "to_s      0.2" in told
    assert sorted(path.name for path in out.parent.iterdir()) == ["clip.mp4"]


@pytest.mark.parametrize(
    ("execution", "told"),
    [("fast", "unknown execution 'fast'"), ("graphs", "on the cpu"), ("eager", "of the backend torch")],
)
def test_an_execution_that_does_nothing_is_refused(
    edit: Callable[..., tuple[int, Path]], capfd: pytest.CaptureFixture[str], execution: str, told: str
) -> None:
    code, out = edit("--execution", execution)
    assert code == 2 and told in capfd.readouterr().err and not out.exists()


def test_nvenc_that_does_not_open_is_one_line(
    edit: Callable[..., tuple[int, Path]], capfd: pytest.CaptureFixture[str]
) -> None:
    from mien.runtime.encoders import Encoding, nvenc_encoder, why_no_nvenc

    if (why := why_no_nvenc(nvenc_encoder(Encoding(), "yuv420p"), 640, 480)) is None:
        pytest.skip("NVENC opens here")
    code, out = edit("--encoder", "nvenc")
    told = capfd.readouterr()
    assert (code, told.out, len(told.err.splitlines())) == (3, "", 1) and not out.exists()
    assert told.err.startswith("mien: error: NVENC does not open for h264 of 96x64 yuv420p: ") and why in told.err


def test_overwrite_and_part(edit: Callable[..., tuple[int, Path]]) -> None:
    assert edit()[0] == 0
    code, out = edit("--overwrite", "--from", "0.2", "--to", "0.4")
    assert code == 0 and len(frames(out)) == 5


def test_listings(blank_bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["edits", "list", "--bundle", str(blank_bundle)]) == 0
    assert capfd.readouterr().out == "smile  -1.50 to +1.50  raises the corners of the mouth\n"
    assert run(["edits", "list", "--bundle", str(blank_bundle), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["edits"][0]["range"] == [-1.5, 1.5]
    assert run(["models", "show", str(blank_bundle), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["networks"]["detector"]["outputs"]["box_8"] == [1, 4, "H/8", "W/8"]
    assert run(["models", "show", str(blank_bundle)]) == 0
    assert "licence     weights: Apache-2.0" in capfd.readouterr().out
    assert run(["models", "verify", str(blank_bundle)]) == 0
    assert "every file is what the bundle says" in capfd.readouterr().out


def test_models_are_listed_from_the_cache_folder(
    blank_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "mine").symlink_to(blank_bundle)
    (tmp_path / "bundles" / "bad").mkdir()
    (tmp_path / "bundles" / "bad" / "bundle.json").write_text("{}")
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path))
    assert run(["models", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capfd.readouterr().out)}
    assert rows["mine"]["version"] == "1" and "the key 'format' is missing" in rows["bad"]["error"]


def test_doctor_says_what_works(blank_bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json", "--bundle", str(blank_bundle)]) == 0
    told = json.loads(capfd.readouterr().out)
    found = {finding["name"]: finding for finding in told["findings"]}
    assert told["works"] is True
    assert found["networks"]["value"] == "all 7 load and run on onnxruntime"
    assert found["numpy"]["value"] == np.__version__ and found["native module"]["state"] in ("ok", "warning")
    assert "libx264" in found["encoders"]["value"]
    assert all(found[name]["state"] in ("ok", "none") for name in ("h264_nvenc", "hevc_nvenc"))


def test_doctor_fails_without_a_bundle(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--bundle", str(tmp_path)]) == 3
    told = capfd.readouterr().out
    assert "FAIL  bundle" in told and "faces cannot be edited here" in told


def test_doctor_names_the_repair(
    blank_bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from mien.runtime import doctor

    known = doctor._version
    both = {"onnxruntime-gpu": "1.30.0", "av": None}
    monkeypatch.setattr(doctor, "_version", lambda package: both.get(package, known(package)))
    monkeypatch.setitem(sys.modules, "mien._native", None)
    assert run(["doctor", "--bundle", str(blank_bundle)]) == 3
    told = capfd.readouterr().out
    assert "pip uninstall onnxruntime onnxruntime-gpu; pip install onnxruntime" in told
    assert "install a C++20 compiler" in told and "pip install 'mien[cpu]'" in told


def test_version_help_and_commands_of_entry_points(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capfd.readouterr().out == f"mien {importlib.metadata.version('mien')}\n"
    assert run([]) == run(["--help"]) == run(["edit", "--help"]) == 0
    assert "OUT.compare.mp4" in capfd.readouterr().out
    assert run(["bench", "--help"]) == 0, "bench is an entry point of the group mien.commands"
    assert "plain" in capfd.readouterr().out


def test_a_missing_package_is_one_line() -> None:
    code = (
        "import sys; sys.modules['typer'] = None; sys.argv[1:] = ['doctor']; from mien.runtime.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 3
    assert done.stderr == "mien: error: typer is not installed: pip install 'mien[cpu]'\n"


def test_a_missing_package_is_said_with_what_brings_it(tmp_path: Path, make_clip: Callable[..., Path]) -> None:
    clip = make_clip("in.mp4")
    code = (
        "import sys; sys.modules['torch'] = None; from mien.runtime.app import run;"
        f" sys.exit(run(['bench', 'plain', {str(clip)!r}, '--edit', 'smile=1']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 3 and "torch is not installed: pip install 'mien[export]'" in done.stderr


def test_commands_other_than_edit_do_not_need_the_packages_for_video() -> None:
    code = "import sys; sys.modules['av'] = sys.modules['onnxruntime'] = None; from mien.runtime.app import run; sys.exit(run(['edits']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
