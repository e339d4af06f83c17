"""What a row of results says: its arithmetic, what it was made on, and what becomes of what fails."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mien.bench import recorder as module
from mien.bench.device_peaks import Peaks, measure_peaks, pick_device
from mien.bench.device_state import SMI_AGE_S, Probe, parse_smi
from mien.bench.options import add_options, guarded
from mien.bench.recorder import TIME_UP, Case, Recorder, Works, line_of, relative_error
from mien.bench.results import key_of, newest, read_rows
from mien.bench.timing import Times
from mien.engine.errors import InputError, UnavailableError

PEAKS = Peaks({"float32": 2.0}, 100.0)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every form takes what its name says, in milliseconds."""
    monkeypatch.setattr(module, "calls_in_sample", lambda call, watch, multiple_of=1: call() or multiple_of)
    monkeypatch.setattr(
        module,
        "in_turns",
        lambda runs, watch, *, seconds, calls, before: {n: Times((float(n[:1]) / 1e3,) * 5, calls[n]) for n in runs},
    )


def record(tmp_path: Path | None = None, **more: Any) -> Recorder:
    return Recorder("kernels", "cpu", peaks=PEAKS, results=tmp_path, tell=lambda line: None, **more)


def test_a_row_has_its_rates_shares_and_ratio(told: None, tmp_path: Path) -> None:
    calls = {"2 mien": [lambda: None] * 3, "5 torch": [lambda: None]}
    case = Case(
        {"op": "norm", "rows": 8},
        lambda: Works(calls, {"2 mien": lambda: 0.00125}),
        flops=2e9,
        bytes=1e8,
        frames=4,
        dtype="float32",
        against="5 torch",
        includes="all",
        more={"weights": "random"},
    )
    ours, torch_row = record(tmp_path).run([case])
    assert ours["case"] == {"op": "norm", "rows": 8, "form": "2 mien"} and ours["calls_per_sample"] == 3
    assert (ours["tflops"], ours["share_of_matmul"]) == (1.0, 0.5), "2 GFLOP in 2 ms of 2 TFLOP/s"
    assert (ours["gb_per_s"], ours["share_of_copy"]) == (50.0, 0.5) and ours["frames_per_s"] == 2000.0
    assert ours["ratio"] == 2.5 and ours["ratio_to"] == "5 torch" and "ratio" not in torch_row
    assert ours["error"] == 0.00125 and ours["weights"] == "random" and ours["includes"] == "all"
    assert ours["peaks"]["copy_gb_per_s"] == 100.0 and ours["about"]["kind"] == "cpu" and "source" in ours["state"]
    written = read_rows(tmp_path)
    assert [row["case"] for row in written] == [ours["case"], torch_row["case"]]
    assert {"time", "commit", "device", "versions"} <= written[0].keys() and written[0]["versions"]["torch"]


def test_what_fails_is_a_row_and_the_rest_goes_on(told: None) -> None:
    def broken() -> object:
        raise RuntimeError("does not fit\nsecond line")

    def absent() -> object:
        raise UnavailableError("needs a GPU")

    here = record()
    good = Works({"1 good": [lambda: None], "2 broken": [broken], "3 absent": [absent]}, {"1 good": broken})  # type: ignore[dict-item]
    here.run([Case({"op": "a"}, broken), Case({"op": "b"}, lambda: good)])  # type: ignore[arg-type]
    said = [{name: row[name] for name in ("failed", "left_out", "p50_ms") if name in row} for row in here.rows]
    assert said[0] == {"failed": "RuntimeError: does not fit"} and {"left_out": "needs a GPU"} in said
    assert said.count({"failed": "RuntimeError: does not fit"}) == 3 and {"p50_ms": 1.0} in said
    assert here.failed == 3, "the first case, a form, and an error's reference"


def test_cases_that_come_too_late_are_counted(told: None) -> None:
    now, lines = iter(range(100)), list[str]()
    here = Recorder("x", "cpu", peaks=PEAKS, seconds=3, clock=lambda: float(next(now)), tell=lines.append)
    here.run([Case({"op": str(i)}, lambda: Works({"1": [lambda: None]})) for i in range(9)])
    assert 0 < len(here.rows) < 9 and lines[-1] == f"{9 - len(here.rows)} cases left out: the time is up"


def test_forms_that_come_too_late_are_left_out(told: None) -> None:
    now = [0.0]

    def slow() -> None:
        now[0] += 2.0

    here = Recorder("x", "cpu", peaks=PEAKS, seconds=3, clock=lambda: now[0], tell=lambda line: None)
    here.run([Case({"op": "a"}, lambda: Works({f"{i} form": [slow] for i in range(1, 5)}))])
    said = {row["case"]["form"]: row.get("left_out") for row in here.rows}
    assert said == {"1 form": None, "2 form": None, "3 form": TIME_UP, "4 form": TIME_UP} and here.failed == 0


def test_what_fails_while_it_is_timed_is_a_row(told: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("an illegal memory access was encountered")

    here = record()
    with monkeypatch.context() as patch:
        patch.setattr(module, "in_turns", broken)
        here.run([Case({"op": "a"}, lambda: Works({"1": [lambda: None]}))])
    here.run([Case({"op": "b"}, lambda: Works({"1": [lambda: None]}))])
    assert here.failed == 1 and "illegal memory" in here.rows[0]["failed"] and here.rows[1]["p50_ms"] == 1.0


def test_cold_calls_are_cases_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(module, "cache_flush", lambda device: lambda: flushed.append(1))
    (row,) = record(cold=True, case_s=0.001).run([Case({"op": "a"}, lambda: Works({"x": [lambda: None] * 2}))])
    assert row["case"] == {"op": "a", "caches": "flushed", "form": "x"} and row["calls_per_sample"] == 1
    assert len(flushed) == row["samples"] + 1, "one sample tells how many there is time for"


def test_lines_tell_the_row() -> None:
    row = {"case": {"op": "x"}, "p50_ms": 1.5, "p95_ms": 2.0, "tflops": 3.0, "share_of_matmul": 0.25, "error": 0.001}
    assert "1.5" in line_of(row) and "3 TFLOP/s (25 %)" in line_of(row) and "error 0.001" in line_of(row)
    assert "left out: no GPU" in line_of({"case": {}, "left_out": "no GPU"})
    assert "FAILED: it broke" in line_of({"case": {}, "failed": "it broke"})
    assert "3 of 90 dropped" in line_of({"case": {}, "p50_ms": 1, "p95_ms": 2, "p99_ms": 3, "drops": 3, "frames": 90})


def test_errors_are_shares_of_the_norm() -> None:
    wanted = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert relative_error(torch.tensor([3.0, 4.5]), wanted) == pytest.approx(0.1)
    assert relative_error(torch.tensor([3.0, float("nan")]), wanted) == float("inf")


def test_keys_and_the_newest_row_of_each() -> None:
    rows: list[dict[str, Any]] = [
        {"bench": "a", "case": {"op": "x", "rows": n}, "at": i} for i, n in enumerate((1, 2, 1))
    ]
    assert key_of(rows[0]) == ("a", "op x", "rows 1") and key_of({"bench": "plain"}) is None
    assert [row["at"] for row in newest([*rows, {"bench": "plain"}]).values()] == [2, 1]


@pytest.mark.parametrize("text, word", [("{}\n[1]\n", ":2 is no row"), ("{", ":1 is no row")])
def test_rows_that_are_none_are_named(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(InputError, match=word):
        read_rows(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_rows(tmp_path / "none.jsonl")
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(InputError, match="holds no results"):
        read_rows(tmp_path)


def test_what_nvidia_smi_says_is_read() -> None:
    found = parse_smi("1980, 3201, 412.35, 61, 580.159.03, 700.00")
    assert found == {
        "sm_mhz": 1980, "memory_mhz": 3201, "power_w": 412.35, "temperature_c": 61, "driver": "580.159.03", "power_limit_w": 700
    }  # fmt: skip
    assert parse_smi("[N/A], 3201, [Not Supported], 61, 1.2, 5") == {
        "memory_mhz": 3201, "temperature_c": 61, "driver": "1.2", "power_limit_w": 5
    }  # fmt: skip
    with pytest.raises(ValueError, match="expected 6 values"):
        parse_smi("No devices were found")


def test_a_slow_tool_is_asked_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    from mien.bench import device_state

    asked, now = list[Any](), [0.0]
    properties = argparse.Namespace(
        uuid="12-34", name="A GPU", major=9, minor=0, multi_processor_count=132, total_memory=1e11
    )
    monkeypatch.setattr(device_state, "_properties", lambda device: properties)
    monkeypatch.setattr(device_state, "find_spec", lambda name: None)
    monkeypatch.setattr(device_state.shutil, "which", lambda name: "/bin/nvidia-smi")

    def run(command: Any) -> str:
        asked.append(command)
        return f"{1000 + len(asked)}, 1, 2, 3, 4.5, 6\n"

    probe = Probe("cuda", run=run, clock=lambda: now[0])
    assert probe.state()["sm_mhz"] == probe.state()["sm_mhz"] == 1001 and "GPU-12-34" in asked[0]
    now[0] = SMI_AGE_S + 1
    assert probe.state()["sm_mhz"] == 1002 and probe.about()["capability"] == "9.0" and probe.about()["driver"] == "4.5"
    broken = Probe("cuda", run=lambda command: "nonsense", clock=lambda: now[0])
    assert broken.state() == {"source": "none"}


def test_peaks_of_this_machine_and_shares_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from mien.bench import device_peaks

    monkeypatch.setitem(device_peaks.MATMUL_SIDE, "cpu", 16)
    monkeypatch.setitem(device_peaks.COPY_BYTES, "cpu", 1 << 12)
    found = measure_peaks("cpu", seconds=0.01)
    assert found.matmul_tflops["float32"] > 0 and found.copy_gb_per_s > 0
    assert PEAKS.share_of_matmul(1e12, "float32") == 0.5 and PEAKS.share_of_matmul(1e12, "float16") is None
    assert PEAKS.share_of_copy(25e9) == 0.25


def test_a_device_that_is_not_there_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == "cpu"

    def main() -> None:
        parser = argparse.ArgumentParser()
        add_options(parser)
        pick_device(parser.parse_args(["--device", "cuda"]).device)

    with pytest.raises(SystemExit) as ended:
        guarded(main)
    assert ended.value.code == 3
    said = capsys.readouterr().err
    assert said.startswith("mien: error: device 'cuda' cannot be used") and said.count("\n") == 1


def test_rows_are_json(told: None, tmp_path: Path) -> None:
    record(tmp_path).run([Case({"op": "a"}, lambda: Works({"1": [lambda: None]}))])
    (file,) = tmp_path.glob("*.jsonl")
    assert json.loads(file.read_text())["bench"] == "kernels"
