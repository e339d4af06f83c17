"""Keeps Ctrl-C, SIGTERM and SIGHUP waiting while a library runs that would swallow the exception they raise."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class HeldSignals:
    """Within it SIGINT, SIGTERM and SIGHUP only take effect in `check` and at its end; with the handlers that were set before.

    A muxer that writes through Python callbacks drops what these raise, and a signal's handler runs wherever Python
    code runs next: in such a callback. Does nothing outside the main thread, where no handler ever runs.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._pending: list[tuple[int, FrameType | None]] = []

    def __enter__(self) -> HeldSignals:
        """Take the handlers over."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                handler = signal.getsignal(number)
                if callable(handler):  # neither ignored, nor the default that ends the process at once
                    self._before[number] = handler
                    signal.signal(number, self._hold)
        return self

    def _hold(self, number: int, frame: FrameType | None) -> None:
        self._pending.append((number, frame))

    def check(self) -> None:
        """Let a signal that came take effect now: as a rule this raises KeyboardInterrupt."""
        while self._pending:
            number, frame = self._pending.pop(0)
            self._before[number](number, frame)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the handlers back; a signal that came since the last check takes effect, unless an error is on its way."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if error is None:
            self.check()
