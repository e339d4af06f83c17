"""What a pipeline joins: passive stages that know nothing of threads, queues or time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar, runtime_checkable

In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)
A = TypeVar("A")
B = TypeVar("B")


class Stage(Protocol[In_contra, Out_co]):
    """Takes items in order and gives items in order; called from one thread at a time, but for a ParallelStage.

    process: zero or more results for this item, or for earlier ones it was keeping. drain: what it still keeps, at the
    end of the input. reset: forget everything, before another input.
    """

    name: str

    def process(self, item: In_contra) -> Iterable[Out_co]:
        """Work on one item."""
        ...

    def drain(self) -> Iterable[Out_co]:
        """Give what is left."""
        ...

    def reset(self) -> None:
        """Forget the input so far."""
        ...


@runtime_checkable
class Bypassable(Protocol):
    """A stage that can let an item through unworked; the `deadline` policy needs it. Order must be kept."""

    def bypass(self, item: object) -> Iterable[object]:
        """The result that stands for the item unworked."""
        ...


class MapStage(Generic[A, B]):
    """A stage that calls a function on each item and keeps nothing. Made by whoever builds a pipeline."""

    def __init__(self, name: str, function: Callable[[A], B]) -> None:
        self.name = name
        self._function = function

    def process(self, item: A) -> Iterable[B]:
        """One result for one item."""
        return (self._function(item),)

    def drain(self) -> Iterable[B]:
        """Nothing is kept."""
        return ()

    def reset(self) -> None:
        """Nothing is kept."""


class ParallelStage(MapStage[A, B]):
    """A MapStage whose function may be called from `workers` threads at a time; the pipeline keeps the order."""

    def __init__(self, name: str, function: Callable[[A], B], workers: int) -> None:
        super().__init__(name, function)
        if workers < 1:
            raise ValueError(f"workers is {workers}: give 1 or more")
        self.workers = workers
