"""Words on a terminal about what is being done now; nothing where stderr is none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape


@contextmanager
def told_on_terminal() -> Iterator[Callable[[str], None] | None]:
    """A function that shows its words beside a spinner, each in the place of the last; None if stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with Console(stderr=True).status("") as status:
        yield lambda words: status.update(escape(words))
