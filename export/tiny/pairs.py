"""Stage `pairs`: synthetic before/after pairs for every edit, as latents, cached for the denoiser.

A sample is a tile under a random similarity, gain, gamma and flip (of the finished pictures: the generators draw one way
round). For each edit it holds the operation as it is deployed: the source the denoiser will see (for a smile: already
warped by the landmark template), and the target the edit's generator makes of it, at one strength.

Writes to `<runs>/pairs`, M samples, E edits in the order of EDITS:
  plain_z.npy (M, C, 32, 32) float16 latents of the unedited crop, plain_w.npy (M, 128, 128, 3) uint8 the W+ encoder's view of it;
  source_z.npy, target_z.npy (M, E, C, 32, 32) float16; target_w.npy (M, E, 128, 128, 3) uint8; strength.npy (M, E) float32;
  tile.npy (M,) int32 the prepared tile; is_val.npy (M,) bool.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from mien.engine.face.warp import motions, warp_crop, warp_field
from mien.engine.manifest import LandmarkShift
from mien.engine.networks.autoencoder import Encoder
from mien.engine.types import Array
from mien.export.tiny.dataset import Prepared
from mien.export.tiny.draw_age import age, smile_folds
from mien.export.tiny.draw_beard import beard
from mien.export.tiny.draw_glasses import sunglasses
from mien.export.tiny.draw_makeup import lipstick, skin_tone
from mien.export.tiny.draw_mouth import mouth_interior
from mien.export.tiny.prepare import CROP_PX, PADDED_PX
from mien.export.tiny.recolour import recolour_hair
from mien.export.tiny.stage import Arguments
from mien.export.tiny.teachers import MESH_TO_68

EDITS = (
    "smile",
    "hair_dark",
    "hair_blond",
    "hair_red",
    "hair_grey",
    "sunglasses",
    "age",
    "lipstick",
    "skin_tone",
    "beard",
    "mouth_open",
)
TWO_SIDED = ("smile", "age", "skin_tone")
VIEW_PX, AUGMENTATIONS = 128, 2
EDITS_FILE = Path(__file__).with_name("edits.json")


def template_of(name: str) -> tuple[LandmarkShift, ...]:
    """The landmark template of an edit in edits.json."""
    rows = json.loads(EDITS_FILE.read_text())[name].get("template", [])
    return tuple(LandmarkShift(tuple(r["points"]), r["dx"], r["dy"], r["sigma"]) for r in rows)


def draw_strength(name: str, rng: np.random.Generator) -> float:
    """A training strength: full size half of the time, both signs where the edit has them."""
    size = 1.0 if rng.random() < 0.5 else float(rng.uniform(0.3, 1.0))
    return -size if name in TWO_SIDED and rng.random() < 0.4 else size


def make_pair(
    name: str, rgb: Array, mesh: Array, hair: Array, person: Array, strength: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Source and target (H, W, 3) float32 in [0, 1] of one edit, the same array where there is nothing to change.

    The source is warped by the edit's template, if it has one, as it is before the denoiser sees it. Inputs as `augment` gives them.
    """
    if name not in EDITS:
        raise ValueError(f"no pairs are made for {name!r}; known: {', '.join(EDITS)}")
    template = template_of(name)
    moved = motions([(template, strength)])
    size = rgb.shape[0]
    points = mesh[MESH_TO_68, :2].astype(np.float64)
    field = warp_field(moved, points, np.ones((128, 128), np.float32), size) if template else None
    source, shifted = rgb, mesh
    if field is not None:
        source, hair, person = (_warped(a, field) for a in (rgb, hair, person))
        shifted = _moved_mesh(mesh, field, size)
    if strength == 0:
        return source, source
    if name.startswith("hair_"):
        return source, recolour_hair(source, hair, name, strength)
    if name == "smile":
        return source, smile_folds(source, shifted, strength)
    if name == "sunglasses":
        return source, sunglasses(source, shifted, strength)
    if name == "age":
        return source, age(source, shifted, hair, person, strength, rng)
    if name == "lipstick":
        return source, lipstick(source, shifted, person, strength)
    if name == "skin_tone":
        return source, skin_tone(source, shifted, hair, person, strength)
    if name == "beard":
        return source, beard(source, shifted, hair, person, strength)
    return source, mouth_interior(source, rgb, mesh, shifted, strength)


def _warped(picture: Array, field: Array) -> Array:
    """A picture or mask (H, W[, C]) in [0, 1] through a backward field."""
    planes = picture.transpose(2, 0, 1) if picture.ndim == 3 else picture[None]
    out = np.clip(warp_crop(np.ascontiguousarray(planes), field), 0, 1)
    return np.ascontiguousarray(out.transpose(1, 2, 0)) if picture.ndim == 3 else np.asarray(out[0])


def _moved_mesh(mesh: Array, field: Array, size: int) -> Array:
    """Where mesh points go under a backward field (G, G, 2): the q with q + B(q) = p, by iteration."""
    step = field.shape[0] / size
    out = mesh.copy()
    for _ in range(6):
        x, y = (((out[:, k, None] + 0.5) * step - 0.5).astype(np.float32) for k in (0, 1))
        shift = cv2.remap(field, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0]
        out[:, :2] = 0.5 * (out[:, :2] + mesh[:, :2] - shift)
    return out


def augment(prepared: Prepared, tile: int, rng: np.random.Generator | None) -> tuple[Array, Array, Array, Array]:
    """rgb (256, 256, 3) in [0, 1], mesh (478, 3), hair and person (256, 256) of a tile; unchanged and centred where rng is None."""
    m = np.array([[1.0, 0, -32], [0, 1.0, -32]])
    if rng is not None:
        c = (PADDED_PX - 1) / 2
        angle, scale = np.radians(rng.normal(0, 4)), np.exp(rng.normal(0, 0.05))
        cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
        shift = (CROP_PX - 1) / 2 + rng.normal(0, 5, 2)
        m = np.array([[cos, -sin, shift[0] - cos * c + sin * c], [sin, cos, shift[1] - sin * c - cos * c]])
    warp = partial(cv2.warpAffine, M=m, dsize=(CROP_PX, CROP_PX), borderMode=cv2.BORDER_REFLECT_101)
    rgb = (
        warp(np.asarray(prepared.crops[tile]), flags=cv2.INTER_CUBIC if rng is not None else cv2.INTER_NEAREST).astype(
            np.float32
        )
        / 255
    )
    hair, person = (warp(np.asarray(a[tile])).astype(np.float32) / 255 for a in (prepared.hair, prepared.person))
    mesh = np.array(prepared.points[tile])
    mesh[:, :2] = mesh[:, :2] @ m[:, :2].T + m[:, 2]
    if rng is not None:
        rgb = np.clip(
            rgb ** np.float32(np.exp(rng.normal(0, 0.15))) * np.exp(rng.normal(0, 0.05, 3)).astype(np.float32), 0, 1
        )
    return rgb, mesh, hair, person


_state: tuple[Prepared, Encoder] | None = None


def _make_sample(runs: Path, seed: int, job: tuple[int, int]) -> tuple[Array, ...]:
    global _state  # one per worker process
    if _state is None:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        saved = torch.load(runs / "autoencoder" / "final.pt", weights_only=True)
        encoder = Encoder(**saved["kwargs"])
        encoder.load_state_dict(saved["encoder"])
        prepared = Prepared.open(runs)
        _state = prepared, encoder.eval()
    prepared, encoder = _state
    tile, k = job
    rng = np.random.default_rng([seed, tile, max(k, 0)])
    rgb, mesh, hair, person = augment(prepared, tile, rng if k >= 0 else None)
    strengths = np.array([draw_strength(name, rng) if k >= 0 else 1.0 for name in EDITS], np.float32)
    pairs = [
        make_pair(name, rgb, mesh, hair, person, float(strength), rng)
        for name, strength in zip(EDITS, strengths, strict=True)
    ]
    flip = k >= 0 and rng.random() < 0.5
    # most sources are the plain picture itself: encode it once
    pictures = [rgb] + [source for source, _ in pairs if source is not rgb] + [target for _, target in pairs]
    pictures = [p[:, ::-1] if flip else p for p in pictures]
    batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() * 2 - 1
    with torch.no_grad():
        z = encoder(batch).half().numpy()
    moved = iter(z[1 : len(z) - len(EDITS)])
    source_z = np.stack([z[0] if source is rgb else next(moved) for source, _ in pairs])
    small = [cv2.resize(p, (VIEW_PX, VIEW_PX), interpolation=cv2.INTER_AREA) for p in pictures]
    views = [(p * 255 + 0.5).astype(np.uint8) for p in small]
    return z[0], views[0], source_z, z[-len(EDITS) :], np.stack(views[-len(EDITS) :]), strengths


def run(args: Arguments) -> None:
    """Make AUGMENTATIONS samples a train tile and one plain sample a val tile."""
    prepared = Prepared.open(args.runs)
    jobs = [(int(i), k) for k in range(AUGMENTATIONS) for i in prepared.train_ids] + [
        (int(i), -1) for i in prepared.val_ids
    ]
    out = args.runs / "pairs"
    out.mkdir(parents=True, exist_ok=True)
    names = ("plain_z", "plain_w", "source_z", "target_z", "target_w", "strength")
    arrays: dict[str, Array] = {}
    with ProcessPoolExecutor(args.workers) as pool:
        for n, sample in enumerate(pool.map(partial(_make_sample, args.runs, args.seed), jobs, chunksize=8)):
            for name, value in zip(names, sample, strict=True):
                if name not in arrays:
                    shape = (len(jobs), *value.shape)
                    arrays[name] = np.lib.format.open_memmap(out / f"{name}.npy", "w+", value.dtype, shape)
                arrays[name][n] = value
            if n % 500 == 499:
                print(f"pairs: {n + 1} of {len(jobs)}", flush=True)
    for array in arrays.values():
        array.flush()  # type: ignore[attr-defined]
    np.save(out / "tile.npy", np.array([i for i, _ in jobs], np.int32))
    np.save(out / "is_val.npy", np.array([k < 0 for _, k in jobs]))
    print(f"pairs: {len(jobs)} samples of {len(EDITS)} edits")
