"""The order of the recipe: what ended stays ended, what fails is told."""

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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


class _Process:
    """A stage's process: it has ended by itself when it is waited for, unless it is named `busy`."""

    failing, busy = "", ""
    sentinel = 0

    def __init__(self, target: object, args: tuple[str, Arguments, float | None]) -> None:
        self.stage, self.exitcode = args[0], None
        self.told: list[str] = []

    def end(self) -> None:
        if self.stage != self.busy:
            self.exitcode = int(self.stage == self.failing)

    def __getattr__(self, name: str) -> Callable[[], None]:
        return lambda: self.told.append(name)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[_Process]:
    """Processes of stages, in the order in which they begin; each wait ends all that are not busy."""
    processes: list[_Process] = []

    def begin(**given: Any) -> _Process:
        processes.append(_Process(**given))
        return processes[-1]

    context = SimpleNamespace(get_context=lambda _: SimpleNamespace(Process=begin))
    monkeypatch.setattr(recipe, "multiprocessing", context)
    monkeypatch.setattr(recipe, "wait", lambda _: [process.end() for process in processes])
    return processes


def test_a_failed_stage_does_not_wait_for_the_one_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: list[_Process]
) -> None:
    monkeypatch.setattr(_Process, "failing", "pairs")
    monkeypatch.setattr(_Process, "busy", "landmarks")
    with pytest.raises(SystemExit, match="pairs failed, see above; run it again to go on"):
        recipe.run_all(Arguments(data=tmp_path, runs=tmp_path, minutes=0, threads=2), 0)
    told = {process.stage: process.told for process in begun}
    assert list(told) == ["prepare", "poses", "autoencoder", "landmarks", "pairs"]
    assert told["landmarks"] == ["start", "terminate", "join"] and told["pairs"] == ["start"]


def test_two_stages_at_a_time_each_after_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: list[_Process]
) -> None:
    def ends(_: object) -> None:
        running = [process for process in begun if process.exitcode is None]
        most.append(len(running))
        ended = {process.stage for process in begun if process.exitcode == 0}
        for process in running:
            assert ended.issuperset(recipe.STAGES[process.stage].needs), process.stage
        running[-1].exitcode = 0

    most: list[int] = []
    monkeypatch.setattr(recipe, "wait", ends)
    recipe.run_all(Arguments(data=tmp_path, runs=tmp_path, minutes=0, threads=3), None)
    assert sorted(process.stage for process in begun) == sorted(recipe.STAGES)
    assert max(most) == recipe.AT_A_TIME == 2 and len(most) == len(recipe.STAGES)


def test_an_ended_stage_says_what_to_delete(
    tmp_path: Path, ran: list[tuple[str, float, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ended").mkdir()
    for stage in recipe.STAGES:
        (tmp_path / "ended" / stage).touch()
    recipe.run_all(Arguments(data=tmp_path, runs=tmp_path, minutes=0), None)
    told = capsys.readouterr().out
    assert [name for name, _, _ in ran] == ["pack"]
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
    assert [name for name, _, _ in ran] == list(recipe.STAGES)
    for place, stage in enumerate(recipe.STAGES.values()):
        assert set(stage.needs) <= set(list(recipe.STAGES)[:place])
    assert dict((name, minutes) for name, minutes, _ in ran)["landmarks"] == recipe.STAGES["landmarks"].minutes > 0
    ran.clear()
    (tmp_path / "ended" / "parser").unlink()
    recipe.run_all(args, 3)
    assert ran == [("parser", 3, 1), ("pack", 3, 1)]


def test_stages_need_those_whose_folders_they_read() -> None:
    """What a stage writes is there, and nobody is writing it, when another reads it."""

    def before(stage: str) -> set[str]:
        return {*recipe.STAGES[stage].needs}.union(*map(before, recipe.STAGES[stage].needs))

    folder = Path(recipe.__file__).parent
    for stage in recipe.STAGES:
        text = (folder / f"{stage}.py").read_text()
        read = {other for other in recipe.STAGES if f'runs / "{other}"' in text} - {stage}
        assert read <= before(stage), stage
        assert stage == "prepare" or "prepare" in before(stage)


def test_all_tells_that_a_stage_in_its_own_process_failed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for stage in set(recipe.STAGES) - {"landmarks"}:
        (tmp_path / "ended" / stage).parent.mkdir(exist_ok=True)
        (tmp_path / "ended" / stage).touch()
    with pytest.raises(SystemExit, match="landmarks failed, see above"):
        recipe.run_all(Arguments(data=tmp_path, runs=tmp_path, minutes=0, threads=2), 0)
    assert "FileNotFoundError" in capfd.readouterr().err
    assert not (tmp_path / "ended" / "landmarks").exists()


def test_workers_are_not_forked_off_a_process_that_has_trained(tmp_path: Path) -> None:
    weight = torch.randn(8, 8, 3, 3, requires_grad=True)
    torch.conv2d(torch.randn(4, 8, 64, 64), weight).sum().backward()  # type: ignore[no-untyped-call]
    with Arguments(data=tmp_path, runs=tmp_path, minutes=0, workers=1).pool() as pool:
        assert not pool.submit(eval, "'pytest' in __import__('sys').modules").result(timeout=120)


def test_a_worker_ends_with_the_process_that_began_it(tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from mien.export.tiny.stage import Arguments

if __name__ == "__main__":
    args = Arguments(data=Path(), runs=Path(), minutes=0, workers=1)
    pool = args.pool()
    print(pool.submit(eval, "__import__('os').getpid()").result(), flush=True)
    pool.submit(time.sleep, 600)
    time.sleep(600)
"""
    (tmp_path / "all.py").write_text(program)
    with subprocess.Popen([sys.executable, str(tmp_path / "all.py")], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        os.kill(worker, 0)
        process.kill()
    for _ in range(1200):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{worker}/stat").exists() and Path(f"/proc/{worker}/stat").read_text().split()[2] == "Z":
            return  # ended, and not yet collected by whoever collects orphans
        time.sleep(0.05)
    pytest.fail(f"{worker} goes on")


def test_the_command_line_goes_on_where_an_earlier_run_ended(tmp_path: Path) -> None:
    """Nothing is left to do but to pack, for which there is nothing."""
    (tmp_path / "ended").mkdir()
    for stage in recipe.STAGES:
        (tmp_path / "ended" / stage).touch()
    command = [sys.executable, "-m", "mien.export.tiny", "all", "--data", str(tmp_path), "--runs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    for stage in set(recipe.STAGES) - {"pack"}:
        assert f"{stage}: ended before" in done.stdout, done.stderr
    assert done.returncode == 1 and "pack failed" in done.stderr
