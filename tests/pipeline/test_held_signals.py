"""Signals wait while a muxer runs, and are not lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from mien.runtime.held_signals import HeldSignals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def hit(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    for _ in range(100):  # handlers run between bytecodes
        pass


def test_a_signal_waits_for_check() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), HeldSignals() as held:
        hit(signal.SIGINT)
        reached.append("after the signal")
        held.check()
        reached.append("after the check")
    assert reached == ["after the signal"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_nobody_checked_takes_effect_at_the_end() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt):
        with HeldSignals():
            hit(signal.SIGINT)
            reached.append("inside")
        reached.append("outside")
    assert reached == ["inside"]


def test_an_error_on_its_way_is_kept() -> None:
    with pytest.raises(OSError, match="disk"), HeldSignals():
        hit(signal.SIGINT)
        raise OSError("disk")


def test_the_callers_own_handler_is_the_one_that_is_called() -> None:
    seen: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    with HeldSignals() as held:
        hit(signal.SIGTERM)
        assert seen == []
        held.check()
        assert seen == [signal.SIGTERM]
    hit(signal.SIGTERM)
    assert seen == [signal.SIGTERM] * 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_every_signal_that_ends_a_run_waits(number: signal.Signals) -> None:
    signal.signal(number, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        with HeldSignals():
            hit(number)
        pytest.fail("the signal is not lost")


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with HeldSignals():
        hit(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_other_threads_are_left_alone() -> None:
    def inside(found: Callable[[object], None]) -> None:
        with HeldSignals() as held:
            held.check()
            found(signal.getsignal(signal.SIGINT))

    rows: list[object] = []
    thread = threading.Thread(target=inside, args=(rows.append,))
    thread.start()
    thread.join()
    assert rows == [signal.default_int_handler]
