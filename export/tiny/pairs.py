"""Stage `pairs`: synthetic before/after pairs for every edit and for several at once, as latents, cached for the denoiser.

A sample is a tile under a random similarity, gain, gamma and flip (of the finished pictures: the generators draw one way
round), three in ten with the mouth opened. It has E entries of one edit each, in the order of EDITS, and COMBINATIONS of two to
four. An entry holds the operation as it is deployed: the source the network will see (for a smile: already warped by the landmark
template), and the target the edits' generators paint on it (see paint.py). Edits that are deployed on a wider crop (hair, skin) are
painted on a wider crop of the same face, and are combined among themselves only, because the engine makes each width in a pass of
its own. Samples of val tiles are unaugmented, their edits of full strength.

Writes to `<runs>/pairs`, M samples, N = E + COMBINATIONS entries:
  plain_w.npy (M, 128, 128, 3) uint8 the W+ encoder's view of the unedited crop, of usual width for every entry;
  source_z.npy, target_z.npy (M, N, C, 32, 32) float16 latents; target_w.npy (M, N, 128, 128, 3) uint8;
  points.npy (M, N, 68, 2) float16 landmarks of the source in crop pixels; strengths.npy (M, N, E) float32;
  tile.npy (M,) int32 the prepared tile; is_val.npy (M,) bool.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from mien.engine.face.points import MIRRORED
from mien.engine.networks.autoencoder import Encoder
from mien.engine.types import Array
from mien.export.tiny.dataset import Prepared, write_samples
from mien.export.tiny.paint import EDITS, Face, crop_scale_of, make_pair, opened, range_of
from mien.export.tiny.prepare import CROP_PX, PADDED_PX
from mien.export.tiny.stage import Arguments
from mien.export.tiny.teachers import MESH_TO_68

NEGATIVE = {"smile": 0.4, "age": 0.4, "skin_tone": 0.4}  # share of strengths below 0
ALTERNATIVES = {"hair_dark", "hair_blond", "hair_red", "hair_grey"}  # no two of these at once
VIEW_PX, AUGMENTATIONS, COMBINATIONS = 128, 3, 4
OPENED_SHARE, LEAST_OPENED = 0.3, 0.2  # of the faces, and by how much of the edit mouth_open at least
WIDTHS = (1.0, 1.35)  # of the wider crop in training, over the usual one
WIDE = frozenset(name for name in EDITS if crop_scale_of(name) > 1)
# What the engine edits in one pass.
GROUPS = tuple([name for name in EDITS if (name in WIDE) == wide] for wide in (False, True))


def draw_strength(name: str, rng: np.random.Generator) -> float:
    """A training strength: full size half of the time, both signs where the edit has them."""
    low, high = range_of(name)
    size = 1.0 if rng.random() < 0.5 else float(rng.uniform(0.3, 1.0))
    return low * size if rng.random() < NEGATIVE.get(name, 0.0) else high * size


def draw_combination(rng: np.random.Generator) -> list[str]:
    """Two to four edits that can be had at once in one crop, or as many as there are."""
    order = [str(name) for name in rng.permutation(GROUPS[rng.integers(len(GROUPS))])]
    hair = [name for name in order if name in ALTERNATIVES]
    return [name for name in order if name not in hair[1:]][: int(rng.integers(2, 5))]


def draw_entries(rng: np.random.Generator, full: bool) -> Array:
    """(N, E) strengths of a sample's entries."""
    entries = [[name] for name in EDITS] + [draw_combination(rng) for _ in range(COMBINATIONS)]
    out = np.zeros((len(entries), len(EDITS)), np.float32)
    for row, names in zip(out, entries, strict=True):
        for name in names:
            row[EDITS.index(name)] = 1.0 if full else draw_strength(name, rng)
    return out


class Look(NamedTuple):
    """How a tile is seen: roll in radians, scale, shift (2,) in pixels, gamma, gain (3,), how far the mouth is opened, and how many
    times as wide the crop of wide edits is. By default as it was prepared.
    """

    roll: float = 0.0
    scale: float = 1.0
    shift: Array | float = 0.0
    gamma: float = 1.0
    gain: Array | float = 1.0
    opened: float = 0.0
    width: float = max(map(crop_scale_of, WIDE))


def draw_look(rng: np.random.Generator) -> Look:
    """How a training sample is seen."""
    return Look(
        float(np.radians(rng.normal(0, 4))),
        float(np.exp(rng.normal(0, 0.05))),
        rng.normal(0, 5, 2),
        float(np.exp(rng.normal(0, 0.15))),
        np.exp(rng.normal(0, 0.05, 3)),
        float(rng.uniform(LEAST_OPENED, 1.0)) if rng.random() < OPENED_SHARE else 0.0,
        float(rng.uniform(*WIDTHS)),
    )


def face_of(prepared: Prepared, tile: int, look: Look, wide: bool) -> Face:
    """A tile as a face of 256 x 256 pixels, in the usual crop or in the wide one."""
    scale = look.scale / (look.width if wide else 1.0)
    cos, sin = np.cos(look.roll) * scale, np.sin(look.roll) * scale
    turn = np.array([[cos, -sin], [sin, cos]])
    shift = (CROP_PX - 1) / 2 + look.shift - turn @ np.full(2, (PADDED_PX - 1) / 2)
    m = np.column_stack([turn, shift])
    warp = partial(cv2.warpAffine, M=m, dsize=(CROP_PX, CROP_PX), borderMode=cv2.BORDER_REFLECT_101)
    rgb = warp(np.asarray(prepared.crops[tile]), flags=cv2.INTER_CUBIC).astype(np.float32) / 255
    rgb = np.clip(rgb ** np.float32(look.gamma) * np.float32(look.gain), 0, 1)
    hair, person = (warp(np.asarray(a[tile])).astype(np.float32) / 255 for a in (prepared.hair, prepared.person))
    mesh = np.array(prepared.points[tile]) * scale
    mesh[:, :2] = prepared.points[tile][:, :2] @ turn.T + shift
    face = Face(rgb, mesh, hair, person)
    return opened(face, look.opened) if look.opened else face


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
    look = draw_look(rng) if k >= 0 else Look()
    usual, wide = (face_of(prepared, tile, look, wide) for wide in (False, True))
    strengths = draw_entries(rng, full=k < 0)
    given = [{name: float(s) for name, s in zip(EDITS, row, strict=True) if s} for row in strengths]
    pairs = [make_pair(one, usual if WIDE.isdisjoint(one) else wide, rng) for one in given]
    flip = k >= 0 and rng.random() < 0.5
    # most sources are one of the two faces themselves: encode each once
    sources = {id(source.rgb): source.rgb for source, _ in pairs}
    targets = [target for _, target in pairs]
    pictures = [p[:, ::-1] if flip else p for p in (*sources.values(), *targets)]
    batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() * 2 - 1
    with torch.no_grad():
        z = encoder(batch).half().numpy()
    place = {key: n for n, key in enumerate(sources)}
    source_z = z[[place[id(source.rgb)] for source, _ in pairs]]
    points = np.stack([landmarks_of(source, flip) for source, _ in pairs])
    views = np.stack([view_of(p, flip) for p in (usual.rgb, *targets)])
    return views[0], source_z, z[len(sources) :], views[1:], points, strengths


def view_of(picture: Array, flip: bool) -> Array:
    """What the W+ encoder sees of a picture (S, S, 3) in [0, 1], or of its mirror image: (128, 128, 3) uint8."""
    small = cv2.resize(picture[:, ::-1] if flip else picture, (VIEW_PX, VIEW_PX), interpolation=cv2.INTER_AREA)
    return (small * 255 + 0.5).astype(np.uint8)


def landmarks_of(face: Face, flip: bool) -> Array:
    """(68, 2) float16 in pixels of the picture, or of its mirror image."""
    points = face.mesh[MESH_TO_68, :2]
    if flip:
        points = points[list(MIRRORED)] * [-1, 1] + [CROP_PX - 1, 0]
    return points.astype(np.float16)


def run(args: Arguments) -> None:
    """Make AUGMENTATIONS samples a train tile and one plain sample a val tile. is_val.npy is there only where all of them are."""
    prepared = Prepared.open(args.runs)
    jobs = [(int(i), k) for k in range(AUGMENTATIONS) for i in prepared.train_ids] + [
        (int(i), -1) for i in prepared.val_ids
    ]
    folder = args.runs / "pairs"
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "tile.npy", np.array([i for i, _ in jobs], np.int32))
    names = ("plain_w", "source_z", "target_z", "target_w", "points", "strengths")
    with args.pool() as pool:
        samples = pool.map(partial(_make_sample, args.runs, args.seed), jobs, chunksize=8)
        write_samples(folder, names, samples, [k < 0 for _, k in jobs], 500)
    print(f"pairs: {len(jobs)} samples of {len(EDITS)} edits and {COMBINATIONS} combinations")
