"""The recipe of the embedded bundle: `python -m mien.export.tiny STAGE|all --data DIR --runs DIR [--minutes M]`.

Every training stage resumes from what lies in the runs folder, is seeded, and prints its own validation figure. `all` leaves out
the stages that an earlier `all` ended (one file each under RUNS/ended). On a CPU with more than one thread it runs two stages at a
time that do not need each other, each on half of the threads: two small networks on a core each learn nearly twice as fast as one
on two.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mien.export.tiny.recipe import BY_HAND, STAGES, run_all, run_stage
from mien.export.tiny.stage import Arguments


def main() -> None:
    """Parse the command line and run one stage, or all."""
    parser = argparse.ArgumentParser(prog="python -m mien.export.tiny", description=__doc__)
    parser.add_argument("stage", choices=["all", *STAGES, *BY_HAND])
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


if __name__ == "__main__":
    main()
