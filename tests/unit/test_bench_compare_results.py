"""The verdict of `mien bench compare`: what counts as slower, and what is within the measurements' own spread."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mien.bench.compare_results import Change, compare, lines, main
from mien.bench.device_peaks import Peaks
from mien.bench.recorder import Case, Recorder, Works


def row(op: str, p50_ms: float | None, **more: Any) -> dict[str, Any]:
    figures = {} if p50_ms is None else {"p50_ms": p50_ms}
    return {"bench": "kernels", "case": {"op": op}, "device": "a GPU", "commit": "c", "spread": 0.01, **figures, **more}


def verdict(old: dict[str, Any], new: dict[str, Any], floor: float = 0.03) -> Change:
    (change,) = compare([old], [new], floor)
    return change


@pytest.mark.parametrize(
    "ratio, spread, word",
    [
        (1.029, 0.01, "same"),  # the floor of 3 %
        (1.031, 0.01, "slower"),
        (1.09, 0.05, "same"),  # twice a spread of 5 %
        (1.11, 0.05, "slower"),
        (0.96, 0.01, "faster"),
        (0.98, 0.01, "same"),
    ],
)
def test_a_ratio_counts_beyond_the_tolerance(ratio: float, spread: float, word: str) -> None:
    found = verdict(row("x", 2.0, spread=spread), row("x", 2.0 * ratio))
    assert found.verdict == word and found.ratio == pytest.approx(ratio)
    assert verdict(row("x", 2.0), row("x", 2.0 * ratio, spread=spread)).verdict == word, "the wider of both spreads"


def test_runs_of_the_same_commit_show_how_a_case_wavers() -> None:
    """Medians from 2.0 to 2.2 in one file: a tolerance of 2 (0.2 / 2.1)."""
    old = [row("x", value) for value in (2.0, 2.2, 2.1)]
    (found,) = compare(old, [row("x", 2.4)])
    assert found.verdict == "same" and found.tolerance == pytest.approx(2 * 0.2 / 2.1)
    other = [row("x", value, commit=f"c{value}") for value in (2.0, 2.2, 2.1)]
    assert compare(other, [row("x", 2.4)])[0].verdict == "slower", "other commits are other code"
    assert compare(other, [row("x", 2.1)])[0].ratio == pytest.approx(1.0), "the newest row is the figure"


def test_worse_answers_failures_and_drops_are_regressions() -> None:
    assert verdict(row("x", 2.0, error=1e-3), row("x", 1.0, error=3e-3)).verdict == "less exact"
    assert verdict(row("x", 2.0, error=1e-9), row("x", 2.0, error=1e-6)).verdict == "same", "too small to matter"
    broken = verdict(row("x", 2.0), row("x", None, failed="out of memory"))
    assert broken.verdict == "failed" and "out of memory" in lines([broken])[0]
    assert verdict(row("x", None, left_out="no GPU"), row("x", None, left_out="no GPU")).verdict == "same"
    assert verdict(row("x", 2.0, drops=0), row("x", 2.0, drops=9)).verdict == "slower"
    assert verdict(row("x", None, total_ms=4.0), row("x", None, total_ms=5.0)).verdict == "slower"


def test_cases_of_one_side_are_told_and_are_no_regression(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, rows in (
        ("a", [row("x", 2.0), row("gone", 1.0)]),
        ("b", [row("x", 2.0), row("fresh", 1.0), {"bench": "plain"}]),
    ):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    main([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])
    said = capsys.readouterr().out
    assert "missing    kernels  op gone" in said and "new        kernels  op fresh" in said
    assert said.splitlines()[-1] == "1 same, 1 missing, 1 new"


def broken() -> Any:
    raise RuntimeError("does not compile any more")


WORKING = Works({"mien": [lambda: None]}, {"mien": lambda: 1e-6})


@pytest.mark.parametrize(
    "make, names",
    [
        (broken, ["op norm", "op norm form mien"]),
        (lambda: Works({"mien": [broken]}), ["op norm form mien"]),
        (lambda: Works(WORKING.calls, {"mien": broken}), ["op norm form mien, its error"]),
        (lambda: WORKING, []),
    ],
)
def test_what_the_recorder_says_has_failed_is_a_regression(tmp_path: Path, make: Any, names: list[str]) -> None:
    """The whole case, one of its forms, and a reference that says how exact a form is."""

    def recorded(name: str, make: Any) -> tuple[str, list[dict[str, Any]]]:
        folder = tmp_path / name
        there: Any = {"peaks": Peaks({"float32": 1.0}, 1.0), "results": folder, "tell": lambda line: None}
        return str(folder), Recorder("kernels", "cpu", case_s=0.001, **there).run([Case({"op": "norm"}, make)])

    (a, old), (b, new) = recorded("a", lambda: WORKING), recorded("b", make)
    failed = [" ".join(change.key[1:]) for change in compare(old, new, 1e3) if change.verdict == "failed"]
    assert sorted(failed) == names
    if names:
        with pytest.raises(SystemExit, match="1"):
            main([a, b, "--floor", "1000"])
    else:
        main([a, b, "--floor", "1000"])


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, of in (("a", row("x", 2.0)), ("slow", row("x", 3.0)), ("other", row("x", 2.0, device="another GPU"))):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(of))

    def code(*words: str) -> Any:
        with pytest.raises(SystemExit) as ended:
            main([str(tmp_path / word) if word.endswith("jsonl") else word for word in words])
        return ended.value.code

    assert code("a.jsonl", "slow.jsonl") == 1 and "1.500 of the time before" in capsys.readouterr().out
    assert code("a.jsonl", "other.jsonl") == 2 and "different devices" in capsys.readouterr().err
    assert code("a.jsonl", "none.jsonl") == 2
    main([str(tmp_path / "a.jsonl"), str(tmp_path / "slow.jsonl"), "--floor", "0.6"])
    main([str(tmp_path / "a.jsonl"), str(tmp_path / "other.jsonl"), "--any-device"])
