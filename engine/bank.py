"""The bank of self-attention keys and values: each denoiser row attends to its track's anchor frame and to its
previous frame, as a `Policy` says.

Layer i of a denoiser reads `bank_k_i`, `bank_v_i` (B, m N_i, C_i) and answers `own_k_i`, `own_v_i` (B, N_i, C_i). m is
the number of frames held: 0 for a track's first frame, 1 for its second (the anchor is the previous frame), 2 from
then on. A bank belongs to one track; a row within it is (branch, step), because each branch and each denoising step
has keys of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mien.engine.errors import ShapeError
from mien.engine.types import TensorSpec

Row = tuple[str, float]
Held = Literal["anchor", "previous"]


@dataclass(frozen=True, slots=True)
class Policy:
    """What self-attention sees beside, or in the place of, a frame's own tokens.

    frames: of the bank; none for plain self-attention. own: whether the own tokens are attended to where the bank holds a
    frame. stages: of the UNet whose layers read the bank.
    """

    frames: tuple[Held, ...] = ()
    own: bool = True
    stages: tuple[str, ...] = ("down", "mid", "up")


OWN = Policy()
EXTENDED = Policy(("anchor", "previous"))
ANCHOR = Policy(("anchor",), own=False)  # Text2Video-Zero (Khachatryan et al. 2023, section 3.3)
# Pix2Video (Ceylan et al. 2023, section 3.1).
ANCHOR_PREVIOUS = Policy(("anchor", "previous"), own=False, stages=("up",))


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

    `read` gives a call's inputs, `write` takes its outputs, `step_frame` moves on to the next frame. frames: those that are
    kept, a policy's.
    """

    frames: Collection[Held] = ("anchor", "previous")
    anchor: dict[Row, dict[str, Any]] = field(default_factory=dict)
    previous: dict[Row, dict[str, Any]] = field(default_factory=dict)
    _own: dict[Row, dict[str, Any]] = field(default_factory=dict)

    def read(
        self,
        rows: Sequence[Row],
        inputs: Mapping[str, TensorSpec],
        concatenate: Any,
        zeros: Any,
        frames: Collection[Held] = ("anchor", "previous"),
        layers: Collection[int] | None = None,
    ) -> dict[str, Any]:
        """Inputs bank_k_i, bank_v_i for a batch whose rows are `rows`; rows of one batch hold equally many frames.

        concatenate: np.concatenate or torch.cat. frames: those wanted; a track's second frame has its anchor as the previous
        one, once. layers: that read them, None for all; the others get banks of no frame.
        """
        held = [self._held(row, frames) for row in rows]
        if len({len(frames) for frames in held}) != 1:
            raise ShapeError(
                f"rows {list(rows)} hold {[len(f) for f in held]} frames; rows of one batch must hold equally many"
            )
        empty = empty_bank(inputs, len(rows), zeros)
        if not held[0]:
            return empty
        return empty | {
            f"bank_{kind}_{i}": concatenate(
                [concatenate([frame[f"own_{kind}_{i}"] for frame in memories], 1) for memories in held], 0
            )
            for i in bank_layers(inputs)
            if layers is None or i in layers
            for kind in "kv"
        }

    def _held(self, row: Row, frames: Collection[Held]) -> list[dict[str, Any]]:
        anchor, previous = self.anchor.get(row), self.previous.get(row)
        wanted = [anchor] if anchor is not None and "anchor" in frames else []
        if previous is not None and "previous" in frames and not any(memory is previous for memory in wanted):
            wanted.append(previous)
        return wanted

    def write(self, rows: Sequence[Row], outputs: Mapping[str, Any], layers: Collection[int] | None = None) -> None:
        """Keep the own_k_i, own_v_i of a batch for the next frame; of some layers, where they are named.

        The arrays are kept as they are: a network must not write into them again.
        """
        own = {
            name: value
            for name, value in outputs.items()
            if name.startswith(("own_k_", "own_v_")) and (layers is None or int(name[6:]) in layers)
        }
        for b, row in enumerate(rows):
            if "previous" in self.frames or row not in self.anchor:
                self._own[row] = {name: value[b : b + 1] for name, value in own.items()}

    def step_frame(self) -> None:
        """The frame is done: what was written becomes the previous frame, and the anchor if there is none yet."""
        for row, own in self._own.items():
            if "previous" in self.frames:
                self.previous[row] = own
            if "anchor" in self.frames:
                self.anchor.setdefault(row, own)
        self._own = {}

    def reset(self) -> None:
        """Forget everything: a scene cut, or another face."""
        self.anchor, self.previous, self._own = {}, {}, {}
