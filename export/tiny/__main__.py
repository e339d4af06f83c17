"""The recipe of the embedded bundle: `python -m mien.export.tiny STAGE|all --data DIR --runs DIR [--minutes M]`.

Every stage resumes from what lies in the runs folder, is seeded, and prints its own validation figure.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from mien.export.tiny.stage import Arguments

# stage -> (module, minutes on two cores: about what the shipped weights had, over several runs that went on from each other)
STAGES: dict[str, tuple[str, float]] = {
    "prepare": ("prepare", 0),
    "renders": ("renders", 0),
    "poses": ("poses", 0),
    "landmarks": ("landmarks", 100),
    "parser": ("parser", 70),
    "detector": ("detector", 75),
    "autoencoder": ("autoencoder", 80),
    "pairs": ("pairs", 0),
    "difference": ("difference", 210),
    "denoiser": ("denoiser", 45),
    "decoder": ("decoder", 20),
    "pack": ("pack", 0),
    "unpack": ("unpack", 0),
    "carry": ("carry", 0),
    "uncarry": ("uncarry", 0),
}

ALL = tuple(stage for stage in STAGES if stage not in ("unpack", "carry", "uncarry"))


def main() -> None:
    """Parse the command line and run one stage, or all in order."""
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
    for stage in ALL if args.stage == "all" else [args.stage]:
        module, minutes = STAGES[stage]
        given = Arguments(
            data=args.data,
            runs=args.runs,
            minutes=minutes if args.minutes is None else args.minutes,
            seed=args.seed,
            workers=args.workers,
            device=args.device,
            threads=args.threads,
            carry=args.carry,
        )
        importlib.import_module(f"mien.export.tiny.{module}").run(given)


if __name__ == "__main__":
    main()
