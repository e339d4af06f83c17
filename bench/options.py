"""What the benchmarks of a device have in common as commands: options, the recorder they ask for, errors, the exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mien.bench.device_peaks import pick_device
from mien.bench.recorder import CASE_S, Recorder
from mien.engine.errors import MienError


def add_options(parser: argparse.ArgumentParser) -> None:
    """What every benchmark of a device takes."""
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:N; auto is cuda where there is one")
    parser.add_argument("--results", type=Path, default=None, metavar="FOLDER", help="append the rows there")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for all; what is left then is left out")
    parser.add_argument("--case-seconds", type=float, default=CASE_S, help="of timing, for each case")


def open_recorder(bench: str, options: argparse.Namespace, **more: Any) -> Recorder:
    """By the options of `add_options`. Raises UnavailableError for a device that is not there."""
    device = pick_device(options.device)
    if device != "cpu":
        torch.backends.cudnn.benchmark = True  # for every form alike
    return Recorder(
        bench, device, results=options.results, seconds=options.seconds, case_s=options.case_seconds, **more
    )


def guarded(main: Callable[[], None]) -> None:
    """Run a command of this process; a mistake of the user's is one line and its exit code."""
    try:
        main()
    except MienError as error:
        print(f"mien: error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def exit_by(recorder: Recorder) -> None:
    """Exit with 1 where something failed."""
    if recorder.failed:
        raise SystemExit(1)
