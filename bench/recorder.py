"""From cases to rows of results: what is timed, against what, for how long, and everything a row says beside its figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from mien.bench.device_peaks import Peaks, measure_peaks
from mien.bench.device_state import Probe
from mien.bench.results import Row, append_row
from mien.bench.timing import (
    Call,
    Times,
    cache_flush,
    calls_in_sample,
    captured,
    in_turns,
    repeated,
    rotating,
    significant,
    times_faster,
    watch_of,
)
from mien.engine.errors import UnavailableError

CASE_S = 0.4
"""Seconds that a case's forms are timed for together, preparation not counted."""

TIME_UP = "the time is up"


@dataclass(frozen=True, slots=True)
class Works:
    """What a case times. calls: by form, each a call for every set of inputs that take turns; one that raises UnavailableError is
    left out, with its words. errors: by form, the distance from float64, a share of the norm.
    """

    calls: Mapping[str, Sequence[Call]]
    errors: Mapping[str, Callable[[], float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to time in one or several forms.

    name: what tells it from the others of its benchmark. make: prepares inputs, when its turn comes. flops, bytes: of a call,
    what the operation must do and move, whatever a form does. frames: of a call. against: the form that the others are
    compared with. captured: whether a GPU replays graphs of it, else each call is launched. includes: what is timed, in words.
    """

    name: Mapping[str, str | int | float]
    make: Callable[[], Works]
    flops: float = 0.0
    bytes: float = 0.0
    frames: int = 0
    dtype: str = "float16"
    against: str = ""
    captured: bool = True
    includes: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)


class Recorder:
    """Measures cases on one device, tells of each row, and appends it to the results at once, so that nothing is lost.

    seconds: for all cases; those whose turn does not come are left out, and counted. cold: whether caches are flushed before every
    call, which then is launched by itself. failed: cases and forms that raised.
    """

    def __init__(
        self,
        bench: str,
        device: str,
        *,
        peaks: Peaks | None = None,
        results: Path | None = None,
        seconds: float = float("inf"),
        case_s: float = CASE_S,
        cold: bool = False,
        tell: Callable[[str], object] = print,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bench, self.device, self.rows, self.failed = bench, device, list[Row](), 0
        self._results, self._case_s, self._tell, self._clock = results, case_s, tell, clock
        self._end_s = clock() + seconds
        self._probe, self._watch = Probe(device), watch_of(device)
        self._flush = cache_flush(device) if cold else None
        self._about = self._probe.about()
        self.peaks = measure_peaks(device) if peaks is None else peaks
        tell(
            f"{bench} on {self._about['name']}: matrix product "
            + ", ".join(f"{value:.4g} TFLOP/s {name}" for name, value in self.peaks.matmul_tflops.items())
            + f", copy {self.peaks.copy_gb_per_s:.4g} GB/s"
        )

    @property
    def left_s(self) -> float:
        """Seconds until the time is up."""
        return self._end_s - self._clock()

    def run(self, cases: Iterable[Case]) -> list[Row]:
        """Measure them in this order, as far as the time goes."""
        late = 0
        for case in cases:
            if self.left_s <= 0:
                late += 1
            else:
                self.measure(case)
        if late:
            self._tell(f"{late} cases left out: {TIME_UP}")
        return self.rows

    def measure(self, case: Case) -> None:
        """Its rows: one for each form."""
        try:
            works = case.make()
        except Exception as error:  # a case that fails is a row, and the others go on
            self.fail(case.name, "", error)
            return
        runs, counts = dict[str, Call](), dict[str, int]()
        for form, calls in works.calls.items():  # some take a minute to prepare
            if runs and self.left_s <= 0:
                self.record(case.name, form, {"left_out": TIME_UP}, {})
                continue
            try:
                runs[form], counts[form] = self._prepare(case, calls)
            except UnavailableError as error:
                self.record(case.name, form, {"left_out": str(error)})
            except Exception as error:
                self.fail(case.name, form, error)
        if runs:
            try:
                self._time(case, works, runs, counts)
            except Exception as error:  # a GPU tells of what failed when it is next waited for
                self.fail(case.name, "", error)
        runs.clear()
        if self.device != "cpu":
            torch.cuda.empty_cache()

    def _time(self, case: Case, works: Works, runs: Mapping[str, Call], counts: Mapping[str, int]) -> None:
        seconds = min(self._case_s, max(self.left_s, 0.05))
        times = in_turns(runs, self._watch, seconds=seconds, calls=counts, before=self._flush)
        state = self._probe.state()
        for form in times:
            self.record(case.name, form, {**self._figures(case, form, times), **self._error(works, form, case)}, state)

    def record(
        self,
        name: Mapping[str, Any],
        form: str,
        figures: Mapping[str, Any],
        state: Mapping[str, Any] | None = None,
    ) -> Row:
        """A row of these figures, with what it was made on."""
        cold = {"caches": "flushed"} if self._flush is not None else {}
        row: Row = {"bench": self.bench, "case": {**name, **cold, **({"form": form} if form else {})}, **figures}
        row |= {"state": dict(self._probe.state() if state is None else state), "about": self._about}
        row["peaks"] = asdict(self.peaks)
        self.rows.append(row)
        self._tell(line_of(row))
        if self._results is not None:
            append_row(self._results, row, self._about["name"])
        return row

    def fail(self, name: Mapping[str, Any], form: str, error: Exception) -> None:
        """A row of what raised."""
        self.failed += 1
        self.record(name, form, {"failed": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}, {})

    def _prepare(self, case: Case, calls: Sequence[Call]) -> tuple[Call, int]:
        """A run of several calls, and how many they are."""
        call = rotating(calls)
        if self._flush is not None:
            call()
            return call, 1
        count = calls_in_sample(call, self._watch, multiple_of=len(calls))
        if self.device != "cpu" and case.captured:
            return captured(call, count), count
        return repeated(call, count), count

    def _figures(self, case: Case, form: str, times: Mapping[str, Times]) -> dict[str, Any]:
        found = times[form]
        row: dict[str, Any] = found.as_dict()
        if case.flops:
            row["tflops"] = significant(case.flops / found.p50_s / 1e12)
            row["share_of_matmul"] = self.peaks.share_of_matmul(case.flops / found.p50_s, case.dtype)
        if case.bytes:
            row["gb_per_s"] = significant(case.bytes / found.p50_s / 1e9)
            row["share_of_copy"] = self.peaks.share_of_copy(case.bytes / found.p50_s)
        if case.frames:
            row["frames_per_s"] = significant(case.frames / found.p50_s)
        if case.against in times and form != case.against:
            low, ratio, high = times_faster(found, times[case.against])
            row |= {"ratio_to": case.against, "ratio": ratio, "ratio_quartiles": [low, high]}
        is_captured = self.device != "cpu" and case.captured and self._flush is None
        how = "captured" if is_captured else "launched"
        return {**row, "how": how, "includes": case.includes, **case.more}

    def _error(self, works: Works, form: str, case: Case) -> dict[str, float]:
        if form not in works.errors:
            return {}
        try:
            return {"error": significant(works.errors[form](), 3)}
        except Exception as error:
            self.fail(case.name, f"{form}, its error", error)
            return {}


def relative_error(out: torch.Tensor, reference: torch.Tensor) -> float:
    """The norm of the difference over the norm of the reference, in float64; infinite for what is not finite."""
    wanted = reference.double()
    distance = float((out.double() - wanted).norm() / wanted.norm().clamp_min(1e-300))
    return distance if distance == distance else float("inf")


def line_of(row: Mapping[str, Any]) -> str:
    """A row in one line."""
    words = "  ".join(f"{value}" for value in row["case"].values())
    if (why := row.get("left_out") or row.get("failed")) is not None:
        return f"{words:<72} {'left out' if 'left_out' in row else 'FAILED'}: {why}"
    parts = [f"{words:<72}"]
    if "p50_ms" in row:
        parts.append(f"p50 {row['p50_ms']:>9.4g} p95 {row['p95_ms']:>9.4g} ms")
    if "total_ms" in row:
        parts.append(f"{row['total_ms']:.4g} ms in {row['calls']} calls")
    if "tflops" in row:
        parts.append(f"{row['tflops']:>7.4g} TFLOP/s{percent(row['share_of_matmul'])}")
    if "gb_per_s" in row:
        parts.append(f"{row['gb_per_s']:>7.4g} GB/s{percent(row['share_of_copy'])}")
    if "frames_per_s" in row:
        parts.append(f"{row['frames_per_s']:>7.4g} frames/s")
    if "drops" in row:
        parts.append(f"p99 {row['p99_ms']:.4g} ms, {row['drops']} of {row['frames']} dropped")
    if "encode_p50_ms" in row:
        encode = f"encode p50 {row['encode_p50_ms']:.4g} p99 {row['encode_p99_ms']:.4g} ms"
        parts.append(f"{encode} on {row['encode_cores']:.3g} cores")
    if "error" in row:
        parts.append(f"error {row['error']:.2g}")
    if "ratio" in row:
        parts.append(f"{row['ratio']:.2f} x {row['ratio_to']}")
    return "  ".join(parts)


def percent(share: float | None) -> str:
    """Of a share, in brackets; nothing of None."""
    return "" if share is None else f" ({100 * share:.0f} %)"
