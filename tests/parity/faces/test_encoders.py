"""e4e, the IR-SE50 and iresnet50 identity networks and the W+ projection, against float64 transcriptions of their formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mien.engine.networks.e4e import E4e
from mien.engine.networks.ir_se50 import IrSe50
from mien.engine.networks.iresnet import IResNet50
from mien.engine.networks.wplus_projection import WPlusProjection

State = dict[str, Tensor]
NARROW = (16, 16, 32, 48)


def double(module: torch.nn.Module) -> State:
    return {key: tensor.double() for key, tensor in module.state_dict().items()}


def batch_norm(x: Tensor, s: State, p: str) -> Tensor:
    shape = (1, -1) + (1,) * (x.ndim - 2)
    mean, var, weight, bias = (s[f"{p}.{n}"].view(shape) for n in ("running_mean", "running_var", "weight", "bias"))
    return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x > 0, x, x * slope.view(1, -1, 1, 1))


def ir_se_unit(x: Tensor, s: State, p: str, stride: int) -> Tensor:
    short = x[:, :, ::stride, ::stride]
    if f"{p}.shortcut_layer.0.weight" in s:
        short = batch_norm(F.conv2d(x, s[f"{p}.shortcut_layer.0.weight"], stride=stride), s, f"{p}.shortcut_layer.1")
    y = F.conv2d(batch_norm(x, s, f"{p}.res_layer.0"), s[f"{p}.res_layer.1.weight"], padding=1)
    y = F.conv2d(prelu(y, s[f"{p}.res_layer.2.weight"]), s[f"{p}.res_layer.3.weight"], stride=stride, padding=1)
    y = batch_norm(y, s, f"{p}.res_layer.4")
    gate = F.conv2d(y.mean((2, 3), keepdim=True), s[f"{p}.res_layer.5.fc1.weight"]).clamp(min=0)
    gate = 1 / (1 + torch.exp(-F.conv2d(gate, s[f"{p}.res_layer.5.fc2.weight"])))
    return short + y * gate


def ir_se_features(x: Tensor, s: State) -> list[Tensor]:
    """What all 24 units answer; the first of 3, 4, 14 and 3 halves the size."""
    x = prelu(
        batch_norm(F.conv2d(x, s["input_layer.0.weight"], padding=1), s, "input_layer.1"), s["input_layer.2.weight"]
    )
    answers = []
    for k in range(24):
        x = ir_se_unit(x, s, f"body.{k}", 2 if k in (0, 3, 7, 21) else 1)
        answers.append(x)
    return answers


def e4e_transcription(image: Tensor, s: State) -> Tensor:
    answers = ir_se_features(image, s)
    c1, c2, c3 = answers[6], answers[20], answers[23]

    def double_size(x: Tensor) -> Tensor:
        """Bilinear, corners on corners."""
        size = x.shape[-1]
        at = torch.arange(2 * size, dtype=torch.float64) * (size - 1) / (2 * size - 1)
        low = at.floor().long().clamp(max=size - 2)
        blend = torch.zeros(2 * size, size, dtype=torch.float64)
        blend[torch.arange(2 * size), low] = 1 - (at - low)
        blend[torch.arange(2 * size), low + 1] = at - low
        return blend @ x @ blend.T

    p2 = double_size(c3) + F.conv2d(c2, s["latlayer1.weight"], s["latlayer1.bias"])
    p1 = double_size(p2) + F.conv2d(c1, s["latlayer2.weight"], s["latlayer2.bias"])

    def style(k: int, x: Tensor) -> Tensor:
        for j in range(int(math.log2(x.shape[-1]))):
            x = F.conv2d(x, s[f"styles.{k}.convs.{2 * j}.weight"], s[f"styles.{k}.convs.{2 * j}.bias"], 2, 1)
            x = torch.where(x > 0, x, 0.01 * x)
        weight = s[f"styles.{k}.linear.weight"]
        return x[:, :, 0, 0] @ weight.T / math.sqrt(weight.shape[1]) + s[f"styles.{k}.linear.bias"]

    w = [style(0, c3)]
    w += [w[0] + style(k, c3 if k <= 2 else p2 if k <= 6 else p1) for k in range(1, 18)]
    return torch.stack(w, 1) + s["latent_avg"]


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.slow)])
@torch.no_grad()
def test_e4e(full: bool, randomised: Any, relative_error: Any) -> None:
    model = randomised(E4e() if full else E4e(NARROW, 24))
    image = torch.rand(1 if full else 2, 3, 256, 256, generator=torch.Generator().manual_seed(1)) * 2 - 1
    want = e4e_transcription(image.double(), double(model))
    if full:  # rounding adds up in wide layers of random weights
        assert relative_error(model.double()(image.double()), want) < 1e-10
    else:
        assert relative_error(model(image), want) < 1e-4
    assert (want - want[:, :1]).abs().max() > 0.05  # the styles differ, so their offsets are compared too
    assert want.shape == (len(image), 18, 512 if full else 24)


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.slow)])
@torch.no_grad()
def test_ir_se50(full: bool, randomised: Any, relative_error: Any) -> None:
    model = randomised(IrSe50() if full else IrSe50(NARROW))
    image = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(2)) * 2 - 1
    s = double(model)
    face = F.adaptive_avg_pool2d(image.double()[:, :, 35:223, 32:220], 112)
    x = batch_norm(ir_se_features(face, s)[-1], s, "output_layer.0").flatten(1)
    x = batch_norm(x @ s["output_layer.3.weight"].T + s["output_layer.3.bias"], s, "output_layer.4")
    want = x / (x * x).sum(1, keepdim=True).sqrt()
    if full:
        # Thirds were rounded in the pooling's buffer.
        assert relative_error(model.double()(image.double()), want) < 1e-4
        return
    got = model(image)
    assert relative_error(got, want) < 1e-4
    torch.testing.assert_close(got.norm(dim=1), torch.ones(2))
    outside = image.clone()
    outside[:, :, :35], outside[:, :, 223:], outside[:, :, :, :32], outside[:, :, :, 220:] = 1, 1, 1, 1
    assert torch.equal(model(outside), got)


@torch.no_grad()
def test_iresnet50(randomised: Any, relative_error: Any) -> None:
    model = randomised(IResNet50((8, 12, 16, 24)))
    image = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(3)) * 2 - 1
    s = double(model)
    x = prelu(batch_norm(F.conv2d(image.double(), s["conv1.weight"], padding=1), s, "bn1"), s["prelu.weight"])
    for stage, count in enumerate((3, 4, 14, 3), 1):
        for k in range(count):
            p, stride = f"layer{stage}.{k}", 1 if k else 2
            y = batch_norm(F.conv2d(batch_norm(x, s, f"{p}.bn1"), s[f"{p}.conv1.weight"], padding=1), s, f"{p}.bn2")
            y = F.conv2d(prelu(y, s[f"{p}.prelu.weight"]), s[f"{p}.conv2.weight"], stride=stride, padding=1)
            if k == 0:
                x = batch_norm(F.conv2d(x, s[f"{p}.downsample.0.weight"], stride=2), s, f"{p}.downsample.1")
            x = x + batch_norm(y, s, f"{p}.bn3")
    x = batch_norm(x, s, "bn2").flatten(1) @ s["fc.weight"].T + s["fc.bias"]
    x = batch_norm(x, s, "features")
    assert relative_error(model(image), x / (x * x).sum(1, keepdim=True).sqrt()) < 1e-4


@torch.no_grad()
def test_wplus_projection(randomised: Any, relative_error: Any) -> None:
    model = randomised(WPlusProjection(40, 32))
    w = torch.randn(2, 18, 32, generator=torch.Generator().manual_seed(4))
    s = double(model)
    tokens = []
    for k, rows in enumerate((range(4), range(4, 8), range(8, 12), range(12, 18))):
        x = torch.cat([w[:, row] for row in rows], 1).double() @ s[f"proj_{k}.weight"].T
        x = (x - x.mean(1, keepdim=True)) / torch.sqrt(x.var(1, correction=0, keepdim=True) + 1e-5)
        tokens.append(x * s["norm.weight"] + s["norm.bias"])
    assert relative_error(model(w), torch.stack(tokens, 1)) < 1e-4
    torch.testing.assert_close(model(torch.zeros(1, 18, 32)), model.norm.bias.expand(1, 4, -1))


def test_published_sizes() -> None:
    with torch.device("meta"):
        networks = (E4e(), E4e().styles, IrSe50(), IResNet50(), WPlusProjection())
    counts = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert [round(count / 1e6, 1) for count in counts] == [267.1, 236.0, 43.8, 43.6, 7.1]


@pytest.mark.parametrize(
    ("make", "dims"),
    [
        (lambda: E4e(NARROW, 24, units=(1, 1, 1, 1)), ("B", 3, 256, 256)),
        (lambda: IrSe50(NARROW, units=(1, 2, 1, 1)), ("B", 3, 256, 256)),
        (lambda: IResNet50((8, 12, 16, 24), units=(1, 2, 1, 1)), ("B", 3, 112, 112)),
        (lambda: WPlusProjection(40, 32), ("B", 18, 32)),
    ],
    ids=["e4e", "ir_se50", "iresnet50", "wplus_projection"],
)
def test_onnx(make: Callable[[], Any], dims: Any, randomised: Any, through_onnx: Any, relative_error: Any) -> None:
    model = randomised(make())
    x = torch.rand(2, *dims[1:], generator=torch.Generator().manual_seed(5)) * 2 - 1
    (got,) = through_onnx(model, "x", dims, x)
    with torch.no_grad():
        assert relative_error(got, model(x)) < 1e-4
