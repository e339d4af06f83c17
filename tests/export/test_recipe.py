"""The order of the recipe: what ended stays ended, what fails is told."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from mien.export.tiny import __main__ as recipe
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
