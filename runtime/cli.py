"""Entry point of `mien`; it imports nothing but the standard library, so that a missing package is said in one line."""

from __future__ import annotations

import sys

_NOT_AVAILABLE = 3


def main() -> None:
    """Run the command line of this process and exit with its code."""
    try:
        from mien.runtime.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "mien":
            raise
        print(f"mien: error: {error.name} is not installed: pip install 'mien[cpu]'", file=sys.stderr)
        sys.exit(_NOT_AVAILABLE)
    sys.exit(run(sys.argv[1:]))
