"""BiSeNet v1 and mien's parser made of it, against a float64 transcription over the state dict."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mien.engine.errors import ShapeError
from mien.engine.networks.bisenet import CLASSES, MERGED, BiSeNet, FaceParser

NARROW = (8, 12, 16, 24)
State = dict[str, Tensor]


def batch_norm(x: Tensor, s: State, p: str) -> Tensor:
    mean, var, weight, bias = (
        s[f"{p}.{n}"].view(1, -1, 1, 1) for n in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias


def conv_bn_relu(x: Tensor, s: State, p: str) -> Tensor:
    weight = s[f"{p}.conv.weight"]
    return batch_norm(F.conv2d(x, weight, padding=weight.shape[-1] // 2), s, f"{p}.bn").clamp(min=0)


def resnet18(x: Tensor, s: State) -> list[Tensor]:
    x = batch_norm(F.conv2d(x, s["cp.resnet.conv1.weight"], stride=2, padding=3), s, "cp.resnet.bn1").clamp(min=0)
    x = F.max_pool2d(x, 3, 2, 1)
    answers = []
    for stage in (1, 2, 3, 4):
        for k in (0, 1):
            p, stride = f"cp.resnet.layer{stage}.{k}", 2 if stage > 1 and k == 0 else 1
            y = batch_norm(F.conv2d(x, s[f"{p}.conv1.weight"], stride=stride, padding=1), s, f"{p}.bn1").clamp(min=0)
            y = batch_norm(F.conv2d(y, s[f"{p}.conv2.weight"], padding=1), s, f"{p}.bn2")
            if stride == 2:
                x = batch_norm(F.conv2d(x, s[f"{p}.downsample.0.weight"], stride=2), s, f"{p}.downsample.1")
            x = (x + y).clamp(min=0)
        answers.append(x)
    return answers[1:]


def refined(x: Tensor, s: State, p: str) -> Tensor:
    y = conv_bn_relu(x, s, f"{p}.conv")
    gate = F.conv2d(y.mean((2, 3), keepdim=True), s[f"{p}.conv_atten.weight"])
    return y * torch.sigmoid(batch_norm(gate, s, f"{p}.bn_atten"))


def twice(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def transcription(image: Tensor, s: State) -> Tensor:
    """Logits (B, 19, H, W)."""
    eighth, sixteenth, last = resnet18(image, s)
    whole = conv_bn_relu(last.mean((2, 3), keepdim=True), s, "cp.conv_avg")
    coarse = conv_bn_relu(twice(refined(last, s, "cp.arm32") + whole), s, "cp.conv_head32")
    context = conv_bn_relu(twice(refined(sixteenth, s, "cp.arm16") + coarse), s, "cp.conv_head16")
    fused = conv_bn_relu(torch.cat([eighth, context], 1), s, "ffm.convblk")
    gate = F.conv2d(fused.mean((2, 3), keepdim=True), s["ffm.conv1.weight"]).clamp(min=0)
    fused = fused + fused * torch.sigmoid(F.conv2d(gate, s["ffm.conv2.weight"]))
    logits = F.conv2d(conv_bn_relu(fused, s, "conv_out.conv"), s["conv_out.conv_out.weight"])
    height, width = image.shape[2:]
    for axis, size in ((2, height), (3, width)):  # bilinear, corners on corners
        cells = logits.shape[axis]
        at = torch.arange(size, dtype=torch.float64) * (cells - 1) / (size - 1)
        low = at.long().clamp(max=cells - 2)
        share = (at - low).view((1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1))
        logits = logits.index_select(axis, low) * (1 - share) + logits.index_select(axis, low + 1) * share
    return logits


def double(module: torch.nn.Module) -> State:
    return {key: tensor.double() for key, tensor in module.state_dict().items()}


@pytest.mark.parametrize("shape", [(64, 64), (96, 160)])
@torch.no_grad()
def test_bisenet(shape: tuple[int, int], randomised: Any, relative_error: Any) -> None:
    model = randomised(BiSeNet(NARROW, 8))
    image = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(1))
    want = transcription(image.double(), double(model))
    assert relative_error(model.logits(image), want) < 1e-4
    probabilities = torch.exp(want) / torch.exp(want).sum(1, keepdim=True)
    assert relative_error(model(image), probabilities) < 1e-4
    assert model(image).shape == (2, 19, *shape)


@pytest.mark.slow
@torch.no_grad()
def test_bisenet_of_the_published_size(randomised: Any, relative_error: Any) -> None:
    model = randomised(BiSeNet())
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 13.2
    image = torch.randn(1, 3, 512, 512, generator=torch.Generator().manual_seed(1))
    want = transcription(image.double(), double(model))
    assert relative_error(model.double().logits(image.double()), want) < 1e-10


@torch.no_grad()
def test_the_parser_merges_what_bisenet_sees(randomised: Any, relative_error: Any) -> None:
    model = randomised(FaceParser(NARROW, 8, work_px=128))
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    got = model(image)
    torch.testing.assert_close(got.sum(1), torch.ones(2, 32, 32))
    large = F.interpolate(image.double(), scale_factor=4, mode="bilinear", align_corners=False)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], dtype=torch.float64).view(2, 1, 3, 1, 1)
    every = torch.softmax(transcription(((large + 1) / 2 - mean) / std, double(model)), 1)
    face, body = every[:, [1, 2, 3, 4, 5, 6, 10, 11, 12, 13]].sum(1), every[:, [7, 8, 9, 14, 15, 16, 18]].sum(1)
    merged = torch.stack([every[:, 0], face, every[:, 17], body], 1)
    want = merged.reshape(2, 4, 32, 4, 32, 4).mean((3, 5))
    assert relative_error(got, want) < 1e-4
    assert want.std((0, 2, 3)).min() > 1e-3


def test_every_class_is_merged_once() -> None:
    names = [name for group in MERGED.values() for name in group]
    assert sorted(names) == sorted(CLASSES)
    assert len(CLASSES) == 19
    assert (CLASSES[0], CLASSES[7], CLASSES[14], CLASSES[17], CLASSES[18]) == (
        "background",
        "l_ear",
        "neck",
        "hair",
        "hat",
    )


def test_a_crop_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ShapeError, match="multiple of 32 and of 96"):
        FaceParser(NARROW, 8, work_px=128)(torch.zeros(1, 3, 96, 96))


@pytest.mark.parametrize(
    ("model", "size"), [(BiSeNet(NARROW, 8), 64), (FaceParser(NARROW, 8, work_px=128), 32)], ids=["bisenet", "parser"]
)
def test_onnx(model: Any, size: int, randomised: Any, through_onnx: Any, relative_error: Any) -> None:
    randomised(model)
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(3)) * 2 - 1
    (got,) = through_onnx(model, "image", ("B", 3, size, size), x)
    with torch.no_grad():
        assert relative_error(got, model(x)) < 1e-4
