"""diffusers' image-to-image pipeline, and the streamdiffusion package over it, on our random weights."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from mien.bench.img2img import Weights, timesteps
from mien.bench.random_networks import LAYOUTS, SIZES_PX
from mien.bench.timing import Call
from mien.engine.errors import UnavailableError

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def pipeline(weights: Weights, dtype: torch.dtype, device: str) -> Any:
    """StableDiffusionImg2ImgPipeline of these weights, without text encoder and safety checker. Raises UnavailableError."""
    if find_spec("diffusers") is None:
        raise UnavailableError("diffusers is not installed: pip install diffusers")
    diffusers = import_module("diffusers")
    diffusers.logging.set_verbosity_error()  # it warns at every call with timesteps of one's own, and that takes time
    layout = LAYOUTS[weights.model]
    down = ["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in layout.attention]
    up = ["CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(layout.attention)]
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(
            sample_size=SIZES_PX[weights.model] // 8,
            block_out_channels=layout.block_out_channels,
            down_block_types=down,
            up_block_types=up,
            layers_per_block=layout.layers_per_block,
            attention_head_dim=layout.num_attention_heads,
            cross_attention_dim=layout.cross_attention_dim,
            norm_num_groups=layout.norm_num_groups,
        )
    unet.load_state_dict({**weights.unet.state_dict(), **weights.context.state_dict()}, assign=True)
    halves = {**weights.encoder.state_dict(), **weights.decoder.state_dict()}
    width = halves["encoder.layers.0.weight"].shape[0]
    with torch.device("meta"):
        vae = diffusers.AutoencoderTiny(
            encoder_block_out_channels=(width,) * 4, decoder_block_out_channels=(width,) * 4
        )
    vae.load_state_dict(halves, assign=True)
    pipe = diffusers.StableDiffusionImg2ImgPipeline(
        vae=vae.eval().to(device, dtype),
        text_encoder=None,
        tokenizer=None,
        unet=unet.eval().to(device, dtype),
        scheduler=diffusers.LCMScheduler(**BETAS, clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def compiled(pipe: Any) -> Any:
    """The pipeline with its networks channels last and compiled."""
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.vae.to(memory_format=torch.channels_last)
    pipe.unet = torch.compile(pipe.unet, mode="reduce-overhead", fullgraph=True)
    pipe.vae.encoder = torch.compile(pipe.vae.encoder, mode="reduce-overhead", fullgraph=True)
    pipe.vae.decoder = torch.compile(pipe.vae.decoder, mode="reduce-overhead", fullgraph=True)
    return pipe


def run(pipe: Any, text: Tensor, image: Tensor, steps: int, seed: int | None = None) -> Tensor:
    """Images (B, 3, S, S) on [-1, 1] -> on [0, 1]. seed: of the noise, drawn anew from torch's generator if not given."""
    generator = None if seed is None else torch.Generator(image.device).manual_seed(seed)
    answer: Tensor = pipe(
        prompt_embeds=text.expand(len(image), -1, -1),
        image=(image + 1) / 2,
        strength=1.0,
        timesteps=list(timesteps(steps)),
        num_inference_steps=steps,
        guidance_scale=1.0,
        generator=generator,
        output_type="pt",
    ).images
    return answer


def stream(pipe: Any, text: Tensor, image: Tensor, steps: int) -> Call:
    """StreamDiffusion with its stream batch, told the embeddings in the place of a prompt. Raises UnavailableError."""
    if find_spec("streamdiffusion") is None:
        raise UnavailableError("streamdiffusion is not installed: pip install streamdiffusion")
    kind = import_module("streamdiffusion").StreamDiffusion
    pipe.encode_prompt = lambda **_: (text, text)
    size = image.shape[-1]
    places = [50 - (t + 1) // 20 for t in timesteps(steps)]  # on its grid of 50 steps from 999 down
    made = kind(
        pipe,
        t_index_list=places,
        torch_dtype=image.dtype,
        width=size,
        height=size,
        cfg_type="none",
        frame_buffer_size=len(image),
    )
    made.prepare(prompt="", num_inference_steps=50, guidance_scale=1.0)
    return lambda: made(image)
