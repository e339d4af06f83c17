"""The pair generators of the recipe, on a drawn face."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mien.export.tiny import edit_pictures, pairs
from mien.export.tiny.dataset import Prepared
from mien.export.tiny.draw_age import age, smile_folds
from mien.export.tiny.draw_glasses import sunglasses
from mien.export.tiny.draw_makeup import lips, lipstick, skin_tone
from mien.export.tiny.edit_pairs import Noiser, alphas_cumprod
from mien.export.tiny.face_marks import CREASES, FOLDS, Canvas
from mien.export.tiny.matte import hair_matte, skin_mask
from mien.export.tiny.paint import EDITS, EDITS_FILE, Face, crop_scale_of, make_pair, opened
from mien.export.tiny.recolour import HAIR_COLOURS, recolour_hair
from mien.export.tiny.strokes import (
    BROWS,
    EYES,
    INNER_LOWER,
    INNER_UPPER,
    OUTER_LOWER,
    OUTER_UPPER,
    FaceAxes,
    side_weights,
)
from mien.export.tiny.teachers import MESH_TO_68, OVAL

SIZE = 128


def _ellipse(centre: tuple[float, float], rx: float, ry: float, count: int) -> np.ndarray:
    angle = np.linspace(-np.pi, np.pi, count, endpoint=False)
    return np.stack([centre[0] + rx * np.cos(angle), centre[1] + ry * np.sin(angle)], 1)


def _mesh(gap: float = 0.0) -> np.ndarray:
    """478 points on an ellipse and on plausible places of what the generators use; gap: of the lips, in pixels."""
    rng = np.random.default_rng(0)
    mesh = np.concatenate([rng.uniform(44, 84, (478, 2)), np.zeros((478, 1))], 1)
    angle = np.linspace(-np.pi / 2, 1.5 * np.pi, len(OVAL), endpoint=False)
    mesh[OVAL, :2] = np.stack([64 + 30 * np.cos(angle), 70 + 42 * np.sin(angle)], 1)
    for ring, x in zip(EYES, (48, 80), strict=True):
        mesh[list(ring), :2] = _ellipse((x, 60), 6, 3, len(ring))
    mesh[list(EYES[1]), 0] = 160 - mesh[list(EYES[1]), 0]  # outer corner first
    for ring, x in zip(BROWS, (48, 80), strict=True):
        mesh[list(ring), :2] = _ellipse((x, 51), 8, 2, len(ring))
    t = np.linspace(-1, 1, 11)
    bow = 1 - t**2
    for arc, half, y in (
        (OUTER_UPPER, 10, 90 - 4 * bow),
        (OUTER_LOWER, 10, 90 + gap + 5 * bow),
        (INNER_UPPER, 8, 90 + 0 * bow),
        (INNER_LOWER, 8, 90 + gap * bow),
    ):
        mesh[list(arc), :2] = np.stack([64 + half * t, y], 1)
    places = {33: (42, 60), 133: (54, 60), 263: (86, 60), 362: (74, 60), 105: (47, 50), 334: (81, 50), 168: (64, 60)}
    places |= {234: (34, 68), 454: (94, 68), 164: (64, 82), 1: (64, 74), 2: (64, 79)}
    for index, at in places.items():
        mesh[index, :2] = at
    return mesh


@pytest.fixture
def face() -> Face:
    rgb = np.full((SIZE, SIZE, 3), (0.3, 0.5, 0.6), np.float32)
    mesh = _mesh()
    person = cv2.fillPoly(np.zeros((SIZE, SIZE), np.float32), [mesh[OVAL, :2].astype(np.int32)], 1.0)
    hair = np.zeros((SIZE, SIZE), np.float32)
    hair[4:26, 30:98] = 1.0
    rgb[person > 0] = (0.8, 0.6, 0.5)
    rng = np.random.default_rng(1)
    rgb[hair > 0] = np.float32([0.35, 0.22, 0.12]) * rng.uniform(0.7, 1.3, (int((hair > 0).sum()), 1)).astype(
        np.float32
    )
    return Face(rgb, mesh, hair, person)


@pytest.mark.parametrize("colour", HAIR_COLOURS)
def test_recolour_reaches_its_colour_and_leaves_the_rest(face: Face, colour: str) -> None:
    rgb, _, hair, _ = face
    out = recolour_hair(rgb, hair, colour, 1.0)
    far = cv2.dilate(hair, np.ones((17, 17), np.uint8)) == 0
    np.testing.assert_allclose(out[far], rgb[far], atol=2e-3)
    deep = cv2.erode(hair, np.ones((9, 9), np.uint8)) > 0
    lab = cv2.cvtColor(out, cv2.COLOR_RGB2LAB)[deep]
    assert abs(lab[:, 0].mean() - HAIR_COLOURS[colour][0]) < 5.0
    assert abs(lab[:, 2].mean() - HAIR_COLOURS[colour][2]) < 6.0
    assert lab[:, 0].std() > 1.0  # strands survive


def test_dark_never_brightens_black_hair(face: Face) -> None:
    rgb, _, hair, _ = face
    rgb[hair > 0] *= 0.1
    assert recolour_hair(rgb, hair, "hair_dark", 1.0)[hair > 0].mean() <= rgb[hair > 0].mean() + 0.01


def test_recolour_needs_hair_and_strength(face: Face) -> None:
    rgb, _, hair, _ = face
    assert recolour_hair(rgb, 0 * hair, "hair_dark", 1.0) is rgb
    assert recolour_hair(rgb, hair, "hair_dark", 0.0) is rgb


def test_the_matte_follows_the_picture(face: Face) -> None:
    """A mask that is two pixels too large comes back to the edge that the picture shows."""
    rgb, _, hair, _ = face
    alpha = hair_matte(rgb, cv2.dilate(hair, np.ones((5, 5), np.uint8)))
    assert alpha[8:22, 40:90].min() > 0.8
    assert alpha[27, 36:60].mean() < 0.5 and alpha[40:].max() < 0.05


def test_sunglasses_darken_the_eyes_only(face: Face) -> None:
    rgb, mesh, _, _ = face
    out = sunglasses(rgb, mesh, 1.0)
    for x in (48, 80):
        assert out[60, x].max() < 0.25 < rgb[60, x].min()
    np.testing.assert_array_equal(out[:40], rgb[:40])
    np.testing.assert_allclose(out[90:], rgb[90:], atol=0.01)


def test_age_has_two_opposite_signs(face: Face) -> None:
    rgb, mesh, hair, person = face
    older = age(rgb, mesh, hair, person, 1.0, np.random.default_rng(0))
    younger = age(rgb, mesh, hair, person, -1.0, np.random.default_rng(0))
    deep = cv2.erode(hair, np.ones((9, 9), np.uint8)) > 0
    np.testing.assert_allclose(older[deep], rgb[deep], atol=0.01)  # hair_grey is an edit of its own
    skin = (person > 0) & (hair == 0)
    assert older[skin].std(0).sum() > 1.2 * rgb[skin].std(0).sum()  # lines and mottle
    assert younger[skin].mean() > rgb[skin].mean() + 0.01


def test_age_grows_evenly_and_repeats(face: Face) -> None:
    rgb, mesh, hair, person = face
    for sign in (-1, 1):
        half, whole = (age(rgb, mesh, hair, person, s * sign, np.random.default_rng(0)) for s in (0.5, 1.0))
        np.testing.assert_allclose(half - rgb, (whole - rgb) / 2, atol=1e-5)
        again = age(rgb, mesh, hair, person, sign, np.random.default_rng(1))
        np.testing.assert_allclose(again, whole, atol=0.02)  # chance is no wider than grain


def test_age_marks_are_wide_and_fade_on_the_side_turned_away() -> None:
    """A line narrower than three pixels of a 256 px crop, on which the eyes are 75 apart, is lost on the network."""
    assert all(crease.width * 75 + 1e-6 >= 2.8 for crease in CREASES)
    mesh = _mesh()
    mesh[[129, 203, 206, 216, 212], :2] = [(54, 76), (52, 80), (50, 84), (48, 88), (47, 92)]
    frontal = Canvas.of(mesh, (SIZE, SIZE)).draw(FOLDS[:1], 0.1)
    mesh[234, 0] = 56.0
    turned = Canvas.of(mesh, (SIZE, SIZE)).draw(FOLDS[:1], 0.1)
    assert frontal.max() > 0.4 and turned.max() < 0.5 * frontal.max()


def test_dark_glasses_do_not_age(face: Face) -> None:
    rgb, mesh, hair, person = face
    rgb[55:66, 40:57] = 0.03
    for strength in (-1.0, 1.0):
        out = age(rgb, mesh, hair, person, strength, np.random.default_rng(0))
        np.testing.assert_allclose(out[58:63, 44:53], rgb[58:63, 44:53], atol=0.02)


def test_smile_folds_shade_little_and_vanish_at_zero(face: Face) -> None:
    rgb, mesh, _, _ = face
    np.testing.assert_allclose(smile_folds(rgb, mesh, 0.0), rgb, atol=1e-6)
    change = np.abs(smile_folds(rgb, mesh, 1.0) - rgb)
    assert 0.02 < change.max() < 0.35


def test_lipstick_is_red_on_the_lips_only(face: Face) -> None:
    rgb, mesh, _, person = face
    out = lipstick(rgb, mesh, person, 1.0)
    on = lips(mesh, (SIZE, SIZE))
    lab = cv2.cvtColor(out, cv2.COLOR_RGB2LAB)
    assert lab[on > 0.9][:, 1].mean() > 30
    np.testing.assert_allclose(out[on == 0], rgb[on == 0], atol=1e-6)


def test_lipstick_spares_the_open_mouth() -> None:
    inside = lips(_mesh(gap=12.0), (SIZE, SIZE))
    assert inside[96, 64] == 0.0 and inside[88, 64] > 0.8 and inside[104, 64] > 0.8


def test_skin_tone_has_two_opposite_signs(face: Face) -> None:
    rgb, mesh, hair, person = face
    skin = skin_mask(rgb, mesh, hair, person)
    assert skin[75, 48] > 0.9 and skin[60, 48] < 0.1 and skin[90, 64] < 0.1 and skin[:, :20].max() < 0.05
    tanned, pale = (skin_tone(rgb, mesh, hair, person, s) for s in (1.0, -1.0))
    assert tanned[75, 48].mean() < rgb[75, 48].mean() - 0.05 < pale[75, 48].mean() - 0.08
    np.testing.assert_allclose(tanned[:, :20], rgb[:, :20], atol=1e-3)


def test_a_side_turned_away_is_not_seen() -> None:
    mesh = _mesh()
    assert side_weights(mesh) == (1.0, 1.0)
    mesh[234, 0] = 58.0
    assert side_weights(mesh)[0] < 0.3 and side_weights(mesh)[1] == 1.0


@pytest.mark.parametrize("name", EDITS)
def test_every_pair_is_nothing_at_zero_and_grows(face: Face, name: str) -> None:
    changes = []
    for strength in (0.0, 0.4, 1.0):
        given = {name: strength}
        source, target = make_pair(given, face, np.random.default_rng(0))
        assert target.shape == face.rgb.shape and target.dtype == np.float32
        assert 0 <= target.min() and target.max() <= 1
        changes.append(float(np.abs(target - source.rgb).sum()))
    assert changes[0] == 0.0 and 0 < changes[1] < changes[2]


def test_points_move_with_the_picture(face: Face) -> None:
    """A dot on the lower lip's edge lies, after the mouth has opened, where the mesh says that the edge now lies."""
    index = OUTER_LOWER[len(OUTER_LOWER) // 2]
    x, y = face.mesh[index, :2]
    dotted = face.rgb.copy()
    cv2.circle(dotted, (round(x), round(y)), 1, (0.0, 1.0, 0.0), -1)
    moved, plain = opened(face._replace(rgb=dotted), 1.0), opened(face, 1.0)
    rows, columns = np.nonzero(np.abs(moved.rgb - plain.rgb).sum(-1) > 0.1)
    assert moved.mesh[index, 1] > y + 5
    np.testing.assert_allclose(moved.mesh[index, :2], (columns.mean(), rows.mean()), atol=0.5)


def test_edits_at_once_are_painted_over_each_other(face: Face) -> None:
    rng = np.random.default_rng(0)
    _, red = make_pair({"hair_red": 1.0}, face, rng)
    source, both = make_pair({"sunglasses": 1.0, "hair_red": 1.0}, face, rng)
    assert source is face
    np.testing.assert_array_equal(both[:40], red[:40])
    assert both[60, 48].max() < 0.3
    moved, smiling = make_pair({"smile": 1.0, "hair_red": 1.0}, face, rng)
    assert np.abs(moved.rgb - face.rgb).max() > 0.02 and np.abs(moved.mesh - face.mesh).max() > 1
    np.testing.assert_allclose(smiling[:26], red[:26], atol=0.02)


def test_unknown_pair(face: Face) -> None:
    with pytest.raises(ValueError, match="hair_dark"):
        make_pair({"wings": 1.0}, face, np.random.default_rng(0))


def test_strengths_keep_to_the_ranges_of_the_edits() -> None:
    rng = np.random.default_rng(0)
    edits = json.loads(EDITS_FILE.read_text())
    assert {edit["direction"] for edit in edits.values()} - {None} == set(EDITS)
    for name in EDITS:
        low, high = edits[name]["range"]
        drawn = [pairs.draw_strength(name, rng) for _ in range(60)]
        assert low <= min(drawn) and max(drawn) <= high
        assert (min(drawn) < 0) == (low < 0)


def test_combinations_are_of_edits_that_go_together() -> None:
    rng = np.random.default_rng(0)
    for full in (True, False):
        entries = pairs.draw_entries(rng, full)
        assert entries.shape == (len(EDITS) + pairs.COMBINATIONS, len(EDITS))
        singles, several = np.split(entries != 0, [len(EDITS)])
        assert np.array_equal(singles, np.eye(len(EDITS), dtype=bool))
        assert set(several.sum(1)) <= {2, 3, 4}
    counts, widths = set(), set()
    for _ in range(100):
        names = pairs.draw_combination(rng)
        assert 2 <= len(names) <= 4 and len(pairs.ALTERNATIVES.intersection(names)) <= 1
        (width,) = {crop_scale_of(name) for name in names}  # the engine makes edits of other widths in another pass
        counts.add(len(names))
        widths.add(width)
    assert counts == {2, 3, 4} and len(widths) == 2


@pytest.fixture
def prepared(face: Face) -> Prepared:
    """One tile: the drawn face twice as large, in the middle of its padded crop."""
    m = np.array([[2.0, 0, 32.5], [0, 2.0, 32.5]])
    rgb, hair, person = (
        (cv2.warpAffine(p, m, (320, 320), borderMode=cv2.BORDER_REPLICATE) * 255).astype(np.uint8)[None]
        for p in (face.rgb, face.hair, face.person)
    )
    mesh = face.mesh * 2 + [32.5, 32.5, 0]
    points = mesh[None].astype(np.float32)
    return Prepared(rgb, np.full_like(hair, 255), hair, person, points, points, [{}], np.array([0]), np.array([0]))


def test_the_wide_crop_shows_the_same_face_smaller(prepared: Prepared) -> None:
    """Without draws the usual crop is the tile's middle, pixel by pixel, and the wide one 1.3 times as wide, as edits.json has it."""
    usual, wide = (pairs.face_of(prepared, 0, pairs.Look(), w) for w in (False, True))
    np.testing.assert_array_equal(np.round(usual.rgb * 255), prepared.crops[0, 32:-32, 32:-32])
    np.testing.assert_allclose(usual.mesh[:, :2], prepared.points[0, :, :2] - 32, atol=1e-3)
    np.testing.assert_allclose((wide.mesh[:, :2] - 127.5) * 1.3, usual.mesh[:, :2] - 127.5, atol=1e-3)
    np.testing.assert_allclose(wide.hair.sum() * 1.3**2, usual.hair.sum(), rtol=0.02)
    rows, columns = np.nonzero(wide.hair > 0.5)
    inside = cv2.warpAffine(wide.rgb, np.array([[1.3, 0, -38.25], [0, 1.3, -38.25]]), (256, 256))
    assert np.abs(inside - usual.rgb)[20:-20, 20:-20].mean() < 0.02 and rows.min() > 0 and columns.min() > 0


def test_both_crops_of_a_sample_have_the_same_draws(prepared: Prepared) -> None:
    looks = [pairs.draw_look(np.random.default_rng(seed)) for seed in range(40)]
    assert 0.1 < np.mean([look.opened > 0 for look in looks]) < 0.6
    width = [look.width for look in looks]
    assert 1.0 <= min(width) < 1.05 and 1.3 < max(width) <= 1.35
    look = looks[0]._replace(opened=0.0)
    usual, wide = (pairs.face_of(prepared, 0, look, w).mesh[:, :2] - 127.5 - look.shift for w in (False, True))
    np.testing.assert_allclose(wide * look.width, usual, atol=1e-3)
    closed, opened_wide = (pairs.face_of(prepared, 0, look._replace(opened=s), True).mesh[:, 1] for s in (0.0, 0.8))
    assert np.abs(opened_wide - closed).max() > 3


@pytest.mark.parametrize("k", [-1, 0])
def test_entries_are_of_the_crop_that_their_edits_are_deployed_on(
    prepared: Prepared, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encoder(pictures: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(pictures, 8)

    monkeypatch.setattr(pairs, "_state", (prepared, encoder))
    plain_w, source_z, target_z, target_w, points, strengths = pairs._make_sample(Path(), 0, (0, k))
    entries = len(EDITS) + pairs.COMBINATIONS
    assert source_z.shape == target_z.shape == (entries, 3, 32, 32) and points.shape == (entries, 68, 2)
    assert target_w.shape == (entries, 128, 128, 3) and plain_w.shape == (128, 128, 3)
    wide = np.array([any(crop_scale_of(e) > 1 for e, s in zip(EDITS, row, strict=True) if s) for row in strengths])
    eyes = np.linalg.norm(points[:, 36].astype(float) - points[:, 45], axis=1)
    assert np.ptp(eyes[wide]) < 0.2 and (k == 0 or eyes[~wide].min() / eyes[wide].max() > 1.25)
    names = list(EDITS)
    lipstick, dark = names.index("lipstick"), names.index("hair_dark")

    def seen(z: np.ndarray) -> np.ndarray:
        return cv2.resize(z.transpose(1, 2, 0).astype(np.float32) * 127.5 + 127.5, (32, 32))

    small = cv2.resize(plain_w, (32, 32), interpolation=cv2.INTER_AREA)
    assert np.abs(seen(source_z[lipstick]) - small).mean() < 1 < np.abs(seen(source_z[dark]) - small).mean()
    for e in (lipstick, dark):  # an edit's target is of the crop of its source
        shown = cv2.resize(target_w[e], (32, 32), interpolation=cv2.INTER_AREA)
        assert np.abs(seen(target_z[e]) - shown).mean() < 1
        assert np.median(np.abs(target_z[e] - source_z[e])) < 0.01 < np.abs(target_z[e] - source_z[e]).max()


def test_a_sample_is_what_the_network_answers_for_its_source(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    def difference(
        noised: torch.Tensor,
        source: torch.Tensor,
        t: torch.Tensor,
        w: torch.Tensor,
        edited: torch.Tensor,
        at: torch.Tensor,
    ) -> torch.Tensor:
        assert at.shape == (len(source), 2, 32, 32) and (t == edit_pictures.T_VAL).all()
        return (edited - w).mean((1, 2))[:, None, None, None].expand_as(source)

    model = type("Model", (), {})()
    model.w_encoder = lambda views: torch.zeros(len(views), 12, 64)
    model.directions = torch.ones(len(EDITS), 12, 64)
    model.difference = difference

    def encoder(pictures: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(pictures, 8)

    held = edit_pictures._Networks(prepared, encoder, model, Noiser(alphas_cumprod()))
    monkeypatch.setattr(edit_pictures, "_state", held)
    for is_val in (True, False):
        source, target, z, edited, strengths = edit_pictures._make_sample(Path(), 0, (0, is_val))
        entries = len(EDITS) + pairs.COMBINATIONS
        assert source.shape == target.shape == (entries, 256, 256, 3) and source.dtype == target.dtype == np.uint8
        blocks = source.reshape(entries, 32, 8, 32, 8, 3).mean((2, 4)).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(z, blocks / 127.5 - 1, atol=2e-3)
        told = (edited.astype(np.float32) - z).mean((1, 2, 3))
        np.testing.assert_allclose(told, strengths.sum(1), atol=5e-3)
        assert np.array_equal(strengths, np.sign(strengths)) == is_val
        changed = np.abs(target.astype(np.int16) - source).max((1, 2, 3))
        assert (changed > 2)[np.abs(strengths).sum(1) > 0.5].all() and not changed[~strengths.any(1)].any()


def test_landmarks_of_a_mirrored_face(face: Face) -> None:
    plain, mirrored = (pairs.landmarks_of(face, flip) for flip in (False, True))
    np.testing.assert_allclose(mirrored[36], [255 - plain[45, 0], plain[45, 1]], atol=0.1)
    np.testing.assert_allclose(plain, face.mesh[MESH_TO_68, :2], atol=0.1)


def test_axes_of_a_turned_face() -> None:
    mesh = _mesh()
    turned = mesh.copy()
    turned[:, 0], turned[:, 1] = -mesh[:, 1], mesh[:, 0]  # a quarter turn
    axes = FaceAxes.of(turned)
    np.testing.assert_allclose(axes.right, [0, 1], atol=1e-12)
    np.testing.assert_allclose(axes.down, [-1, 0], atol=1e-12)
    assert axes.iod_px == pytest.approx(32.0)
