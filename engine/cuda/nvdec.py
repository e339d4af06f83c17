"""A video file decoded by the GPU's own decoder, by way of PyNvVideoCodec 2.2: pictures in display order, as the decoder lays them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.dlpack import from_dlpack

from mien.engine.cuda.streams import own_stream
from mien.engine.errors import RunError
from mien.engine.types import Array


def why_no_nvdec() -> str | None:
    """None where the package is installed, else that it is not."""
    return None if importlib.util.find_spec("PyNvVideoCodec") else "PyNvVideoCodec is not installed"


def pictures(path: str, device: str) -> Iterator[Array]:
    """(3/2 H, W) uint8 NV12, or uint16 P016, in pinned memory that the next picture overwrites.

    Raises RunError for whatever the package or the decoder refuses: the driver, the codec, its profile, the file.
    """
    try:
        yield from _pictures(path, torch.device(device))
    except RunError:
        raise
    except Exception as error:  # the package has errors of its own, and some raised by its import alone
        raise RunError(f"NVDEC cannot decode {path}: {str(error).partition(chr(10))[0]}") from error


def _pictures(path: str, device: torch.device) -> Iterator[Array]:
    codec: Any = importlib.import_module("PyNvVideoCodec")
    stream, arrived = own_stream(device), torch.cuda.Event(blocking=True)
    demuxer = codec.CreateDemuxer(path)
    decoder = codec.CreateDecoder(
        gpuid=device.index or 0,
        codec=demuxer.GetNvCodecId(),
        cudacontext=0,
        cudastream=stream.cuda_stream,
        usedevicememory=True,
        outputColorType=codec.OutputColorType.NATIVE,
        latency=codec.DisplayDecodeLatencyType.NATIVE,
    )
    pinned: torch.Tensor | None = None
    for packet in demuxer:
        for surface in decoder.Decode(packet):
            decoder.WaitOnCUStream(stream.cuda_stream)
            with torch.cuda.stream(stream):
                picture = from_dlpack(surface).squeeze()
                if picture.dim() != 2:
                    raise RunError(f"NVDEC gave a picture of shape {tuple(picture.shape)}, not luma with chroma below")
                if pinned is None or pinned.shape != picture.shape:
                    pinned = torch.empty(picture.shape, dtype=picture.dtype, pin_memory=True)
                pinned.copy_(picture, non_blocking=True)
                arrived.record(stream)
            arrived.synchronize()  # the surface is the decoder's again
            yield pinned.numpy()
