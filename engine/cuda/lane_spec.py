"""What a lane does to every row: the wishes of a method as constants of a recorded graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mien.engine.bank import OWN, Policy
from mien.engine.sampler import Step, step_lcm
from mien.engine.schedule import Prediction, Schedule
from mien.kernels.consistency_step import step_coefficients

Composition = Literal["replace", "delta"]
Coefficients = tuple[float, float, float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class LaneSpec:
    """One kind of edit. timesteps: descending. edited, source: rows by name and their shares, as `denoise.Wishes` has them; source
    in `delta` alone. step: of `replace`. keeps_source: whether the source stays in the latents where the mask is 0.
    """

    schedule: Schedule
    prediction: Prediction
    timesteps: tuple[float, ...]
    edited: Mapping[str, float]
    source: Mapping[str, float] = field(default_factory=dict)
    step: Step = step_lcm
    composition: Composition = "replace"
    policy: Policy = OWN
    keeps_source: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """The conditions of a face's rows, in their order: the source's first."""
        return (*(self.source if self.composition == "delta" else ()), *self.edited)

    @property
    def is_source(self) -> tuple[bool, ...]:
        """Which of the rows show the source."""
        sources = len(self.source) if self.composition == "delta" else 0
        return tuple(i < sources for i in range(len(self.names)))

    @property
    def weights(self) -> tuple[float, ...]:
        """Of the rows' predictions: of the edited rows their shares, of the source's what takes them away."""
        taken = self.source.values() if self.composition == "delta" else ()
        return (*(-share for share in taken), *self.edited.values())

    def coefficients(self, i: int) -> Coefficients:
        """Of `consistency_step` at step i.

        In `delta` x is the edited rows' latents less the source's, both noised alike, and the noise the clean source.
        """
        t = self.timesteps[i]
        target = None if i + 1 == len(self.timesteps) else self.timesteps[i + 1]

        def to_x0(output: float, x: float) -> float:
            return float(self.schedule.to_x0(output, x, t, self.prediction))

        def step(x0: float, x: float, noise: float) -> float:
            return float(self.step(self.schedule, x0, x, t, target, noise))

        if self.composition == "delta":
            return (*step_coefficients(to_x0, lambda x0, x, noise: x0 + noise),)
        return (*step_coefficients(to_x0, step),)
