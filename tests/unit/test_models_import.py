"""Importing: a bundle out of miniature published files loads, runs and holds exactly their weights; what is wrong is said."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from mien.engine.bundle import Bundle, available  # noqa: E402
from mien.engine.checkpoints.direction_edits import direction_edits  # noqa: E402
from mien.engine.checkpoints.importing import import_bundle  # noqa: E402
from mien.engine.checkpoints.parts import (  # noqa: E402
    Part,
    autoencoder,
    controlnet_layout,
    text_encoder_kwargs,
    unet_layout,
)
from mien.engine.checkpoints.sources import NOT_STATED, Settings, Sources  # noqa: E402
from mien.engine.config import EngineConfig  # noqa: E402
from mien.engine.errors import BundleError  # noqa: E402
from mien.engine.networks.autoencoder_kl import KlDecoder, KlEncoder  # noqa: E402
from mien.engine.networks.clip_text import ClipTextEncoder  # noqa: E402
from mien.engine.networks.sd_controlnet import ControlContext, ControlNet  # noqa: E402
from mien.engine.networks.sd_layout import Layout  # noqa: E402
from mien.engine.networks.sd_unet import ContextProjection, UNet  # noqa: E402
from mien.engine.sampling import PRESETS  # noqa: E402
from mien.runtime.app import run  # noqa: E402
from tests import published  # noqa: E402
from tests.published import Files, write_everything  # noqa: E402

ONE_CORE = EngineConfig(threads=1)
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_everything(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def whole(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Everything in one bundle, by the command line, found in the cache by its name."""
    cache = tmp_path_factory.mktemp("cache")
    words = ["--unet", files.repo, "--wplus", files.wplus, "--e4e", files.e4e, "--controlnet", files.controlnet]
    words += ["--lora", f"{files.lora}:0.5", "--parser", files.parser, "--landmarks", files.landmarks]
    words += ["--identity", files.identity, "--depth", files.depth, "--directions", files.directions]
    words += ["--crop", "64", "--sampling", "tcd", "--licence", "unet=OpenRAIL-M", "--licence", "text-encoder=MIT"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIEN_CACHE", str(cache))
        assert run(["models", "import", "mini", *map(str, words)]) == 0
        assert run(["models", "verify", "mini"]) == 0
        return Bundle.open("mini")


def sizes_of(bundle: Bundle, network: str) -> dict[str, int]:
    sizes = {"B": 2, "H": 64, "W": 64, "H16": 4, "W16": 4, "H32": 2, "W32": 2, "H64": 1, "W64": 1, "T": 77}
    free = {dim for dims in bundle.networks[network].shapes.values() for dim in dims if str(dim).startswith("M")}
    return sizes | {dim: 3 for dim in free if isinstance(dim, str)}


def inputs_of(bundle: Bundle, network: str) -> dict[str, Any]:
    """Random inputs as the network's spec has them."""
    spec, sizes, random = bundle.networks[network], sizes_of(bundle, network), np.random.default_rng(0)
    out: dict[str, Any] = {}
    for key, tensor in spec.inputs.items():
        parts = [(d, "") if isinstance(d, int) else d.partition("/")[::2] for d in spec.shapes[key]]
        shape = [d if isinstance(d, int) else sizes[d] // int(by or 1) for d, by in parts]
        if tensor.dtype == "int64":
            out[key] = random.integers(0, 49408, shape)
        else:
            out[key] = random.uniform(-1, 1, shape).astype(np.float32)
    for key, value in {"timestep": 499.0, "own_weight": 1.0}.items():
        if key in out:
            out[key][:] = value
    return out


def test_everything_is_there(whole: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
    assert set(whole.networks) == {
        *("unet", "context", "vae_encoder", "vae_decoder", "text_encoder", "controlnet", "control_context"),
        *("w_encoder", "w_projection", "identity", "depth", "detector", "landmarks", "parser"),
    }
    about = whole.manifest
    assert (about.crop_size_px, about.latent_size, about.latent_channels, about.latent_scale) == (64, 8, 4, 0.18215)
    assert about.prediction == "epsilon" and about.schedule.kind == "scaled_linear"
    assert about.sampling == PRESETS["tcd"] and about.default_num_steps == 4
    kwargs = whole.networks["unet"].architecture.kwargs
    assert (kwargs["adapter"], kwargs["control"], kwargs["bank_layers"]) == (True, True, list(range(16)))
    assert whole.networks["controlnet"].architecture.kwargs["bank_layers"] == list(range(7))
    assert whole.networks["unet"].file == whole.networks["context"].file == "unet.safetensors"
    assert whole.networks["unet"].shapes["own_k_6"] == ("B", "?", 64)
    assert whole.networks["unet"].shapes["down_residual_3"] == ("B", 32, "H16", "W16")
    assert whole.networks["detector"].format == "onnx" and whole.networks["parser"].format == "safetensors"
    assert sorted(p.name for p in whole.folder.parent.iterdir()) == ["mini"]
    assert whole.tokenizer().encode("photo of a smile").ids[0, :3].tolist()[0] == 49406


def test_the_card_tells_the_licences(whole: Bundle) -> None:
    licences = whole.manifest.licences
    assert (licences["unet"], licences["vae"], licences["text_encoder"]) == ("OpenRAIL-M", "OpenRAIL-M", "MIT")
    assert licences["wplus"] == licences["directions"] == NOT_STATED
    assert licences["detector"].startswith("Apache-2.0, from the bundle tiny")
    card = (whole.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "S-Lab License 1.0: non-commercial" in card and "CC BY-NC" in card and "no licence file" in card
    assert f"| wplus | {NOT_STATED} |" in card and "- LoRA lora.safetensors: fused at 0.5" in card
    assert re.search(r"\| unet \| unet/diffusion_pytorch_model.safetensors \| `[0-9a-f]{64}` \|", card)
    assert "ganspace_configs.csv" in card and str(whole.folder.parent) not in card


@pytest.mark.parametrize(
    "network",
    [
        *("unet", "context", "vae_encoder", "vae_decoder", "text_encoder", "controlnet", "control_context"),
        *("w_encoder", "w_projection", "identity", "landmarks", "parser", "detector", "depth"),
    ],
)
def test_every_network_runs_as_its_spec_says(whole: Bundle, network: str) -> None:
    backend = "onnxruntime" if network == "depth" else "torch"
    answer = whole.load(network, backend, ONE_CORE)(**inputs_of(whole, network))
    assert set(answer) == set(whole.networks[network].outputs)
    for key, value in answer.items():
        assert np.isfinite(value).all(), key
        assert value.std() > 0 or key == "presence", key


def test_weights_are_the_published_ones_with_the_lora_in_them(whole: Bundle, files: Files) -> None:
    got, before = load_file(whole.folder / "unet.safetensors"), load_file(files.repo / UNET)
    lora, adapter = load_file(files.lora), torch.load(files.wplus, weights_only=True)["wplus_adapter"]
    changed = 0
    for key, weight in before.items():
        name = f"lora_unet_{key.removesuffix('.weight').replace('.', '_')}"
        want = weight.double()
        if f"{name}.alpha" in lora:
            down, up = (lora[f"{name}.lora_{way}.weight"].double() for way in ("down", "up"))
            want, changed = want + 0.5 * (2.0 / 4) * up @ down, changed + 1
        torch.testing.assert_close(got.pop(key).double(), want, rtol=1e-6, atol=1e-6)
    assert changed == 64
    blocks = {1: "down_blocks.0.attentions.0", 11: "down_blocks.2.attentions.1", 13: "up_blocks.1.attentions.0"}
    for number, block in (blocks | {29: "up_blocks.3.attentions.2", 31: "mid_block.attentions.0"}).items():
        for part in "qkv":
            mine = f"{block}.transformer_blocks.0.attn2.to_{part}_wplus.weight"
            assert torch.equal(got[mine], adapter[f"{number}.to_{part}_wplus.weight"])
    assert len(got) == len(adapter) == 48
    text = load_file(whole.folder / "text_encoder.safetensors")
    plain = load_file(files.repo / "text_encoder" / "model.safetensors")
    assert plain.keys() - text.keys() == {"text_model.embeddings.position_ids"}
    key = "text_model.encoder.layers.1.self_attn.v_proj.weight"
    assert not torch.equal(text[key], plain[key])


def bundle_of(folder: Path, name: str, settings: Settings | None = None, **sources: Any) -> Bundle:
    return import_bundle(name, Sources(**sources), settings or Settings(crop_px=64), folder).bundle


def test_a_single_file_makes_the_same_bundle(files: Files, tmp_path: Path) -> None:
    plain = bundle_of(tmp_path, "repository", unet=files.repo)
    told = Settings(crop_px=64, prediction="epsilon")
    for name, file in (("safetensors", files.single), ("ckpt", files.ckpt)):
        single = bundle_of(tmp_path, name, told, unet=file, tokenizer=files.repo / "tokenizer")
        for key, spec in plain.networks.items():
            if spec.format == "safetensors":
                one, other = load_file(plain.folder / spec.file), load_file(single.folder / spec.file)
                assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one), key
            assert single.networks[key].shapes == spec.shapes
            assert single.networks[key].architecture == spec.architecture
    assert single.manifest.sampling == plain.manifest.sampling == PRESETS["ddim"]


def test_averaged_weights_are_taken_when_asked_for(
    files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Training checkpoints hold the UNet twice, under model_ema by names without dots."""
    state, prefix = load_file(files.single), "model.diffusion_model."
    for key in [key for key in state if key.startswith(prefix)]:
        state["model_ema." + key.removeprefix("model.").replace(".", "")] = state[key] + 1
    file = tmp_path / "trained.safetensors"
    save_file(state, file)
    first = f"{prefix}input_blocks.0.0.weight"
    for name, flags, words, wanted in (
        ("last", (), "which were not taken: --ema takes them", state[first]),
        ("averaged", ("--ema",), "are the averaged ones", state[first] + 1),
    ):
        asked = ["--unet", file, "--tokenizer", files.repo, "--prediction", "epsilon", "--into", tmp_path / "bundles"]
        assert run(["models", "import", name, *map(str, asked), *flags]) == 0
        folder = tmp_path / "bundles" / name
        assert words in capfd.readouterr().out and words in (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
        assert torch.equal(load_file(folder / "unet.safetensors")["conv_in.weight"], wanted)


def test_diffusers_reads_the_miniature_and_agrees(files: Files, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    bundle = bundle_of(tmp_path, "mini", unet=files.repo)
    theirs, wrong = diffusers.UNet2DConditionModel.from_pretrained(files.repo / "unet", output_loading_info=True)
    assert not wrong["missing_keys"] and not wrong["unexpected_keys"]
    tokens = bundle.tokenizer().encode("photo of a face").ids
    text = bundle.load("text_encoder", "torch", ONE_CORE)(tokens=tokens)["embeddings"]
    latents = np.random.default_rng(1).standard_normal((1, 4, 8, 8)).astype(np.float32)
    context = bundle.load("context", "torch", ONE_CORE)(text=text)
    empty = {k: np.zeros((1, 0, d[2]), np.float32) for k, d in bundle.networks["unet"].shapes.items() if "bank" in k}
    one = {"timestep": np.full(1, 321.0, np.float32), "own_weight": np.ones(1, np.float32)}
    got = bundle.load("unet", "torch", ONE_CORE)(latents=latents, **one, **context, **empty)["prediction"]
    with torch.no_grad():
        want = theirs(torch.from_numpy(latents), 321, torch.from_numpy(text)).sample.numpy()
        vae = diffusers.AutoencoderKL.from_pretrained(files.repo / "vae")
        picture = vae.decode(torch.from_numpy(latents) / 0.18215).sample.numpy()
    assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()
    decoded = bundle.load("vae_decoder", "torch", ONE_CORE)(latents=latents)["image"]
    assert np.abs(decoded - picture).max() < 1e-4 * np.abs(picture).max()


def test_sd21_in_half_precision_with_taesd(files: Files, tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, "sd21", unet=files.sd21, taesd=(files.encoder, files.decoder))
    about = bundle.manifest
    assert about.prediction == "v_prediction" and about.latent_scale == 0.18215
    assert load_file(bundle.folder / "unet.safetensors")["conv_in.weight"].dtype == torch.float16
    assert bundle.networks["vae_encoder"].architecture.name == "taesd.TaesdEncoder"
    assert bundle.networks["context"].shapes["text"] == ("B", "T", 48)
    for network in ("unet", "vae_encoder", "vae_decoder", "text_encoder"):
        bundle.load(network, "torch", ONE_CORE)(**inputs_of(bundle, network))


def test_other_unets(files: Files, tmp_path: Path) -> None:
    repo = published.write_repository(tmp_path / "pix2pix", in_channels=8)
    assert bundle_of(tmp_path, "ip2p", unet=repo).networks["unet"].shapes["latents"] == ("B", 8, "H/8", "W/8")
    repo = published.write_repository(tmp_path / "lcm-repo", time_cond_proj_dim=16)
    lcm = bundle_of(tmp_path, "lcm-unet", unet=repo)
    assert lcm.manifest.sampling == PRESETS["lcm"] and list(lcm.networks["unet"].inputs)[2] == "guidance"
    lcm.load("unet", "torch", ONE_CORE)(**inputs_of(lcm, "unet"))
    with pytest.raises(BundleError, match="this UNet has a guidance embedding, give --sampling lcm"):
        bundle_of(tmp_path, "x", Settings(sampling="tcd"), unet=repo)
    repo = published.write_repository(tmp_path / "depth-repo", in_channels=5)
    done = import_bundle("depth-unet", Sources(repo), Settings(), tmp_path)
    assert done.notes == ("the UNet reads depth: method pix2video needs a depth network, give --depth",)


SD15_CONFIG = {"attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768}
SD21_CONFIG = {"attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "use_linear_projection": True}
CLIP_H = {"hidden_act": "gelu", "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}


def meta_part(name: str, config: dict[str, Any], *networks: Any) -> Part:
    """A part of the published size, whose tensors have shapes alone."""
    with torch.device("meta"):
        state = {key: value for build in networks for key, value in build().state_dict().items()}
    return Part(state, config, (), name)


def test_the_published_sizes_fit() -> None:
    """SD1.5 and SD2.1 as their config.json say, and what happens when they meet."""
    unet15 = meta_part("sd15", SD15_CONFIG, UNet, ContextProjection)
    kwargs = Layout.from_config(SD21_CONFIG).kwargs()
    shape = {key: tuple(value) if isinstance(value, list) else value for key, value in kwargs.items()}
    unet21 = meta_part("sd21", SD21_CONFIG, lambda: UNet(**shape), lambda: ContextProjection(**shape))
    sd15, sd21 = unet_layout(unet15), unet_layout(unet21)
    assert sum(tensor.numel() for tensor in unet15.state.values()) == 859_520_964
    control = meta_part("control", SD15_CONFIG, ControlNet, ControlContext)
    assert controlnet_layout(control, sd15) == sd15
    text21 = meta_part(
        "clip", {**CLIP_H, "num_hidden_layers": 23}, lambda: ClipTextEncoder(**CLIP_H, num_hidden_layers=23)
    )
    assert text_encoder_kwargs(text21, sd21)[0]["hidden_act"] == "gelu"
    with pytest.raises(BundleError, match=r"1024 wide \(SD2.1\), the UNet reads text 768 wide \(SD1.5\)"):
        text_encoder_kwargs(text21, sd15)
    with pytest.raises(BundleError, match=r"control reads text 768 wide \(SD1.5\), the UNet text 1024 wide \(SD2.1\)"):
        controlnet_layout(control, sd21)
    with pytest.raises(BundleError, match="this looks like an SD2.1 file in an SD1.5 slot"):
        unet_layout(Part(unet21.state, SD15_CONFIG, (), "sd21"))
    vae = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4}
    assert autoencoder(meta_part("vae", vae, KlEncoder, KlDecoder), 4).scale == 0.18215


def test_face_networks_of_the_other_kinds(files: Files, tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, "faces", unet=files.repo, landmarks=files.pfld, identity=files.iresnet)
    assert bundle.networks["landmarks"].architecture.name == "landmarks_pfld.PfldLandmarks"
    assert bundle.networks["identity"].shapes["image"] == ("B", 3, 112, 112)
    for network in ("landmarks", "identity"):
        bundle.load(network, "torch", ONE_CORE)(**inputs_of(bundle, network))


def test_directions(whole: Bundle, files: Files, tmp_path: Path) -> None:
    ranges = {name: edit.range[1] for name, edit in whole.edits.items()}
    assert ranges == {
        **dict.fromkeys(
            ("age", "interfacegan_directions_smile", "att_direction_scale_0", "att_direction_scale_1"), 8.0
        ),
        **dict.fromkeys(("glasses", "eyes_open", "latent_directions_smile"), 4.0),
        "lipstick": 2.0,
    }
    target = whole.edits["lipstick"].target
    assert target is not None and (target.coordinate, target.centre, target.spread) == (20.0, 0.0, 1.0)
    assert np.flatnonzero(whole.directions["lipstick"].any(1)).tolist() == [10]
    smile = whole.edits["latent_directions_smile"]
    assert (smile.regions, smile.composition, smile.t_max, smile.gain) == (("head",), "replace", 500, 1.0)
    raw = np.load(files.directions / "latent_directions" / "smile.npy")
    got = whole.directions["latent_directions_smile"]
    np.testing.assert_array_equal(got[:8], raw[:8].astype(np.float32))
    assert got.shape == (18, 512) and not got[8:].any()
    stit = tmp_path / "w_directions"
    stit.mkdir()
    np.save(stit / "gender.npy", raw)
    found = direction_edits([stit])
    np.testing.assert_allclose(found.directions["gender"], raw / 2, rtol=1e-6)
    assert found.edits["gender"]["range"] == [-8.0, 8.0]


def test_an_import_that_breaks_off_leaves_what_was_there(files: Files, tmp_path: Path) -> None:
    first = bundle_of(tmp_path, "mini", unet=files.repo)

    def interrupt(words: str) -> None:
        if words == "writing unet.safetensors":
            raise KeyboardInterrupt

    again = (("mini"), Sources(files.repo), Settings(crop_px=128), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        import_bundle(*again, overwrite=True, tell=interrupt)
    with pytest.raises(BundleError, match="exists: give another name, or --overwrite"):
        import_bundle(*again)
    assert [p.name for p in tmp_path.iterdir()] == ["mini"] and Bundle.open(first.folder).sha256 == first.sha256
    second = import_bundle(*again, overwrite=True).bundle
    assert second.manifest.crop_size_px == 128 and [p.name for p in tmp_path.iterdir()] == ["mini"]


def test_an_unfinished_bundle_is_not_listed(files: Files, tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def look(words: str) -> None:
        seen.append([name for name in available(tmp_path) if name not in available(tmp_path / "none")])

    import_bundle("mini", Sources(files.repo), Settings(), tmp_path / "bundles", tell=look)
    assert len(seen) > 5 and not any(seen) and "mini" in available(tmp_path)
    rows = json.loads((tmp_path / "bundles" / "mini" / "bundle.json").read_text())
    assert all(not Path(file).is_absolute() for file in rows["files"])
