"""Miniatures of the files that others published: the true keys, nesting and formats, random weights, small widths.

Every function writes below a folder and answers the path that `mien models import` is given. The layouts have SD1.5's
blocks and layers, so that numbers of layers are the published ones; codes are 18 x 512 as everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mien.engine.networks.autoencoder_kl import KlDecoder, KlEncoder
from mien.engine.networks.bisenet import FaceParser
from mien.engine.networks.clip_text import ClipTextEncoder
from mien.engine.networks.e4e import E4e
from mien.engine.networks.ir_se50 import IrSe50
from mien.engine.networks.iresnet import IResNet50
from mien.engine.networks.landmarks_mobilenet import MobileNetLandmarks
from mien.engine.networks.landmarks_pfld import PfldLandmarks
from mien.engine.networks.sd_controlnet import ControlContext, ControlNet
from mien.engine.networks.sd_layout import Layout
from mien.engine.networks.sd_unet import ContextProjection, UNet
from mien.engine.networks.taesd import TaesdDecoder, TaesdEncoder
from mien.engine.networks.wplus_projection import WPlusProjection
from tests import published_ldm

State = dict[str, Tensor]

WIDTH = 32  # of the text, and the smallest that groups of 32 allow
BODY = (16, 16, 16, 32)
RESNET = (16, 16, 24, 32)
SD15: dict[str, Any] = {"block_out_channels": [32, 32, 64, 64], "attention_head_dim": 8, "cross_attention_dim": WIDTH}
SD21: dict[str, Any] = {
    "block_out_channels": [64, 64, 128, 128],
    "attention_head_dim": [1, 1, 2, 2],
    "cross_attention_dim": 48,
    "use_linear_projection": True,
}
FAMILIES = {"sd15": SD15, "sd21": SD21}
VAE = {"block_out_channels": [32, 32, 64, 64], "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 32}
ALIASES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


FILES = {
    "repo": "sd15",
    "single": "sd15.safetensors",
    "ckpt": "sd15.ckpt",
    "sd21": "sd21",
    "encoder": "taesd_encoder.safetensors",
    "decoder": "taesd_decoder.safetensors",
    "wplus": "wplus_adapter.bin",
    "e4e": "e4e_ffhq_encode.pt",
    "controlnet": "controlnet",
    "controlnet21": "controlnet21",
    "lora": "lora.safetensors",
    "parser": "79999_iter.pth",
    "landmarks": "mobilenet_224_model_best_gdconv_external.pth.tar",
    "pfld": "pfld_model_best.pth.tar",
    "identity": "model_ir_se50.pth",
    "iresnet": "backbone.pth",
    "directions": "w_direction",
    "depth": "depth.onnx",
}


@dataclass(frozen=True)
class Files:
    """What `write_everything` wrote; `files.NAME` is the path of a key of FILES."""

    root: Path

    def __getattr__(self, name: str) -> Path:
        if name not in FILES:
            raise AttributeError(name)
        return self.root / FILES[name]


def layout(family: str = "sd15", in_channels: int = 4, time_cond_proj_dim: int | None = None) -> Layout:
    """Of the UNet that `write_repository` writes."""
    return Layout.from_config(_unet_config(family, in_channels, time_cond_proj_dim))


def write_everything(root: Path) -> Files:
    """One of each in a folder."""
    repo = write_repository(root / FILES["repo"])
    write_repository(root / FILES["sd21"], family="sd21", dtype=torch.float16)
    for name in ("single", "ckpt"):
        write_single_file(root / FILES[name], repo)
    write_lora(root / FILES["lora"], repo)
    write_controlnet(root / FILES["controlnet"])
    write_controlnet(root / FILES["controlnet21"], family="sd21")
    write_directions(root / FILES["directions"])
    write_depth(root / FILES["depth"])
    for write in (write_taesd, write_wplus, write_e4e, write_parser):
        write(root)
    for kind in ("mobilenet", "pfld"):
        write_landmarks(root, kind=kind)
    for kind in ("ir_se50", "iresnet"):
        write_identity(root, kind=kind)
    return Files(root)


def write_repository(
    folder: Path,
    *,
    family: str = "sd15",
    in_channels: int = 4,
    time_cond_proj_dim: int | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Path:
    """A whole diffusers repository of SD1.5's or SD2.1's kind; 8 channels make an InstructPix2Pix, 5 a depth UNet."""
    config = _unet_config(family, in_channels, time_cond_proj_dim)
    shape = _tuples(layout(family, in_channels, time_cond_proj_dim).kwargs())
    width = config["cross_attention_dim"]
    text = {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_act": "quick_gelu" if family == "sd15" else "gelu",
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "num_attention_heads": 1,
        "num_hidden_layers": 2,
        "vocab_size": 49408,
    }
    text_kwargs = {key: value for key, value in text.items() if key not in ("architectures", "model_type")}
    vae = {"_class_name": "AutoencoderKL", "act_fn": "silu", "in_channels": 3, "out_channels": 3, **VAE}
    vae |= {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    vae_state = _random(seed + 1, KlEncoder(**_tuples(VAE)), KlDecoder(**_tuples(VAE)))
    text_state = _random(seed + 2, ClipTextEncoder(**text_kwargs))
    if family == "sd15":  # as runwayml's files still are
        text_state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        vae_state = {_old_name(key): tensor for key, tensor in vae_state.items()}
    unet_state = _random(seed, UNet(**shape), ContextProjection(**shape))
    for name, about, state, stem in (
        ("unet", config, unet_state, "diffusion_pytorch_model"),
        ("vae", vae, vae_state, "diffusion_pytorch_model"),
        ("text_encoder", text, text_state, "model"),
    ):
        _write_json(folder / name / "config.json", about)
        kept = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
        variant = ".fp16" if dtype == torch.float16 else ""
        save_file(kept, folder / name / f"{stem}{variant}.safetensors", {"format": "pt"})
    scheduler = {"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
    scheduler |= {"beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1, "trained_betas": None}
    if family == "sd21":
        scheduler |= {"prediction_type": "v_prediction"}
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_tokenizer(folder / "tokenizer")
    parts = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "scheduler": "PNDMScheduler"}
    index: dict[str, Any] = {name: ["diffusers", kind] for name, kind in parts.items()}
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    _write_json(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline", **index})
    return folder


def write_tokenizer(folder: Path) -> Path:
    """A byte-level vocabulary with a few merges, and CLIP's ids for start and end."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    symbols = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    merges = ["p h", "ph o", "t o</w>", "pho to</w>", "f a", "c e</w>", "fa ce</w>", "o f</w>", "s m", "i l", "sm il"]
    entries = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *(merge.replace(" ", "") for merge in merges)]
    vocabulary = {entry: i for i, entry in enumerate(entries)} | {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    _write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    _write_json(folder / "tokenizer_config.json", {"model_max_length": 77, "pad_token": "<|endoftext|>"})
    return folder


def write_single_file(file: Path, repository: Path) -> Path:
    """The weights of an SD1.5 repository as one LDM checkpoint: .safetensors, or a pickle under state_dict for .ckpt."""
    unet = load_file(repository / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(repository / "vae" / "diffusion_pytorch_model.safetensors")
    text = load_file(repository / "text_encoder" / "model.safetensors")
    state = published_ldm.unet(unet) | published_ldm.vae({_new_name(key): tensor for key, tensor in vae.items()})
    state |= published_ldm.text_encoder(text) | {
        "alphas_cumprod": torch.linspace(1, 0, 1000),
        "betas": torch.ones(1000),
    }
    if file.suffix == ".ckpt":
        torch.save({"epoch": 1, "global_step": 7, "state_dict": state}, file)
    else:
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, file)
    return file


def write_taesd(folder: Path, *, seed: int = 10) -> tuple[Path, Path]:
    """taesd_encoder.safetensors and taesd_decoder.safetensors, layers by number, the decoder's from 1 on."""
    paths = []
    for half, module, first in (("encoder", TaesdEncoder(channels=8), 0), ("decoder", TaesdDecoder(channels=8), 1)):
        state = {}
        for key, tensor in _random(seed + first, module).items():
            number, _, rest = key.removeprefix(f"{half}.layers.").partition(".")
            state[f"{int(number) + first}.{rest}"] = tensor
        paths.append(folder / f"taesd_{half}.safetensors")
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state, paths[-1])
    return paths[0], paths[1]


def write_wplus(folder: Path, *, seed: int = 20) -> Path:
    """wplus_adapter.bin: layers by diffusers' processors, cross-attention odd, the middle last."""
    layers = layout().layers()
    order = [layer for layer in layers if layer.stage != "mid"] + [layer for layer in layers if layer.stage == "mid"]
    generator = torch.Generator().manual_seed(seed)
    adapter: State = {}
    for i, layer in enumerate(order):
        for part in "qkv":
            size = (layer.channels, layer.channels if part == "q" else WIDTH)
            adapter[f"{2 * i + 1}.to_{part}_wplus.weight"] = torch.randn(size, generator=generator) / size[1] ** 0.5
    content = {"w_proj": _random(seed + 1, WPlusProjection(WIDTH)), "wplus_adapter": adapter}
    return _save(folder / "wplus_adapter.bin", content)


def write_e4e(folder: Path, *, seed: int = 30) -> Path:
    """e4e_ffhq_encode.pt: encoder and the start of a decoder under state_dict, the mean code and the options beside it."""
    state = _trained(seed, E4e(BODY))
    mean = state.pop("latent_avg")
    weights = {f"encoder.{key}": tensor for key, tensor in state.items()}
    weights |= {"decoder.style.1.weight": torch.zeros(4, 4), "decoder.input.input": torch.zeros(1, 4, 4, 4)}
    options = {"encoder_type": "Encoder4Editing", "stylegan_size": 1024, "start_from_latent_avg": True}
    return _save(folder / "e4e_ffhq_encode.pt", {"state_dict": weights, "latent_avg": mean, "opts": options})


def write_controlnet(folder: Path, *, family: str = "sd15", seed: int = 40) -> Path:
    """A diffusers ControlNet folder of a UNet's family."""
    config = _unet_config(family, 4, None)
    shape = _tuples(Layout.from_config(config).kwargs())
    for key in ("up_block_types", "out_channels", "sample_size"):
        config.pop(key)
    config |= {"_class_name": "ControlNetModel", "conditioning_embedding_out_channels": [16, 32, 96, 256]}
    _write_json(folder / "config.json", config | {"controlnet_conditioning_channel_order": "rgb"})
    state = _random(seed, ControlNet(**shape), ControlContext(**shape))
    save_file(state, folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    return folder


def write_lora(file: Path, repository: Path, *, rank: int = 4, alpha: float = 2.0, seed: int = 50) -> Path:
    """kohya's keys, in float16, for every attention layer of the UNet and of the text encoder."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for part, folder, stem in (("unet", "unet", "diffusion_pytorch_model"), ("te", "text_encoder", "model")):
        for key, weight in load_file(repository / folder / f"{stem}.safetensors").items():
            if key.endswith((".to_q.weight", ".to_v.weight", ".q_proj.weight", ".v_proj.weight")):
                name = f"lora_{part}_{key.removesuffix('.weight').replace('.', '_')}"
                down, up = torch.Size((rank, weight.shape[1])), torch.Size((weight.shape[0], rank))
                state[f"{name}.lora_down.weight"] = torch.randn(down, generator=generator).half()
                state[f"{name}.lora_up.weight"] = torch.randn(up, generator=generator).half() / 8
                state[f"{name}.alpha"] = torch.tensor(alpha).half()
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, file)
    return file


def write_parser(folder: Path, *, seed: int = 60) -> Path:
    """79999_iter.pth: a plain state dict with the heads that only training reads."""
    state = _trained(seed, FaceParser(RESNET, 16))
    heads = {f"conv_out{n}.conv.conv.weight": torch.zeros(4, 16, 3, 3) for n in (16, 32)}
    return _save(folder / "79999_iter.pth", state | heads)


def write_landmarks(folder: Path, *, kind: str = "mobilenet", seed: int = 70) -> Path:
    """The original file of MobileNetV2-GDConv, or of PFLD (kind "pfld")."""
    if kind == "pfld":
        content = {"epoch": 9, "state_dict": _trained(seed, PfldLandmarks((8, 8, 4, 4, 8)))}
        return _save(folder / "pfld_model_best.pth.tar", content)
    state = _trained(seed, MobileNetLandmarks((8, 8, 8, 8, 8, 8, 8, 8, 16)))
    content = {"epoch": 9, "state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}
    return _save(folder / "mobilenet_224_model_best_gdconv_external.pth.tar", content)


def write_identity(folder: Path, *, kind: str = "ir_se50", seed: int = 80) -> Path:
    """model_ir_se50.pth, or insightface's backbone.pth (kind "iresnet")."""
    if kind == "iresnet":
        return _save(folder / "backbone.pth", _trained(seed, IResNet50((8, 8, 8, 8), (1, 1, 1, 1))))
    return _save(folder / "model_ir_se50.pth", _trained(seed, IrSe50((16, 16, 16, 16))))


def write_directions(folder: Path, *, seed: int = 90) -> Path:
    """The W+ Adapter's w_direction: interfacegan_directions/, latent_directions/, att_direction_scale.pth, gan_space/."""
    random = np.random.default_rng(seed)
    for name in ("age", "smile"):
        normal = random.standard_normal((1, 512))
        unit = torch.from_numpy(normal / np.linalg.norm(normal)).float()
        _save(folder / "interfacegan_directions" / f"{name}.pt", unit)
    latent = folder / "latent_directions"
    latent.mkdir(parents=True, exist_ok=True)
    for name in ("smile", "glasses", "eyes_open"):
        np.save(latent / f"{name}.npy", np.repeat(random.standard_normal((1, 512)) * 0.02, 18, 0))
    rows = [torch.from_numpy(random.standard_normal((1, 18, 512))).float() for _ in range(2)]
    _save(folder / "att_direction_scale.pth", [row / row.norm(dim=-1, keepdim=True) for row in rows])
    pca = {"mean": torch.zeros(1, 512), "comp": torch.ones(2, 1, 512) / 512**0.5, "std": torch.ones(2)}
    _save(folder / "gan_space" / "ffhq_pca.pt", pca)
    (folder / "gan_space" / "ganspace_configs.csv").write_text("lipstick\t1\t10\t11\t20\n", encoding="utf-8")
    return folder


def write_depth(file: Path, *, image: str = "image", sides: tuple[int | str, int | str] = ("H", "W")) -> Path:
    """An ONNX depth network: the mean of the colours."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node("ReduceMean", [image, "axes"], ["depth"], keepdims=1)
    axes = helper.make_tensor("axes", onnx.TensorProto.INT64, [1], [1])
    values = [helper.make_tensor_value_info(n, kind, [1, c, *sides]) for n, c in ((image, 3), ("depth", 1))]
    graph = helper.make_graph([node], "depth", values[:1], values[1:], [axes])
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), file)
    return file


def _unet_config(family: str, in_channels: int, time_cond_proj_dim: int | None) -> dict[str, Any]:
    down, up = ["CrossAttnDownBlock2D"] * 3, ["CrossAttnUpBlock2D"] * 3
    config = {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "center_input_sample": False,
        "down_block_types": [*down, "DownBlock2D"],
        "up_block_types": ["UpBlock2D", *up],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": in_channels,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": 64,
        **FAMILIES[family],
    }
    return config | ({"time_cond_proj_dim": time_cond_proj_dim} if time_cond_proj_dim is not None else {})


def _random(seed: int, *modules: nn.Module) -> State:
    """Weights of networks that read one file together, at a scale that keeps pictures and noise apart from 0."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for key, tensor in sorted({k: v for module in modules for k, v in module.state_dict().items()}.items()):
        noise = torch.randn(tensor.shape, generator=generator)
        if key.endswith("running_var"):
            state[key] = 1.0 + 0.1 * noise.abs()
        elif tensor.ndim > 1:
            state[key] = noise / tensor[0].numel() ** 0.5
        else:
            state[key] = 0.1 * noise + float(key.endswith("weight"))
    return state


def _trained(seed: int, module: nn.Module) -> State:
    """With a counter beside every norm, as training leaves it."""
    state = _random(seed, module)
    norms = [key for key in state if key.endswith(".running_var")]
    return state | {key.replace("running_var", "num_batches_tracked"): torch.tensor(7) for key in norms}


def _old_name(key: str) -> str:
    head, found, tail = key.partition("mid_block.attentions.0.")
    name, _, kind = tail.rpartition(".")
    return f"{head}{found}{ALIASES.get(name, name)}.{kind}" if found else key


def _new_name(key: str) -> str:
    for new, old in ALIASES.items():
        key = key.replace(f"attentions.0.{old}.", f"attentions.0.{new}.")
    return key


def _save(file: Path, content: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, file)
    return file


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _tuples(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in kwargs.items()}
