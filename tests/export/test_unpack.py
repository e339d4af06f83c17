"""The shipped bundle's weights, put back where the recipe goes on from them."""

from pathlib import Path

import numpy as np
import torch

from mien.engine.bundle import Bundle
from mien.engine.config import EngineConfig
from mien.engine.networks.autoencoder import Decoder
from mien.export.tiny import unpack
from mien.export.tiny.stage import Arguments


def test_unpacked_weights_are_the_bundles(tmp_path: Path) -> None:
    kept = tmp_path / "parser" / "final.pt"
    kept.parent.mkdir()
    torch.save({}, kept)
    unpack.run(Arguments(data=tmp_path, runs=tmp_path, minutes=0))
    assert torch.load(kept, weights_only=True) == {}, "a finished stage must not be overwritten"
    saved = torch.load(tmp_path / "autoencoder" / "final.pt", weights_only=True)
    decoder = Decoder(**saved["kwargs"])
    decoder.load_state_dict(saved["decoder"])
    latents = (
        np.random.default_rng(0).standard_normal((1, saved["kwargs"]["latent_channels"], 12, 10)).astype(np.float32)
    )
    config = EngineConfig(threads=1, precision="float32")
    shipped = Bundle.open("tiny").load("vae_decoder", "onnxruntime", config)(latents=latents)["image"]
    with torch.inference_mode():
        again = decoder.eval()(torch.from_numpy(latents)).numpy()
    np.testing.assert_allclose(again, shipped, atol=2e-5)
    for name in ("detector", "landmarks", "denoiser", "difference"):
        assert (tmp_path / name / "final.pt").is_file()


def test_the_shipped_networks_say_nothing_of_the_machine_they_were_exported_on() -> None:
    for path in Bundle.open("tiny").folder.glob("*.onnx"):
        data = path.read_bytes()
        assert b"stack_trace" not in data and b".py" not in data, path.name
