"""The tables of docs/benchmarks.md, made from rows of results.

    python -m mien.bench.tables [--results bench/results] [--doc docs/benchmarks.md] [--check]

A table stands between `<!-- table NAME -->` and `<!-- end -->`; what is between them is written anew, of the newest row of each case.
With --check nothing is written, and the exit code is 1 where the page is not what the results give.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mien.bench.results import Row, newest, read_rows
from mien.engine.errors import InputError, MienError

ROOT = Path(__file__).resolve().parent
MARKED = re.compile(r"(<!-- table ([a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)
COMMANDS = {
    "peaks": "mien bench kernels",
    "kernels": "mien bench kernels",
    "networks": "mien bench networks",
    "throughput": "mien bench throughput",
    "latency": "mien bench latency",
    "peers": "mien bench peers",
    "ahead": "python -m mien.bench.kernels_ahead",
    "plain": "mien bench plain CLIP",
}

Rows = Sequence[Row]


def grid(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table in markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in body)])


def number(value: Any, digits: int = 3) -> str:
    """A figure, with so many digits that count; nothing for None."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def with_share(value: Any, share: Any) -> str:
    """A rate and its share of the peak."""
    return number(value) + ("" if share is None else f" ({100 * share:.0f} %)") if value is not None else ""


def peaks(rows: Rows) -> str:
    """The measured peaks of a device and how it stood, by benchmark."""
    last: dict[str, Row] = {row["bench"]: row for row in rows if "peaks" in row}
    body = []
    for bench, row in last.items():
        state, found = row["state"], row["peaks"]
        products = ", ".join(f"{number(value)} {name}" for name, value in found["matmul_tflops"].items())
        clocks = f"{number(state.get('sm_mhz'), 4)} MHz, {number(state.get('power_w'))} W, {number(state.get('temperature_c'))} C"
        body.append([bench, products, number(found["copy_gb_per_s"], 4), clocks if "sm_mhz" in state else ""])
    head = [
        "measured with",
        "matrix product TFLOP/s",
        "copy GB/s, read + written",
        "clock, power, temperature after a case",
    ]
    return grid(head, body)


def kernels(rows: Rows) -> str:
    """Each operation: our time, rates, error, and how many times as fast as torch's."""
    body = []
    for row in rows:
        case = dict(row["case"])
        if case.pop("form", None) not in ("mien", "native") or "left_out" in row or "failed" in row:
            continue
        op = case.pop("op")
        what = " ".join(f"{value}" if name in ("shape", "size") else f"{name} {value}" for name, value in case.items())
        time = number(row["total_ms"]) if "total_ms" in row else number(row["p50_ms"])
        rates = (
            with_share(row.get("tflops"), row.get("share_of_matmul")),
            with_share(row.get("gb_per_s"), row.get("share_of_copy")),
        )
        p95 = number(row.get("p95_ms"))
        error = f"{row['error']:.1g}" if "error" in row else ""
        ratio = f"{row['ratio']:.2f} x {row['ratio_to']}" if "ratio" in row else ""
        body.append([op, what, time, p95, *rates, error, ratio])
    return grid(["operation", "case", "p50 ms", "p95 ms", "TFLOP/s", "GB/s", "error", "as fast as"], body)


def networks(rows: Rows) -> str:
    """Each network and batch: p50 of every form, and the rate of the fastest."""
    groups = _by_form(rows)
    forms = list(dict.fromkeys(form for found in groups.values() for form in found))
    body = []
    for case, found in groups.items():
        names = dict(case)
        timed = {form: row for form, row in found.items() if "p50_ms" in row}
        if not timed:
            continue
        fastest = min(timed.values(), key=lambda row: float(row["p50_ms"]))
        cells = [number(timed[form]["p50_ms"]) if form in timed else "" for form in forms]
        rate = with_share(fastest.get("tflops"), fastest.get("share_of_matmul"))
        body.append([str(names["network"]), str(names["rows"]), *cells, f"{rate} {fastest['case']['form']}"])
    return grid(["network", "rows", *(f"{form} ms" for form in forms), "TFLOP/s of the fastest"], body)


def throughput(rows: Rows) -> str:
    """Frames a second, a column for each number of steps."""
    timed = [row for row in rows if "frames_per_s" in row]
    steps = sorted({int(row["case"]["steps"]) for row in timed})
    groups: dict[tuple[str, ...], dict[int, Row]] = defaultdict(dict)
    for row in timed:
        case = row["case"]
        groups[tuple(str(case[name]) for name in ("composition", "frame", "streams", "rows"))][int(case["steps"])] = row
    body = [
        [
            *case,
            *(with_share(found[n]["frames_per_s"], found[n]["share_of_matmul"]) if n in found else "" for n in steps),
        ]
        for case, found in groups.items()
    ]
    words = [f"frames/s, {n} step{'s' if n > 1 else ''} (of the matrix product)" for n in steps]
    return grid(["composition", "frame", "streams", "rows a call", *words], body)


def latency(rows: Rows) -> str:
    """Milliseconds from frame in to frame out, and drops; where frames are encoded too, that apart."""
    body = [
        [
            *(str(row["case"][name]) for name in ("streams", "fps", "frame", "steps", "composition")),
            *(number(row[f"p{p}_ms"]) for p in (50, 95, 99)),
            f"{row['drops']} of {row['frames']}",
            number(row["rows_per_batch"]),
            row.get("encoder", ""),
            *(number(row.get(name)) for name in ("encode_p50_ms", "encode_p99_ms", "encode_cores")),
        ]
        for row in rows
        if "drops" in row
    ]
    head = ["streams", "fps", "frame", "steps", "composition", "p50 ms", "p95 ms", "p99 ms", "dropped", "rows a batch"]
    return grid([*head, "encoded by", "encode p50 ms", "p99 ms", "cores"], body)


def peers(rows: Rows) -> str:
    """Frames a second of each, and how many times as fast mien is."""
    body = []
    for case, found in _by_form(rows).items():
        names = dict(case)
        ours = found.get("mien") if "p50_ms" in found.get("mien", {}) else found.get("mien eager")
        for form, row in found.items():
            if "p50_ms" not in row:
                continue
            ratio = "" if ours is None or form.startswith("mien") else f"{row['p50_ms'] / ours['p50_ms']:.2f}"
            rate = with_share(row.get("tflops"), row.get("share_of_matmul"))
            body.append([str(names["rows"]), str(names["steps"]), form, number(row["frames_per_s"]), rate, ratio])
    return grid(["rows", "steps", "who", "frames/s", "TFLOP/s", "mien is so many times as fast"], body)


def ahead(rows: Rows) -> str:
    """Each kernel: the most registers and shared memory of its forms on every generation, and the spills of all."""
    groups: dict[str, dict[int, Row]] = defaultdict(dict)
    for row in rows:
        groups[row["case"]["kernel"]][row["case"]["capability"]] = row
    capabilities = sorted({capability for found in groups.values() for capability in found})
    body = []
    for kernel, found in groups.items():
        cells = [
            f"{found[c]['registers']}, {found[c]['shared_bytes'] / 1024:.4g}" if c in found else ""
            for c in capabilities
        ]
        spills = sum(row["spill_bytes"] for row in found.values())
        body.append([kernel, str(max(row["forms"] for row in found.values())), *cells, str(spills)])
    heads = [f"sm_{c}: registers, shared KiB" for c in capabilities]
    return grid(["kernel", "forms", *heads, "spilled bytes"], body)


def plain(rows: Rows) -> str:
    """The newest row of each bundle, clip, edit and number of steps."""
    last: dict[tuple[str, ...], Row] = {}
    for row in rows:
        bundle, edits = row["bundle"], ", ".join(f"{name}={value:g}" for name, value in row["edits"].items())
        name = f"{bundle['name']} {bundle['version']}"
        last[name, bundle["sha256"][:8], row["clip"], edits, str(row["steps"])] = row
    body = [
        [
            *case,
            number(row["engine_fps"]),
            number(row["plain_fps"]),
            f"{row['ratio']:.2f}",
            short(row),
            row["time"][:10],
        ]
        for case, row in last.items()
    ]
    head = ["bundle", "sha256", "clip", "edits", "steps", "mien fps", "plain way fps", "ratio", "commit", "on"]
    return grid(head, body)


def short(row: Row) -> str:
    """The commit of a row; with "+" where the working tree had changes."""
    commit = str(row.get("commit"))
    return commit[:10] + ("+" if commit.endswith("+") else "")


TABLES: Mapping[str, Callable[[Rows], str]] = {
    "peaks": peaks,
    "kernels": kernels,
    "networks": networks,
    "throughput": throughput,
    "latency": latency,
    "peers": peers,
    "ahead": ahead,
    "plain": plain,
}


def table(name: str, rows: Iterable[Row]) -> str:
    """One table for each device that has rows for it, or a line that says how to make some. Raises InputError for a name."""
    if name not in TABLES:
        raise InputError(f"no table is called {name!r}: there are {', '.join(TABLES)}")
    devices: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        devices[str(row.get("device"))].append(row)
    parts = []
    for device, of_device in devices.items():
        last = list(newest(of_device).values())
        if name == "plain":
            chosen = [row for row in of_device if row.get("bench") == "plain"]
        else:
            chosen = [row for row in last if ("peaks" in row if name == "peaks" else row["bench"] == name)]
        if chosen:
            parts.append(
                f"{about(device, chosen, says_what=name != 'peaks', says_commit=name != 'plain')}\n\n{TABLES[name](chosen)}\n"
            )
    return "\n".join(parts) or f"No rows yet; `{COMMANDS[name]} --results bench/results` adds some.\n"


def about(device: str, rows: Rows, *, says_what: bool = True, says_commit: bool = True) -> str:
    """What a table was measured with, in a line, by its last row. says_what: and what was; says_commit: and of which."""
    row, includes = rows[-1], dict.fromkeys(str(row["includes"]) for row in rows if row.get("includes"))
    of, versions = row.get("about", {}), row.get("versions", {})
    driver = f", driver {of['driver']}" if "driver" in of else ""
    limit = f", {number(of['power_limit_w'])} W" if "power_limit_w" in of else ""
    shown = [f"{name} {versions[name]}" for name in ("torch", "triton", "diffusers") if name in versions]
    weights = ", random weights" if says_what and str(row.get("weights", "")).startswith("random") else ""
    said = f"{device}{limit}{driver}, {', '.join(shown)}{weights}" + (f", commit {short(row)}" if says_commit else "")
    return said + (f"; {'; or '.join(includes)}." if says_what and includes else ".")


def fill(text: str, rows: Sequence[Row]) -> str:
    """A page with its tables written anew. Raises InputError for a marker of no table."""
    return MARKED.sub(lambda found: found[1] + table(found[2], rows) + found[3], text)


def _by_form(rows: Rows) -> dict[tuple[tuple[str, Any], ...], dict[str, Row]]:
    """Cases without their form, and the row of each form."""
    groups: dict[tuple[tuple[str, Any], ...], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        case = dict(row["case"])
        form = str(case.pop("form", ""))
        groups[tuple(case.items())][form] = row
    return groups


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(
        prog="mien bench tables", description="Write the tables of the page of benchmarks."
    )
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="a .jsonl file or a folder of them")
    parser.add_argument("--doc", type=Path, default=ROOT.parent / "docs" / "benchmarks.md", help="the page")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where it would change")
    options = parser.parse_args(arguments)
    try:
        before = options.doc.read_text(encoding="utf-8")
        after = fill(before, read_rows(options.results))
    except (OSError, MienError) as error:
        print(f"mien: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if options.check and after != before:
        print(f"{options.doc} is not what {options.results} gives: python -m mien.bench.tables", file=sys.stderr)
        raise SystemExit(1)
    if not options.check:
        options.doc.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
