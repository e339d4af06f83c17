"""`python -m mien.runtime`: the command line where the script `mien` is not on the path."""

from mien.runtime.cli import main

main()
