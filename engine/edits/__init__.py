"""Edit methods, one file each, found by file name; nothing else in mien lists them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

from mien.engine.backend import Network
from mien.engine.bundle import Bundle
from mien.engine.errors import EditError
from mien.engine.manifest import Manifest
from mien.engine.spec import EditSpec, nearest
from mien.engine.types import Array, FaceTrack

Options = TypeVar("Options")


@dataclass(frozen=True, slots=True)
class View:
    """One face in one frame, as a method sees it.

    crop: (3, S, S) RGB in [-1, 1], moved by the edits' templates. mask: (S, S) in [0, 1]; where it is 0 the answer is not
    used and may be anything. points: (68, 2) landmarks in crop pixels, moved alike. hidden: (S, S) in [0, 1], where edits that hide what
    was there may draw; None without such edits.
    """

    crop: Array
    mask: Array
    points: Array
    hidden: Array | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a method has for one crop; pictures are (3, S, S) on the [-1, 1] scale.

    difference: to add to the frame's own pixels, times the mask; None for nothing to add. cover: a picture that takes
    the place of the frame's pixels, by the share (S, S) in [0, 1], both of more pixels where the same crop is shown finer; None
    where none does.
    """

    difference: Array | None = None
    cover: tuple[Array, Array] | None = None


class Method(Protocol):
    """A method bound to a bundle's networks and to one spec.

    What it remembers of a face lies in the `FaceTrack` it is given. `finish` may be called from several threads at a
    time; for one face only where the class does not say `in_order`.
    """

    def wants_code(self) -> bool:
        """Whether it needs `encode` on a sample of a track's frames, at least one, before `finish`."""

    def encode(self, track: FaceTrack, crop: Array) -> None:
        """Add a crop (3, S, S) to the track's shared code."""

    def finish(self, track: FaceTrack, view: View) -> Answer | None:
        """The answer for a face in a frame, or None where no network has anything to say."""


class MethodClass(Protocol):
    """What a method's file holds under the name METHOD."""

    def is_active(self, spec: EditSpec) -> bool:
        """Whether a spec asks it for anything; if not, nothing is loaded and frames stay as they are."""

    def networks(self, spec: EditSpec, manifest: Manifest) -> tuple[str, ...]:
        """The bundle's networks it will call for a spec. Raises EditError where the bundle cannot do it."""

    def in_order(self, spec: EditSpec, manifest: Manifest) -> bool:
        """Whether a track's frames must be finished one after the other, because each reads what the last left."""

    def regions(self, spec: EditSpec, manifest: Manifest) -> tuple[str, ...]:
        """The regions of the mask, united."""

    def __call__(self, spec: EditSpec, bundle: Bundle, networks: Mapping[str, Network]) -> Method:
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


def read_options(options: type[Options], spec: EditSpec) -> Options:
    """A spec's `options` as a method's dataclass of numbers and texts.

    Raises EditError for a name it does not have, a text for a number, or what the dataclass itself refuses.
    """
    known = {field.name: field.type for field in fields(options)}  # type: ignore[arg-type]
    for key, value in spec.options:
        if key not in known:
            accepted = ", ".join(known) or "none"
            raise EditError(f"method {spec.method!r} has no option {key!r}{nearest(key, known)}; accepted: {accepted}")
        if isinstance(value, str) != (known[key] == "str"):
            raise EditError(f"option {key!r} is {value!r}; a {'text' if known[key] == 'str' else 'number'} is accepted")
    return options(**dict(spec.options))


def edited_regions(spec: EditSpec, manifest: Manifest) -> tuple[str, ...]:
    """Those of a spec's active attribute edits."""
    return tuple(sorted({region for name, _ in spec.active for region in manifest.edits[name].regions}))
