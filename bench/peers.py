"""`mien bench peers`: image to image by mien and by others, the same random weights, steps and sizes, in turns in one run.

    python -m mien.bench.peers [--device cuda] [--model sd15] [--steps 1 2 4] [--rows 1 8] [--form mien diffusers ...]

From images on the device to images on the device, the prompt's embeddings made before: encode by TAESD, noise, LCM's steps without
guidance, decode. diffusers and streamdiffusion are used where they are installed; `torch` is the same loop in torch's operations alone.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from mien.bench.img2img import Img2Img, Weights, draw_noise
from mien.bench.options import add_options, exit_by, guarded, open_recorder
from mien.bench.plain_ops import plain_torch_ops
from mien.bench.random_networks import LAYOUTS, SIZES_PX
from mien.bench.recorder import Case, Works
from mien.bench.timing import Call, when_first_called
from mien.engine.cuda.fuse import fuse
from mien.engine.errors import UnavailableError

SLOW_FORMS = ("torch compiled", "diffusers compiled")


class Peers:
    """Every form on the same weights and images. One for each number of rows and steps."""

    def __init__(self, weights: Weights, rows: int, steps: int, device: str, dtype: torch.dtype) -> None:
        self.weights, self.rows, self.steps, self.device, self.dtype = weights, rows, steps, device, dtype
        size = SIZES_PX[weights.model]
        generator = torch.Generator(device).manual_seed(1)
        self.image = (torch.rand((rows, 3, size, size), generator=generator, device=device) * 2 - 1).to(dtype)

    def loop(self, *, plain: bool, fused: bool) -> Img2Img:
        """Our loop over copies of the networks."""
        of = self.weights
        unet, encoder, decoder = (copy.deepcopy(module) for module in (of.unet, of.encoder, of.decoder))
        if fused:
            unet, encoder, decoder = fuse(unet), fuse(encoder), fuse(decoder)
        noise = draw_noise(of.model, self.rows, self.steps, self.device, self.dtype)
        return Img2Img(unet, encoder, decoder, of.told(), noise, plain=plain)

    def mien(self) -> Call:
        """Fused, all of it one graph; the image is copied into it."""
        from mien.engine.cuda.device import TorchCuda
        from mien.engine.cuda.graphs import Graphs

        if self.device == "cpu":
            raise UnavailableError("graph needs a CUDA device")
        loop, image = self.loop(plain=False, fused=True), self.image
        buffer = image.contiguous(memory_format=torch.channels_last)
        graph = Graphs(TorchCuda(self.device)).capture("img2img", lambda image: loop(image), {"image": buffer})
        return lambda: graph(image=image)

    def mien_eager(self) -> Call:
        """Fused, each operation launched."""
        loop, image = self.loop(plain=False, fused=True), self.image.contiguous(memory_format=torch.channels_last)
        return lambda: loop(image)

    def torch(self) -> Call:
        """What one would write first."""
        loop, image = self.loop(plain=True, fused=False), self.image

        def call() -> Tensor:
            with plain_torch_ops():
                out: Tensor = loop(image)
                return out

        return call

    def torch_compiled(self) -> Call:
        """The same, each network through torch.compile with CUDA graphs."""
        self._needs_graphs()
        loop, image = self.loop(plain=True, fused=False), self.image
        for name in ("unet", "encoder", "decoder"):
            module = getattr(loop, name).to(memory_format=torch.channels_last)
            module.compile(mode="reduce-overhead", dynamic=False)

        def call() -> Tensor:
            with plain_torch_ops():
                out: Tensor = loop(image)
                return out

        return call

    def diffusers(self) -> Call:
        """diffusers' pipeline as it comes."""
        from mien.bench.diffusers_peer import pipeline, run

        return partial(run, pipeline(self.weights, self.dtype, self.device), self.weights.text, self.image, self.steps)

    def diffusers_compiled(self) -> Call:
        """diffusers' pipeline, channels last, its networks through torch.compile with CUDA graphs, as its documentation has it."""
        self._needs_graphs()
        from mien.bench.diffusers_peer import compiled, pipeline, run

        pipe = compiled(pipeline(self.weights, self.dtype, self.device))
        return partial(run, pipe, self.weights.text, self.image, self.steps)

    def streamdiffusion(self) -> Call:
        """The streamdiffusion package over diffusers' pipeline, one stream, its steps one batch."""
        from mien.bench.diffusers_peer import pipeline, stream

        if self.rows > 1 and self.steps > 1:
            raise UnavailableError(
                "streamdiffusion answers one frame of a batch where it takes several steps; see --rows 1"
            )
        return stream(pipeline(self.weights, self.dtype, self.device), self.weights.text, self.image, self.steps)

    def _needs_graphs(self) -> None:
        if self.device == "cpu":
            raise UnavailableError("compiled peers are compared on a CUDA device")


FORMS: Mapping[str, Callable[[Peers], Call]] = {
    "mien": Peers.mien,
    "mien eager": Peers.mien_eager,
    "torch": Peers.torch,
    "diffusers": Peers.diffusers,
    "streamdiffusion": Peers.streamdiffusion,
    "torch compiled": Peers.torch_compiled,
    "diffusers compiled": Peers.diffusers_compiled,
}


def works(weights: Weights, forms: Sequence[str], rows: int, steps: int, device: str, dtype: torch.dtype) -> Works:
    """The forms, each made ready when it is first called."""
    peers = Peers(weights, rows, steps, device, dtype)
    return Works({form: [when_first_called(partial(FORMS[form], peers))] for form in forms})


def cases(model: str, forms: Sequence[str], rows: Sequence[int], steps: Sequence[int], device: str) -> Iterator[Case]:
    """Every batch and number of steps; those that compile after the others, once for each batch."""
    dtype = torch.float16 if device != "cpu" else torch.float32
    weights = Weights.make(model, device, dtype)
    against = "diffusers" if "diffusers" in forms and find_spec("diffusers") is not None else "torch"
    slow = [form for form in forms if form in SLOW_FORMS and device != "cpu"]
    quick = [form for form in forms if form not in slow]
    chosen = [(quick, count, n) for count in rows for n in steps]
    chosen += [
        ([form for form in ("mien", against) if form in forms] + slow, count, n)
        for count in rows
        for n in steps
        if slow
    ]
    for names, count, n in chosen:
        yield Case(
            {"model": model, "rows": count, "steps": n, "dtype": str(dtype).removeprefix("torch.")},
            partial(works, weights, names, count, n, device, dtype),
            flops=float((weights.flops[0] + n * weights.flops[1]) * count),
            frames=count,
            dtype=str(dtype).removeprefix("torch."),
            against=against,
            captured=False,
            includes="image to image on the device: TAESD encode, LCM steps, TAESD decode",
            more={"weights": "random, the same for all"},
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a line a row, append the rows to a results folder if one is given."""
    parser = argparse.ArgumentParser(
        prog="mien bench peers", description="mien, torch, diffusers and streamdiffusion in turns."
    )
    add_options(parser)
    parser.set_defaults(case_seconds=4.0)
    parser.add_argument("--model", choices=sorted(LAYOUTS), default="sd15", help="mini is for tests")
    parser.add_argument("--steps", nargs="+", type=int, default=(2, 1, 4), help="of denoising")
    parser.add_argument("--rows", nargs="+", type=int, default=(8, 1), help="images of a call")
    parser.add_argument(
        "--form", nargs="+", choices=sorted(FORMS), default=list(FORMS), metavar="FORM", help=", ".join(FORMS)
    )
    options = parser.parse_args(arguments)
    if min(*options.steps, *options.rows) < 1:
        parser.error("--steps and --rows must be at least 1")
    recorder = open_recorder("peers", options)
    with torch.no_grad():
        recorder.run(cases(options.model, options.form, options.rows, options.steps, recorder.device))
    exit_by(recorder)


if __name__ == "__main__":
    guarded(main)
