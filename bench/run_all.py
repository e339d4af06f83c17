"""All that a GPU machine is wanted for, in one run that ends in time: tests, kernels, networks, tiles, throughput, latency, profile.

    python -m mien.bench.run_all OUT [--minutes 8.4] [--device cuda] [--model sd15] [--only tests kernels ...]

Every part is a process with a share of the time that is left, so that what an early part spares the later ones have; it is told to
end, and is ended when it does not. Parts write each row as it is measured. OUT gets summary.md, written anew after every part, rows
as <device>.jsonl, log.txt, attention_tiles.json, profile.json and profile.md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from mien.bench.results import read_rows
from mien.bench.tables import table
from mien.engine.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
MINUTES = 8.4
SHORT_S, MARGIN_S = 8.0, 16.0  # a part does not begin with less; told of so many fewer, for its start and last case
LAST_WORDS_S = 12.0  # pytest gives its workers ten seconds to end
TABLES = ("peaks", "peers", "throughput", "latency", "networks", "kernels")


@dataclass(frozen=True, slots=True)
class Part:
    """One process. weight: of its share of the time. command: from its seconds to its words; module and options of Python.
    tells_at_end: whether it is interrupted first when its time is up, because it has kept what it found to itself until then. settings:
    of its environment.
    """

    name: str
    weight: float
    command: Callable[[float], list[str]]
    tells_at_end: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a part ended. status: its exit code, None where its time was up before it was done."""

    name: str
    status: int | None
    seconds: float
    allowed_s: float
    last_line: str = ""

    @property
    def words(self) -> str:
        """In a table."""
        return "ok" if self.status == 0 else "its time was up" if self.status is None else f"exit code {self.status}"


def share(left_s: float, weights: Sequence[float]) -> float:
    """Seconds for the first of the parts that are left."""
    return max(left_s, 0.0) * weights[0] / sum(weights)


def gpu_tests(root: Path, has_av: bool) -> list[str]:
    """Test files with tests for a GPU; those below tests/pipeline need PyAV."""
    files = [
        path for path in sorted((root / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text(encoding="utf-8")
    ]
    names = [path.relative_to(root).as_posix() for path in files]
    return [name for name in names if has_av or not name.startswith("tests/pipeline/")]


def parts(out: Path, device: str, model: str) -> list[Part]:
    """In the order they run."""

    def bench(module: str, *words: str, results: bool = True) -> Callable[[float], list[str]]:
        more = ["--results", str(out)] if results else []
        return lambda seconds: [
            "-m", f"mien.bench.{module}", "--device", device, "--model", model, "--seconds", f"{seconds:.0f}", *more, *words
        ]  # fmt: skip

    def tests(seconds: float) -> list[str]:
        files = gpu_tests(ROOT, find_spec("av") is not None)
        workers = ["-n", "4"] if find_spec("xdist") is not None else []
        options = ["-q", "--tb=short", "-rfE", "-p", "no:cacheprovider", "-W", "default"]
        return ["-m", "pytest", "-m", "gpu", *options, *workers, *files]

    def profile(seconds: float) -> list[str]:
        files = ["--json", str(out / "profile.json"), "--markdown", str(out / "profile.md")]
        return ["-m", "mien.bench.unet_profile", "--device", device, "--model", model, "--rows", "1", "8", *files]

    peers = ("--form", "mien", "torch", "diffusers", "streamdiffusion", "--case-seconds", "2", "--steps", "2")
    tiles = (
        "--bank",
        "0",
        "1",
        "--jobs",
        str(min(os.cpu_count() or 1, 12)),
        "--json",
        str(out / "attention_tiles.json"),
    )
    return [
        Part("tests", 125, tests, tells_at_end=True, settings={"TORCHINDUCTOR_COMPILE_THREADS": "4"}),  # of each worker
        Part("kernels", 75, bench("kernels_gpu", "--case-seconds", "0.2")),
        Part("networks", 95, bench("networks")),
        Part("attention tiles", 65, bench("attention_tuning", *tiles, results=False)),
        Part("throughput", 65, bench("throughput", "--streams", "8", "1")),
        Part("latency", 40, bench("latency", "--length", "6", "--encode", "none", "x264")),
        Part("profile", 25, profile),
        Part("peers", 25, bench("peers", *peers)),
    ]


def run_part(part: Part, allowed_s: float, log: Path) -> Ended:
    """Run it for so long at most, its words to the log and the terminal's."""
    begin_s = time.monotonic()
    words = part.command(max(allowed_s - MARGIN_S, 5.0))
    with log.open("a", encoding="utf-8") as file:
        file.write(f"\n===== {part.name}: {' '.join(words)}\n")
        file.flush()
        at = file.tell()
        process = subprocess.Popen(
            [sys.executable, "-u", *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=os.environ | part.settings,
            process_group=0,
        )
        try:
            status: int | None = process.wait(allowed_s)
        except subprocess.TimeoutExpired:
            status = None
            if part.tells_at_end:
                process.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(LAST_WORDS_S)
        finally:
            _end(process)
    said = [line for line in log.read_bytes()[at:].decode(errors="replace").splitlines() if line.strip()]
    return Ended(part.name, status, time.monotonic() - begin_s, allowed_s, said[-1].strip() if said else "")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a part and the processes it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(3)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def summary(ended: Sequence[Ended], out: Path) -> str:
    """What ran and what it found."""
    lines = [
        "# One run on a GPU machine",
        "",
        "| part | how it ended | seconds | allowed | its last words |",
        "|---|---|---|---|---|",
    ]
    for part in ended:
        last = part.last_line[:120].replace("|", "\\|")
        lines.append(f"| {part.name} | {part.words} | {part.seconds:.0f} | {part.allowed_s:.0f} | {last} |")
    try:
        rows = read_rows(out)
    except InputError:
        rows = []
    failed = [row for row in rows if "failed" in row]
    if failed:
        lines += ["", "## Failed", ""]
        lines += [f"- {row['bench']}: {' '.join(map(str, row['case'].values()))}: {row['failed']}" for row in failed]
    for name in TABLES if rows else ():
        lines += ["", f"## {name.capitalize()}", "", table(name, rows)]
    if (out / "attention_tiles.json").exists():
        lines += ["", "## Attention's tiles, times the best of each case on average", ""]
        for entry in json.loads((out / "attention_tiles.json").read_text(encoding="utf-8"))["entries"]:
            best = ", ".join(f"{tile} {slower:.3f}" for tile, slower in list(entry["tiles"].items())[:3])
            lines.append(f"- {entry['width']} {entry['size']}: {best}")
    if (out / "profile.md").exists():
        lines += ["", "## Profile", "", (out / "profile.md").read_text(encoding="utf-8")]
    return "\n".join([*lines, ""])


def run(chosen: Sequence[Part], out: Path, seconds: float, tell: Callable[[str], object] = print) -> list[Ended]:
    """All parts, as far as the time goes; the summary is written after each."""
    out.mkdir(parents=True, exist_ok=True)
    end_s, ended = time.monotonic() + seconds, list[Ended]()
    for i, part in enumerate(chosen):
        allowed_s = share(end_s - time.monotonic(), [later.weight for later in chosen[i:]])
        if allowed_s < SHORT_S:
            ended.append(Ended(part.name, None, 0.0, allowed_s, "not begun"))
        else:
            tell(f"{part.name}: at most {allowed_s:.0f} s")
            ended.append(run_part(part, allowed_s, out / "log.txt"))
            tell(f"{part.name}: {ended[-1].words} after {ended[-1].seconds:.0f} s: {ended[-1].last_line[:150]}")
        (out / "summary.md").write_text(summary(ended, out), encoding="utf-8")
    return ended


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, and exit with 1 where a part failed by itself."""
    parser = argparse.ArgumentParser(
        prog="python -m mien.bench.run_all", description="All a GPU machine is wanted for."
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the results")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all of it")
    parser.add_argument("--spent", type=float, default=0.0, metavar="SECONDS", help="of them, before this began")
    parser.add_argument("--device", default="cuda", help="cpu is for a dry run")
    parser.add_argument("--model", default="sd15", help="mini is for a dry run")
    parser.add_argument("--only", nargs="+", default=None, metavar="PART", help="tests, kernels, networks, ...")
    options = parser.parse_args(arguments)
    chosen = parts(options.out.resolve(), options.device, options.model)
    known = [part.name for part in chosen]
    if unknown := sorted(set(options.only or ()) - set(known)):
        parser.error(f"no part is called {', '.join(unknown)}: there are {', '.join(known)}")
    if options.minutes <= 0:
        parser.error("--minutes must be above 0")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that a part under way is ended too
    wanted = [part for part in chosen if options.only is None or part.name in options.only]
    ended = run(wanted, options.out.resolve(), 60 * options.minutes - options.spent)
    print(f"results: {options.out / 'summary.md'}")
    if any(part.status not in (0, None) for part in ended):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
