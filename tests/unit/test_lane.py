"""The face lane on tensors of the CPU against the edit by way of numpy, face by face."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from mien.engine.bank import ANCHOR, ANCHOR_PREVIOUS, EXTENDED, Policy  # noqa: E402
from mien.engine.cuda.lane import LaneSizes  # noqa: E402
from mien.engine.cuda.streams import HostStreams  # noqa: E402
from mien.engine.errors import ShapeError  # noqa: E402
from mien.engine.face.mask import GRID_PX, FaceMasks  # noqa: E402
from mien.engine.sampler import step_tcd  # noqa: E402
from mien.engine.types import FaceTrack  # noqa: E402
from tests import lane_parts as made  # noqa: E402

GUIDED = {"text": 1.5, "none": -0.5}
CASES = {
    "one step": made.Edit(),
    "two steps, guided": made.Edit((599, 319), GUIDED, step=partial(step_tcd, gamma=0.3)),
    "delta": made.Edit((400, 200), composition="delta"),
    "delta, guided": made.Edit((300,), GUIDED, composition="delta"),
}
PLACES = made.affine(20, 12), made.affine(40, 25, 0.9, -0.3), made.affine(-9, 30, 1.3, 0.5)
STREAM = HostStreams().stream()


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return made.modules()


def farthest(a: made.Planes, b: made.Planes) -> int:
    return max(int(np.abs(x.astype(int) - y.astype(int)).max()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    "case, layout, bits", [*((case, "planar", 8) for case in CASES), ("one step", "paired", 8), ("delta", "paired", 10)]
)
def test_a_batch_is_the_faces_one_by_one(case: str, layout: str, bits: int, parts: dict[str, Any]) -> None:
    """Two faces of one frame and one of another, with a row to spare."""
    edit, mask = CASES[case], made.soft_mask()
    frames = [made.picture(seed, bits) for seed in range(3)]
    lane, pixels = made.lane_of(edit, parts, frames, layout=layout)
    rows = [made.row(0, 1, PLACES[0], mask), made.row(2, 3, PLACES[1], mask, 0.6), made.row(0, 4, PLACES[2], mask)]
    lane.edit(rows, STREAM)
    reference, want = made.Reference(edit, parts), list(frames)
    for i, row in enumerate(rows):
        latents, want[row.frame] = reference(
            FaceTrack(row.slot), want[row.frame], frames[row.frame], row.affine, mask, row.weight
        )
        np.testing.assert_allclose(lane.latents[i : i + 1], latents, atol=1e-4)
    for i, frame in enumerate(frames):
        assert farthest(made.planes_of(pixels.source, i), frame) == 0, "the source stays"
        assert farthest(made.planes_of(pixels.edited, i), want[i]) <= 1
    assert farthest(made.planes_of(pixels.edited, 1), frames[1]) == 0
    assert farthest(want[0], frames[0]) > 8 * 2 ** (bits - 8), "the edit shows"


@pytest.mark.parametrize("case", ["two steps, guided", "delta"])
def test_a_row_knows_nothing_of_its_neighbours(case: str, parts: dict[str, Any]) -> None:
    frames, mask = [made.picture(seed) for seed in range(3)], made.soft_mask()
    rows = [made.row(i, i, place, mask) for i, place in enumerate(PLACES)]
    alone = {}
    for row in rows:
        lane, _ = made.lane_of(CASES[case], parts, frames, batches=(1,))
        lane.edit([row], STREAM)
        alone[row.slot] = lane.latents[0].clone()
    for order in ((0, 1, 2), (2, 0), (1,)):
        lane, pixels = made.lane_of(CASES[case], parts, frames, batches=(4,))
        for track in range(3):
            lane.edit([rows[track]] * 4, STREAM)  # what an earlier call left in the other rows
        lane.edit([rows[i] for i in order], STREAM)
        for place, i in enumerate(order):
            np.testing.assert_allclose(lane.latents[place], alone[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", [EXTENDED, ANCHOR, ANCHOR_PREVIOUS, Policy(("previous",))], ids=str)
def test_banks_of_any_length_share_a_batch(policy: Policy, parts: dict[str, Any]) -> None:
    """One face from the start, one from the third frame, one that begins anew at the fourth."""
    edit = made.Edit((400, 200), GUIDED, policy=policy)
    frames, mask = [made.picture(seed) for seed in range(5)], made.soft_mask()
    lane, _ = made.lane_of(edit, parts, frames)
    assert lane.has_bank
    reference, held, tracks = made.Reference(edit, parts), dict.fromkeys(range(3), 0), [FaceTrack(i) for i in range(3)]
    plain = made.Reference(made.Edit((400, 200), GUIDED), parts)
    for i, frame in enumerate(frames):
        if i == 3:
            tracks[2].forget_frames()
            held[2] = 0
        seen = [0, 2] if i < 2 else [2, 1, 0]
        lane.edit([made.row(i, k, PLACES[k], mask, held=held[k]) for k in seen], STREAM)
        for at, k in enumerate(seen):
            want, _ = reference(tracks[k], frame, frame, PLACES[k], mask, 1.0)
            np.testing.assert_allclose(lane.latents[at : at + 1], want, rtol=1e-5, atol=2e-5)
            alone, _ = plain(FaceTrack(k), frame, frame, PLACES[k], mask, 1.0)
            assert (np.abs(want - alone).max() > 4e-4) == (held[k] > 0), "the bank is read once there is one"
            held[k] += 1


def test_masks_are_enlarged_as_the_host_enlarges_them(parts: dict[str, Any]) -> None:
    small, frame = made.soft_mask(32), made.picture(0)
    small[10:14, 3:9] = 0.004
    large = FaceMasks(np.zeros((4, GRID_PX, GRID_PX)), np.zeros((68, 2)), made.PX).enlarged(small)
    lane, pixels = made.lane_of(made.Edit(), parts, [frame], soft_px=32)
    whole, other = made.lane_of(made.Edit(), parts, [frame])
    lane.edit([made.row(0, 0, PLACES[0], small)], STREAM)
    whole.edit([made.row(0, 0, PLACES[0], large)], STREAM)
    assert farthest(made.planes_of(pixels.edited, 0), made.planes_of(other.edited, 0)) == 0


def test_what_a_lane_cannot_be() -> None:
    for wrong in ({"crop_px": 60}, {"crop_px": 64, "soft_px": 128}, {"crop_px": 64, "soft_px": 64, "batches": (2, 1)}):
        with pytest.raises(ShapeError, match="accepted"):
            LaneSizes(**wrong)  # type: ignore[arg-type]
