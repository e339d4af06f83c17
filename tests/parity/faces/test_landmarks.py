"""The published 68-point networks against float64 transcriptions, and where mien's crop puts what they answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mien.engine.face.track import TrackerOptions
from mien.engine.networks import landmark_view
from mien.engine.networks.landmarks_mobilefacenet import MobileFaceNet, MobileFaceNetLandmarks
from mien.engine.networks.landmarks_mobilenet import MobileNetGdConv, MobileNetLandmarks
from mien.engine.networks.landmarks_pfld import Pfld, PfldLandmarks

State = dict[str, Tensor]
MOBILENET = (4, 4, 6, 6, 8, 8, 10, 12, 20)
PFLD = (6, 8, 4, 5, 7)
MOBILEFACENET = (4, 8, 12)


def double(module: torch.nn.Module) -> State:
    return {key: tensor.double() for key, tensor in module.state_dict().items()}


def batch_norm(x: Tensor, s: State, p: str) -> Tensor:
    shape = (1, -1) + (1,) * (x.ndim - 2)
    mean, var, weight, bias = (s[f"{p}.{n}"].view(shape) for n in ("running_mean", "running_var", "weight", "bias"))
    return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias


def conv_bn(x: Tensor, s: State, conv: str, norm: str, stride: int = 1, padding: int | None = None) -> Tensor:
    """A convolution whose groups and size its weight tells, and the norm after it."""
    weight = s[f"{conv}.weight"]
    groups = x.shape[1] // weight.shape[1]
    pad = weight.shape[-1] // 2 if padding is None else padding
    return batch_norm(F.conv2d(x, weight, None, stride, pad, 1, groups), s, norm)


def mobilenet(x: Tensor, s: State) -> Tensor:
    def relu6(x: Tensor) -> Tensor:
        return x.clamp(0, 6)

    x = relu6(conv_bn(x, s, "base_net.0.0.0", "base_net.0.0.1", 2))
    layer = 1
    for t, n, first in ((1, 1, 1), (6, 2, 2), (6, 3, 2), (6, 4, 2), (6, 3, 1), (6, 3, 2), (6, 1, 1)):
        for k in range(n):
            p, stride, y, at = f"base_net.0.{layer}.conv", first if k == 0 else 1, x, 0
            if t != 1:
                y, at = relu6(conv_bn(y, s, f"{p}.0.0", f"{p}.0.1")), 1
            y = relu6(conv_bn(y, s, f"{p}.{at}.0", f"{p}.{at}.1", stride))
            y = conv_bn(y, s, f"{p}.{at + 1}", f"{p}.{at + 2}")
            x = x + y if stride == 1 and x.shape[1] == y.shape[1] else y
            layer += 1
    x = relu6(conv_bn(x, s, "base_net.0.18.0", "base_net.0.18.1"))
    x = conv_bn(x, s, "linear7.conv", "linear7.bn", padding=0)
    return conv_bn(x, s, "linear1.conv", "linear1.bn").flatten(1)


def pfld(x: Tensor, s: State) -> Tensor:
    x = conv_bn(x, s, "conv1", "bn1", 2).clamp(min=0)
    x = F.conv2d(conv_bn(x, s, "dw_pool", "dw_bn"), s["conv1_extra.weight"]).clamp(min=0)
    names = ["conv3_1", *(f"block3_{k}" for k in range(2, 6)), "conv4_1", "conv5_1"]
    names += [*(f"block5_{k}" for k in range(2, 7)), "conv6_1"]
    for name in names:
        stride = 2 if name in ("conv3_1", "conv4_1") else 1
        y = conv_bn(x, s, f"{name}.conv.0", f"{name}.conv.1").clamp(min=0)
        y = conv_bn(y, s, f"{name}.conv.3", f"{name}.conv.4", stride).clamp(min=0)
        y = conv_bn(y, s, f"{name}.conv.6", f"{name}.conv.7")
        x = x + y if name.startswith("block") else y
    y = conv_bn(x, s, "conv7.0", "conv7.1", 2).clamp(min=0)
    z = F.conv2d(y, s["conv8.weight"], s["conv8.bias"]).clamp(min=0)
    scales = torch.cat([x.mean((2, 3)), y.mean((2, 3)), z[:, :, 0, 0]], 1)
    return scales @ s["fc.weight"].T + s["fc.bias"]


def mobilefacenet(x: Tensor, s: State) -> Tensor:
    def block(x: Tensor, p: str, stride: int = 1) -> Tensor:
        y = conv_bn(x, s, f"{p}.conv", f"{p}.bn", stride)
        return torch.where(y > 0, y, y * s[f"{p}.prelu.weight"].view(1, -1, 1, 1))

    def unit(x: Tensor, p: str, stride: int) -> Tensor:
        y = block(block(x, f"{p}.conv"), f"{p}.conv_dw", stride)
        return conv_bn(y, s, f"{p}.project.conv", f"{p}.project.bn")

    x = block(block(x, "conv1", 2), "conv2_dw")
    for down, rest, count in (("conv_23", "conv_3", 4), ("conv_34", "conv_4", 6), ("conv_45", "conv_5", 2)):
        x = unit(x, down, 2)
        for k in range(count):
            x = x + unit(x, f"{rest}.model.{k}", 1)
    x = conv_bn(block(x, "conv_6_sep"), s, "output_layer.conv_6_dw.conv", "output_layer.conv_6_dw.bn", padding=0)
    return batch_norm(x.flatten(1) @ s["output_layer.linear.weight"].T, s, "output_layer.bn")


NETWORKS: dict[str, tuple[Callable[[], Any], Callable[[], Any], Callable[[Tensor, State], Tensor], int]] = {
    "mobilenet": (lambda: MobileNetGdConv(MOBILENET), lambda: MobileNetLandmarks(MOBILENET), mobilenet, 224),
    "pfld": (lambda: Pfld(PFLD), lambda: PfldLandmarks(PFLD), pfld, 112),
    "mobilefacenet": (
        lambda: MobileFaceNet(MOBILEFACENET),
        lambda: MobileFaceNetLandmarks(MOBILEFACENET),
        mobilefacenet,
        112,
    ),
}
FULL: dict[str, tuple[Callable[[], Any], float]] = {
    "mobilenet": (MobileNetGdConv, 2.464),
    "pfld": (Pfld, 0.730),
    "mobilefacenet": (MobileFaceNet, 1.007),
}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_published_network(name: str, randomised: Any, relative_error: Any) -> None:
    make, _, transcribed, px = NETWORKS[name]
    model = randomised(make())
    image = torch.randn(2, 3, px, px, generator=torch.Generator().manual_seed(1))
    want = transcribed(image.double(), double(model))
    assert want.shape == (2, 136)
    assert (want[0] - want[1]).abs().max() > 1e-2
    assert relative_error(model(image), want) < 1e-4


@pytest.mark.parametrize("name", FULL)
@torch.no_grad()
def test_published_size(name: str, randomised: Any, relative_error: Any) -> None:
    make, millions = FULL[name]
    model = randomised(make())
    assert abs(sum(p.numel() for p in model.parameters()) / 1e6 - millions) < 1e-3
    _, _, transcribed, px = NETWORKS[name]
    image = torch.rand(1, 3, px, px, generator=torch.Generator().manual_seed(1))
    assert relative_error(model(image), transcribed(image.double(), double(model))) < 1e-4


@torch.no_grad()
def test_the_56_px_mobilenet(randomised: Any, relative_error: Any) -> None:
    model = randomised(MobileNetGdConv(MOBILENET, 56))
    assert model.linear7.conv.weight.shape == (20, 1, 2, 2)
    image = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    assert relative_error(model(image), mobilenet(image.double(), double(model))) < 1e-4


def seen(crop: Tensor, px: int) -> Tensor:
    """What the networks see of a 128 px crop, as OpenCV would resize it: [0, 1], BGR."""
    part = (crop.double()[:, [2, 1, 0], 6:102, 16:112] + 1) / 2
    return F.interpolate(part, (px, px), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_in_miens_crop(name: str, randomised: Any, relative_error: Any) -> None:
    _, make, transcribed, px = NETWORKS[name]
    model = randomised(make())
    crop = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(2)) * 2 - 1
    image = seen(crop, px)
    if name == "mobilenet":  # normalised in this order although the channels are BGR, as its authors did
        image = (image - torch.tensor([0.485, 0.456, 0.406]).double().view(1, 3, 1, 1)) / torch.tensor(
            [0.229, 0.224, 0.225]
        ).double().view(1, 3, 1, 1)
    shares = transcribed(image, double(model)).reshape(2, 68, 2)
    want = shares * 96 + torch.tensor([16.0, 6.0]).double()
    points, presence = model(crop)
    assert relative_error(points, want) < 1e-4
    assert presence.tolist() == [[pytest.approx(0.8)]] * 2


@torch.no_grad()
def test_rgb_for_diffusion_video_autoencoders(randomised: Any) -> None:
    bgr, rgb = randomised(MobileNetLandmarks(MOBILENET)), randomised(MobileNetLandmarks(MOBILENET, rgb=True))
    crop = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(2)) * 2 - 1
    torch.testing.assert_close(rgb(crop)[0], bgr(crop.flip(1))[0])
    assert (rgb(crop)[0] - bgr(crop)[0]).abs().max() > 1e-2


def test_the_view_is_the_published_square_around_the_detectors_box() -> None:
    # points as wide as high: their crop is 1.6 of that, the detector's box reaches 0.29 of it higher
    extent = 128 / 1.6
    box_centre = 63.5 - 0.29 / 2 * extent
    left, top, side = landmark_view.view_square(128)
    assert side == pytest.approx(1.2 * extent, abs=0.5)
    assert left + side / 2 == 64
    assert top + side / 2 == pytest.approx(box_centre, abs=2.5)
    assert np.allclose(landmark_view.view_square(256), (32, 12, 192))


def test_the_presence_begins_tracks_but_leaves_their_end_to_the_detector() -> None:
    options = TrackerOptions()
    assert max(options.presence_new, options.presence_keep) <= landmark_view.PRESENCE < options.sure


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx(name: str, randomised: Any, through_onnx: Any, relative_error: Any) -> None:
    model = randomised(NETWORKS[name][1]())
    crop = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(4)) * 2 - 1
    points, presence = through_onnx(model, "image", ("B", 3, 128, 128), crop)
    with torch.no_grad():
        assert relative_error(points, model(crop)[0]) < 1e-4
    assert presence.shape == (2, 1) and np.allclose(presence, 0.8)
