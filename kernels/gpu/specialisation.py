"""What a Triton kernel is compiled to: named argument types and constants, for compiling ahead of time without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CAPABILITIES = (80, 89, 90, 100, 120)
"""Compute capabilities every kernel is compiled for: A100, Ada, Hopper, Blackwell's two."""


@dataclass(frozen=True, slots=True)
class Specialisation:
    """One compiled form of a kernel.

    kernel: the `triton.jit` function. types: of its run-time arguments by name, in order, as Triton spells them ("*fp16",
    "i32", "fp32"). constants: its constexpr arguments. divisible: names of the arguments whose value or address is a
    multiple of 16 in every call of this form. label: shape and type in words, such as "d40 fp16". capabilities: those it is
    launched on, where tiles differ among them. slow: whether the everyday tests leave it out because it differs little from
    another form.
    """

    kernel: Any
    label: str
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    divisible: tuple[str, ...] = ()
    num_warps: int = 4
    num_stages: int = 2
    extra: Mapping[str, Any] = field(default_factory=dict)
    capabilities: tuple[int, ...] = CAPABILITIES
    slow: bool = False
