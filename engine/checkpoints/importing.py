"""A bundle out of published files: every part read and checked, LoRAs fused, weights and manifest written, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mien.engine.bundle import TOKENIZER, Bundle, pack_directions
from mien.engine.checkpoints import network_entries, noise_settings
from mien.engine.checkpoints.card import model_card
from mien.engine.checkpoints.direction_edits import direction_edits
from mien.engine.checkpoints.draft import Draft, Tell, check_target, written_whole
from mien.engine.checkpoints.family import SCALING_FACTOR
from mien.engine.checkpoints.import_extras import add_adapter, add_analysis, add_controlnet
from mien.engine.checkpoints.lora import fuse, lora_metadata
from mien.engine.checkpoints.matching import FAMILIES
from mien.engine.checkpoints.parts import (
    Autoencoder,
    Part,
    Parts,
    autoencoder,
    scheduler_config,
    taesd,
    text_encoder_kwargs,
    unet_layout,
)
from mien.engine.checkpoints.reading import read_weights
from mien.engine.checkpoints.sources import Settings, Sources
from mien.engine.errors import BundleError
from mien.engine.networks.sd_layout import Layout
from mien.engine.tokens import FILES as TOKENIZER_FILES
from mien.engine.tokens import MERGES, VOCABULARY, Tokenizer

VERSION = "1"
CARD, DIRECTIONS = "MODEL_CARD.md", "directions.npz"
STRENGTH = 0.5  # note 000: partial denoising begins at half the schedule
_KINDS = {4: "", 5: ", which reads depth", 8: " of InstructPix2Pix", 9: ", for inpainting"}
_NEEDS = {
    5: "the UNet reads depth: method pix2video needs a depth network, give --depth",
    9: "the UNet is for inpainting, which no method of mien uses",
}
_AVERAGED = {
    True: "the UNet's weights are the averaged ones of its checkpoint (model_ema)",
    False: "the UNet's checkpoint also has averaged weights (model_ema), which were not taken: --ema takes them",
}


@dataclass(frozen=True, slots=True)
class Imported:
    """A new bundle, and what is to be said of its import, in words."""

    bundle: Bundle
    notes: tuple[str, ...]


def import_bundle(
    name: str, sources: Sources, settings: Settings, folder: Path, *, overwrite: bool = False, tell: Tell | None = None
) -> Imported:
    """Assemble the bundle `name` in a folder of bundles. tell: told what is being done, in words.

    Nothing is left behind by an import that fails, and what was there stays until the new bundle is whole. Raises
    BundleError naming file, key, shape and likely cause; EditError for an unknown sampling; RunError where it cannot write.
    """
    target = check_target(name, folder, overwrite=overwrite)
    settings.check()
    sources.check()
    with written_whole(target) as fresh:
        draft = Draft(fresh, settings, tell or (lambda words: None))
        manifest = _fill(draft, name, sources)
        draft.tell("hashing the bundle")
        Bundle.write(fresh, manifest, draft.files)
    return Imported(Bundle.open(target), tuple(draft.notes))


def _fill(draft: Draft, name: str, sources: Sources) -> dict[str, Any]:
    """Write every file of the bundle but its manifest, which is the answer."""
    settings, parts = draft.settings, Parts(ema=draft.settings.ema)
    draft.tell(f"reading {sources.unet.name}")
    text_path = sources.text_encoder or _beside(parts, sources.unet, "text_encoder")
    tokenizer = _tokenizer(sources)
    edits = direction_edits(sources.directions)
    unet = parts.read(sources.unet, "unet")
    layout = unet_layout(unet)
    if parts.averaged(sources.unet):
        draft.notes.append(_AVERAGED[settings.ema])
    if layout.in_channels in _NEEDS and sources.depth is None:
        draft.notes.append(_NEEDS[layout.in_channels])
    scheduler = scheduler_config(sources.unet)
    schedule = noise_settings.schedule_of(scheduler, f"{sources.unet}, scheduler")
    prediction = noise_settings.prediction_of(settings, scheduler, layout, str(sources.unet))
    preset, sampling = noise_settings.sampling_of(settings, schedule, layout)
    text = parts.read(text_path, "text_encoder")
    text_kwargs, text_state = text_encoder_kwargs(text, layout)
    _check_tokenizer(tokenizer, text_kwargs["vocab_size"], draft)
    vae = _autoencoder(parts, sources, layout)
    adapter: dict[str, Tensor] = {}
    if sources.wplus is not None and sources.e4e is not None:
        adapter = add_adapter(draft, sources.wplus, sources.e4e, layout)
    if sources.controlnet is not None:
        add_controlnet(draft, parts, sources.controlnet, layout)
    add_analysis(draft, sources)
    if edits.edits:
        draft.files[DIRECTIONS] = pack_directions(edits.directions)
        draft.came_from("directions", edits.files)
    file = "vae.safetensors"
    draft.write(file, vae.state, network_entries.autoencoder_entries(file, vae.classes, vae.kwargs))
    draft.came_from(
        "taesd" if sources.taesd else "vae", vae.files, with_unet=sources.vae is None and sources.taesd is None
    )
    unet_state, text_state = _fused(draft, sources, unet, text_state)
    file = "text_encoder.safetensors"
    draft.write(file, text_state, {"text_encoder": network_entries.text_encoder_entry(file, text_kwargs)})
    draft.came_from("text_encoder", text.files, with_unet=sources.text_encoder is None)
    file, control = "unet.safetensors", sources.controlnet is not None
    entries = network_entries.unet_entries(file, layout, adapter=bool(adapter), control=control)
    draft.write(file, unet_state | adapter, entries)
    draft.came_from("unet", unet.files)
    facts = {
        "prediction": prediction,
        "noise schedule": f"{schedule.kind}, {schedule.beta_start:g} to {schedule.beta_end:g}",
        "sampling": f"{preset}, {sampling.num_steps} steps, guidance scale {sampling.guidance_scale:g}",
        "crop": f"{settings.crop_px} px",
        **{f"LoRA {path.name}": f"fused at {scale:g}" for path, scale in sources.loras},
    }
    draft.files[CARD] = model_card(name, draft.provenance, facts, list(edits.edits), draft.notes).encode("utf-8")
    return {
        "name": name,
        "version": VERSION,
        "description": _description(sources, layout),
        "licences": {origin.part: origin.licence for origin in draft.provenance},
        "model_card": CARD,
        "crop": {"size_px": settings.crop_px, "template": "ffhq"},
        "latent": {"channels": layout.out_channels, "size": settings.crop_px // 8, "scale": vae.scale},
        "schedule": asdict(schedule),
        "prediction": prediction,
        "bank": [],
        "sampling": sampling.to_dict(),
        "defaults": {"num_steps": sampling.num_steps, "strength": STRENGTH},
        "networks": draft.networks,
        "directions": DIRECTIONS if edits.edits else None,
        "edits": edits.edits,
    }


def _beside(parts: Parts, unet: Path, name: str) -> Path:
    """The UNet's own path where it also holds another part."""
    if parts.holds(unet, name):
        return unet
    options = {"text_encoder": "--text-encoder FILE_OR_FOLDER", "vae": "--vae FILE_OR_FOLDER or --taesd FILE FILE"}
    raise BundleError(f"{unet} has no {name} beside the UNet: give {options[name]}")


def _tokenizer(sources: Sources) -> Path:
    """The folder of the tokenizer's files."""
    given = sources.tokenizer
    for root in (given,) if given is not None else (sources.text_encoder, sources.unet):
        for folder in (root / "tokenizer", root) if root is not None else ():
            if (folder / VOCABULARY).is_file() and (folder / MERGES).is_file():
                return folder
    where = f"{given} has no {VOCABULARY} and {MERGES}" if given is not None else "no tokenizer was found"
    raise BundleError(
        f"{where}: give --tokenizer FOLDER, that of a Stable Diffusion repository; a single-file checkpoint has none"
    )


def _check_tokenizer(folder: Path, vocab_size: int, draft: Draft) -> None:
    """Take over its files. Raises BundleError where its tokens are more than the text encoder knows."""
    tokenizer = Tokenizer.open(folder)
    largest = max(tokenizer.bos, tokenizer.eos, tokenizer.pad)
    if largest >= vocab_size:
        raise BundleError(
            f"{folder} has tokens up to {largest}, the text encoder knows {vocab_size}: give the tokenizer it was trained with"
        )
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            draft.files[TOKENIZER + name] = (folder / name).read_bytes()


def _autoencoder(parts: Parts, sources: Sources, layout: Layout) -> Autoencoder:
    if sources.taesd is not None:
        return taesd(*sources.taesd, layout.out_channels, SCALING_FACTOR)
    path = sources.vae or _beside(parts, sources.unet, "vae")
    return autoencoder(parts.read(path, "vae"), layout.out_channels)


def _fused(
    draft: Draft, sources: Sources, unet: Part, text: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The UNet's and the text encoder's weights with every LoRA in them."""
    states: Mapping[str, dict[str, Tensor]] = {"unet": dict(unet.state), "text_encoder": dict(text)}
    for path, scale in sources.loras:
        draft.tell(f"fusing {path.name}")
        lora = read_weights(path)
        states = fuse(states, lora, scale, str(path), metadata=lora_metadata(path, lora))
    if sources.loras:
        draft.came_from("lora", [path for path, _ in sources.loras])
    return states["unet"], states["text_encoder"]


def _description(sources: Sources, layout: Layout) -> str:
    family = FAMILIES.get(layout.cross_attention_dim, f"text {layout.cross_attention_dim} wide")
    more = [
        words
        for given, words in (
            (sources.wplus, "the W+ Adapter"),
            (sources.controlnet, "a ControlNet"),
            (sources.taesd, "TAESD"),
            (sources.loras, f"{len(sources.loras)} LoRA{'s' * (len(sources.loras) > 1)}"),
        )
        if given
    ]
    kind = _KINDS.get(layout.in_channels, "")
    return f"Imported: a UNet ({family}){kind}" + (f" with {', '.join(more)}" if more else "") + "."
