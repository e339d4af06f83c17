"""What a bundle is assembled from: the published files by part, and how the result is to be used."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mien.engine.errors import BundleError
from mien.engine.sampling import preset
from mien.engine.spec import nearest

PARTS = (
    *("unet", "vae", "taesd", "text_encoder", "tokenizer", "wplus", "e4e", "lora", "controlnet"),
    *("parser", "landmarks", "identity", "depth", "directions"),
)
PREDICTIONS = ("epsilon", "v_prediction")
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
NOT_STATED = "not stated: ask its publisher"


@dataclass(frozen=True, slots=True)
class Sources:
    """Files and folders by part. A unet that is a whole diffusers repository, or a whole LDM checkpoint, also supplies vae,
    text_encoder and, the repository, tokenizer, where they are not given.

    taesd: encoder and decoder. loras: file and scale, in the order they are fused. directions: files, or folders of them.
    """

    unet: Path
    vae: Path | None = None
    taesd: tuple[Path, Path] | None = None
    text_encoder: Path | None = None
    tokenizer: Path | None = None
    wplus: Path | None = None
    e4e: Path | None = None
    loras: tuple[tuple[Path, float], ...] = ()
    controlnet: Path | None = None
    parser: Path | None = None
    landmarks: Path | None = None
    identity: Path | None = None
    depth: Path | None = None
    directions: tuple[Path, ...] = ()

    def given(self) -> Iterator[tuple[str, Path]]:
        """Every part with every path given for it."""
        for part in PARTS:
            value = {"lora": tuple(path for path, _ in self.loras)}.get(part) or getattr(self, part, None)
            for path in value if isinstance(value, tuple) else (value,) if value is not None else ():
                yield part, path

    def check(self) -> None:
        """Raise BundleError for a path that does not exist, or parts that do not go together."""
        for part, path in self.given():
            if not path.exists():
                raise BundleError(f"{option(part)} {path}: there is no such file or folder")
        if self.vae is not None and self.taesd is not None:
            raise BundleError("--vae and --taesd both give the autoencoder: leave one out")
        if (self.wplus is None) != (self.e4e is None):
            has, lacks = ("--wplus", "--e4e") if self.wplus is not None else ("--e4e", "--wplus")
            raise BundleError(f"{has} is given without {lacks}: the adapter reads the codes that e4e makes, give both")
        if self.directions and self.wplus is None:
            raise BundleError("--directions change the code of a W+ adapter: give --wplus and --e4e too")
        for path, scale in self.loras:
            if not math.isfinite(scale):
                raise BundleError(f"--lora {path}: the scale {scale} is not a finite number")


@dataclass(frozen=True, slots=True)
class Settings:
    """How the bundle is to be used. sampling: a name of `sampling.PRESETS`; None: the UNet's own, `lcm` with a guidance
    embedding, else `ddim`. prediction: epsilon or v_prediction; None: what the scheduler's config says or the family does.
    ema: the averaged weights of a UNet's training checkpoint in place of the last ones. crop_px: side of the crop, a
    multiple of 8. licences: part -> text.
    """

    sampling: str | None = None
    prediction: str | None = None
    ema: bool = False
    crop_px: int = 512
    licences: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raise BundleError or EditError for a value that is not accepted."""
        if self.sampling is not None:
            preset(self.sampling)
        if self.prediction is not None and self.prediction not in PREDICTIONS:
            known = ", ".join(PREDICTIONS)
            raise BundleError(
                f"prediction {self.prediction!r} is unknown{nearest(self.prediction, PREDICTIONS)}; accepted: {known}"
            )
        if not 64 <= self.crop_px <= 2048 or self.crop_px % 8:
            raise BundleError(f"--crop is {self.crop_px}; accepted: multiples of 8 from 64 to 2048")
        for part in self.licences:
            if part not in PARTS:
                raise BundleError(
                    f"--licence names the part {part!r}{nearest(part, PARTS)}; accepted: {', '.join(PARTS)}"
                )


def option(part: str) -> str:
    """The option of the command line that gives a part."""
    return "--" + part.replace("_", "-")


def check_name(name: str) -> None:
    """Raise BundleError for what cannot be a bundle's name."""
    if not NAME.fullmatch(name):
        raise BundleError(
            f"{name!r} cannot be a bundle's name: lower case letters, digits, _ . and - are accepted, at most 64,"
            " a letter or digit first"
        )
