"""`mien models import`: a bundle out of files that others published."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mien.engine.config import default_cache_folder
from mien.engine.errors import InputError, UnavailableError
from mien.runtime.told import told_on_terminal

if TYPE_CHECKING:
    from mien.engine.checkpoints.importing import Imported

MODEL, FACES, USE = "Stable Diffusion", "Faces and control", "The bundle"
NEEDS = ("torch", "safetensors", "transformers", "onnx")

Into = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Make the folder NAME in here, not in the cache.", rich_help_panel=USE),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a bundle of that name.", rich_help_panel=USE)]


def import_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The bundle's name, for --bundle.")],
    unet: Annotated[
        Path,
        typer.Option(
            metavar="FILE_OR_FOLDER",
            help="A diffusers repository (which also gives vae, text encoder, tokenizer), its unet folder, or a single"
            " .safetensors or .ckpt file.",
            rich_help_panel=MODEL,
        ),
    ],
    vae: Annotated[
        Path | None,
        typer.Option(metavar="FILE_OR_FOLDER", help="The autoencoder, if not the UNet's own.", rich_help_panel=MODEL),
    ] = None,
    taesd: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="FILE FILE", help="TAESD's encoder and decoder, for the autoencoder.", rich_help_panel=MODEL
        ),
    ] = None,
    text_encoder: Annotated[
        Path | None,
        typer.Option(metavar="FILE_OR_FOLDER", help="CLIP's, if not the UNet's own.", rich_help_panel=MODEL),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="With vocab.json and merges.txt, if not found there.", rich_help_panel=MODEL
        ),
    ] = None,
    loras: Annotated[
        list[str] | None,
        typer.Option("--lora", metavar="FILE:SCALE", help="Fused in; may be repeated.", rich_help_panel=MODEL),
    ] = None,
    sampling: Annotated[
        str | None,
        typer.Option(
            metavar="PRESET",
            help="lcm, lcm_lora, tcd, hyper_sd, hyper_sd_1step, sd_turbo or ddim. Unless told: ddim, or lcm"
            " for a UNet with a guidance embedding.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    prediction: Annotated[
        str | None,
        typer.Option(metavar="epsilon|v_prediction", help="If no scheduler's config says it.", rich_help_panel=MODEL),
    ] = None,
    ema: Annotated[
        bool, typer.Option("--ema", help="The averaged weights of a training checkpoint.", rich_help_panel=MODEL)
    ] = False,
    wplus: Annotated[
        Path | None, typer.Option(metavar="FILE", help="wplus_adapter.bin, with --e4e.", rich_help_panel=FACES)
    ] = None,
    e4e: Annotated[
        Path | None, typer.Option("--e4e", metavar="FILE", help="e4e_ffhq_encode.pt.", rich_help_panel=FACES)
    ] = None,
    directions: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE_OR_FOLDER",
            help="StyleGAN2 FFHQ directions (.npy, .pt), an edit each; may be repeated.",
            rich_help_panel=FACES,
        ),
    ] = None,
    controlnet: Annotated[
        Path | None, typer.Option(metavar="FILE_OR_FOLDER", help="Of the UNet's family.", rich_help_panel=FACES)
    ] = None,
    depth: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.onnx", help="image (1, 3, H, W) in -1..1 to depth (1, 1, H, W).", rich_help_panel=FACES
        ),
    ] = None,
    parser: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="BiSeNet's 79999_iter.pth, in tiny's place.", rich_help_panel=FACES),
    ] = None,
    landmarks: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A 68-point network of cunjian's, in tiny's place.", rich_help_panel=FACES),
    ] = None,
    identity: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="model_ir_se50.pth, or insightface's backbone.pth.", rich_help_panel=FACES),
    ] = None,
    crop: Annotated[int, typer.Option(help="Side of the crop in pixels.", rich_help_panel=USE)] = 512,
    licences: Annotated[
        list[str] | None,
        typer.Option(
            "--licence", metavar="PART=TEXT", help="For the model card; may be repeated.", rich_help_panel=USE
        ),
    ] = None,
    into: Into = None,
    overwrite: Overwrite = False,
) -> None:
    """Assemble a bundle out of published files in their own formats."""
    require_packages()
    from mien.engine.checkpoints.importing import import_bundle
    from mien.engine.checkpoints.sources import Settings, Sources

    sources = Sources(
        unet=unet,
        vae=vae,
        taesd=taesd,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        wplus=wplus,
        e4e=e4e,
        loras=tuple(parse_lora(text) for text in loras or ()),
        controlnet=controlnet,
        parser=parser,
        landmarks=landmarks,
        identity=identity,
        depth=depth,
        directions=tuple(directions or ()),
    )
    told = dict(_parse_licence(text) for text in licences or ())
    settings = Settings(sampling=sampling, prediction=prediction, ema=ema, crop_px=crop, licences=told)
    with told_on_terminal() as tell:
        done = import_bundle(name, sources, settings, bundles_folder(into), overwrite=overwrite, tell=tell)
    report(done)


def report(done: Imported) -> None:
    """Print what an import made."""
    bundle = done.bundle
    size = sum(file.stat().st_size for file in bundle.folder.rglob("*") if file.is_file())
    counts = f"{len(bundle.networks)} networks, {len(bundle.edits)} edits, {size / 1e6:,.1f} MB"
    typer.echo(f"{bundle.name}: {counts} in {bundle.folder}")
    typer.echo(f"licences and warnings: {bundle.folder / bundle.manifest.model_card}")
    for note in done.notes:
        typer.echo(f"note: {note}")


def require_packages() -> None:
    """Raise UnavailableError where a package that importing needs is not installed."""
    if missing := [package for package in NEEDS if find_spec(package) is None]:
        raise UnavailableError(f"importing needs {', '.join(missing)}: pip install 'mien[export]'")


def bundles_folder(into: Path | None) -> Path:
    """Where bundles go: `into`, or the cache's folder of them."""
    return into if into is not None else default_cache_folder() / "bundles"


def parse_lora(text: str) -> tuple[Path, float]:
    """FILE:SCALE, or FILE alone for 1. Raises InputError."""
    file, colon, scale = text.rpartition(":")
    if not colon or Path(text).exists():
        return Path(text), 1.0
    try:
        return Path(file), float(scale)
    except ValueError:
        raise InputError(
            f"--lora {text!r}: the scale {scale!r} is not a number; write FILE:SCALE, for example style.safetensors:0.8"
        ) from None


def _parse_licence(text: str) -> tuple[str, str]:
    part, sign, licence = text.partition("=")
    if not sign or not part.strip() or not licence.strip():
        raise InputError(f"--licence {text!r} is not PART=TEXT, for example unet=CreativeML-OpenRAIL-M")
    return part.strip().replace("-", "_"), licence.strip()
