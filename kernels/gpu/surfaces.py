"""Frames that lie on a device: a pool of 4:2:0 pictures of one size, whatever the decoder's layout, as strided planes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_DTYPES = {8: torch.uint8, 10: torch.uint16}


@dataclass(frozen=True, slots=True, eq=False)
class Surfaces:
    """N frames on one device; a kernel is given the pool and, for each face, the index of its frame.

    y: (N, H, W). u, v: (N, ceil(H/2), ceil(W/2)), with the same strides; samples of a row lie 1 element apart (planar), or 2
    (interleaved, each V behind its U). uint8 at 8 bit, uint16 at 10. shift: bits below a code in its sample: 6 in P010.
    Raises ValueError for a shape, type or stride outside of this.
    """

    y: Tensor
    u: Tensor
    v: Tensor
    bit_depth: int
    shift: int = 0

    @classmethod
    def nv12(cls, pool: Tensor, width: int, height: int, *, chroma_row: int | None = None) -> Surfaces:
        """Frames of a pool (N, rows, pitch) uint8: luma from row 0 on, pairs of U and V from `chroma_row` (None: `height`) on."""
        return cls(*_interleaved(pool, width, height, chroma_row), bit_depth=8)

    @classmethod
    def p010(cls, pool: Tensor, width: int, height: int, *, chroma_row: int | None = None) -> Surfaces:
        """Frames of a pool (N, rows, pitch) uint16, laid out as NV12 is, with each code in the high 10 bits of 16."""
        return cls(*_interleaved(pool, width, height, chroma_row), bit_depth=10, shift=6)

    def __post_init__(self) -> None:
        if self.bit_depth not in _DTYPES:
            raise ValueError(f"unknown bit_depth {self.bit_depth!r}; accepted are 8 and 10")
        if not 0 <= self.shift <= 8 * _DTYPES[self.bit_depth].itemsize - self.bit_depth:
            raise ValueError(f"shift must leave room for {self.bit_depth} bits, got {self.shift!r}")
        for name in "yuv":
            plane: Tensor = getattr(self, name)
            if plane.ndim != 3 or plane.numel() == 0:
                raise ValueError(f"plane {name} must be (frames, rows, columns), got shape {tuple(plane.shape)}")
            if plane.dtype != _DTYPES[self.bit_depth]:
                raise ValueError(
                    f"plane {name} must be {_DTYPES[self.bit_depth]} for {self.bit_depth} bit, got {plane.dtype}"
                )
            if plane.device != self.y.device:
                raise ValueError(f"plane {name} must lie on {self.y.device} as y does, got {plane.device}")
        half = (len(self), (self.height + 1) // 2, (self.width + 1) // 2)
        if tuple(self.u.shape) != half or tuple(self.v.shape) != half:
            raise ValueError(
                f"planes u and v must be {half} for 4:2:0 luma {tuple(self.y.shape)}, "
                f"got {tuple(self.u.shape)} and {tuple(self.v.shape)}"
            )
        if self.y.stride(2) != 1 or self.u.stride() != self.v.stride() or self.u.stride(2) not in (1, 2):
            raise ValueError(
                "rows must be contiguous in y and 1 or 2 elements apart in u and v, which must have the same strides, "
                f"got {self.y.stride()}, {self.u.stride()} and {self.v.stride()}"
            )
        if self.pixel == 2 and self.v.data_ptr() != self.u.data_ptr() + self.u.element_size():
            raise ValueError(
                "where u and v are interleaved, each sample of v must lie behind its u, as in NV12 and P010"
            )
        if max(self.y.stride(0), self.u.stride(0), *(p.stride(1) * p.shape[1] for p in (self.y, self.u))) >= 2**31:
            raise ValueError("frames must be less than 2**31 samples apart")

    def __len__(self) -> int:
        return self.y.shape[0]

    @property
    def height(self) -> int:
        """Rows of luma."""
        return self.y.shape[1]

    @property
    def width(self) -> int:
        """Columns of luma."""
        return self.y.shape[2]

    @property
    def device(self) -> torch.device:
        """Where all planes lie."""
        return self.y.device

    @property
    def form(self) -> tuple[object, ...]:
        """What two pools have in common whose frames are alike but for their pitch."""
        return len(self), self.width, self.height, self.bit_depth, self.shift, self.pixel, self.device

    @property
    def pixel(self) -> int:
        """Elements from one sample of chroma to the next in its row."""
        return self.u.stride(2)

    def __repr__(self) -> str:
        """The pool's form, never its samples."""
        layout = "interleaved" if self.pixel == 2 else "planar"
        return f"Surfaces({len(self)} of {self.width}x{self.height}, {self.bit_depth} bit << {self.shift}, {layout}, {self.device})"


def _interleaved(pool: Tensor, width: int, height: int, chroma_row: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Views of Y, U and V."""
    first = height if chroma_row is None else chroma_row
    rows, columns = (height + 1) // 2, (width + 1) // 2
    if pool.ndim != 3 or first < height or pool.shape[1] < first + rows or pool.shape[2] < 2 * columns:
        raise ValueError(
            f"pool must be (frames, at least {first + rows} rows, pitch at least {2 * columns}) for {width}x{height} "
            f"with chroma from row {first}, got {tuple(pool.shape)}"
        )
    pairs = pool[:, first : first + rows, : 2 * columns]
    return pool[:, :height, :width], pairs[:, :, 0::2], pairs[:, :, 1::2]


def check_faces(surfaces: Surfaces, frames: Tensor, crop_to_frame: Tensor) -> int:
    """How many faces there are; raises ValueError unless `frames` is (F,) int32 and `crop_to_frame` (F, 2, 3) float32."""
    if frames.ndim != 1:
        raise ValueError(f"frames must be (faces,), got {tuple(frames.shape)}")
    check_tensor("frames", frames, (len(frames),), surfaces.device, (torch.int32,), is_contiguous=True)
    check_tensor(
        "crop_to_frame", crop_to_frame, (len(frames), 2, 3), surfaces.device, (torch.float32,), is_contiguous=True
    )
    return len(frames)


def check_tensor(
    name: str,
    tensor: Tensor,
    shape: tuple[int, ...],
    device: torch.device,
    dtypes: tuple[torch.dtype, ...],
    *,
    is_contiguous: bool = False,
) -> None:
    """Raise ValueError unless the tensor has the shape, one of the types, the device and, if asked, one block of memory."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must be {shape}, got {tuple(tensor.shape)}")
    if tensor.dtype not in dtypes:
        raise ValueError(f"{name} must be {' or '.join(str(d) for d in dtypes)}, got {tensor.dtype}")
    if tensor.device != device:
        raise ValueError(f"{name} must lie on {device} as the surfaces do, got {tensor.device}")
    if is_contiguous and not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous, got strides {tensor.stride()}")
