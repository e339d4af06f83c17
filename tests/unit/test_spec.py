"""EditSpec: its rules, its JSON round trip, and its refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mien.engine.errors import EditError
from mien.engine.spec import EditSpec, parse_edit


def test_json_round_trip_and_hash() -> None:
    spec = EditSpec(
        edits={"smile": 1, "age": -0.5},  # type: ignore[arg-type]
        strength=0.4,
        num_steps=2,
        seed=7,
        faces=3,
        region="mouth",
        sampler="tcd",
        options=(("w_scale", 0.5),),
    )
    again = EditSpec.from_json(spec.to_json())
    assert again == spec and hash(again) == hash(spec)
    assert again.edits == (("smile", 1.0), ("age", -0.5))
    assert len({spec, again, EditSpec()}) == 2 and EditSpec.from_json(EditSpec().to_json()).sampler is None


def test_zero_strength_is_kept_but_not_active() -> None:
    spec = EditSpec(edits=(("smile", 0.0), ("age", 0.5)))
    assert spec.edits[0] == ("smile", 0.0)
    assert spec.active == (("age", 0.5),)


def test_unknown_key_names_the_nearest() -> None:
    with pytest.raises(EditError, match="did you mean 'strength'"):
        EditSpec.from_dict({"strenght": 0.5})


@pytest.mark.parametrize(
    "values",
    [
        {"strength": -0.01},
        {"strength": 1.01},
        {"strength": math.nan},
        {"strength": "much"},
        {"num_steps": 0},
        {"num_steps": 51},
        {"num_steps": 2.0},
        {"num_steps": True},
        {"seed": -1},
        {"seed": 2**32},
        {"faces": 0},
        {"faces": "biggest"},
        {"faces": True},
        {"region": "ear"},
        {"blend": "laplacian"},
        {"composition": "sum"},
        {"sampler": "euler"},
        {"edits": [("smile", math.nan)]},
        {"edits": [("smile", math.inf)]},
        {"edits": [("smile", 1.0), ("smile", 0.5)]},
        {"edits": [("smile", 10**400)]},
        {"strength": 10**400},
        {"seed": 10**400},
        {"num_steps": np.float32(2)},
        {"faces": np.int64(0)},
        {"faces": [1]},
        {"edits": [("", 1.0)]},
        {"edits": "smile"},
        {"edits": 3},
        {"edits": [("smile", True)]},
        {"prompt": 3},
        {"negative_prompt": None},
        {"guidance_scale": -1.0},
        {"guidance_scale": 0.5},
        {"guidance_scale": 31.0},
        {"crop_px": 500},
        {"crop_px": 32},
        {"crop_scale": 0.9},
        {"crop_scale": "wide"},
        {"options": [("rows", math.nan)]},
    ],
)
def test_refuses_and_never_clamps(values: dict[str, object]) -> None:
    with pytest.raises(EditError) as caught:
        EditSpec.from_dict(values)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "{", '"smile"', '{"edits": {"smile": NaN}}', f'{{"seed": 1{"0" * 5000}}}'])
def test_refuses_json_that_is_no_spec(text: str) -> None:
    with pytest.raises(EditError):
        EditSpec.from_json(text)


@pytest.mark.parametrize(
    ("text", "pair"), [("smile=1.5", ("smile", 1.5)), ("age=-1", ("age", -1.0)), ("smile", ("smile", 1.0))]
)
def test_parse_edit(text: str, pair: tuple[str, float]) -> None:
    assert parse_edit(text) == pair


@pytest.mark.parametrize("text", ["", "=1", "smile=", "smile=big", "smile=nan", "smile=inf"])
def test_parse_edit_refuses(text: str) -> None:
    with pytest.raises(EditError):
        parse_edit(text)


def test_numbers_of_numpy_become_pythons() -> None:
    spec = EditSpec(
        edits=(("smile", np.float32(0.5)), ("age", np.int64(1))),  # type: ignore[arg-type]
        options=(("rows", np.int64(2)),),  # type: ignore[arg-type]
        strength=np.float64(0.25), crop_px=np.int64(256), num_steps=np.int32(2), seed=np.uint32(7), faces=np.int64(3),  # type: ignore[arg-type]
    )  # fmt: skip
    plain = EditSpec(
        edits=(("smile", 0.5), ("age", 1.0)), options=(("rows", 2.0),), strength=0.25, crop_px=256, num_steps=2, seed=7,
        faces=3,
    )  # fmt: skip
    assert spec == plain and spec.to_json() == plain.to_json() and EditSpec.from_json(spec.to_json()) == plain


def test_a_number_of_hundreds_of_digits_is_refused_in_a_short_line() -> None:
    with pytest.raises(EditError, match="not a finite number") as caught:
        EditSpec(edits=(("smile", 10**400),))
    assert len(str(caught.value)) < 120
