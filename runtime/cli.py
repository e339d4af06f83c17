"""Entry point of `mien`; it imports nothing but the standard library, so that a missing package is said in one line."""

from __future__ import annotations

import os
import sys

_NOT_AVAILABLE, _INTERRUPTED = 3, 130


def main() -> None:
    """Run the command line of this process and exit with its code."""
    _open_closed_streams()
    try:
        from mien.runtime.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while packages were imported
        print("mien: error: interrupted", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "mien":
            raise
        print(f"mien: error: {error.name} is not installed: pip install 'mien[cpu]'", file=sys.stderr)
        sys.exit(_NOT_AVAILABLE)
    sys.exit(code)


def _open_closed_streams() -> None:
    """Give a process that was started without stdin, stdout or stderr (`>&-`) the null device, not its next file, for them."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
