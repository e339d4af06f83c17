"""`mien bench quality SOURCE RESULT`: its measurers and embedders, what it refuses, and runs on the sample clip."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from mien.bench.compare import read_boxes, write_json
from mien.bench.metrics import METRICS, Figure
from mien.bench.metrics_clip import MEAN, STD, ClipEmbedder
from mien.bench.metrics_embedder import IdentityEmbedder
from mien.engine.bundle import Bundle
from mien.engine.checkpoints.reading import write_safetensors
from mien.engine.config import EngineConfig
from mien.engine.errors import BundleError, MediaError
from mien.engine.face.points import transform
from mien.engine.networks.arcface_align import arcface_crop
from mien.engine.types import Array, Frame
from mien.runtime.app import run

ROOT = Path(__file__).resolve().parents[2]
CLIP = ROOT / "examples" / "sample.mp4"
SMALL = {"vocab_size": 6, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VOCABULARY = {"a": 0, "b</w>": 1, "ab</w>": 2, "c</w>": 3, "<|startoftext|>": 4, "<|endoftext|>": 5}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CLIPModel]:
    """A folder with a miniature CLIPModel as published ones have it, and the model."""
    text = {**SMALL, "max_position_embeddings": 12, "eos_token_id": 5, "bos_token_id": 4, "pad_token_id": 5}
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    del vision["vocab_size"]
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    torch.manual_seed(0)
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    folder = tmp_path_factory.mktemp("clip")
    config.save_pretrained(folder)
    write_safetensors(folder / "model.safetensors", model.state_dict())
    (folder / "vocab.json").write_text(json.dumps(VOCABULARY))
    (folder / "merges.txt").write_text("a b</w>\n")
    return folder, model


def test_clip_embeds_as_transformers_does(clip: tuple[Path, CLIPModel]) -> None:
    folder, model = clip
    embedder = ClipEmbedder(folder)
    picture = np.random.default_rng(0).uniform(0, 255, (32, 48, 3)).astype(np.float32)
    pixels = (picture[:, 8:40].astype(np.float64) / 255 - MEAN) / STD  # the middle of the longer side
    with torch.inference_mode():
        image = torch.from_numpy(pixels.transpose(2, 0, 1)[None]).float()
        wanted = model.get_image_features(pixel_values=image).pooler_output[0].numpy()
        text = model.get_text_features(input_ids=torch.tensor([[4, 2, 3, 5]])).pooler_output[0].numpy()
    assert np.abs(embedder.image(picture) - wanted).max() < 1e-4 * np.abs(wanted).max()
    found, lost = embedder.text("ab c")
    assert np.abs(found - text).max() < 1e-4 * np.abs(text).max() and lost == ""
    assert embedder.text(" ".join("c" * 12))[1] == "c c"
    grey, large = (embedder.image(np.full((*size, 3), 90, np.float32)) for size in ((32, 32), (90, 71)))
    np.testing.assert_allclose(grey, large, atol=1e-5)  # resizing keeps what is flat


def test_clip_by_its_own_mean_and_from_a_pickle(clip: tuple[Path, CLIPModel], tmp_path: Path) -> None:
    for name in ("config.json", "vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((clip[0] / name).read_bytes())
    old = {**clip[1].state_dict(), "text_model.embeddings.position_ids": torch.arange(12)[None]}
    torch.save(old, tmp_path / "pytorch_model.bin")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    picture = np.full((32, 32, 3), 200, np.float32)
    same = 255 * (np.asarray(MEAN) + (200 / 255 - 0.5) / 0.5 * np.asarray(STD))  # what is the same after CLIP's own
    plain = ClipEmbedder(clip[0]).image(np.clip(np.tile(same, (32, 32, 1)), 0, 255).astype(np.float32))
    np.testing.assert_allclose(ClipEmbedder(tmp_path).image(picture), plain, atol=1e-4)


@pytest.mark.parametrize(
    "change, word",
    [
        ({"config.json": b'{"model_type": "siglip"}'}, "model_type is 'siglip'"),
        ({"config.json": b"[]"}, "holds a list"),
        ({"config.json": None}, "cannot read"),
        ({"model.safetensors": None}, "has no model.safetensors or pytorch_model.bin"),
        ({"vocab.json": None}, "has no vocab.json"),
        ({"preprocessor_config.json": b'{"image_mean": 3}'}, "three numbers"),
    ],
)
def test_a_folder_that_is_no_clip_is_refused(
    clip: tuple[Path, CLIPModel], tmp_path: Path, change: dict[str, bytes | None], word: str
) -> None:
    files: dict[str, bytes | None] = {p.name: p.read_bytes() for p in clip[0].iterdir()}
    for name, content in (files | change).items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    with pytest.raises(BundleError, match=word):
        ClipEmbedder(tmp_path)


def test_a_weight_of_another_shape_is_named(clip: tuple[Path, CLIPModel], tmp_path: Path) -> None:
    for path in clip[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    state = dict(clip[1].state_dict())
    state["visual_projection.weight"] = torch.zeros(8, 32)
    write_safetensors(tmp_path / "model.safetensors", state)
    with pytest.raises(BundleError, match=r"visual_projection.weight is \(8, 32\), .* \(16, 32\)"):
        ClipEmbedder(tmp_path)


def mean_network(px: int) -> bytes:
    """ONNX: the mean of each channel's quarters, (B, 12), for a picture (B, 3, px, px)."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    half = px // 2
    nodes = [
        helper.make_node("AveragePool", ["image"], ["small"], kernel_shape=[half, half], strides=[half, half]),
        helper.make_node("Flatten", ["small"], ["embedding"]),
    ]
    tensors = [
        [helper.make_tensor_value_info(name, kind, shape)]
        for name, shape in (("image", ["B", 3, px, px]), ("embedding", ["B", 12]))
    ]
    graph = helper.make_graph(nodes, "means", *tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def who(made_bundle: Callable[..., Bundle]) -> Bundle:
    """A bundle with an identity network alone."""
    signature = {"image": ("B", 3, 112, 112)}, {"embedding": ("B", 12)}
    return made_bundle("who", {"identity": ("iresnet.IResNet50", *signature, mean_network(112))}, crop_px=256, bank=[])


def test_an_identity_network_gets_its_published_crop(who: Bundle, face: Array) -> None:
    embed = IdentityEmbedder(who, EngineConfig(threads=1))
    luma = np.tile(np.arange(320, dtype=np.uint8) // 2, (256, 1))
    half = np.full((128, 160), 128, np.uint8)
    frame = Frame((luma, half, half), "yuv420p", "bt601", "full", 0, 0, Fraction(1, 25))
    found = embed(frame, face).reshape(3, 2, 2)
    corners = transform(arcface_crop(face), np.array([[27.5, 27.5], [83.5, 27.5], [27.5, 83.5], [83.5, 83.5]]))
    np.testing.assert_allclose(found[0].ravel(), corners[:, 0] / 2 / 127.5 - 1, atol=0.01)
    assert embed.by == "who 1, iresnet.IResNet50"


def test_a_bundle_without_a_fitting_identity_network_is_refused(
    blank_bundle: Path, made_bundle: Callable[..., Bundle]
) -> None:
    with pytest.raises(BundleError, match="bundle 'blank' has no network 'identity', it has detector"):
        IdentityEmbedder(Bundle.open(blank_bundle), EngineConfig(threads=1))
    signature = {"image": ("B", 3, 112, 112)}, {"embedding": ("B", 12)}
    wrong = made_bundle("wrong", {"identity": ("e4e.E4e", *signature, mean_network(112))}, crop_px=256, bank=[])
    with pytest.raises(BundleError, match="is e4e.E4e, .*accepted: image -> embedding of iresnet, ir_se50"):
        IdentityEmbedder(wrong, EngineConfig(threads=1))


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The first frames of the sample clip with a smile, lossless, and the report."""
    folder = tmp_path_factory.mktemp("edited")
    words = ["edit", str(CLIP), str(folder / "smile.mkv"), "--edit", "smile=1", "--steps", "1", "--to", "0.13"]
    assert run([*words, "--codec", "ffv1", "--threads", "1", "--report", str(folder / "report.json")]) == 0
    return folder / "smile.mkv", folder / "report.json"


def compare(
    out: Path, result: Path, *more: str, capsys: pytest.CaptureFixture[str]
) -> tuple[dict[str, Any], list[str]]:
    words = ["bench", "quality", str(CLIP), str(result), "--frames", "4", "--threads", "1", "--out", str(out)]
    assert run([*words, *more]) == 0
    told: dict[str, Any] = json.loads((out / "compare.json").read_text())
    return told, capsys.readouterr().out.splitlines()


def test_a_clip_against_itself(
    tmp_path: Path, clip: tuple[Path, CLIPModel], who: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--clip", str(clip[0]), "--prompt", "ab", "--identity", str(who.folder)]
    told, lines = compare(tmp_path / "q", CLIP, *more, capsys=capsys)
    found = told["metrics"]
    assert told["frames"] == told["frames_with_face"] == 4 and told["frames_face_lost"] == 0
    assert found["tl_id"]["value"] == found["tg_id"]["value"] == 1.0 and found["id_drift"]["value"] == 0.0
    assert found["landmark_error"]["value"] == 0.0 and found["lip_error"]["value"] < 1e-12
    assert found["background_psnr_db"]["identical"] is True and found["background_psnr_db"]["mse"] == 0.0
    for name in ("clip_text", "clip_frame", "warp_error", "pixel_mse"):
        assert found[name]["value"] == found[name]["source"] is not None
    assert found["clip_text"]["how"].endswith("'ab'") and found["tl_id"]["how"] == "who 1, iresnet.IResNet50"
    assert found["outside_boxes"]["how"].startswith("not measured: no report")
    shown = [title for key, (title, _) in METRICS.items() if not key.startswith("own")]
    assert [line.split("  ")[0] for line in lines[3 : 3 + len(shown)]] == shown


def test_a_smile_against_its_source(
    tmp_path: Path, edited: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    told, lines = compare(tmp_path / "q", edited[0], "--report", str(edited[1]), capsys=capsys)
    found = told["metrics"]
    assert found["outside_boxes"]["value"] == 0 and found["outside_boxes"]["identical"] is True
    assert 0.005 < found["landmark_error"]["value"] < 0.1 and 0.003 < found["lip_error"]["value"] < 0.1
    assert 0 < found["own_embedder_drift"]["value"] < 0.05
    assert found["own_embedder_local"]["value"] == pytest.approx(1, abs=0.02)
    assert found["tl_id"] == {"value": None, "how": "not measured: no identity network given (--identity BUNDLE)"}
    assert found["background_psnr_db"]["identical"] or found["background_psnr_db"]["value"] > 40
    assert 0 < found["pixel_mse"]["source"] < found["pixel_mse"]["value"] * 1.5
    assert found["landmark_error"]["how"].startswith("tiny ") and lines[-1].startswith("wrote ")


@pytest.mark.parametrize(
    "words, word",
    [
        ([CLIP], "1 path given: give two files, SOURCE and RESULT, or --bundle NAME"),
        ([CLIP, CLIP, CLIP], "3 paths given"),
        ([CLIP, CLIP.parent], "is a folder: give two videos"),
        ([CLIP, "none.mp4"], "none.mp4"),
        ([CLIP, CLIP, "--edit", "smile", "--steps", "1"], "--edit, --steps can be given only with --bundle"),
        ([CLIP, "--bundle", "tiny", "--clip", "x"], "--clip can be given only for SOURCE and RESULT"),
        ([CLIP, CLIP, "--prompt", "x"], "--prompt needs a CLIP"),
        ([CLIP, CLIP, "--frames", "0"], "--frames is 0"),
        ([CLIP, CLIP, "--identity", "nobody"], "unknown bundle 'nobody'"),
        ([CLIP, CLIP, "--judge", "none.py"], "no such judge"),
        ([CLIP, CLIP, "--report", "none.json"], "--report is none.json: cannot read it"),
    ],
)
def test_wrong_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[Any], word: str
) -> None:
    assert run(["bench", "quality", *map(str, words), "--threads", "1", "--out", str(tmp_path / "q")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mien: error: ") and word in said and said.count("\n") == 1
    assert not (tmp_path / "q").exists()


def test_clips_that_do_not_match_are_refused(
    tmp_path: Path, edited: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "quality", str(CLIP), str(edited[0]), "--threads", "1", "--out", str(tmp_path / "q")]
    assert run([*words, "--frames", "9"]) == 2
    assert "sample.mp4 has 9 frames, " in (said := capsys.readouterr().err) and "give --frames 4 " in said
    small = tmp_path / "small.mkv"
    clip_of_zeros(small)
    assert run(["bench", "quality", str(CLIP), str(small), "--threads", "1", "--out", str(tmp_path / "q")]) == 2
    assert f"sample.mp4 is 1280x720, {small} 64x48: give a result of the source's size" in capsys.readouterr().err


def clip_of_zeros(path: Path) -> None:
    import av

    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def test_boxes_of_a_report(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"paste_boxes": [[0, 1, 2, 3, 4], [2, 5, 6, 7, 8], [2, 0, 0, 2, 2]]}))
    assert read_boxes(path) == {0: [(1, 2, 3, 4)], 2: [(5, 6, 7, 8), (0, 0, 2, 2)]}
    for text in ("{}", "[]", "{", '{"paste_boxes": 3}', '{"paste_boxes": [[1, 2]]}', '{"paste_boxes": [["a"]]}'):
        path.write_text(text)
        with pytest.raises(MediaError, match="--report is"):
            read_boxes(path)


def test_the_json_is_whole_or_not_there(tmp_path: Path) -> None:
    path = write_json(tmp_path / "new" / "q", {"frames": 1}, {"tl_id": Figure("a network", 0.5)})
    told = json.loads(path.read_text())
    assert path.name == "compare.json" and told == {
        "frames": 1,
        "metrics": {"tl_id": {"value": 0.5, "how": "a network"}},
    }
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "bad", {}, {"tl_id": Figure("a network", float("nan"))})
    assert not list((tmp_path / "bad").iterdir())
