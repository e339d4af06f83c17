"""The recipe of the embedded bundle: `python -m mien.export.tiny STAGE|all --data DIR --runs DIR [--minutes M]`.

Every training stage resumes from what lies in the runs folder, is seeded, and prints its own validation figure. `all` leaves out
the stages that an earlier `all` ended (one file each under RUNS/ended). The analysis networks and the editing networks do not
need each other: on a CPU with more than one thread `all` trains both at a time, each on its share of the threads, because two
small networks on a core each learn nearly twice as fast as one on two.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

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


def main() -> None:
    """Parse the command line and run one stage, or all."""
    parser = argparse.ArgumentParser(prog="python -m mien.export.tiny", description=__doc__)
    parser.add_argument("stage", choices=["all", *STAGES])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with faces/, weights/ and assets3d/")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="caches, checkpoints, sheets")
    parser.add_argument("--carry", type=Path, help="folder of carry and uncarry, RUNS/carry if not given")
    parser.add_argument("--minutes", type=float, help="time budget of a training stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    given = Arguments(args.data, args.runs, 0, args.seed, args.workers, args.device, args.threads, args.carry)
    if args.stage == "all":
        run_all(given, args.minutes)
    else:
        run_stage(args.stage, given, args.minutes)


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


if __name__ == "__main__":
    main()
