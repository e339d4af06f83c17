"""Stage `pack`: export every trained network, compare it with torch, and write the bundle into the package.

Weights are stored as float16; the encoder comes a second time, in int8 (see quantize.py). Prints each file's size and its largest
difference from torch (the rounding of its weights included), and writes nothing where that is more than rounding explains.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mien.engine.bundle import PACKAGED, Bundle, NetworkSpec, pack_directions
from mien.engine.networks.autoencoder import Decoder, DifferenceDecoder, Encoder
from mien.engine.networks.denoiser import Denoiser, DifferenceDenoiser
from mien.engine.networks.detector import Detector
from mien.engine.networks.landmarks import Landmarks
from mien.engine.networks.parser import Parser
from mien.engine.networks.w_encoder import WEncoder
from mien.export.onnx import Dims, export_onnx, largest_error, store_float16
from mien.export.tiny.mean_outline import outlines
from mien.export.tiny.paint import EDITS_FILE
from mien.export.tiny.quantize import calibration, quantize
from mien.export.tiny.stage import Arguments

VERSION = "0.13.0"
# The largest difference from torch that a file may have, over the largest value of the output. float16 rounds a weight by 2**-11 of
# it; what that adds up to over the layers was a third of the bound at most. 8 bits were measured to cost 0.013.
FLOAT16_BOUND, INT8_BOUND = 16 * 2.0**-11, 0.04
SMALLEST = 1e-3  # a probability that is less is 0: on noise no face is present
BANK_TOKENS = (256, 64, 64, 256)
LICENCES = {
    "weights": "Apache-2.0",
    "training faces": "MIT, SFHQ and SFHQ-T2I, Copyright David Beniaguev 2022 and 2024: synthetic people",
    "labels": "Apache-2.0 and MIT: MediaPipe face mesh, hair and selfie segmentation, YuNet",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One network to export: module, constructor arguments, signature in order, and an example for every input."""

    architecture: str
    kwargs: Mapping[str, Any]
    module: nn.Module
    inputs: Mapping[str, Dims]
    outputs: Mapping[str, Dims]
    examples: Mapping[str, Tensor]


def _trained(runs: Path, name: str, make: type[nn.Module]) -> tuple[nn.Module, dict[str, Any]]:
    saved = torch.load(runs / name / "final.pt", weights_only=True)
    module = make(**saved["kwargs"])
    module.load_state_dict(saved["state"])
    return module.eval(), saved["kwargs"]


def _image(size: int, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, size, size) * 2 - 1


def _analysis_parts(runs: Path) -> dict[str, Part]:
    detector, d_kwargs = _trained(runs, "detector", Detector)
    landmarks, l_kwargs = _trained(runs, "landmarks", Landmarks)
    parser, p_kwargs = _trained(runs, "parser", Parser)
    heads: dict[str, Dims] = {}
    for stride in (8, 16, 32):
        heads[f"score_{stride}"] = (1, 1, f"H/{stride}", f"W/{stride}")
        heads[f"box_{stride}"] = (1, 4, f"H/{stride}", f"W/{stride}")
    heads = dict(sorted(heads.items(), key=lambda item: (item[0][0] != "s", int(item[0].split("_")[1]))))
    return {
        "detector": Part(
            "detector.Detector",
            d_kwargs,
            detector,
            {"luma": (1, 1, "H", "W")},
            heads,
            {"luma": torch.rand(1, 1, 192, 320)},
        ),
        "landmarks": Part(
            "landmarks.Landmarks",
            l_kwargs,
            landmarks,
            {"image": ("B", 3, 128, 128)},
            {"landmarks": ("B", 68, 2), "presence": ("B", 1)},
            {"image": _image(128)},
        ),
        "parser": Part(
            "parser.Parser",
            p_kwargs,
            parser,
            {"image": ("B", 3, 128, 128)},
            {"probabilities": ("B", 4, 128, 128)},
            {"image": _image(128)},
        ),
    }


def _synthesis_parts(runs: Path) -> tuple[dict[str, Part], Mapping[str, Tensor], int]:
    saved = torch.load(runs / "autoencoder" / "final.pt", weights_only=True)
    edited = torch.load(runs / "difference" / "final.pt", weights_only=True)
    denoised = torch.load(runs / "denoiser" / "final.pt", weights_only=True)
    channels = int(saved["kwargs"]["latent_channels"])
    encoder, decoder, w_encoder = Encoder(**saved["kwargs"]), Decoder(**saved["kwargs"]), WEncoder()
    drawer, d_kwargs = _trained(runs, "difference_decoder", DifferenceDecoder)
    denoiser, difference = Denoiser(**denoised["kwargs"]), DifferenceDenoiser(**edited["kwargs"])
    for module, weights in (
        (encoder, saved["encoder"]),
        (decoder, saved["decoder"]),
        (w_encoder, edited["w_encoder"]),
        (difference, edited["difference"]),
        (denoiser, denoised["denoiser"]),
    ):
        module.load_state_dict(weights)
        module.eval()
    latents, w_plus = torch.randn(2, channels, 32, 32), torch.randn(2, 12, 64)
    inputs: dict[str, Dims] = {
        "latents": ("B", channels, 32, 32),
        "timestep": ("B",),
        "w_plus": ("B", 12, 64),
        "w_scale": ("B",),
    }
    outputs: dict[str, Dims] = {"v": ("B", channels, 32, 32)}
    examples = {
        "latents": latents,
        "timestep": torch.tensor([400.0, 250.0]),
        "w_plus": w_plus,
        "w_scale": torch.ones(2),
    }
    for layer, (tokens, width) in enumerate(zip(BANK_TOKENS, denoiser.bank_channels, strict=True)):
        for kind in "kv":
            inputs[f"bank_{kind}_{layer}"] = ("B", f"M{layer}", width)
            outputs[f"own_{kind}_{layer}"] = ("B", tokens, width)
            examples[f"bank_{kind}_{layer}"] = torch.randn(2, 2 * tokens, width)
    parts = {
        "w_encoder": Part(
            "w_encoder.WEncoder",
            {},
            w_encoder,
            {"image": ("B", 3, 128, 128)},
            {"w_plus": ("B", 12, 64)},
            {"image": _image(128)},
        ),
        "vae_encoder": Part(
            "autoencoder.Encoder",
            saved["kwargs"],
            encoder,
            {"image": ("B", 3, 256, 256)},
            {"latents": ("B", channels, 32, 32)},
            {"image": _image(256)},
        ),
        "vae_decoder": Part(
            "autoencoder.Decoder",
            saved["kwargs"],
            decoder,
            {"latents": ("B", channels, "H/8", "W/8")},  # the engine decodes no more than the mask needs
            {"image": ("B", 3, "H", "W")},
            {"latents": latents[..., :20]},
        ),
        "difference": Part(
            "denoiser.DifferenceDenoiser",
            edited["kwargs"],
            difference,
            {
                "latents": ("B", channels, 32, 32),
                "source": ("B", channels, 32, 32),
                "timestep": ("B",),
                "w_plus": ("B", 12, 64),
                "w_edited": ("B", 12, 64),
                "coordinates": ("B", 2, 32, 32),
            },
            {"difference": ("B", channels, 32, 32)},
            {
                "latents": latents,
                "source": torch.randn_like(latents),
                "timestep": examples["timestep"],
                "w_plus": w_plus,
                "w_edited": w_plus + 0.3 * torch.randn_like(w_plus),
                "coordinates": torch.rand(2, 2, 32, 32) * 2 - 1,
            },
        ),
        "difference_decoder": Part(
            "autoencoder.DifferenceDecoder",
            d_kwargs,
            drawer,
            {  # the engine draws no more than the mask needs
                "source": ("B", channels, "H/8", "W/8"),
                "edited": ("B", channels, "H/8", "W/8"),
                "image": ("B", 3, "H", "W"),
            },
            {"difference": ("B", 3, "H", "W")},
            {
                "source": latents[..., :20],
                "edited": latents[..., :20] + 0.2 * torch.randn_like(latents[..., :20]),
                "image": _image(256)[..., :160].contiguous(),
            },
        ),
        "denoiser": Part("denoiser.Denoiser", denoised["kwargs"], denoiser, inputs, outputs, examples),
    }
    return parts, edited["directions"], channels


def _signature(dims: Mapping[str, Dims]) -> dict[str, Any]:
    return {key: {"shape": list(shape), "dtype": "float32"} for key, shape in dims.items()}


def compare(part: Part, data: bytes, spec: NetworkSpec, bound: float) -> float:
    """Largest difference of a file from its module on the part's examples, over the largest value of that output, SMALLEST at least.

    Raises ValueError above `bound`.
    """
    arrays = {key: np.ascontiguousarray(value.numpy()) for key, value in part.examples.items()}
    errors = largest_error(part.module, data, spec, arrays)
    with torch.inference_mode():
        answer = part.module(*part.examples.values())
    answers = [answer] if isinstance(answer, Tensor) else answer
    shares = {
        key: errors[key] / max(float(one.abs().max()), SMALLEST) for key, one in zip(part.outputs, answers, strict=True)
    }
    worst = max(shares, key=lambda key: shares[key])
    if not shares[worst] <= bound:
        raise ValueError(
            f"{spec.file}: {worst!r} differs from torch by {shares[worst]:.1e} of its size, at most {bound:.1e} is rounding"
        )
    return shares[worst]


def run(args: Arguments) -> None:
    """Write the bundle to the package's bundles/tiny; raises ValueError, and writes nothing, where a file is not its network."""
    torch.manual_seed(args.seed)
    synthesis, directions, channels = _synthesis_parts(args.runs)
    parts = _analysis_parts(args.runs) | synthesis
    edits = json.loads(EDITS_FILE.read_text())
    for name, outline in outlines(args.runs).items():
        edits[name]["outline"] = outline
    used = {edit["direction"] for edit in edits.values()}
    files: dict[str, bytes | Path] = {
        "directions.npz": pack_directions({key: value.numpy() for key, value in directions.items() if key in used}),
        "MODEL_CARD.md": Path(__file__).with_name("MODEL_CARD.md"),
    }
    networks: dict[str, Any] = {}
    samples = calibration(args.runs)
    for name, part in parts.items():
        model = export_onnx(part.module, part.inputs, tuple(part.outputs), part.examples)
        files[f"{name}.onnx"] = store_float16(model).SerializeToString()
        networks[name] = {
            "file": f"{name}.onnx",
            "format": "onnx",
            "architecture": {"name": part.architecture, "kwargs": dict(part.kwargs)},
            "inputs": _signature(part.inputs),
            "outputs": _signature(part.outputs),
        }
        if name in samples:
            files[f"{name}.int8.onnx"] = store_float16(quantize(model, samples[name])).SerializeToString()
            networks[name]["int8"] = {"file": f"{name}.int8.onnx"}
    manifest = {
        "name": "tiny",
        "version": VERSION,
        "description": "The embedded bundle: trained from scratch on synthetic faces, for a CPU.",
        "licences": LICENCES,
        "model_card": "MODEL_CARD.md",
        "crop": {"size_px": 256, "template": "ffhq"},
        "latent": {"channels": channels, "size": 32},
        "schedule": {"kind": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_timesteps": 1000},
        "prediction": "v_prediction",
        "bank": [],  # the denoiser can read one, but flicker is the same without (1.024 both ways) and it costs half as much again
        "defaults": {"num_steps": 1},
        "networks": networks,
        "edits": edits,
        "directions": "directions.npz",
    }
    with tempfile.TemporaryDirectory() as trial:
        specs = Bundle.write(Path(trial), manifest, files).networks
    for name, part in parts.items():
        judged = [(part, specs[name], FLOAT16_BOUND)]
        if (int8 := specs[name].int8) is not None:
            seen = {key: torch.from_numpy(value) for key, value in samples[name][0].items()}
            spec = replace(specs[name], file=int8.file, sha256=int8.sha256)
            judged.append((replace(part, examples=seen), spec, INT8_BOUND))
        for one, spec, bound in judged:
            data = files[spec.file]
            assert isinstance(data, bytes)
            share = compare(one, data, spec, bound)
            print(
                f"pack: {spec.file:21} {len(data) / 1e6:5.2f} MB, differs from torch by up to {share:.1e} of its size"
            )
    bundle = Bundle.write(PACKAGED / "tiny", manifest, files)
    print(f"pack: {bundle} {sum(len(Path(bundle.folder / f).read_bytes()) for f in files) / 1e6:.1f} MB")
