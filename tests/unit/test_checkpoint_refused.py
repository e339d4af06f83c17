"""Weight files that are not what their name says, are damaged, or hold more than weights: one line that names the file."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mien.engine.errors import BundleError

torch = pytest.importorskip("torch")

from mien.engine.checkpoints.reading import hash_file, read_metadata, read_weights, write_safetensors  # noqa: E402

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.ones(4, dtype=torch.float16)}


def refusal(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


def test_dicts_without_end(tmp_path: Path) -> None:
    mean = torch.zeros(2)
    endless: dict[str, Any] = {"a": mean}
    endless["again"] = endless
    torch.save(endless, tmp_path / "endless.pt")
    assert "nested without end" in refusal(tmp_path / "endless.pt")
    twice: dict[str, Any] = {}
    for _ in range(40):
        twice = {"a": twice, "b": twice}
    torch.save({"x": twice, "w": mean}, tmp_path / "twice.pt")
    assert "holds more than 100,000 entries" in refusal(tmp_path / "twice.pt")


@pytest.mark.parametrize(
    "made",
    [
        lambda: torch.zeros(3, device="meta"),
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
    ],
    ids=["meta", "sparse", "quantized"],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_of_other_kinds_are_refused(made: Callable[[], Any], tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": made()}}, tmp_path / "w.pt")
    assert "'w' is not an array of plain numbers" in refusal(tmp_path / "w.pt")


@pytest.mark.parametrize("end", ["1e999", "Infinity", "NaN", '"4"', "-4", "4.5", "true", "null"])
def test_offsets_that_are_no_numbers_of_bytes(end: str, tmp_path: Path) -> None:
    content = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,%s]}}' % end.encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(content).to_bytes(8, "little") + content + bytes(16))
    assert "header cannot be read" in refusal(path)


def test_metadata_that_is_none(tmp_path: Path) -> None:
    content = b'{"__metadata__":[1]}'
    (tmp_path / "w.safetensors").write_bytes(len(content).to_bytes(8, "little") + content)
    with pytest.raises(BundleError, match="header cannot be read"):
        read_metadata(tmp_path / "w.safetensors")


@pytest.mark.parametrize("flags", [{9: 8, 46: 0xB7}, {6: 255}], ids=["name", "version"])
def test_a_damaged_archive(flags: dict[int, int], tmp_path: Path) -> None:
    path = tmp_path / "w.ckpt"
    torch.save(WEIGHTS, path)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    for place, value in flags.items():
        content[entry + place] |= value
    path.write_bytes(content)
    assert "its zip archive cannot be read" in refusal(path)


class Evil:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    path, target = tmp_path / "evil.ckpt", tmp_path / "run"
    torch.save({"state_dict": WEIGHTS, "x": Evil(str(target))}, path, _use_new_zipfile_serialization=zipped)
    message = refusal(path)
    assert "does not run code from a checkpoint" in message and ".safetensors version" in message and "mkdir" in message
    assert not target.exists()


def test_other_pickles(tmp_path: Path) -> None:
    path = tmp_path / "plain.pkl"
    path.write_bytes(pickle.dumps({"net": argparse.ArgumentParser}, protocol=2))
    assert "more than weights (argparse.ArgumentParser): mien does not run code" in refusal(path)
    path.write_bytes(pickle.dumps({"a": 1.5}, protocol=4))
    assert "more than weights (operand 149)" in refusal(path)
    torch.save([torch.ones(1)], path)
    assert "holds a list, a dict of tensors is accepted" in refusal(path)
    torch.save({"epoch": 3}, path)
    assert "holds no weights" in refusal(path)


def test_torchscript(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "s.pt", "w") as archive:
        for name in ("s/constants.pkl", "s/data.pkl", "s/code/__torch__.py"):
            archive.writestr(name, b"")
    assert "TorchScript program: mien does not run code" in refusal(tmp_path / "s.pt")


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "is empty: download it again"),
        (b"<!DOCTYPE html><html><body>Log in</body></html>", "this is a web page, not the weights"),
        (b"\n  <html lang=en>", "this is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:6c\nsize 42\n",
         "this is a Git LFS pointer, not the weights: download the file itself"),
        (b'{"error":"Invalid username or password."}', "server's error answer, not the weights: '{\"error\":\"Invalid"),
        (b"Entry not found", "server's error answer"),
        (b"\x00" * 64, "is not a checkpoint: it is neither .safetensors nor a PyTorch file"),
        (b"\x80", "is not a checkpoint"),
        (b"hello", "is not a checkpoint"),
        (b"PK\x03\x04" + b"\x00" * 100, "is truncated"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{", "is truncated (9 of at least 24 bytes)"),
        (b"\x04\x00\x00\x00\x00\x00\x00\x00{...", "header cannot be read"),
        (b"\x09\x00\x00\x00\x00\x00\x00\x00{\"a\": 1 }", "header cannot be read"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_what_is_no_weight_file(tmp_path: Path, content: bytes, words: str, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    assert words in refusal(path)


def test_missing_folder_and_others(tmp_path: Path) -> None:
    assert "there is no file" in refusal(tmp_path / "none.safetensors")
    assert "is a folder: give one weight file (.safetensors, .ckpt" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in refusal(tmp_path / "pipe")
    with zipfile.ZipFile(tmp_path / "repo.zip", "w") as archive:
        archive.writestr("model.safetensors", b"x")
    assert "zip archive, not a PyTorch checkpoint: unpack it" in refusal(tmp_path / "repo.zip")
    with pytest.raises(BundleError, match="cannot read .*none"):
        hash_file(tmp_path / "none")


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_every_truncation_is_told(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "w.bin"
    if kind == "safetensors":
        write_safetensors(path, WEIGHTS)
    else:
        torch.save(WEIGHTS, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    for share in (0.2, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(len(whole) * share)])
        message = refusal(path)
        assert "truncated" in message and "download it again" in message, message


def test_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_safetensors(path, WEIGHTS)
    path.write_bytes(path.read_bytes() + b"tail")
    assert "is damaged" in refusal(path)
