"""The recipe of the embedded bundle: its stages, their order, and what an ended one leaves behind.

Not in `__main__`, whose functions a spawned process does not find.
"""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Sequence
from dataclasses import replace

from mien.export.tiny.stage import Arguments

# stage -> (module, minutes on one core, about what the shipped weights had)
STAGES: dict[str, tuple[str, float]] = {
    "prepare": ("prepare", 0),
    "poses": ("poses", 0),
    "landmarks": ("landmarks", 100),
    "parser": ("parser", 70),
    "detector": ("detector", 75),
    "autoencoder": ("autoencoder", 40),
    "pairs": ("pairs", 0),
    "difference": ("difference", 210),
    "difference_decoder": ("difference_decoder", 60),
    "denoiser": ("denoiser", 45),
    "decoder": ("decoder", 20),
    "pack": ("pack", 0),
    "unpack": ("unpack", 0),
    "carry": ("carry", 0),
    "uncarry": ("uncarry", 0),
}

PREPARING = ("prepare", "poses")
ANALYSIS = ("landmarks", "parser", "detector")
EDITING = ("autoencoder", "pairs", "difference", "difference_decoder", "denoiser", "decoder")


def run_stage(stage: str, args: Arguments, minutes: float | None) -> None:
    """Run one stage, for its own minutes if none are given."""
    module, usual = STAGES[stage]
    timed = replace(args, minutes=usual if minutes is None else minutes)
    importlib.import_module(f"mien.export.tiny.{module}").run(timed)


def run_stages(stages: Sequence[str], args: Arguments, minutes: float | None) -> None:
    """Run those of the stages that have not ended before, and note each that ends."""
    for stage in stages:
        ended = args.runs / "ended" / stage
        if ended.exists():
            made = args.runs / ("prepared" if stage == "prepare" else stage)
            print(f"{stage}: ended before; to make it anew delete {ended} and {made}", flush=True)
            continue
        run_stage(stage, args, minutes)
        ended.parent.mkdir(parents=True, exist_ok=True)
        ended.touch()


def run_all(args: Arguments, minutes: float | None) -> None:
    """Run every stage, the two trainings at a time where there are threads for both.

    Exits with 1 where the analysis networks fail, and raises what an editing stage raises, which ends the others at once: run
    again, they go on from their last checkpoint.
    """
    run_stages(PREPARING, args, minutes)
    if args.device != "cpu" or args.threads < 2:
        run_stages((*ANALYSIS, *EDITING), args, minutes)
    else:
        half = replace(args, threads=args.threads // 2)
        analysis = multiprocessing.get_context("spawn").Process(target=run_stages, args=(ANALYSIS, half, minutes))
        analysis.start()
        try:
            run_stages(EDITING, replace(args, threads=args.threads - half.threads), minutes)
        except BaseException:
            analysis.terminate()
            raise
        finally:
            analysis.join()
        if analysis.exitcode:
            raise SystemExit("the analysis networks were not trained, see above; run it again to go on")
    run_stage("pack", args, minutes)
