"""Edit methods, one file each, found by file name; nothing else in mien lists them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, Protocol

from mien.engine.backend import Network
from mien.engine.errors import EditError
from mien.engine.manifest import Manifest
from mien.engine.spec import EditSpec, nearest
from mien.engine.types import Array, FaceTrack


class Method(Protocol):
    """A method bound to a bundle's networks and to one spec.

    What it remembers of a face lies in the `FaceTrack` it is given. `finish` may be called from several threads at a
    time, unless the class says `in_order`.
    """

    composition: str
    """`delta`: `finish` answers a difference to add; `replace`: the new crop."""

    def wants_code(self) -> bool:
        """Whether it needs `encode` on a sample of a track's frames, at least one, before `finish`."""

    def encode(self, track: FaceTrack, crop: Array) -> None:
        """Add a crop (3, S, S) to the track's shared code."""

    def finish(self, track: FaceTrack, crop: Array, mask: Array) -> Array | None:
        """A crop (3, S, S) -> the difference or the new crop (3, S, S), or None where no network has anything to add.

        mask: (S, S) in [0, 1]; where it is 0 the answer is not used and may be anything.
        """


class MethodClass(Protocol):
    """What a method's file holds under the name METHOD."""

    def networks(self, spec: EditSpec, manifest: Manifest) -> tuple[str, ...]:
        """The bundle's networks it will call for a spec."""

    def in_order(self, spec: EditSpec, manifest: Manifest) -> bool:
        """Whether a track's frames must be finished one after the other, because each reads what the last left."""

    def __call__(
        self,
        spec: EditSpec,
        manifest: Manifest,
        directions: Mapping[str, Array],
        networks: Mapping[str, Network],
    ) -> Method:
        """Bind it."""


def names() -> tuple[str, ...]:
    """Every method's name, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load(name: str) -> MethodClass:
    """A method by name. Raises EditError for one that does not exist, with the nearest that does."""
    if name not in names():
        raise EditError(f"unknown method {name!r}{nearest(name, names())}; accepted: {', '.join(names())}")
    found: Any = importlib.import_module(f"{__name__}.{name}").METHOD
    return found  # type: ignore[no-any-return]
