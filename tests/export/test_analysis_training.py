from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mien.engine.face.detect import decode, suppress
from mien.engine.networks.convolution import Residual, Unit, fold_norms
from mien.engine.networks.detector import STRIDES, Detector
from mien.engine.networks.landmarks import Landmarks
from mien.engine.networks.parser import Parser
from mien.engine.types import Array
from mien.export.tiny import augment, detector, landmarks, parser, scenes, training
from mien.export.tiny.detector import generalised_iou, iou, targets
from mien.export.tiny.landmarks import MIRROR, square
from mien.export.tiny.poses import ThinPlate, turn
from mien.export.tiny.stage import Arguments


@pytest.mark.parametrize(
    ("build", "shape"),
    [(Detector, (1, 1, 64, 96)), (Landmarks, (2, 3, 128, 128)), (Parser, (2, 3, 128, 128))],
)
def test_folded_norms_compute_the_same(build: type[nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    trained = build(norm=True).eval()
    for module in trained.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias)
    folded = build().eval()
    folded.load_state_dict(fold_norms(trained.state_dict()))
    x = torch.rand(shape)
    with torch.no_grad():
        a, b = trained(x), folded(x)
    for left, right in zip([a] if isinstance(a, Tensor) else a, [b] if isinstance(b, Tensor) else b, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-3)


def test_mirror_is_an_involution_that_swaps_sides() -> None:
    assert (MIRROR[MIRROR] == np.arange(68)).all()
    assert MIRROR[0] == 16 and MIRROR[36] == 45 and MIRROR[48] == 54 and MIRROR[60] == 64 and MIRROR[8] == 8


def test_square_follows_the_roll_and_the_extent() -> None:
    rng = np.random.default_rng(1)
    points = rng.uniform(-20, 20, (68, 2))
    points[36:42], points[42:48] = [-10, 0], [10, 0]
    centre, side, roll = square(points)
    c, s = np.cos(0.4), np.sin(0.4)
    turned_centre, turned_side, turned_roll = square(points @ np.array([[c, s], [-s, c]]) * 2 + [5, 7])
    assert turned_roll == pytest.approx(roll + 0.4)
    assert turned_side == pytest.approx(2 * side)
    np.testing.assert_allclose(turned_centre, np.array([[c, -s], [s, c]]) @ centre * 2 + [5, 7])


def test_targets_decode_to_the_boxes_they_came_from() -> None:
    boxes = np.array([[10, 12, 24, 30], [60, 40, 120, 110], [150, 20, 300, 200]], np.float32)
    made = targets(boxes, np.array([True, True, True]), 256, 320)
    heads = {}
    for s in STRIDES:
        want, goal = made[f"want_{s}"], made[f"goal_{s}"]
        x = (np.arange(want.shape[1]) + 0.5) * s - 0.5
        y = (np.arange(want.shape[0])[:, None] + 0.5) * s - 0.5
        heads[f"score_{s}"] = (want == 1).astype(np.float32)[None, None]
        heads[f"box_{s}"] = np.stack([x - goal[0], y - goal[1], goal[2] - x, goal[3] - y])[None] / s
    found = suppress(decode(heads, 0.5))
    assert len(found) == 3
    for box in boxes:
        assert max(iou(f, box) for f in found) > 0.999


def test_a_covered_face_is_left_out_of_the_loss() -> None:
    made = targets(np.array([[60, 40, 120, 110]], np.float32), np.array([False]), 256, 320)
    assert not any((made[f"want_{s}"] == 1).any() for s in STRIDES)
    assert made["want_16"][4, 5] == -1 and made["want_16"][12, 15] == 0


def test_generalised_iou_of_equal_and_of_distant_boxes() -> None:
    a = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1]])
    b = torch.tensor([[0.0, 0, 2, 2], [3, 0, 4, 1]])
    torch.testing.assert_close(generalised_iou(a, b), torch.tensor([1.0, -0.5]))


def test_turned_box_encloses_the_turned_ellipse() -> None:
    quarter = np.array([[0.0, -1, 50], [1, 0, 0]])
    np.testing.assert_allclose(scenes.turned_box(np.array([0.0, 0, 20, 10]), quarter), [50 - 9.5, -0.5, 50 + 0.5, 19.5])


def test_scene_boxes_lie_on_the_pasted_face() -> None:
    luma = np.zeros((96, 96), np.uint8)
    luma[30:60, 35:65] = 255
    head = scenes.Head(luma, np.full((96, 96), 255, np.uint8), np.array([35.0, 30, 30, 30]))
    composer = scenes.Composer([head])
    matrix = composer._matrix(head.box, 45.0, np.array([100.0, 80.0]), np.random.default_rng(3))
    scene = composer._lay(np.zeros((160, 200), np.uint8), luma, head.person, matrix)
    rows, columns = np.nonzero(scene > 128)
    x0, y0, x1, y1 = scenes.turned_box(head.box, matrix)
    assert np.mean([x0, x1]) == pytest.approx(columns.mean(), abs=1.0)
    assert np.mean([y0, y1]) == pytest.approx(rows.mean(), abs=1.0)


def test_thin_plate_passes_through_its_points_and_reproduces_affines() -> None:
    rng = np.random.default_rng(0)
    target = rng.uniform(0, 320, (40, 2))
    moved = target + rng.normal(0, 5, target.shape)
    np.testing.assert_allclose(ThinPlate(target, moved, stiffness=0.0)(target), moved, atol=1e-3)
    linear = target @ np.array([[0.9, 0.2], [-0.1, 1.1]]) + [4, 5]
    elsewhere = rng.uniform(0, 320, (9, 2))
    np.testing.assert_allclose(
        ThinPlate(target, linear)(elsewhere), elsewhere @ np.array([[0.9, 0.2], [-0.1, 1.1]]) + [4, 5], atol=1e-3
    )


def test_turning_a_mesh_keeps_its_size_and_narrows_the_face() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(0, 1, (478, 3)) * [50, 60, 10]
    turned = turn(points, np.deg2rad(30.0), 0.0)
    pairs = np.linalg.norm(points[1:] - points[:-1], axis=1)
    np.testing.assert_allclose(np.linalg.norm(turned[1:] - turned[:-1], axis=1), pairs)
    assert np.ptp(turned[:, 0]) < np.ptp(points[:, 0])
    np.testing.assert_allclose(turned[:, 1], points[:, 1])


def test_augmentation_is_seeded_and_keeps_shape_and_type() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for seed in range(20):
        made = [
            augment.degrade(augment.colour(picture, rng), rng)
            for rng in (np.random.default_rng(seed), np.random.default_rng(seed))
        ]
        assert made[0].shape == picture.shape and made[0].dtype == np.uint8
        assert (made[0] == made[1]).all()
        rng = np.random.default_rng(seed)
        mask, fill, kind = augment.occluder((64, 64), np.array([32.0, 32.0]), 12.0, np.full(3, 150.0), rng, picture)
        assert kind in ("body", "background") and 0 <= mask.min() and 0.9 < mask.max() <= 1
        covered = augment.paste(picture, mask, fill, rng)
        assert (covered[mask == 0] == picture[mask == 0]).all()
        assert (covered != picture).any()


class _Line(nn.Module):
    def __init__(self, *, norm: bool = False) -> None:
        super().__init__()
        self.unit = Unit(1, 1, 1, norm=norm, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.unit(x)
        return answer


def _batch(rng: np.random.Generator) -> dict[str, Array]:
    x = rng.normal(0, 1, (8, 1, 4, 4)).astype(np.float32)
    return {"x": x, "y": 3 * x - 1}


def test_training_learns_resumes_and_stores_a_plain_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def loss(network: _Line, batch: training.Batch) -> Tensor:
        return nn.functional.mse_loss(network(batch["x"]), batch["y"])

    def fit(minutes: float) -> nn.Module:
        args = Arguments(data=tmp_path, runs=tmp_path, minutes=minutes)
        return training.train("line", _Line, {}, _batch, loss, lambda n: "figure", args, learning_rate=0.1)

    threads = torch.get_num_threads()
    fit(0.02)
    first = int(torch.load(tmp_path / "line" / "checkpoint.pt", weights_only=True)["step"])
    fit(0.06)
    torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert f"resumed at step {first}" in printed and "figure" in printed
    module = _Line()
    module.load_state_dict(torch.load(tmp_path / "line" / "final.pt", weights_only=True)["state"])
    x = torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4)
    with torch.no_grad():
        missed = (module(x) - (3 * x - 1)).abs().mean()
    assert missed < 0.8  # an untrained line misses by about 2


def test_networks_train_in_mixed_precision_and_are_judged_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, (3, 128, 128, 3), np.uint8))
    points = torch.from_numpy(rng.uniform(20, 108, (2, 68, 2)).astype(np.float32))
    masks = torch.from_numpy(rng.integers(0, 2, (3, 4, 128, 128), np.uint8) * 255)
    made = detector.targets(np.array([[60, 40, 120, 110]], np.float32), np.array([True]), 256, 320)
    scene = {k: torch.from_numpy(v)[None] for k, v in made.items()}
    scene["luma"] = torch.from_numpy(rng.integers(0, 256, (1, 256, 320), np.uint8))
    for stage, network, batch in (
        (landmarks, Landmarks(norm=True), {"image": image, "points": points}),
        (parser, Parser(norm=True), {"image": image, "masks": masks}),
        (detector, Detector(norm=True), scene),
    ):
        dtypes: list[torch.dtype] = []
        convolution = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
        convolution.register_forward_hook(lambda *given, dtypes=dtypes: dtypes.append(given[2].dtype))
        losses = []
        for dtype in (torch.float32, torch.bfloat16):
            context = torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)
            monkeypatch.setattr(stage, "mixed_precision", lambda _, context=context: context)
            value = stage.loss(network.train(), batch)
            value.backward()
            assert value.dtype == torch.float32
            losses.append(value.item())
        assert dtypes == [torch.float32, torch.bfloat16], stage.__name__
        assert losses[1] == pytest.approx(losses[0], rel=0.02) and losses[0] != losses[1]


def test_the_parser_learns_the_widths_it_is_used_at(tmp_path: Path) -> None:
    """And is validated at each: a network that sees a face everywhere is right on less of a wider crop."""
    rng = np.random.default_rng(0)
    ring = np.stack([112 + 40 * np.cos(np.linspace(0, 6.28, 478)), 112 + 50 * np.sin(np.linspace(0, 6.28, 478))], 1)
    person = np.zeros((1, 224, 224), np.uint8)
    person[:, 40:, 50:170] = 255
    arrays = {"image": rng.integers(0, 256, (1, 224, 224, 3), np.uint8), "hair": 0 * person, "person": person}
    for name, array in (arrays | {"points": ring[None].astype(np.float32)}).items():
        np.save(tmp_path / f"val_{name}.npy", array)
    heads = parser.Heads(tmp_path, "val")
    sides: list[float] = []

    def similarity(side: float, *rest: object) -> Array:
        sides.append(side / (256 * 224 / 320))
        return real(side, *rest)

    real = augment.similarity
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augment, "similarity", similarity)
        for seed in range(60):
            heads.sample(0, np.random.default_rng(seed))
        assert 0.8 < min(sides) < 0.9 and 1.3 < max(sides) < 1.4
        sides.clear()
        told = parser.validate(lambda x: torch.eye(4)[1].expand(len(x), 128, 128, 4).permute(0, 3, 1, 2), heads)
    assert sides[:2] == pytest.approx([1.0, 1.3])
    at = {key: float(told.split(f"{key} ")[1].split(",")[0]) for key in ("IoU face", "face at 1.3")}
    assert at["IoU face"] / at["face at 1.3"] == pytest.approx(1.3**2, rel=0.1), "the face is smaller in the wider crop"


@pytest.mark.parametrize(("border", "outside"), [(cv2.BORDER_REPLICATE, parser.HAIR), (cv2.BORDER_CONSTANT, 0)])
def test_what_a_picture_repeats_outside_keeps_its_label(
    tmp_path: Path, border: int, outside: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hair, ring = np.full((1, 224, 224), 255, np.uint8), np.full((1, 478, 2), 112, np.float32)
    arrays = {"image": np.full((1, 224, 224, 3), 90, np.uint8), "hair": hair, "person": hair, "points": ring}
    for name, array in arrays.items():
        np.save(tmp_path / f"val_{name}.npy", array)
    monkeypatch.setattr(augment, "draw_border", lambda _: border)
    wide = augment.similarity(300.0, np.full(2, 111.5), 0.0, 128)
    picture, masks = parser.Heads(tmp_path, "val").crop(0, wide, np.random.default_rng(0))
    assert masks[:, 3, 64].argmax() == outside and masks[:, 30, 64].argmax() == parser.HAIR
    assert (picture[3, 64] == 90).all() == (border == cv2.BORDER_REPLICATE)


def test_norms_that_are_put_back_change_nothing() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(Unit(3, 8, norm=False), Residual(8, norm=False), Unit(8, 2, norm=False, relu=False))
    normed = nn.Sequential(Unit(3, 8, norm=True), Residual(8, norm=True), Unit(8, 2, norm=True, relu=False))
    x = torch.randn(4, 3, 16, 16)
    training.go_on_from(normed, plain.state_dict(), lambda: normed(x))
    with torch.no_grad():
        torch.testing.assert_close(normed.train()(x), plain(x), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="another network"):
        training.go_on_from(normed, {"a": x}, lambda: normed(x))
