"""What the benchmark of crops and compositions launches, in miniature: ours and the plain way against float64."""

from __future__ import annotations

import pytest
import torch

from mien.bench.kernels_surfaces import OPS, SCENES, Made, Scene, surface_works

MINI = Scene(64, 48, side=24, faces=2, frames=2, crop_px=16)


def check(scene: Scene, op: str, device: str) -> None:
    works = surface_works(scene, op, device, checks=True)
    for form, calls in works.calls.items():
        calls[0]()
        assert works.errors[form]() < (2e-3 if op == "crop" else 5e-3), form  # half precision; a code of 120 is 8e-3


@pytest.mark.parametrize("op", OPS)
def test_every_operation_is_right(op: str) -> None:
    check(MINI, op, "cpu")


def test_ten_bits_and_faces_of_one_frame() -> None:
    check(Scene(64, 48, side=20, faces=2, frames=1, bit_depth=10, crop_px=16), "replace", "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("op", OPS)
def test_every_operation_is_right_on_a_gpu(op: str) -> None:
    with torch.inference_mode():
        check(Scene(1280, 720, side=300, faces=2, frames=2, crop_px=256), op, "cuda")


def test_scenes_lie_within_their_frames_and_move_what_they_say() -> None:
    for scene in SCENES:
        for face in range(scene.faces):
            corners = scene.affine(face) @ [
                [0, scene.crop_px - 1] * 2,
                [0, 0, scene.crop_px - 1, scene.crop_px - 1],
                [1] * 4,
            ]
            assert corners.min() > 0 and corners[0].max() < scene.width and corners[1].max() < scene.height
    assert MINI.bytes("crop") == 2 * (1.5 * 24**2 + 3 * 2 * 16**2)
    assert MINI.bytes("replace") == 2 * (3 * 24**2 + 4 * 2 * 16**2)
    made = Made(MINI, "cpu")
    assert made.plain_call("delta") is None and made.of_frame == [0, 1]
