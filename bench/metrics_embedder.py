"""What turns a face into a vector: a bundle's network `identity` (ArcFace), or, called so, the tiny bundle's own W+ code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from mien.engine.backend import Network, select
from mien.engine.bundle import Bundle
from mien.engine.config import EngineConfig
from mien.engine.embedded import Embedded
from mien.engine.errors import BundleError
from mien.engine.face.align import crop_to_frame, ffhq_quad
from mien.engine.frame_crop import crop_frame
from mien.engine.networks.arcface_align import arcface_crop
from mien.engine.types import Array, Frame

# How a network wants its face (the published training crops), by the module of its architecture.
_CROPS: Mapping[str, Callable[[Array, int], Array]] = {
    "iresnet": arcface_crop,
    "ir_se50": lambda points, size: crop_to_frame(ffhq_quad(points), size),
}


class FaceEmbedder(Protocol):
    """A face to a vector."""

    @property
    def by(self) -> str:
        """Who embeds."""

    def __call__(self, frame: Frame, points: Array) -> Array:
        """(d,) of the face with these 68 points."""


class IdentityEmbedder:
    """A bundle's network `identity`: five-point crops for iresnet, FFHQ crops for IR-SE50. Raises BundleError, UnavailableError."""

    def __init__(self, bundle: Bundle, config: EngineConfig) -> None:
        if "identity" not in bundle.networks:
            have = ", ".join(bundle.networks) or "none"
            raise BundleError(f"--identity: bundle {bundle.name!r} has no network 'identity', it has {have}")
        spec = bundle.networks["identity"]
        module = spec.architecture.name.partition(".")[0]
        if module not in _CROPS or list(spec.inputs) != ["image"] or list(spec.outputs) != ["embedding"]:
            what = f"{spec.architecture.name}, {', '.join(spec.inputs)} -> {', '.join(spec.outputs)}"
            raise BundleError(
                f"--identity: the network of bundle {bundle.name!r} is {what}; accepted: image -> embedding of {', '.join(_CROPS)}"
            )
        size = spec.inputs["image"].shape[-1]
        if size is None:
            raise BundleError(f"--identity: the image of bundle {bundle.name!r} has no fixed size, as ArcFace's has")
        self._size, self._crop = size, _CROPS[module]
        self._network: Network = bundle.load("identity", select(config, spec.format).backend, config)
        self.by = f"{bundle.name} {bundle.manifest.version}, {spec.architecture.name}"

    def __call__(self, frame: Frame, points: Array) -> Array:
        """The embedding."""
        crop = crop_frame(frame, self._crop(points, self._size), self._size)
        return np.asarray(self._network(image=crop[None])["embedding"][0])


class OwnEmbedder:
    """The W+ code of the FFHQ crop. w_encoder: the bundle's network."""

    def __init__(self, bundle: Bundle, w_encoder: Network) -> None:
        self._size = bundle.manifest.crop_size_px
        self._model = Embedded(bundle.manifest, {"w_encoder": w_encoder})
        self.by = f"{bundle.name} {bundle.manifest.version}, its own W+ code; no published ID metric"

    def __call__(self, frame: Frame, points: Array) -> Array:
        """The code, flat."""
        return self._model.code(crop_frame(frame, crop_to_frame(ffhq_quad(points), self._size), self._size)).ravel()
