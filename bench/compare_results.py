"""`mien bench compare A B`: what became slower, case by case, beyond what the measurements themselves waver.

    python -m mien.bench.compare_results A.jsonl B.jsonl [--floor 0.03]

A case's figure is the median of its row, the newest where there are several. A ratio counts as a change where it is beyond the tolerance:
twice the wider of the two spreads (quartile to quartile over the median, and between the medians of one file's rows of the case), and at
least the floor. Exits with 1 where a case is slower, less exact by twice or more, or fails in B and did not in A: by itself, or with all
of its forms before any of them ran.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mien.bench.results import Key, Row, key_of, newest, read_rows
from mien.engine.errors import InputError

FLOOR = 0.03
ERROR_FLOOR = 1e-4  # errors below it do not matter

Verdict = Literal["same", "faster", "slower", "less exact", "failed", "new", "missing"]
BAD: tuple[Verdict, ...] = ("slower", "less exact", "failed")


@dataclass(frozen=True, slots=True)
class Change:
    """Of one case. ratio: seconds of B over those of A. tolerance: how far it may be from 1 and mean nothing."""

    key: Key
    verdict: Verdict
    ratio: float | None = None
    tolerance: float = 0.0
    why: str = ""


def compare(old: Iterable[Row], new: Iterable[Row], floor: float = FLOOR) -> list[Change]:
    """Every case of either, in the order of A's, then those that are new."""
    a_rows, b_rows = list(old), list(new)
    a_last, b_last = newest(a_rows), newest(b_rows)
    found = [
        _change(
            key,
            a_last[key],
            b_last[key],
            max(floor, *(2 * _spread(key, rows, last) for rows, last in ((a_rows, a_last), (b_rows, b_last)))),
        )
        if key in b_last
        else _one_sided(key, "missing", b_last.get(_whole(key), {}))
        for key in a_last
    ]
    return found + [_one_sided(key, "new", row) for key, row in b_last.items() if key not in a_last]


def _whole(key: Key) -> Key:
    """Of the case with all its forms: it has a row where it failed before any form ran."""
    return tuple(word for word in key if not word.startswith("form "))


def _one_sided(key: Key, verdict: Verdict, row: Row) -> Change:
    """Of a case that only one side has. row: of B."""
    return Change(key, "failed", why=str(row["failed"])) if "failed" in row else Change(key, verdict)


def _change(key: Key, old: Row, new: Row, tolerance: float) -> Change:
    before, now = _figure(old), _figure(new)
    if now is None:
        why = str(new.get("failed") or new.get("left_out") or "it has no figure")
        return Change(key, "same" if before is None else "failed", why=why)
    if before is None:
        return Change(key, "new")
    if new.get("error", 0.0) > max(2 * old.get("error", float("inf")), ERROR_FLOOR):
        return Change(key, "less exact", now / before, tolerance, f"error {old['error']:.2g}, now {new['error']:.2g}")
    if new.get("drops", 0) > 2 * old.get("drops", 0) + 2:
        return Change(key, "slower", now / before, tolerance, f"{old.get('drops', 0)} drops, now {new['drops']}")
    ratio = now / before
    verdict: Verdict = "slower" if ratio > 1 + tolerance else "faster" if ratio < 1 / (1 + tolerance) else "same"
    return Change(key, verdict, ratio, tolerance)


def _figure(row: Row) -> float | None:
    value = row.get("p50_ms", row.get("total_ms"))
    return None if value is None or not value > 0 or value == float("inf") else float(value)


def _spread(key: Key, rows: Sequence[Row], last: dict[Key, Row]) -> float:
    """Of a case in one file: within its newest row, and between its rows of the same commit."""
    of = [row for row in rows if key_of(row) == key and row.get("commit") == last[key].get("commit")]
    medians = [value for row in of if (value := _figure(row)) is not None]
    between = (max(medians) - min(medians)) / medians[-1] if medians else 0.0
    return max(between, float(last[key].get("spread", 0.0)))


def check_devices(old: Sequence[Row], new: Sequence[Row]) -> None:
    """Raise InputError where the rows are of more than one device."""
    names = {str(row.get("device")) for row in (*old, *new) if key_of(row) is not None}
    if len(names) > 1:
        raise InputError(
            f"the rows are of different devices ({', '.join(sorted(names))}): give files of one, or --any-device"
        )


def lines(changes: Sequence[Change]) -> list[str]:
    """What to print: every case but those that are the same, then how many there are of each."""
    out = []
    for change in changes:
        if change.verdict != "same":
            ratio = (
                ""
                if change.ratio is None
                else f"{change.ratio:.3f} of the time before (tolerance {change.tolerance:.3f})"
            )
            out.append(f"{change.verdict:<10} {'  '.join(change.key)}  {ratio} {change.why}".rstrip())
    counts = {
        verdict: sum(change.verdict == verdict for change in changes)
        for verdict in dict.fromkeys(c.verdict for c in changes)
    }
    return [*out, ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "nothing to compare"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what changed; exit with 1 on a regression, with 2 for files that cannot be compared."""
    parser = argparse.ArgumentParser(prog="mien bench compare", description="What became slower from A to B.")
    parser.add_argument("a", type=Path, metavar="A", help="rows before: a .jsonl file or a folder of them")
    parser.add_argument("b", type=Path, metavar="B", help="rows now")
    parser.add_argument("--floor", type=float, default=FLOOR, help="a ratio closer to 1 than this is no change")
    parser.add_argument("--any-device", action="store_true", help="compare rows of different devices")
    options = parser.parse_args(arguments)
    try:
        old, new = read_rows(options.a), read_rows(options.b)
        if not options.any_device:
            check_devices(old, new)
    except InputError as error:
        print(f"mien: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    changes = compare(old, new, options.floor)
    print("\n".join(lines(changes)))
    if any(change.verdict in BAD for change in changes):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
