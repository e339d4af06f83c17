"""The values of a bundle's manifest, and their reading from bundle.json with every key and type checked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mien.engine.errors import BundleError
from mien.engine.face.align import MAX_CROP_SCALE
from mien.engine.manifest_section import Section
from mien.engine.sampling import Sampling
from mien.engine.types import TensorSpec

FORMAT_VERSION = 1
Composition = Literal["delta", "replace"]
Prediction = Literal["v_prediction", "epsilon", "sample"]
Dim = int | str

_DIM = re.compile(r"[A-Z][A-Za-z0-9]*(/[1-9][0-9]*)?|\?")
FREE = "?"  # a dimension of an output that follows from the inputs in no way a manifest can write
_CLASS = re.compile(r"[a-z][a-z0-9_]*\.[A-Z][A-Za-z0-9]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
Dtype = Literal["float32", "float16", "int64", "uint8"]
NetworkFormat = Literal["onnx", "safetensors"]
_FORMATS: tuple[NetworkFormat, ...] = ("onnx", "safetensors")
_DTYPES: tuple[Dtype, ...] = ("float32", "float16", "int64", "uint8")


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the torch backend builds: `name` is "module.Class" below mien.engine.networks, kwargs its arguments."""

    name: str
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NetworkFile:
    """A file inside the bundle's folder, and its hash."""

    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """One network of a bundle: its file and its signature.

    int8: an ONNX file of the same signature that computes the same, but for rounding, in 8 bits where that is faster.

    shapes: for every input and output its dimensions as the manifest writes them: a number, or a name ("B", "H"), or a
    name divided by a number ("H/8"). A name has one value per call; inputs and outputs have names left free (None). Outputs
    may also have "?", which is checked by nobody.
    """

    name: str
    file: str
    format: NetworkFormat
    sha256: str
    architecture: Architecture
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    shapes: Mapping[str, tuple[Dim, ...]]
    int8: NetworkFile | None = None


BACK = (0.6, 0.6)


@dataclass(frozen=True, slots=True)
class LandmarkShift:
    """One motion of an edit's landmark template.

    points: indices into the 68 landmarks. dx, dy: where each goes at strength 1, in inter-ocular distances, x to the
    image's right and y down along the face's own axes. sigma: width of the Gaussian around each point, same unit.
    back: the shares of dx and dy that a negative strength runs; corners of a mouth that may rise by a tenth of the eyes'
    distance look grotesque when they fall as far.
    """

    points: tuple[int, ...]
    dx: float
    dy: float
    sigma: float
    back: tuple[float, float] = BACK


@dataclass(frozen=True, slots=True)
class Target:
    """Where a direction leads a code to, in place of adding to it (GANSpace, Haerkoenen et al. 2020).

    A code lies at <its first row, d> / spread^2 - centre, d being the direction's first row that is not 0. coordinate: where
    strength 1 leads; strength 0 leaves it where it lies, and 0.5 goes half of the way.
    """

    coordinate: float
    centre: float
    spread: float


Outline = tuple[tuple[float, float], ...]
"""A polygon on the mean face, in shares of its crop's side."""


@dataclass(frozen=True, slots=True)
class AttributeEdit:
    """An attribute edit, as data.

    range: accepted strengths (lo, hi). direction: key of the W+ direction in `Bundle.directions`, or None: the
    denoiser does not run for it. target: where the direction leads, None for one that adds. template: landmark motions.
    regions: names of the mask's regions, united. t_max: timestep where the denoising starts, 1..999. gain: factor on the
    direction's difference. hides: whether what it draws hides what was there, down to the frame's own detail (dark glasses).
    parts_lips: whether the template tears the lips apart, and the gap shows the inside of a mouth, see face/lips.py. closes_lids:
    how far strength 1 closes the eyes, -1..1, see face/lids.py; below 0 negative strengths close them, 0 closes none.
    crop_scale: how many times as wide as FFHQ's the crop may be, for what reaches beyond the face (long hair). outline: of what an
    edit that hides puts on, on the mean face; then that ends in a line, see outline.py.
    """

    name: str
    description: str
    range: tuple[float, float]
    direction: str | None
    template: tuple[LandmarkShift, ...]
    regions: tuple[str, ...]
    t_max: int
    gain: float
    composition: Composition
    hides: bool = False
    parts_lips: bool = False
    closes_lids: float = 0.0
    crop_scale: float = 1.0
    target: Target | None = None
    outline: Outline = ()

    @property
    def moves(self) -> bool:
        """Whether it moves the picture's own pixels."""
        return bool(self.template) or self.closes_lids != 0.0


@dataclass(frozen=True, slots=True)
class ScheduleSpec:
    """The noise schedule the denoiser was trained on. kind: how betas run from beta_start to beta_end."""

    kind: Literal["scaled_linear", "linear", "cosine"]
    beta_start: float
    beta_end: float
    num_timesteps: int


@dataclass(frozen=True, slots=True)
class BankLayer:
    """An attention layer with a bank: own keys and values are (B, tokens, channels)."""

    tokens: int
    channels: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything bundle.json says. files: other files of the bundle, path -> sha256.

    latent_scale: what the encoder's latents were multiplied by. sampling: how a few-step denoiser is sampled, None for a
    bundle whose edits say all. default_strength: share of the schedule that is undone where neither edits nor user say.
    """

    name: str
    version: str
    description: str
    licences: Mapping[str, str]
    model_card: str
    crop_size_px: int
    crop_template: str
    latent_channels: int
    latent_size: int
    schedule: ScheduleSpec
    prediction: Prediction
    bank: tuple[BankLayer, ...]
    default_num_steps: int
    networks: Mapping[str, NetworkSpec]
    edits: Mapping[str, AttributeEdit]
    directions_file: str | None
    files: Mapping[str, str]
    latent_scale: float = 1.0
    sampling: Sampling | None = None
    default_strength: float = 0.5


def parse_manifest(text: str, source: str) -> Manifest:
    """Read a manifest. source: what messages call the file. Raises BundleError naming key, value and what fits."""

    def constant(name: str) -> float:
        raise BundleError(f"{source}: {name} is not a number that a bundle may hold")

    try:
        value = json.loads(text, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise BundleError(f"{source} is not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    root = Section.of(value, source)
    version = root.integer("format")
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{source}: format {version} is unknown, this mien reads format {FORMAT_VERSION}: update mien"
        )
    crop, latent, defaults = root.section("crop"), root.section("latent"), root.section("defaults")
    files = root.section("files")
    hashes = {path: _sha256(files, path) for path in files.keys()}
    manifest = Manifest(
        name=root.matching("name", re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")),
        version=root.string("version"),
        description=root.string("description"),
        licences={key: part.string(key) for part in [root.section("licences")] for key in part.keys()},
        model_card=root.string("model_card"),
        crop_size_px=crop.integer("size_px", 32, 4096),
        crop_template=crop.choice("template", ("ffhq",)),
        latent_channels=latent.integer("channels", 1, 1024),
        latent_size=latent.integer("size", 1, 4096),
        latent_scale=latent.number("scale", 1e-3, 1e3) if latent.has("scale") else 1.0,
        schedule=_schedule(root.section("schedule")),
        prediction=root.choice("prediction", ("v_prediction", "epsilon", "sample")),
        bank=tuple(BankLayer(s.integer("tokens", 1), s.integer("channels", 1)) for s in root.sections("bank")),
        sampling=_sampling(root) if root.has("sampling") else None,
        default_num_steps=defaults.integer("num_steps", 1, 50),
        default_strength=defaults.number("strength", 0.0, 1.0) if defaults.has("strength") else 0.5,
        networks={name: _network(name, part) for name, part in root.section("networks").items()},
        edits={name: _edit(name, part) for name, part in root.section("edits").items()},
        directions_file=root.optional_string("directions"),
        files=hashes,
    )
    for section in (crop, latent, defaults, root):
        section.finish()
    for key, path in (("model_card", manifest.model_card), ("directions", manifest.directions_file)):
        if path is not None and path not in hashes:
            raise BundleError(f"{source}: {key} names {path!r}, which is not among files")
    return manifest


def _sampling(root: Section) -> Sampling:
    section = root.section("sampling")
    value = Sampling.of(section)
    section.finish()
    return value


def _schedule(section: Section) -> ScheduleSpec:
    value = ScheduleSpec(
        kind=section.choice("kind", ("scaled_linear", "linear", "cosine")),
        beta_start=section.number("beta_start", 0.0, 1.0),
        beta_end=section.number("beta_end", 0.0, 1.0),
        num_timesteps=section.integer("num_timesteps", 1, 10000),
    )
    section.finish()
    return value


def _sha256(section: Section, key: str) -> str:
    return section.matching(key, _SHA256)


def _network(name: str, section: Section) -> NetworkSpec:
    architecture = section.section("architecture")
    shapes: dict[str, tuple[Dim, ...]] = {}
    tensors: dict[str, dict[str, TensorSpec]] = {"inputs": {}, "outputs": {}}
    for side, specs in tensors.items():
        for key, part in section.section(side).items():
            if key in shapes:
                raise BundleError(f"{part.where}: two tensors of one network have the name {key!r}")
            shapes[key] = tuple(_dim(value, part) for value in part.items_of("shape"))
            free = tuple(value if isinstance(value, int) else None for value in shapes[key])
            specs[key] = TensorSpec(free, part.choice("dtype", _DTYPES))
            part.finish()
    named = {dim.split("/")[0] for key in tensors["inputs"] for dim in shapes[key] if isinstance(dim, str)}
    for key in tensors["outputs"]:
        for dim in shapes[key]:
            if isinstance(dim, str) and dim != FREE and dim.split("/")[0] not in named:
                raise BundleError(f"{section.where}.outputs.{key}: dimension {dim!r} is not a dimension of any input")
    spec = NetworkSpec(
        name=name,
        file=section.string("file"),
        format=section.choice("format", _FORMATS),
        sha256=_sha256(section, "sha256"),
        architecture=Architecture(architecture.matching("name", _CLASS), architecture.mapping("kwargs")),
        inputs=tensors["inputs"],
        outputs=tensors["outputs"],
        shapes=shapes,
        int8=_file(section.section("int8")) if section.has("int8") else None,
    )
    architecture.finish()
    section.finish()
    return spec


def _file(section: Section) -> NetworkFile:
    value = NetworkFile(section.string("file"), _sha256(section, "sha256"))
    section.finish()
    return value


def _dim(value: object, section: Section) -> Dim:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    if isinstance(value, str) and _DIM.fullmatch(value):
        return value
    raise BundleError(
        f"{section.where}.shape: {value!r} is not a dimension: use a number, a name like B, or a quotient like H/8"
    )


def _edit(name: str, section: Section) -> AttributeEdit:
    lo, hi = section.numbers("range", 2)
    if not lo <= 0.0 <= hi or lo == hi:
        raise BundleError(f"{section.where}.range: [{lo:g}, {hi:g}] must hold 0 and have an extent")
    edit = AttributeEdit(
        name=name,
        description=section.string("description"),
        range=(lo, hi),
        direction=section.optional_string("direction"),
        template=tuple(_shift(part) for part in section.sections("template")),
        regions=section.strings("regions"),
        t_max=section.integer("t_max", 1, 999),
        gain=section.number("gain"),
        composition=section.choice("composition", ("delta", "replace")),
        hides=section.flag("hides"),
        parts_lips=section.flag("parts_lips"),
        closes_lids=section.number("closes_lids", -1.0, 1.0) if section.has("closes_lids") else 0.0,
        crop_scale=section.number("crop_scale", 1.0, MAX_CROP_SCALE) if section.has("crop_scale") else 1.0,
        target=_target(section.section("target")) if section.has("target") else None,
        outline=section.pairs("outline", 0.0, 1.0) if section.has("outline") else (),
    )
    section.finish()
    if edit.outline and (len(edit.outline) < 3 or not edit.hides):
        raise BundleError(f"{section.where}.outline: at least three corners of what an edit that hides puts on")
    if not edit.regions:
        raise BundleError(f"{section.where}.regions: an edit needs at least one region")
    if edit.direction is None and not edit.moves:
        raise BundleError(f"{section.where}: an edit needs a direction or something that moves, this one has neither")
    if edit.parts_lips and not edit.template:
        raise BundleError(f"{section.where}: lips part by a template, this edit has none")
    if edit.direction is None and edit.target is not None:
        raise BundleError(f"{section.where}: a target needs a direction that leads there, this edit has none")
    return edit


def _target(section: Section) -> Target:
    spread = section.number("spread", 0.0, math.inf)
    value = Target(section.number("coordinate"), section.number("centre"), spread)
    section.finish()
    if spread == 0.0:
        raise BundleError(f"{section.where}.spread is 0, it must be above")
    return value


def _back(section: Section) -> tuple[float, float]:
    if not section.has("back"):
        return BACK
    x, y = section.numbers("back", 2)
    return x, y


def _shift(section: Section) -> LandmarkShift:
    points = section.integers("points", 0, 67)
    dx, dy, sigma = section.number("dx"), section.number("dy"), section.number("sigma", 0.0, math.inf)
    value = LandmarkShift(points, dx, dy, sigma, _back(section))
    section.finish()
    if not points or value.sigma == 0.0:
        raise BundleError(f"{section.where}: a shift needs at least one point and a sigma above 0")
    return value
