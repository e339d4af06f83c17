"""One object of a JSON file, read key by key with its type checked; what was not read is reported as unknown."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from typing import Any, TypeVar

from mien.engine.errors import BundleError

Name = TypeVar("Name", bound=str)


class Section:
    """A JSON object at a place (`where`) of a file; a reader raises BundleError naming place, value and what fits."""

    def __init__(self, value: dict[str, Any], where: str) -> None:
        self.where = where
        self._value = value
        self._read: set[str] = set()

    @classmethod
    def of(cls, value: object, where: str) -> Section:
        """A section of a value that must be an object."""
        if not isinstance(value, dict):
            raise BundleError(f"{where} is {_kind(value)}, it must be an object")
        return cls(value, where)

    def keys(self) -> list[str]:
        """Every key, in the file's order."""
        return list(self._value)

    def items(self) -> Iterator[tuple[str, Section]]:
        """Every key with the object below it."""
        for key in self._value:
            yield key, self.section(key)

    def has(self, key: str) -> bool:
        """Whether a key is there."""
        return key in self._value

    def take(self, key: str) -> Any:
        """The value of a key that must be there."""
        if key not in self._value:
            raise BundleError(f"{self.where}: the key {key!r} is missing")
        self._read.add(key)
        return self._value[key]

    def finish(self) -> None:
        """Raise for keys nobody read."""
        for key in self._value:
            if key not in self._read:
                near = difflib.get_close_matches(key, self._read, n=1)
                hint = f": did you mean {near[0]!r}?" if near else ""
                raise BundleError(f"{self.where}: the key {key!r} is unknown{hint}")

    def section(self, key: str) -> Section:
        """An object."""
        return Section.of(self.take(key), f"{self.where}.{key}")

    def mapping(self, key: str) -> dict[str, Any]:
        """An object whose content is not looked into."""
        return dict(self.section(key)._value)

    def sections(self, key: str) -> list[Section]:
        """A list of objects."""
        return [Section.of(item, f"{self.where}.{key}[{i}]") for i, item in enumerate(self.items_of(key))]

    def items_of(self, key: str) -> list[Any]:
        """A list."""
        value = self.take(key)
        if not isinstance(value, list):
            raise self._wrong(key, value, "a list")
        return value

    def string(self, key: str) -> str:
        """A string that is not empty."""
        value = self.take(key)
        if not isinstance(value, str) or not value:
            raise self._wrong(key, value, "a string")
        return value

    def optional_string(self, key: str) -> str | None:
        """A string, or null."""
        return None if self.take(key) is None else self.string(key)

    def flag(self, key: str) -> bool:
        """True or false; a missing key is false."""
        value = self.take(key) if self.has(key) else False
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        items = self.items_of(key)
        if not all(isinstance(item, str) and item for item in items):
            raise self._wrong(key, items, "a list of strings")
        return tuple(items)

    def matching(self, key: str, pattern: re.Pattern[str]) -> str:
        """A string of a given form."""
        value = self.string(key)
        if not pattern.fullmatch(value):
            raise self._wrong(key, value, f"a string like {pattern.pattern}")
        return value

    def choice(self, key: str, accepted: tuple[Name, ...]) -> Name:
        """One of the accepted strings."""
        value = self.string(key)
        for name in accepted:
            if name == value:
                return name
        raise self._wrong(key, value, f"one of {', '.join(accepted)}")

    def integer(self, key: str, lo: int = -(2**31), hi: int = 2**31) -> int:
        """A whole number in [lo, hi]."""
        return self._integer(key, self.take(key), lo, hi)

    def integers(self, key: str, lo: int, hi: int) -> tuple[int, ...]:
        """A list of whole numbers in [lo, hi]."""
        return tuple(self._integer(key, item, lo, hi) for item in self.items_of(key))

    def number(self, key: str, lo: float = -math.inf, hi: float = math.inf) -> float:
        """A finite number in [lo, hi]."""
        return self._number(key, self.take(key), lo, hi)

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        """A list of exactly `count` finite numbers."""
        items = self.items_of(key)
        if len(items) != count:
            raise self._wrong(key, items, f"a list of {count} numbers")
        return tuple(self._number(key, item, -math.inf, math.inf) for item in items)

    def pairs(self, key: str, lo: float, hi: float) -> tuple[tuple[float, float], ...]:
        """A list of [x, y]."""
        values = self.take(key)
        if not isinstance(values, list) or any(not isinstance(pair, list) or len(pair) != 2 for pair in values):
            raise self._wrong(key, values, "a list of pairs of numbers")
        return tuple((self._number(key, x, lo, hi), self._number(key, y, lo, hi)) for x, y in values)

    def _integer(self, key: str, value: object, lo: int, hi: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not lo <= value <= hi:
            raise self._wrong(key, value, f"a whole number from {lo} to {hi}")
        return value

    def _number(self, key: str, value: object, lo: float, hi: float) -> float:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
            or not lo <= value <= hi
        ):
            bounds = "" if math.isinf(lo) and math.isinf(hi) else f" from {lo:g} to {hi:g}"
            raise self._wrong(key, value, f"a finite number{bounds}")
        return float(value)

    def _wrong(self, key: str, value: object, accepted: str) -> BundleError:
        text = repr(value)
        shown = text if len(text) <= 80 else text[:77] + "..."
        return BundleError(f"{self.where}.{key} is {shown}, it must be {accepted}")


def _kind(value: object) -> str:
    names = {
        list: "a list",
        str: "a string",
        int: "a number",
        float: "a number",
        bool: "true or false",
        type(None): "null",
    }
    return names.get(type(value), type(value).__name__)
