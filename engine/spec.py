"""`EditSpec`: what the user wants done to the faces; a frozen, hashable value with a JSON round trip that rejects
what it does not know.
"""

from __future__ import annotations

import difflib
import json
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from mien.engine.checks import as_number, as_whole
from mien.engine.errors import EditError
from mien.engine.face.align import MAX_CROP_SCALE

REGIONS = (
    "face", "skin", "hair", "mouth", "eyes", "brows", "nose", "glasses", "lower_face", "lips", "complexion", "beard", "locks",
    "head", "portrait", "all",
)  # fmt: skip
BLENDS = ("feather", "poisson")
COMPOSITIONS = ("auto", "delta", "replace")
SAMPLERS = ("lcm", "tcd", "ddim")
MAX_STEPS, MAX_GUIDANCE = 50, 30
MAX_SEED = 2**32 - 1

Faces = Literal["largest", "all"] | int


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the most similar known word, or an empty string."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def parse_edit(text: str) -> tuple[str, float]:
    """`NAME=STRENGTH` or `NAME` (strength 1) as typed on a command line -> (name, strength). Raises EditError."""
    name, sign, value = text.partition("=")
    name = name.strip()
    if not name:
        raise EditError(f"--edit {text!r} names no edit; write NAME=STRENGTH, for example smile=1.0")
    if not sign:
        return name, 1.0
    try:
        strength = float(value)
    except ValueError:
        raise EditError(f"the strength of edit {name!r} is {value!r}, not a number; for example {name}=1.0") from None
    return name, _finite(f"the strength of edit {name!r}", strength)


def _finite(what: str, value: Any) -> float:
    if (number := as_number(value)) is None:
        raise EditError(f"{what} is {reprlib.repr(value)}, not a finite number")
    return number


def check_choice(what: str, value: Any, accepted: Iterable[Any]) -> None:
    """Raise EditError for a value that is not one of the accepted texts or numbers."""
    accepted = tuple(accepted)
    words = [str(word) for word in accepted]
    if value not in accepted:
        said = f"{value:g}" if isinstance(value, float) else repr(value)
        hint = nearest(value, words) if isinstance(value, str) else ""
        raise EditError(f"{what} is {said}; accepted: {', '.join(words)}{hint}")


def check_number(what: str, value: float, low: float, high: float) -> None:
    """Raise EditError for a number outside its range, or one that is not a number."""
    if not low <= value <= high:
        raise EditError(f"{what} is {value:g}; accepted: {low:g} to {high:g}")


@dataclass(frozen=True, slots=True)
class EditSpec:
    """One run's wishes. Everything else about a run is `EngineConfig`.

    method: the file in `engine/edits` that does it. edits: (name, strength) of the bundle's attribute edits, at most
    one per name; a strength of 0 means none and is dropped. prompt, negative_prompt, guidance_scale: for methods that take
    text; a scale of None leaves it to the bundle, 1 is none. strength: share of the noise schedule that is undone, in [0, 1], 0 for
    none of it; None leaves it to edits, method and bundle. num_steps: denoising steps, 1..50; None
    leaves it to the bundle. seed: 0..2**32-1, of the fixed noise. faces: the largest face, all, or the N largest.
    region: cuts the edits' masks further; None keeps them. blend: how an answer meets the frame at the mask's edge, by the
    `feather` of the mask alone, or after a `poisson` equation, which keeps its gradients and gives up its offset there (see
    blend.py). composition: `auto` takes each edit's own. sampler: of the embedded bundle's `replace` composition, None for
    lcm; where an imported bundle's `sampling` rules, or nothing is sampled, one given is an error. crop_px: side of the crop
    that the networks see, a multiple of 8; None for the bundle's. crop_scale: how many times as wide as FFHQ's it is, in [1, 2];
    None for what the edits allow. options: (key, number or text) of the method's own
    `Options`. Raises EditError for a value out of range, never clamps.
    """

    method: str = "wplus"
    edits: tuple[tuple[str, float], ...] = ()
    prompt: str = ""
    negative_prompt: str = ""
    guidance_scale: float | None = None
    strength: float | None = None
    num_steps: int | None = None
    seed: int = 0
    faces: Faces = "largest"
    region: str | None = None
    blend: str = "feather"
    composition: str = "auto"
    sampler: str | None = None
    crop_px: int | None = None
    crop_scale: float | None = None
    options: tuple[tuple[str, float | str], ...] = ()

    def __post_init__(self) -> None:
        for key in ("method", "prompt", "negative_prompt"):
            if not isinstance(getattr(self, key), str):
                raise EditError(f"{key} is {getattr(self, key)!r}, not a text")
        edits = ((name, _finite(f"the strength of edit {name!r}", v)) for name, v in _pairs("edit", self.edits))
        object.__setattr__(self, "edits", tuple(edits))
        options = _pairs("option", self.options)
        known = ((name, v if isinstance(v, str) else _finite(f"option {name!r}", v)) for name, v in options)
        object.__setattr__(self, "options", tuple(known))
        if self.strength is not None:
            object.__setattr__(self, "strength", _finite("strength", self.strength))
            check_number("strength", self.strength, 0, 1)
        if self.guidance_scale is not None:
            object.__setattr__(self, "guidance_scale", _finite("guidance_scale", self.guidance_scale))
            check_number("guidance_scale", self.guidance_scale, 1, MAX_GUIDANCE)
        if self.crop_px is not None:
            self._set_whole("crop_px", 64, 2048)
            if self.crop_px % 8:
                raise EditError(f"crop_px is {self.crop_px}; accepted: multiples of 8")
        if self.crop_scale is not None:
            object.__setattr__(self, "crop_scale", _finite("crop_scale", self.crop_scale))
            check_number("crop_scale", self.crop_scale, 1, MAX_CROP_SCALE)
        if self.num_steps is not None:
            self._set_whole("num_steps", 1, MAX_STEPS)
        self._set_whole("seed", 0, MAX_SEED)
        if isinstance(self.faces, str):
            check_choice("faces", self.faces, ("largest", "all"))
        elif (faces := as_whole(self.faces, 1)) is None:
            raise EditError(f"faces is {self.faces!r}; accepted: largest, all, or a whole number from 1")
        else:
            object.__setattr__(self, "faces", faces)
        if self.region is not None:
            check_choice("region", self.region, REGIONS)
        check_choice("blend", self.blend, BLENDS)
        check_choice("composition", self.composition, COMPOSITIONS)
        if self.sampler is not None:
            check_choice("sampler", self.sampler, SAMPLERS)

    def _set_whole(self, key: str, low: int, high: int) -> None:
        value = getattr(self, key)
        if (whole := as_whole(value, low, high)) is None:
            raise EditError(f"{key} is {reprlib.repr(value)}; accepted: a whole number from {low} to {high}")
        object.__setattr__(self, key, whole)

    @property
    def active(self) -> tuple[tuple[str, float], ...]:
        """The edits whose strength is not 0."""
        return tuple((name, strength) for name, strength in self.edits if strength != 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` reads it back to an equal spec."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        return values | {"edits": dict(self.edits), "options": dict(self.options)}

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EditSpec:
        """A spec from plain values. Raises EditError for a key it does not know, with the nearest one that it does."""
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                raise EditError(f"unknown setting {key!r}{nearest(str(key), known)}; accepted: {', '.join(known)}")
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> EditSpec:
        """A spec from JSON text. Raises EditError for what is not a JSON object or not a spec."""
        try:
            values = json.loads(text)
        except ValueError as error:  # JSONDecodeError, or a number of thousands of digits
            raise EditError(f"the edit settings are not JSON: {error}") from None
        if not isinstance(values, dict):
            raise EditError(f"the edit settings are a {type(values).__name__}, not a JSON object")
        return cls.from_dict(values)


def _pairs(kind: str, value: Any) -> tuple[tuple[str, Any], ...]:
    try:
        pairs = [(name, content) for name, content in (value.items() if isinstance(value, Mapping) else value)]
    except (TypeError, ValueError):
        raise EditError(f"the {kind}s are {value!r}; accepted: pairs of a name and a number") from None
    seen: dict[str, Any] = {}
    for name, content in pairs:
        if not isinstance(name, str) or not name:
            raise EditError(f"the name of an {kind} is {name!r}, not a text")
        if name in seen:
            raise EditError(f"{kind} {name!r} is given twice; give it once")
        seen[name] = content
    return tuple(seen.items())
