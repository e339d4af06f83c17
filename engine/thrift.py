"""The options that every prompted method has, which save work, and the rule that no option is ignored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from mien.engine.errors import EditError
from mien.engine.guidance import RESIDUAL_KINDS, ResidualKind
from mien.engine.spec import EditSpec, check_choice, check_number


@dataclass(frozen=True, slots=True)
class Thrift:
    """Options of every prompted method that save work (StreamDiffusion, Kodaira et al. 2023).

    residual_cfg: what stands for the unconditional row: none (it runs), self (the source, so that it never runs) or
    initialize (it runs at the first step). similarity: cosine similarity from which a frame may take the last one's answer,
    by chance; 0 for never. REPLACE, DELTA: names of the options that do something in that composition alone.
    """

    REPLACE: ClassVar[tuple[str, ...]] = ("residual_cfg",)
    DELTA: ClassVar[tuple[str, ...]] = ()

    residual_cfg: str = "none"
    similarity: float = 0.0

    def check(self) -> None:
        """Raise EditError for a value out of range."""
        check_choice("residual_cfg", self.residual_cfg, RESIDUAL_KINDS)
        check_number("similarity", self.similarity, 0, 1)

    @property
    def residual(self) -> ResidualKind:
        """residual_cfg, as guidance knows it."""
        return next(kind for kind in RESIDUAL_KINDS if kind == self.residual_cfg)


def refuse(spec: EditSpec, options: Thrift, names: Iterable[str], belongs_to: str) -> None:
    """Raise EditError where one of some options is not at its default, for it would do nothing. belongs_to: where it does."""
    default = type(options)()
    for name in names:
        if getattr(options, name) != getattr(default, name):
            raise EditError(f"option {name!r} of method {spec.method!r} belongs to {belongs_to}: leave it out")
