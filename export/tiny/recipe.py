"""The recipe of the embedded bundle: its stages, what each needs, and what an ended one leaves behind.

Not in `__main__`, whose functions a spawned process does not find.
"""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from mien.export.tiny.stage import Arguments, end_with_parent


@dataclass(frozen=True, slots=True)
class Stage:
    """minutes: on one core, about what the shipped weights had; 0: as long as it takes. needs: stages that end before it begins."""

    minutes: float = 0
    needs: tuple[str, ...] = ()


# What `all` runs, in the order in which stages begin where several could.
STAGES = {
    "prepare": Stage(),
    "poses": Stage(0, ("prepare",)),
    "autoencoder": Stage(40, ("prepare",)),
    "landmarks": Stage(100, ("poses",)),
    "pairs": Stage(0, ("autoencoder",)),
    "difference": Stage(210, ("pairs",)),
    "parser": Stage(70, ("poses",)),
    "detector": Stage(75, ("poses",)),
    "difference_decoder": Stage(60, ("difference",)),
    "denoiser": Stage(45, ("difference",)),
    # It replaces the autoencoder's decoder, through which these two are trained.
    "decoder": Stage(20, ("difference_decoder", "denoiser")),
    "pack": Stage(0, ("landmarks", "parser", "detector", "decoder")),
}
BY_HAND = ("unpack", "carry", "uncarry")
AT_A_TIME = 2


def run_stage(stage: str, args: Arguments, minutes: float | None) -> None:
    """Run one stage, for its own minutes if none are given."""
    usual = STAGES[stage].minutes if stage in STAGES else 0
    timed = replace(args, minutes=usual if minutes is None else minutes)
    importlib.import_module(f"mien.export.tiny.{stage}").run(timed)


def run_noted(stage: str, args: Arguments, minutes: float | None) -> None:
    """Run one stage of `all`, and note that it has ended."""
    run_stage(stage, args, minutes)
    ended = args.runs / "ended" / stage
    ended.parent.mkdir(parents=True, exist_ok=True)
    ended.touch()


def run_all(args: Arguments, minutes: float | None) -> None:
    """Run every stage that an earlier run has not ended, two at a time where there are threads for both, and pack.

    Raises what a stage raises that runs alone, and SystemExit if one of two fails, which ends the other at once: run again, both go
    on from their last checkpoint.
    """
    left = []
    for stage in STAGES:
        ended = args.runs / "ended" / stage
        if stage != "pack" and ended.exists():
            made = args.runs / ("prepared" if stage == "prepare" else stage)
            print(f"{stage}: ended before; to make it anew delete {ended} and {made}", flush=True)
        else:
            left.append(stage)
    if args.device == "cpu" and args.threads >= AT_A_TIME:
        _run_beside(left, replace(args, threads=args.threads // AT_A_TIME), minutes)
    else:
        for stage in left:
            run_noted(stage, args, minutes)


def _run_apart(stage: str, args: Arguments, minutes: float | None) -> None:
    end_with_parent()
    run_noted(stage, args, minutes)


def _run_beside(left: Sequence[str], args: Arguments, minutes: float | None) -> None:
    """Run the stages, each in a process of its own."""
    waiting, running = list(left), dict[str, BaseProcess]()
    try:
        while waiting or running:
            missing = {*waiting, *running}
            ready = [stage for stage in waiting if missing.isdisjoint(STAGES[stage].needs)]
            for stage in ready[: AT_A_TIME - len(running)]:
                waiting.remove(stage)
                running[stage] = multiprocessing.get_context("spawn").Process(
                    target=_run_apart, args=(stage, args, minutes)
                )
                running[stage].start()
            wait([process.sentinel for process in running.values()])
            for stage in [stage for stage, process in running.items() if process.exitcode is not None]:
                if running.pop(stage).exitcode:
                    raise SystemExit(f"{stage} failed, see above; run it again to go on")
    finally:
        for process in running.values():
            process.terminate()
            process.join()
