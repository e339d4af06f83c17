"""What the difference network answers for whole pictures: samples for the stage `difference_decoder`, made once.

Pairs as of `pairs`, but pictures, half of the train sources as a camera or a codec leaves them, and beside them what the finished
difference network answers for the source, in one step and with landmarks as far off as it is deployed. M samples, one a tile, of N
entries each; a val tile's are as it is, of full strength.

Written to `<runs>/difference_decoder`:
  source.npy, target.npy (M, N, 256, 256, 3) uint8; source_z.npy, edited_z.npy (M, N, C, 32, 32) float16;
  strengths.npy (M, N, E) float32; is_val.npy (M,) bool.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from mien.engine.face.coordinates import face_coordinates
from mien.engine.networks.autoencoder import Encoder
from mien.engine.types import Array
from mien.export.tiny.augment import degrade
from mien.export.tiny.dataset import Prepared, planes, write_samples
from mien.export.tiny.difference import T_VAL, EditModel, code_change, go_on_from
from mien.export.tiny.edit_pairs import Noiser, alphas_cumprod, landmark_error
from mien.export.tiny.paint import EDITS, Face, make_pair
from mien.export.tiny.pairs import WIDE, Look, draw_entries, draw_look, face_of, landmarks_of, view_of
from mien.export.tiny.prepare import CROP_PX
from mien.export.tiny.stage import Arguments

NAMES = ("source", "target", "source_z", "edited_z", "strengths")
BATCH, WINDOW, LATENT_PX = 16, 16, 8  # WINDOW: latents a side
DEGRADED_SHARE, NOTHING_SHARE, ANYWHERE_SHARE = 0.5, 0.03, 0.2
SHOWS = 2  # grey levels
OWN_DRAWS = 17  # part of the seed, so that these are not the draws of `pairs`


@dataclass(slots=True)
class _Networks:
    """What a worker process holds."""

    prepared: Prepared
    encoder: Encoder
    model: EditModel
    noiser: Noiser


_state: _Networks | None = None


def _networks(runs: Path) -> _Networks:
    global _state  # one per worker process
    if _state is None:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        saved = torch.load(runs / "autoencoder" / "final.pt", weights_only=True)
        encoder = Encoder(**saved["kwargs"])
        encoder.load_state_dict(saved["encoder"])
        model = EditModel(int(saved["kwargs"]["latent_channels"]))
        go_on_from(model, runs / "difference" / "final.pt")
        _state = _Networks(Prepared.open(runs), encoder.eval(), model.eval(), Noiser(alphas_cumprod()))
    return _state


@torch.inference_mode()
def _make_sample(runs: Path, seed: int, job: tuple[int, bool]) -> tuple[Array, ...]:
    """The entries of a tile, see the file's first lines; of a val tile as it is, at full strength."""
    own = _networks(runs)
    tile, is_val = job
    rng = np.random.default_rng([seed, tile, OWN_DRAWS])
    look = Look() if is_val else draw_look(rng)
    faces = [face_of(own.prepared, tile, look, wide) for wide in (False, True)]
    if not is_val and rng.random() < DEGRADED_SHARE:
        faces = [_degraded(face, rng) for face in faces]
    strengths = draw_entries(rng, full=is_val)
    given = [{name: float(s) for name, s in zip(EDITS, row, strict=True) if s} for row in strengths]
    pairs = [make_pair(one, faces[not WIDE.isdisjoint(one)], rng) for one in given]
    nothing = np.flatnonzero(rng.random(len(pairs)) < NOTHING_SHARE) if not is_val else ()
    for n in nothing:
        strengths[n], pairs[n] = 0.0, (pairs[n][0], pairs[n][0].rgb)
    source, target = (np.stack([_bytes(p) for p in part]) for part in zip(*((s.rgb, t) for s, t in pairs), strict=True))
    z = own.encoder(planes(torch.from_numpy(source)))
    off = [np.zeros((68, 2)) if is_val else landmark_error(rng) for _ in pairs]
    points = [landmarks_of(face, False).astype(np.float64) + o for (face, _), o in zip(pairs, off, strict=True)]
    places = torch.from_numpy(np.stack([face_coordinates(p, CROP_PX, z.shape[-1]) for p in points]))
    w = own.model.w_encoder(planes(torch.from_numpy(view_of(faces[0].rgb, False)[None]))).expand(len(pairs), -1, -1)
    t = torch.full((len(pairs),), float(T_VAL))
    noise = torch.randn(z.shape[1:], generator=torch.Generator().manual_seed(int(rng.integers(1 << 31))))[None]
    edited = w + code_change(own.model.directions, torch.from_numpy(strengths))
    answer = own.model.difference(own.noiser(z, noise, t), z, t, w, edited, places)
    return source, target, z.half().numpy(), (z + answer).half().numpy(), strengths


def _degraded(face: Face, rng: np.random.Generator) -> Face:
    return face._replace(rgb=degrade(_bytes(face.rgb), rng).astype(np.float32) / 255)


def _bytes(picture: Array) -> Array:
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def make(args: Arguments) -> None:
    """Write the samples of every train and val tile, unless they are there and as new as the networks they were made with."""
    prepared, folder = Prepared.open(args.runs), args.runs / "difference_decoder"
    made, used = folder / "is_val.npy", [args.runs / name / "final.pt" for name in ("autoencoder", "difference")]
    if made.exists() and made.stat().st_mtime >= max(path.stat().st_mtime for path in used):
        return
    jobs = [(int(i), False) for i in prepared.train_ids] + [(int(i), True) for i in prepared.val_ids]
    with args.pool() as pool:
        samples = pool.map(partial(_make_sample, args.runs, args.seed), jobs, chunksize=4)
        write_samples(folder, NAMES, samples, [is_val for _, is_val in jobs], 200)


class EditPictures:
    """The samples of a runs folder. scale (E,): mean absolute difference of an edit's train targets at strength 1, in [-1, 1]."""

    def __init__(self, runs: Path) -> None:
        folder = runs / "difference_decoder"
        is_val = np.load(folder / "is_val.npy")
        self.train, self.val = np.flatnonzero(~is_val), np.flatnonzero(is_val)
        arrays = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in NAMES)
        self._source, self._target, self._source_z, self._edited_z, self._strengths = arrays
        self.entries: int = self._source.shape[1]
        self.scale = np.array([self._measured(e) for e in range(len(EDITS))])

    def _measured(self, entry: int) -> float:
        ids = self.train[:: max(1, len(self.train) // 40)]
        size = np.abs(self._target[ids, entry, ::4, ::4].astype(np.float32) - self._source[ids, entry, ::4, ::4]).mean()
        return max(float(size) / 127.5 / max(float(np.abs(self._strengths[ids, entry, entry]).mean()), 0.1), 1e-3)

    def weight(self, sample: int, entry: int) -> float:
        """Of an entry's loss."""
        present = self._strengths[sample, entry] != 0
        return 1.0 / float(self.scale[present].sum() if present.any() else self.scale.mean())

    def whole(self, sample: int, entry: int) -> tuple[Tensor, ...]:
        """Source and edited latents, source and target pictures of one entry, each (1, ...)."""
        latents = [
            torch.from_numpy(a[sample, entry].astype(np.float32))[None] for a in (self._source_z, self._edited_z)
        ]
        return *latents, *(
            planes(torch.from_numpy(a[sample, entry][None].copy())) for a in (self._source, self._target)
        )

    def windows(self, rng: np.random.Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        """A training batch as of `whole`, and its weights (B,). Mirrored ones are not made: latents have no mirror image."""
        rows, weights = [], []
        for sample in np.sort(rng.choice(self.train, BATCH)):
            entry = int(rng.integers(self.entries))
            change = np.abs(
                self._target[sample, entry, ::LATENT_PX, ::LATENT_PX].astype(np.int16)
                - self._source[sample, entry, ::LATENT_PX, ::LATENT_PX]
            ).max(2)
            y, x = (int(v) for v in self._corner(change, rng))
            at, px = np.s_[:, y : y + WINDOW, x : x + WINDOW], LATENT_PX
            there = np.s_[y * px : (y + WINDOW) * px, x * px : (x + WINDOW) * px]
            latents = [a[sample, entry][at].astype(np.float32) for a in (self._source_z, self._edited_z)]
            rows.append((*latents, *(a[sample, entry][there] for a in (self._source, self._target))))
            weights.append(self.weight(sample, entry))
        z, edited, source, target = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
        return (z, edited, planes(source).contiguous(), planes(target).contiguous()), torch.tensor(weights)

    @staticmethod
    def _corner(change: Array, rng: np.random.Generator) -> Array:
        """First row and column of a window, around a place that changes, or anywhere."""
        room, places = len(change) - WINDOW, np.argwhere(change > SHOWS)
        if not len(places) or rng.random() < ANYWHERE_SHARE:
            return rng.integers(0, room + 1, 2)
        return np.asarray(np.clip(places[rng.integers(len(places))] - rng.integers(0, WINDOW, 2), 0, room))
