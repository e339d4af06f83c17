"""Opening, refusing and writing bundles: every fault of a manifest is named in one line."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.engine import bundle as bundles
from mien.engine.bundle import Bundle, available, pack_directions
from mien.engine.errors import BundleError, EditError


@pytest.fixture
def folder(probe_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(probe_bundle.folder, tmp_path / "probe"))


def change(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads((folder / "bundle.json").read_text())
    before = copy.deepcopy(value)
    edit(value)
    assert value != before, "the change must change something"
    (folder / "bundle.json").write_text(json.dumps(value))


def test_what_is_written_is_read(probe_bundle: Bundle) -> None:
    about = probe_bundle.manifest
    assert (about.crop_size_px, about.latent_channels, about.latent_size, about.default_num_steps) == (64, 4, 8, 1)
    assert about.schedule.kind == "scaled_linear" and about.prediction == "v_prediction"
    assert about.bank[0].tokens == 64
    smile = probe_bundle.edits["smile"]
    assert smile.range == (-1.5, 1.5) and smile.direction == "smile" and smile.regions == ("mouth",)
    assert smile.template[0].points == (48, 54) and smile.template[0].dy == -0.1
    np.testing.assert_array_equal(probe_bundle.directions["smile"], np.full((12, 64), 0.01, np.float32))
    assert probe_bundle.verify() == sum(
        (probe_bundle.folder / file).stat().st_size
        for file in ("probe.onnx", "half.onnx", "plane.onnx", "grow.onnx", "directions.npz", "MODEL_CARD.md")
    )
    assert "weights" in about.licences
    assert re.fullmatch(r"Bundle\('probe' 1, networks=4, edits=\['smile'\], sha256=\w{12}\)", repr(probe_bundle))


def test_the_hash_follows_the_manifest(probe_bundle: Bundle, folder: Path) -> None:
    assert Bundle.open(folder).sha256 == probe_bundle.sha256
    change(folder, lambda m: m.update(version="2"))
    assert Bundle.open(folder).sha256 != probe_bundle.sha256


def test_writing_twice_gives_the_same_bytes(probe_bundle: Bundle, tmp_path: Path) -> None:
    manifest = json.loads((probe_bundle.folder / "bundle.json").read_text())
    files: dict[str, bytes | Path] = {
        path.name: path for path in probe_bundle.folder.iterdir() if path.suffix != ".json"
    }
    again = Bundle.write(tmp_path / "again", {k: v for k, v in manifest.items() if k not in ("format", "files")}, files)
    assert again.networks == probe_bundle.networks
    assert pack_directions(dict(probe_bundle.directions)) == (probe_bundle.folder / "directions.npz").read_bytes()
    assert list((tmp_path / "again").glob("*.json.*")) == [], "no temporary file stays"


FAULTS: list[tuple[str, Callable[[dict[str, Any]], None], str]] = [
    ("missing key", lambda m: m.pop("schedule"), "the key 'schedule' is missing"),
    ("unknown key", lambda m: m.update(scedule={}), "the key 'scedule' is unknown: did you mean 'schedule'?"),
    ("newer format", lambda m: m.update(format=9), "format 9 is unknown, this mien reads format 1: update mien"),
    ("format is text", lambda m: m.update(format="1"), ".format is '1', it must be a whole number"),
    ("name", lambda m: m.update(name="../x"), ".name is '../x', it must be a string like"),
    ("crop", lambda m: m["crop"].update(size_px=True), ".crop.size_px is True, it must be a whole number from 32"),
    ("prediction", lambda m: m.update(prediction="eps"), "is 'eps', it must be one of v_prediction, epsilon, sample"),
    (
        "steps",
        lambda m: m["defaults"].update(num_steps=0),
        ".defaults.num_steps is 0, it must be a whole number from 1 to 50",
    ),
    ("networks", lambda m: m.update(networks=[]), ".networks is a list, it must be an object"),
    ("sha256", lambda m: m["networks"]["probe"].update(sha256="ab"), ".networks.probe.sha256 is 'ab', it must be"),
    (
        "class",
        lambda m: m["networks"]["probe"]["architecture"].update(name="os.system"),
        "architecture.name is 'os.system'",
    ),
    ("shape", lambda m: m["networks"]["probe"]["inputs"]["latents"].update(shape=["b"]), "'b' is not a dimension"),
    (
        "free output",
        lambda m: m["networks"]["plane"]["outputs"]["score"].update(shape=[1, 2, "Q", "W"]),
        "'Q' is not a dimension of any input",
    ),
    ("range", lambda m: m["edits"]["smile"].update(range=[0.5, 1]), "[0.5, 1] must hold 0"),
    ("range length", lambda m: m["edits"]["smile"].update(range=[1]), "it must be a list of 2 numbers"),
    (
        "direction",
        lambda m: m["edits"]["smile"].update(direction="grin"),
        "names the direction 'grin', the bundle has smile",
    ),
    (
        "landmark",
        lambda m: m["edits"]["smile"]["template"][0].update(points=[68]),
        "template[0].points is 68, it must be a whole number from 0 to 67",
    ),
    ("sigma", lambda m: m["edits"]["smile"]["template"][0].update(sigma=0), "a sigma above 0"),
    (
        "t_max",
        lambda m: m["edits"]["smile"].update(t_max=1000),
        ".t_max is 1000, it must be a whole number from 1 to 999",
    ),
    ("composition", lambda m: m["edits"]["smile"].update(composition="add"), "one of delta, replace"),
    ("regions", lambda m: m["edits"]["smile"].update(regions=[]), "at least one region"),
    ("idle edit", lambda m: m["edits"]["smile"].update(direction=None, template=[]), "needs a direction or something"),
    (
        "lips without a template",
        lambda m: m["edits"]["smile"].update(parts_lips=True, template=[]),
        "lips part by a template",
    ),
    (
        "target's spread",
        lambda m: m["edits"]["smile"].update(target={"coordinate": 20, "centre": 0.5, "spread": 0}),
        ".target.spread is 0, it must be above",
    ),
    (
        "target of nothing",
        lambda m: m["edits"]["smile"].update(direction=None, target={"coordinate": 20, "centre": 0.5, "spread": 1}),
        "a target needs a direction that leads there",
    ),
    ("outline", lambda m: m["edits"]["smile"].update(hides=True, outline=[[0, 0], [1]]), "a list of pairs of numbers"),
    ("outline's corner", lambda m: m["edits"]["smile"].update(hides=True, outline=[[0, 2]]), "from 0 to 1"),
    ("outline of nothing", lambda m: m["edits"]["smile"].update(outline=[[0, 0], [1, 0], [1, 1]]), "three corners"),
    ("outline of a line", lambda m: m["edits"]["smile"].update(hides=True, outline=[[0, 0], [1, 0]]), "three corners"),
    ("escape", lambda m: m["networks"]["probe"].update(file="../probe.onnx"), "'../probe.onnx' is refused"),
    ("absolute", lambda m: m["networks"]["probe"].update(file="/etc/passwd"), "'/etc/passwd' is refused"),
    ("deep escape", lambda m: m["files"].update({"a/../../x": "0" * 64}), "'a/../../x' is refused"),
    (
        "no file",
        lambda m: m["networks"]["probe"].update(file="gone.onnx"),
        "'gone.onnx' that bundle.json names is missing",
    ),
    ("card", lambda m: m.update(model_card="CARD"), "model_card names 'CARD', which is not among files"),
]


@pytest.mark.parametrize(("fault", "message"), [case[1:] for case in FAULTS], ids=[case[0] for case in FAULTS])
def test_a_fault_of_the_manifest_is_named(fault: Callable[[dict[str, Any]], None], message: str, folder: Path) -> None:
    change(folder, fault)
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON: .* at line 1 column 2"),
        (b"[]", "is a list, it must be an object"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b'{"format": NaN}', "NaN is not a number"),
    ],
)
def test_a_manifest_that_is_none(content: bytes, message: str, folder: Path) -> None:
    (folder / "bundle.json").write_bytes(content)
    with pytest.raises(BundleError, match=message):
        Bundle.open(folder)


def test_a_link_to_outside_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "probe.onnx", tmp_path / "elsewhere.onnx")
    os.symlink(tmp_path / "elsewhere.onnx", folder / "probe.onnx")
    with pytest.raises(BundleError, match="'probe.onnx' is a link to outside the bundle"):
        Bundle.open(folder)


def test_a_changed_file_fails_verification(folder: Path) -> None:
    (folder / "MODEL_CARD.md").write_bytes(b"other\n")
    with pytest.raises(BundleError, match=r"MODEL_CARD.md is corrupt: its sha256 is \w{64}, the bundle says \w{64}"):
        Bundle.open(folder).verify()


@pytest.mark.parametrize("value", [np.zeros(768, np.float32), np.full((12, 64), np.inf, np.float32)])
def test_a_wrong_direction_is_refused(value: Any, probe_bundle: Bundle, tmp_path: Path) -> None:
    manifest = json.loads((probe_bundle.folder / "bundle.json").read_text())
    files: dict[str, bytes | Path] = {
        path.name: path for path in probe_bundle.folder.iterdir() if path.suffix != ".json"
    }
    files["directions.npz"] = pack_directions({"smile": value})
    with pytest.raises(BundleError, match="direction 'smile' is .* directions are finite"):
        Bundle.write(tmp_path / "b", {k: v for k, v in manifest.items() if k not in ("format", "files")}, files)


def test_pickles_are_refused(probe_bundle: Bundle, tmp_path: Path) -> None:
    manifest = json.loads((probe_bundle.folder / "bundle.json").read_text())
    files: dict[str, bytes | Path] = {
        path.name: path for path in probe_bundle.folder.iterdir() if path.suffix != ".json"
    }
    np.savez(tmp_path / "pickled.npz", smile=np.array([{"a": 1}], dtype=object))
    files["directions.npz"] = tmp_path / "pickled.npz"
    with pytest.raises(BundleError, match="is not a directions file"):
        Bundle.write(tmp_path / "b", {k: v for k, v in manifest.items() if k not in ("format", "files")}, files)


def test_bundles_are_found_by_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "PACKAGED", tmp_path / "packaged")
    cache = tmp_path / "cache"
    shutil.copytree(folder, cache / "bundles" / "mine")
    assert available(cache) == {"mine": cache / "bundles" / "mine"}
    assert Bundle.open("mine", cache_folder=cache).name == "probe"
    shutil.copytree(folder, tmp_path / "packaged" / "mine")
    assert available(cache) == {"mine": tmp_path / "packaged" / "mine"}, "a packaged bundle goes first"
    with pytest.raises(BundleError, match=r"unknown bundle 'mime', did you mean 'mine'\?"):
        Bundle.open("mime", cache_folder=cache)
    with pytest.raises(BundleError, match="is not a bundle: it has no bundle.json"):
        Bundle.open(tmp_path, cache_folder=cache)


def test_an_unknown_edit_suggests_the_nearest(probe_bundle: Bundle) -> None:
    with pytest.raises(EditError, match=r"unknown edit 'smlie', did you mean 'smile'\? the bundle 'probe' has smile"):
        probe_bundle.edit("smlie")
