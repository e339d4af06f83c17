"""Tiles of the attention kernel: which one a GPU, a head size and a batch get, and which others are worth timing.

Chosen from the instructions of the compiled loops (cuobjdump -sass), not yet from times. Hopper's wgmma waits once more for a head in
two parts, so that 40 is faster filled up to 64; from 80 on that costs more than the wait. mma.sync does not wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True, slots=True)
class Tile:
    """Queries and keys that a program works on at a time, and how it is run.

    split: whether a head of D channels, D no power of two, is worked on in two parts that are, 80 as 64 + 16, or is filled up
    with zeros to the next one, 80 to 128.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    split: bool = True


@dataclass(frozen=True, slots=True)
class Choice:
    """The tile, and the one for a batch so small that the former would leave processors idle."""

    large: Tile
    small: Tile


_WARP_WIDE = {  # mma.sync, 99 KiB
    64: Choice(Tile(64, 64, 4, 3), Tile(64, 64, 4, 3)),
    128: Choice(Tile(64, 64, 4, 2), Tile(64, 64, 4, 2)),
    256: Choice(Tile(64, 32, 4, 2), Tile(64, 32, 4, 2)),
}
_WARPGROUP_WIDE = {  # wgmma
    64: Choice(Tile(128, 64, 8, 3, split=False), Tile(64, 64, 4, 3, split=False)),
    128: Choice(Tile(128, 64, 8, 3), Tile(64, 64, 4, 3)),
    256: Choice(Tile(64, 64, 4, 2), Tile(64, 64, 4, 2)),
}
_TENSOR_MEMORY = {  # tcgen05
    64: Choice(Tile(128, 64, 4, 3, split=False), Tile(64, 64, 4, 3, split=False)),
    128: Choice(Tile(64, 64, 4, 3), Tile(64, 64, 4, 3)),
    256: Choice(Tile(64, 32, 4, 2), Tile(64, 32, 4, 2)),
}
TILES = {80: _WARP_WIDE, 89: _WARP_WIDE, 90: _WARPGROUP_WIDE, 100: _TENSOR_MEMORY, 120: _WARP_WIDE}
"""By compute capability, and by the power of two that holds D."""

PROCESSORS = {80: 108, 89: 142, 90: 132, 100: 148, 120: 170}
"""Streaming multiprocessors of the largest GPU of a compute capability."""


def choose(capability: int, dim: int, heads: int, n_queries: int) -> Tile:
    """The tile for a compute capability such as 90, D channels a head, B x num_heads heads and N queries."""
    known = max((c for c in TILES if c <= capability), default=min(TILES))
    widths = TILES[known]
    choice = widths[min((width for width in widths if dim <= width), default=max(widths))]
    programs = -(-n_queries // choice.large.block_m) * heads
    return choice.large if programs >= PROCESSORS[known] else choice.small


def parts(dim: int, split: bool) -> tuple[int, int]:
    """Channels of the parts a head is worked on in: powers of two, 16 and more; 0 where there is no second one."""
    whole = max(16, 1 << (dim - 1).bit_length())
    half = whole // 2
    rest = max(16, 1 << max(0, dim - half - 1).bit_length())
    return (half, rest) if split and rest < half else (whole, 0)


def candidates(capability: int, dim: int) -> list[Tile]:
    """Tiles worth timing for a compute capability and D: those whose accumulators and buffers should fit."""
    limit = {80: 160 << 10, 90: 224 << 10, 100: 224 << 10}.get(capability, 99 << 10)
    found = []
    for split in (False, True) if parts(dim, True)[1] else (False,):
        width = sum(parts(dim, split))
        for block_m, block_n, num_warps, num_stages in product((64, 128), (32, 64, 128), (4, 8), (2, 3, 4)):
            registers = block_m * (1.5 * block_n + width) / (32 * num_warps)
            shared = 2 * width * (block_m + 2 * num_stages * block_n)
            if 16 * num_warps <= block_m and registers <= 200 and shared <= limit:
                found.append(Tile(block_m, block_n, num_warps, num_stages, split))
    return found
