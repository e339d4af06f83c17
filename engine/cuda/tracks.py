"""The slots of a lane's pools that tracks have: the one that was not edited for the longest time makes room for a new one."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from mien.engine.types import FaceTrack

KEY = "lane"
"""In a track's memory; what forgets that forgets the slot."""


@dataclass(slots=True, eq=False)
class TrackSlot:
    """slot: None once another track has it. told: how many codes the slot was told the mean of, None for not yet. held: frames
    edited so far, as the bank counts them.
    """

    slot: int | None
    told: int | None = None
    held: int = 0


class TrackSlots:
    """`count` slots; so many tracks at least may share a call."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._lent: OrderedDict[int, TrackSlot] = OrderedDict()

    def of(self, track: FaceTrack) -> TrackSlot:
        """A track's, a new one where it has none, or its frames were forgotten."""
        found = track.memory.get(KEY)
        if isinstance(found, TrackSlot) and found.slot is not None and self._lent.get(found.slot) is found:
            self._lent.move_to_end(found.slot)
            return found
        if len(self._lent) < self._count:
            slot = len(self._lent)
        else:
            slot, evicted = self._lent.popitem(last=False)
            evicted.slot = None
        made = self._lent[slot] = track.memory[KEY] = TrackSlot(slot)
        return made
