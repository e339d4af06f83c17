"""Published edit directions: real files where the shared data is, made ones for the forms that are not in it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mien.engine.bundle import MANIFEST, PACKAGED, Bundle, pack_directions
from mien.engine.checkpoints import directions
from mien.engine.checkpoints.direction_edits import direction_edits
from mien.engine.checkpoints.direction_files import read_directions
from mien.engine.checkpoints.directions import STIT_FACTOR, WPLUS_ROWS, GanspaceEntry
from mien.engine.code_edit import CodeEdit
from mien.engine.errors import BundleError
from mien.engine.spec import EditSpec
from mien.engine.types import Array


def vector(seed: int, size: int = 512) -> Array:
    drawn = np.random.default_rng(seed).standard_normal((1, size))
    return np.asarray(drawn / np.linalg.norm(drawn))


def constant_of(found: dict[str, directions.Direction], name: str) -> Array:
    assert found[name].dw.dtype == np.float32 and found[name].target is None
    return found[name].dw


def test_real_stit_directions(shared_data: Path) -> None:
    # row norms as measured from the published files
    for name, norm in (("age", 0.73), ("smile", 1.01), ("yaw", 0.94), ("nose_tip", 0.23)):
        file = shared_data / "directions" / f"stit_{name}.npy"
        dw = constant_of(read_directions(file, factor=STIT_FACTOR), f"stit_{name}")
        np.testing.assert_allclose(dw, np.load(file) / 2, rtol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(dw, axis=1), norm / 2, atol=0.005)


def test_every_real_boundary_of_w_is_read_and_none_of_z(shared_data: Path) -> None:
    read = 0
    for file in sorted((shared_data / "directions").glob("interfacegan_*.npy")):
        if "_w_boundary" not in file.stem:
            with pytest.raises(BundleError, match="lies in the space Z .*_w_boundary"):
                read_directions(file)
            continue
        dw = constant_of(read_directions(file), file.stem)
        np.testing.assert_allclose(dw, np.repeat(np.load(file), 18, 0), rtol=1e-6)
        read += 1
    assert read == 10


def test_a_unit_vector_fills_every_row() -> None:
    dw = directions.boundary(vector(0), "smile.pt").dw
    np.testing.assert_allclose(dw, np.broadcast_to(vector(0), (18, 512)), rtol=1e-5)


def test_only_the_first_rows_as_in_the_wplus_demo(tmp_path: Path) -> None:
    whole = np.random.default_rng(2).standard_normal((18, 512))
    np.save(tmp_path / "glasses.npy", whole)
    dw = constant_of(read_directions(tmp_path / "glasses.npy", rows=WPLUS_ROWS), "glasses")
    np.testing.assert_allclose(dw[:8], whole[:8], rtol=1e-6)
    assert not dw[8:].any()


def test_torch_files_of_one_vector_and_of_a_list(tmp_path: Path) -> None:
    torch.save(torch.tensor(vector(3)).float(), tmp_path / "age.pt")
    np.testing.assert_allclose(constant_of(read_directions(tmp_path / "age.pt"), "age")[17], vector(3)[0], atol=1e-7)
    scales = [torch.tensor(vector(k)).float().repeat(1, 18, 1) for k in range(17)]
    torch.save(scales, tmp_path / "att_direction_scale.pth")
    found = read_directions(tmp_path / "att_direction_scale.pth")
    assert list(found) == [f"att_direction_scale_{k}" for k in range(17)]
    dw = constant_of(found, "att_direction_scale_16")
    assert np.linalg.norm(dw) == pytest.approx(4.243, abs=1e-3)
    np.testing.assert_allclose(dw[5], vector(16)[0], atol=1e-7)


def components(size: int = 512) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(size, 80, generator=generator))[0].T.reshape(80, 1, size)
    return {
        "mean": torch.randn(1, size, generator=generator),
        "comp": basis,
        "std": torch.rand(80, generator=generator) + 0.5,
    }


def edited(w: Array, spec: EditSpec, made: dict[str, Any], directions: dict[str, Array], folder: Path) -> Array:
    """A code by the edits of a bundle that has nothing else."""
    manifest: dict[str, Any] = json.loads((PACKAGED / "tiny" / MANIFEST).read_text())
    for key in ("format", "files"):
        manifest.pop(key)
    files = {"directions.npz": pack_directions(directions), manifest["model_card"]: b""}
    bundle = Bundle.write(folder, manifest | {"networks": {}, "edits": made, "directions": "directions.npz"}, files)
    return CodeEdit(spec, bundle)(w)


def test_ganspace_strength_is_a_target(tmp_path: Path) -> None:
    """Against e4e's and the W+ Adapter's formula in float64, through the import and a bundle on the disk."""
    pca = components()
    torch.save(pca, tmp_path / "ffhq_pca.pt")
    (tmp_path / "ganspace_configs.csv").write_text("smile\t46\t4\t5\t-20\nwhite_hair\t57\t7\t10\t-24\n")
    np.save(tmp_path / "glasses.npy", vector(7) * 0.3)
    found = direction_edits([tmp_path])
    assert list(found.edits) == ["smile", "white_hair", "glasses"] and "target" not in found.edits["glasses"]
    assert found.edits["white_hair"]["range"] == [-1.0, 2.0]
    w = np.random.default_rng(4).standard_normal((1, 18, 512)).astype(np.float32)
    mean, comp, std = (pca[key].double().numpy() for key in ("mean", "comp", "std"))

    def published(i: int, rows: tuple[int, int], target: float) -> Array:
        coordinate = ((w[0, 0] - mean[0]) * comp[i, 0]).sum() / std[i]
        delta = np.zeros((18, 512))
        delta[rows[0] : rows[1]] = (target - coordinate) * comp[i, 0] * std[i]
        return delta

    def moved(**edits: float) -> Array:
        spec = EditSpec(edits=tuple(edits.items()))
        made = edited(w, spec, found.edits, found.directions, tmp_path / "-".join(edits))
        assert made.dtype == np.float32 and made.shape == w.shape
        return made[0] - w[0]

    hair, smile = published(57, (7, 10), -24.0), published(46, (4, 5), -20.0)
    np.testing.assert_allclose(moved(white_hair=1.0), hair, atol=1e-4)
    np.testing.assert_allclose(moved(white_hair=0.5), hair / 2, atol=1e-4)
    together = moved(smile=-1.0, white_hair=2.0, glasses=3.0)
    np.testing.assert_allclose(together, 2 * hair - smile + 0.9 * vector(7), atol=1e-4)
    assert not moved(smile=0.0).any()


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"d\.npy is \(14, 512\): a direction is"):
        directions.constant(np.ones((14, 512)), "d.npy")
    with pytest.raises(BundleError, match="zero everywhere"):
        directions.constant(np.zeros((1, 512)), "d.npy")
    with pytest.raises(BundleError, match="not finite"):
        directions.constant(np.full((1, 512), np.nan), "d.npy")
    with pytest.raises(BundleError, match="rows 8 to 20"):
        directions.constant(vector(0), "d.npy", rows=(8, 20))
    with pytest.raises(BundleError, match="has the length 2: an InterfaceGAN boundary"):
        directions.boundary(2 * vector(0), "a_boundary.npy")
    with pytest.raises(BundleError, match="line 2 is 'smile 1': it must be"):
        directions.ganspace_table("age\t1\t0\t3\t20\nsmile 1\n", "t.csv")
    with pytest.raises(BundleError, match="lacks comp, std"):
        directions.ganspace({"mean": np.zeros((1, 4))}, GanspaceEntry(0, (0, 1), 1.0), "p.pt")
    with pytest.raises(BundleError, match="no component 80"):
        directions.ganspace(components(), GanspaceEntry(80, (0, 1), 1.0), "p.pt")
    with pytest.raises(BundleError, match=r"comp \(80, 1, 64\), std \(80,\), expected"):
        directions.ganspace(components() | {"comp": torch.zeros(80, 1, 64)}, GanspaceEntry(0, (0, 1), 1.0), "p.pt")
    torch.save(components(), tmp_path / "ffhq_pca.pt")
    torch.save({"state_dict": {}, "opts": {}}, tmp_path / "afro.pt")
    with pytest.raises(BundleError, match=r"afro\.pt is a checkpoint with 'state_dict', not a direction"):
        read_directions(tmp_path / "afro.pt")
    with pytest.raises(BundleError, match=r"ganspace_configs\.csv tells: put that file beside it"):
        read_directions(tmp_path / "ffhq_pca.pt")
    np.save(tmp_path / "code.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(BundleError, match="cannot be read as plain numbers"):
        read_directions(tmp_path / "code.npy")
    for shape in ("(10**12,)", "(1000000000000,)", "(-1,)", "("):
        content = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(content).to_bytes(2, "little") + content)
        with pytest.raises(BundleError, match=r"x\.npy cannot be read as plain numbers"):
            read_directions(tmp_path / "x.npy")
    for name in ("file", "allow_pickle"):
        np.save(tmp_path / f"{name}.npy", vector(0))
        with pytest.raises(BundleError, match=f"cannot have the name {name!r}: rename"):
            direction_edits([tmp_path / f"{name}.npy"])
    torch.save(vector(0), tmp_path / "numpy.pt")
    with pytest.raises(
        BundleError, match=r"numpy\.pt holds no pickled tensor but something else: save its numbers as \.npy"
    ):
        read_directions(tmp_path / "numpy.pt")
    torch.save({"comp": argparse.ArgumentParser}, tmp_path / "code.pt")
    with pytest.raises(
        BundleError, match=r"code\.pt holds more than weights \(argparse.ArgumentParser\): mien does not run"
    ):
        read_directions(tmp_path / "code.pt")
    (tmp_path / "pointer.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:6c\nsize 42\n")
    with pytest.raises(BundleError, match="this is a Git LFS pointer, not the weights"):
        read_directions(tmp_path / "pointer.pt")
    (tmp_path / "d.txt").write_text("1")
    with pytest.raises(BundleError, match="is no direction file"):
        read_directions(tmp_path / "d.txt")
    with pytest.raises(BundleError, match="there is no file"):
        read_directions(tmp_path / "none.npy")
