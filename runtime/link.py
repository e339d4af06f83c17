"""A bounded queue between two stages: back-pressure or dropping, an end, and a cancel that wakes both sides."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, Literal, TypeVar

T = TypeVar("T")

Policy = Literal["lossless", "latest", "deadline"]
"""What happens when items come faster than they are taken.

lossless: the producer waits (files). latest: the oldest waiting item is dropped (live).
deadline: nothing is dropped, but a stage lets an item through unworked that would be late (live; see Pipeline).
"""


class LinkCancelled(Exception):
    """The pipeline is stopping; carries nothing, the cause is kept by the pipeline."""


class Link(Generic[T]):
    """A queue of at most `capacity` items with one producer and one consumer, each in its own thread.

    The producer calls `put` and, at its end, `finish`; the consumer iterates. `cancel`, from any thread, wakes both
    with LinkCancelled and lets go of what waits. `dropped` counts items dropped by the policy.
    """

    def __init__(self, capacity: int, policy: Policy = "lossless") -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}: give 1 or more")
        self.capacity = capacity
        self.policy = policy
        self.dropped = 0
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._finished = False
        self._cancelled = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """Append an item; a full link waits, or under `latest` drops its oldest. Raises LinkCancelled."""
        with self._changed:
            if self._finished:
                raise RuntimeError("put after finish")
            while len(self._items) >= self.capacity and not self._cancelled:
                if self.policy == "latest":
                    self._items.popleft()
                    self.dropped += 1
                else:
                    self._changed.wait()
            if self._cancelled:
                raise LinkCancelled
            self._items.append(item)
            self._changed.notify_all()

    def finish(self) -> None:
        """No more items; the consumer still gets those that wait."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """Stop both sides now."""
        with self._changed:
            self._cancelled = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                while not self._items and not self._finished and not self._cancelled:
                    self._changed.wait()
                if self._cancelled:
                    raise LinkCancelled
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
