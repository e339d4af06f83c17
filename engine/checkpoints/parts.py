"""The parts of a Stable Diffusion model out of whatever holds them: read, its config found, every weight checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mien.engine.checkpoints import family, ldm
from mien.engine.checkpoints.diffusers_folder import INDEX, find_part, part_names, read_json
from mien.engine.checkpoints.matching import FAMILIES, check
from mien.engine.checkpoints.reading import read_weights
from mien.engine.errors import BundleError
from mien.engine.networks.autoencoder_kl import KlDecoder, KlEncoder, kl_kwargs
from mien.engine.networks.clip_text import ClipTextEncoder, clip_text_kwargs
from mien.engine.networks.sd_controlnet import ControlContext, ControlNet
from mien.engine.networks.sd_layout import Layout
from mien.engine.networks.sd_unet import ContextProjection, UNet
from mien.engine.networks.taesd import TaesdDecoder, TaesdEncoder, from_original, taesd_kwargs

_CONFIGS: Mapping[str, Callable[[family.Shapes], dict[str, Any]]] = {
    "unet": family.unet_config,
    "vae": family.vae_config,
    "text_encoder": family.text_config,
    "controlnet": family.controlnet_config,
}
_KL = ("autoencoder_kl.KlEncoder", "autoencoder_kl.KlDecoder")
_TAESD = ("taesd.TaesdEncoder", "taesd.TaesdDecoder")
_HALVINGS = 3  # of the pictures' sides; the UNet's latents are an eighth


@dataclass(frozen=True, slots=True)
class Part:
    """A part by diffusers' keys. config: as diffusers keeps it. files: where the weights came from. source: for messages."""

    state: dict[str, Tensor]
    config: Mapping[str, Any]
    files: tuple[Path, ...]
    source: str


@dataclass(frozen=True, slots=True)
class Autoencoder:
    """classes: encoder's and decoder's architecture. scale: what the latents were multiplied by."""

    classes: tuple[str, str]
    kwargs: dict[str, Any]
    state: dict[str, Tensor]
    scale: float
    files: tuple[Path, ...]


class Parts:
    """Reads parts; a single file that holds several of them is read once. ema: the UNet's averaged weights, see `ldm.convert`."""

    def __init__(self, *, ema: bool = False) -> None:
        self._ema = ema
        self._files: dict[Path, dict[str, Tensor]] = {}

    def holds(self, path: Path, name: str) -> bool:
        """Whether a diffusers repository or a single file has a part beside others."""
        if path.is_dir():
            return (path / INDEX).is_file() and name in part_names(path) and (path / name).is_dir()
        return name in ldm.part_names(self._read(path))

    def averaged(self, path: Path) -> bool:
        """Whether a single file also holds averaged weights of its UNet."""
        return not path.is_dir() and ldm.has_averaged(self._read(path))

    def read(self, path: Path, name: str) -> Part:
        """unet, vae, text_encoder or controlnet of a repository, a part's folder or a single file. Raises BundleError."""
        if path.is_dir():
            if self._ema and name == "unet":
                raise BundleError(
                    f"--ema is for a single file that holds both weights, {path} is a folder: leave it out"
                )
            found = find_part(path, name)
            return Part(found.read(), found.config, found.files, str(found.folder))
        try:
            state = ldm.convert(self._read(path), name, ema=self._ema)
        except BundleError as error:
            raise BundleError(f"{path}: {error}") from None
        shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
        return Part(state, _told(partial(_CONFIGS[name], shapes), str(path)), (path,), f"{path}, {name}")

    def _read(self, path: Path) -> dict[str, Tensor]:
        if path not in self._files:
            self._files[path] = read_weights(path)
        return self._files[path]


def scheduler_config(path: Path) -> dict[str, Any]:
    """The scheduler's config of a diffusers repository; {} where there is none."""
    file = path / "scheduler" / "scheduler_config.json"
    return read_json(file) if file.is_file() else {}


def unet_layout(part: Part) -> Layout:
    """The layout of a UNet whose every weight was checked. Raises BundleError."""
    layout = Layout.from_config(part.config, part.source)
    shape = _tuples(layout.kwargs())
    check(part.state, _shapes(lambda: (UNet(**shape), ContextProjection(**shape))), part.source)
    return layout


def controlnet_layout(part: Part, unet: Layout) -> Layout:
    """The layout of a checked ControlNet. Raises BundleError where it does not belong to the UNet."""
    layout = Layout.from_config(part.config, part.source)
    shape = _tuples(layout.kwargs())
    check(part.state, _shapes(lambda: (ControlNet(**shape), ControlContext(**shape))), part.source)
    if layout.cross_attention_dim != unet.cross_attention_dim:
        raise BundleError(
            f"{part.source} reads {_width(layout)}, the UNet {_width(unet)}: take one of the UNet's family"
        )
    if layout.skips() != unet.skips():
        raise BundleError(
            f"{part.source} has the blocks {list(layout.block_out_channels)}, the UNet"
            f" {list(unet.block_out_channels)}: its residuals do not fit"
        )
    if layout.in_channels != unet.out_channels:
        raise BundleError(f"{part.source} reads {layout.in_channels} channels, latents have {unet.out_channels}")
    return layout


def text_encoder_kwargs(part: Part, unet: Layout) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Arguments and weights of a checked text encoder. Raises BundleError where its embeddings do not fit the UNet."""
    kwargs = clip_text_kwargs(part.config, part.source)
    if kwargs["max_position_embeddings"] != 77:
        raise BundleError(f"{part.source} reads {kwargs['max_position_embeddings']} tokens, CLIP's 77 are accepted")
    state = {key if key.startswith("text_model.") else f"text_model.{key}": part.state[key] for key in part.state}
    check(state, _shapes(lambda: (ClipTextEncoder(**kwargs),)), part.source)
    if kwargs["hidden_size"] != unet.cross_attention_dim:
        width = FAMILIES.get(kwargs["hidden_size"], "another family")
        raise BundleError(
            f"{part.source} makes embeddings {kwargs['hidden_size']} wide ({width}), the UNet reads {_width(unet)}:"
            " give the text encoder that the UNet was trained with"
        )
    return kwargs, state


def autoencoder(part: Part, latent_channels: int) -> Autoencoder:
    """A checked AutoencoderKL, or TAESD in diffusers' form. Raises BundleError."""
    if part.config.get("_class_name") == "AutoencoderTiny":
        kwargs = taesd_kwargs(part.config, part.source)
        return _taesd(part.state, kwargs, part.source, latent_channels, part.files, family.SCALING_FACTOR)
    kwargs = kl_kwargs(part.config, part.source)
    halves = len(kwargs["block_out_channels"]) - 1
    if halves != _HALVINGS:
        raise BundleError(f"{part.source} makes latents of 1/{2**halves} of the sides, the UNet's are 1/{2**_HALVINGS}")
    built = _tuples(kwargs)
    check(part.state, _shapes(lambda: (KlEncoder(**built), KlDecoder(**built))), part.source)
    _check_latents(kwargs, latent_channels, part.source)
    return Autoencoder(_KL, kwargs, part.state, kwargs["scaling_factor"], part.files)


def taesd(encoder: Path, decoder: Path, latent_channels: int, scale: float) -> Autoencoder:
    """TAESD's two files, with the original's names or diffusers'. scale: of the autoencoder it imitates. Raises BundleError."""
    state: dict[str, Tensor] = {}
    for half, path in (("encoder", encoder), ("decoder", decoder)):
        weights = read_weights(path)
        if not any(key.startswith(f"{half}.layers.") for key in weights):
            weights = _told(partial(from_original, weights, half), str(path))
        state |= {key: tensor for key, tensor in weights.items() if key.startswith(f"{half}.layers.")}
    ends = {"channels": "encoder.layers.0.weight", "latent_channels": "decoder.layers.0.weight"}
    sizes = {name: state[key].shape[name == "latent_channels"] for name, key in ends.items() if key in state}
    kwargs = {"latent_channels": 4, "channels": 64, "num_blocks": [1, 3, 3, 3], **sizes}
    source = f"{encoder} and {decoder.name}"
    return _taesd(state, kwargs, source, latent_channels, (encoder, decoder), scale)


def _taesd(
    state: dict[str, Tensor],
    kwargs: dict[str, Any],
    source: str,
    latent_channels: int,
    files: tuple[Path, ...],
    scale: float,
) -> Autoencoder:
    if len(kwargs["num_blocks"]) - 1 != _HALVINGS:
        raise BundleError(f"{source} has {len(kwargs['num_blocks'])} stages, TAESD's {_HALVINGS + 1} are accepted")
    built = _tuples(kwargs)
    check(state, _shapes(lambda: (TaesdEncoder(**built), TaesdDecoder(**built))), source)
    _check_latents(kwargs, latent_channels, source)
    return Autoencoder(_TAESD, kwargs, state, scale, files)


def _check_latents(kwargs: Mapping[str, Any], wanted: int, source: str) -> None:
    if kwargs["latent_channels"] != wanted:
        raise BundleError(f"{source} makes {kwargs['latent_channels']} latent channels, the UNet's are {wanted}")


def _shapes(build: Callable[[], tuple[nn.Module, ...]]) -> dict[str, tuple[int, ...]]:
    """Key -> shape of the networks that read one file together."""
    with torch.device("meta"):
        return {key: tuple(value.shape) for network in build() for key, value in network.state_dict().items()}


def _tuples(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in kwargs.items()}


def _told(work: Callable[[], dict[str, Any]], source: str) -> dict[str, Any]:
    """What `work` answers; its errors with the file's name."""
    try:
        return work()
    except BundleError as error:
        raise BundleError(f"{source}: {error}") from None


def _width(layout: Layout) -> str:
    width = layout.cross_attention_dim
    return f"text {width} wide ({FAMILIES[width]})" if width in FAMILIES else f"text {width} wide"
