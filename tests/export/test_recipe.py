"""The order of the recipe: what ended stays ended, what fails is told."""

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from mien.export.tiny import loop, pairs, recipe, scenes
from mien.export.tiny.stage import Arguments


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, int]]:
    """Stages that do nothing but note their name, minutes and threads."""
    notes: list[tuple[str, float, int]] = []

    def stage_of(module: str) -> SimpleNamespace:
        name = module.rpartition(".")[2]
        return SimpleNamespace(run=lambda args: notes.append((name, args.minutes, args.threads)))

    monkeypatch.setattr(recipe, "importlib", SimpleNamespace(import_module=stage_of))
    return notes


class _Elsewhere:
    """The process of the analysis networks, busy until it is told to end."""

    def __init__(self, **_: object) -> None:
        self.told: list[str] = []
        self.exitcode = None

    def __getattr__(self, name: str) -> Callable[[], None]:
        return lambda: self.told.append(name)


def test_a_failed_editing_stage_does_not_wait_for_the_analysis_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = _Elsewhere()
    context = SimpleNamespace(Process=lambda **_: busy)
    monkeypatch.setattr(recipe, "multiprocessing", SimpleNamespace(get_context=lambda _: context))

    def stage_of(module: str) -> SimpleNamespace:
        def run(_: Arguments) -> None:
            if module.endswith("pairs"):
                raise ValueError("no pairs")

        return SimpleNamespace(run=run)

    monkeypatch.setattr(recipe, "importlib", SimpleNamespace(import_module=stage_of))
    with pytest.raises(ValueError, match="no pairs"):
        recipe.run_all(Arguments(data=tmp_path, runs=tmp_path, minutes=0, threads=2), 0)
    assert busy.told == ["start", "terminate", "join"]
    assert (tmp_path / "ended" / "autoencoder").exists() and not (tmp_path / "ended" / "pairs").exists()


def test_an_ended_stage_says_what_to_delete(
    tmp_path: Path, ran: list[tuple[str, float, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ended").mkdir()
    for stage in ("prepare", "parser"):
        (tmp_path / "ended" / stage).touch()
    recipe.run_stages(("prepare", "parser"), Arguments(data=tmp_path, runs=tmp_path, minutes=0), None)
    told = capsys.readouterr().out
    assert not ran
    for paths in (
        (tmp_path / "ended" / "prepare", tmp_path / "prepared"),
        (tmp_path / "ended/parser", tmp_path / "parser"),
    ):
        assert f"delete {paths[0]} and {paths[1]}\n" in told


def test_what_is_half_written_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "final.pt"
    loop.replace_file(path, {"a": torch.ones(1)})
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        loop.replace_file(path, {"a": torch.ones(9), "b": lambda: None})
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.ones(1))
    folder = Path(recipe.__file__).parent
    for file in folder.glob("*.py"):  # no stage writes a final.pt in place
        if file.stem != "carry":
            assert "torch.save(" not in file.read_text().replace("torch.save(value, partial)", ""), file.name


def test_labelled_heads_are_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "faces" / "tiles").mkdir(parents=True)
    (tmp_path / "faces" / "labels.csv").write_text("file,split\na.png,val\n")
    cv2.imwrite(str(tmp_path / "faces" / "tiles" / "a.png"), np.full((8, 8, 3), 90, np.uint8))
    (tmp_path / "poses").mkdir()
    np.save(tmp_path / "poses" / "val_image.npy", np.zeros((1, 8, 8, 3), np.uint8))
    np.save(tmp_path / "poses" / "val_person.npy", np.zeros((1, 8, 8), np.uint8))
    found = SimpleNamespace(setInputSize=lambda _: None, detect=lambda _: (1, np.array([[1.0, 2, 3, 4, 0]])))
    monkeypatch.setattr(scenes.cv2, "FaceDetectorYN", SimpleNamespace(create=lambda *_: found))
    monkeypatch.setattr(scenes, "Teachers", lambda _: SimpleNamespace(person=lambda rgb: np.ones(rgb.shape[:2])))

    def interrupted(file: Path, **_: object) -> None:
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(scenes.np, "savez", interrupted)
        scenes.collect(tmp_path, tmp_path, "val")
    heads = scenes.collect(tmp_path, tmp_path, "val")
    assert len(heads) == 2 and heads[0].luma.shape == (8, 8) and (heads[0].box == [1, 2, 3, 4]).all()


def test_pairs_are_marked_complete_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of an earlier run do not pass for the new ones while these are made."""
    mark = tmp_path / "pairs" / "is_val.npy"
    mark.parent.mkdir()
    np.save(mark, np.zeros(3, bool))
    ids = SimpleNamespace(train_ids=np.array([4]), val_ids=np.array([7]))
    monkeypatch.setattr(pairs.Prepared, "open", lambda _: ids)
    monkeypatch.setattr(Arguments, "pool", lambda _: nullcontext(SimpleNamespace(map=mapped)))
    fail = [True]

    def mapped(_: object, jobs: list[tuple[int, int]], chunksize: int) -> Iterator[tuple[np.ndarray, ...]]:
        for tile, _ in jobs:
            assert not mark.exists()
            yield tuple(np.full(2, tile, np.float32) for _ in range(6))
            if fail[0]:
                raise KeyboardInterrupt

    args = Arguments(data=tmp_path, runs=tmp_path, minutes=0)
    with pytest.raises(KeyboardInterrupt):
        pairs.run(args)
    assert not mark.exists()
    fail[0] = False
    pairs.run(args)
    assert np.load(mark).tolist() == [False] * pairs.AUGMENTATIONS + [True]
    assert np.load(mark.with_name("tile.npy")).tolist() == [4] * pairs.AUGMENTATIONS + [7]
    assert (np.load(mark.with_name("strengths.npy"))[-1] == 7).all()


def test_all_runs_each_stage_once_in_order(tmp_path: Path, ran: list[tuple[str, float, int]]) -> None:
    args = Arguments(data=tmp_path, runs=tmp_path, minutes=0)
    recipe.run_all(args, None)
    names = [name for name, _, _ in ran]
    assert names == [*recipe.PREPARING, *recipe.ANALYSIS, *recipe.EDITING, "pack"]
    assert dict((name, minutes) for name, minutes, _ in ran)["landmarks"] == recipe.STAGES["landmarks"][1] > 0
    ran.clear()
    (tmp_path / "ended" / "parser").unlink()
    recipe.run_all(args, 3)
    assert ran == [("parser", 3, 1), ("pack", 3, 1)]


def test_stages_need_only_what_ran_before_them() -> None:
    """Two processes train the two kinds of networks: neither may read a folder that the other writes."""
    folder = Path(recipe.__file__).parent
    for mine, others in ((recipe.ANALYSIS, recipe.EDITING), (recipe.EDITING, recipe.ANALYSIS)):
        for stage in mine:
            text = (folder / f"{recipe.STAGES[stage][0]}.py").read_text()
            assert not [other for other in others if f'runs / "{other}"' in text], stage


def test_all_tells_that_the_other_process_failed(tmp_path: Path) -> None:
    for stage in (*recipe.PREPARING, *recipe.EDITING):
        (tmp_path / "ended" / stage).parent.mkdir(exist_ok=True)
        (tmp_path / "ended" / stage).touch()
    with pytest.raises(SystemExit, match="analysis networks were not trained"):
        recipe.run_all(Arguments(data=tmp_path, runs=tmp_path, minutes=0, threads=2), 0)
    assert not (tmp_path / "ended" / "landmarks").exists()


def test_workers_are_not_forked_off_a_process_that_has_trained(tmp_path: Path) -> None:
    weight = torch.randn(8, 8, 3, 3, requires_grad=True)
    torch.conv2d(torch.randn(4, 8, 64, 64), weight).sum().backward()  # type: ignore[no-untyped-call]
    with Arguments(data=tmp_path, runs=tmp_path, minutes=0, workers=1).pool() as pool:
        assert not pool.submit(eval, "'pytest' in __import__('sys').modules").result(timeout=120)


def test_the_command_line_goes_on_where_an_earlier_run_ended(tmp_path: Path) -> None:
    """Both processes of it; nothing is left to do but to pack, for which there is nothing."""
    (tmp_path / "ended").mkdir()
    for stage in (*recipe.PREPARING, *recipe.ANALYSIS, *recipe.EDITING):
        (tmp_path / "ended" / stage).touch()
    command = [sys.executable, "-m", "mien.export.tiny", "all", "--data", str(tmp_path), "--runs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    for stage in (*recipe.PREPARING, *recipe.ANALYSIS, *recipe.EDITING):
        assert f"{stage}: ended before" in done.stdout, done.stderr
    assert done.returncode == 1 and "were not trained" not in done.stderr
