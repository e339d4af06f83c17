"""The bank of self-attention keys and values: each denoiser row attends to its track's anchor frame and to its
previous frame.

Layer i of a denoiser reads `bank_k_i`, `bank_v_i` (B, m N_i, C_i) and answers `own_k_i`, `own_v_i` (B, N_i, C_i). m is
the number of frames held: 0 for a track's first frame, 1 for its second (the anchor is the previous frame), 2 from
then on. A bank belongs to one track; a row within it is (branch, step), because each branch and each denoising step
has keys of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mien.engine.errors import ShapeError
from mien.engine.types import TensorSpec

Row = tuple[str, int]


def bank_layers(inputs: Mapping[str, TensorSpec]) -> tuple[int, ...]:
    """The numbers i of the layers that a network's inputs give a bank, ascending."""
    return tuple(sorted(int(name.removeprefix("bank_k_")) for name in inputs if name.startswith("bank_k_")))


def empty_bank(inputs: Mapping[str, TensorSpec], rows: int, zeros: Any) -> dict[str, Any]:
    """Banks of no frame for `rows` rows. zeros: a function of a shape, such as `lambda s: np.zeros(s, np.float32)`."""
    out: dict[str, Any] = {}
    for i in bank_layers(inputs):
        for kind in "kv":
            channels = inputs[f"bank_{kind}_{i}"].shape[-1]
            if channels is None:
                raise ShapeError(
                    f"bank_{kind}_{i} has a free channel dimension {inputs[f'bank_{kind}_{i}'].shape}; it must be fixed"
                )
            out[f"bank_{kind}_{i}"] = zeros((rows, 0, channels))
    return out


@dataclass(slots=True)
class Bank:
    """One track's keys and values.

    `read` gives a call's inputs, `write` takes its outputs, `step_frame` moves on to the next frame.
    """

    anchor: dict[Row, dict[str, Any]] = field(default_factory=dict)
    previous: dict[Row, dict[str, Any]] = field(default_factory=dict)
    _own: dict[Row, dict[str, Any]] = field(default_factory=dict)

    def read(
        self, rows: Sequence[Row], inputs: Mapping[str, TensorSpec], concatenate: Any, zeros: Any
    ) -> dict[str, Any]:
        """Inputs bank_k_i, bank_v_i for a batch whose rows are `rows`; rows of one batch hold equally many frames.

        concatenate: np.concatenate or torch.cat.
        """
        held = [[memory[row] for memory in (self.anchor, self.previous) if row in memory] for row in rows]
        if len({len(frames) for frames in held}) != 1:
            raise ShapeError(
                f"rows {list(rows)} hold {[len(f) for f in held]} frames; rows of one batch must hold equally many"
            )
        if not held[0]:
            return empty_bank(inputs, len(rows), zeros)
        return {
            f"bank_{kind}_{i}": concatenate(
                [concatenate([frame[f"own_{kind}_{i}"] for frame in frames], 1) for frames in held], 0
            )
            for i in bank_layers(inputs)
            for kind in "kv"
        }

    def write(self, rows: Sequence[Row], outputs: Mapping[str, Any]) -> None:
        """Keep the own_k_i, own_v_i of a batch for the next frame.

        The arrays are kept as they are: a network must not write into them again.
        """
        own = {name: value for name, value in outputs.items() if name.startswith(("own_k_", "own_v_"))}
        for b, row in enumerate(rows):
            self._own[row] = {name: value[b : b + 1] for name, value in own.items()}

    def step_frame(self) -> None:
        """The frame is done: what was written becomes the previous frame, or the anchor if there is none yet."""
        for row, own in self._own.items():
            if row in self.anchor:
                self.previous[row] = own
            else:
                self.anchor[row] = own
        self._own = {}

    def reset(self) -> None:
        """Forget everything: a scene cut, or another face."""
        self.anchor, self.previous, self._own = {}, {}, {}
