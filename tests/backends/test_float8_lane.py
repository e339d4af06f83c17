"""A lane whose UNet becomes 8-bit while it works: what it watches, when it changes, what it says; and where that is refused."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mien.engine.bank import EXTENDED  # noqa: E402
from mien.engine.clock import Clock  # noqa: E402
from mien.engine.config import EngineConfig  # noqa: E402
from mien.engine.cuda import network as networks  # noqa: E402
from mien.engine.cuda import on_device as lanes  # noqa: E402
from mien.engine.cuda.face_edit import LaneEdit  # noqa: E402
from mien.engine.cuda.float8 import Float8Linear, Watch, candidates, require_float8  # noqa: E402
from mien.engine.cuda.float8_trial import CALLS, Float8Trial  # noqa: E402
from mien.engine.cuda.graphs import Graphs  # noqa: E402
from mien.engine.cuda.lane import FaceLane, LaneRow  # noqa: E402
from mien.engine.cuda.streams import HostStreams  # noqa: E402
from mien.engine.errors import InputError, RunError, UnavailableError  # noqa: E402
from mien.engine.manifest import Architecture, NetworkSpec  # noqa: E402
from mien.engine.spec import EditSpec  # noqa: E402
from tests import lane_parts as made  # noqa: E402
from tests.backends.test_torch_graphs import Desk  # noqa: E402
from tests.late_device import LateStreams  # noqa: E402

FRAMES, MASK = [made.picture(seed) for seed in range(3)], made.soft_mask()
PLACES = made.affine(20, 12), made.affine(40, 25, 0.9, -0.3)
EDIT = made.Edit((400, 200), policy=EXTENDED)
STREAM = HostStreams().stream()


def wins_where(is_wide: Callable[[Any], bool]) -> Callable[[Callable[[], Any]], float]:
    """A device's clock on which plain layers take 1 s, and 8-bit ones half of that where the answer says so."""
    calls = [0]

    def seconds(work: Callable[[], Any]) -> float:
        out = work()
        calls[0] += 1
        return 1.0 if calls[0] % 2 else 0.5 if is_wide(out) else 2.0

    return seconds


ALWAYS, NEVER = wins_where(lambda out: True), wins_where(lambda out: False)


def rows_of(call: int) -> list[LaneRow]:
    """Two faces a call, one in the second."""
    return [made.row(call % 3, k, PLACES[k], MASK, held=call) for k in range(1 if call == 1 else 2)]


def lane_of(
    seconds: Any, calls: int = CALLS, streams: Any = None, **more: Any
) -> tuple[FaceLane, Any, Float8Trial, dict[str, Any]]:
    parts = made.modules()
    trial = Float8Trial(parts["unet"], seconds, calls)
    lane, pixels = made.lane_of(EDIT, parts, FRAMES, streams=streams, trial=trial, **more)
    return lane, pixels, trial, parts


def eight_bit(module: Any) -> list[str]:
    return [name for name, part in module.named_modules() if isinstance(part, Float8Linear)]


def error(got: Any, want: Any) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


def test_a_lane_goes_on_in_8_bits_after_the_calls_that_are_watched() -> None:
    plain, _ = made.lane_of(EDIT, made.modules(), FRAMES)
    lane, _, trial, parts = lane_of(ALWAYS, calls=4)
    names = sorted(candidates(parts["unet"]))
    for call in range(7):
        rows = rows_of(call)
        for each in (plain, lane):
            each.edit(rows, STREAM)
        far = error(lane.latents[: len(rows)], plain.latents[: len(rows)])
        assert trial.is_settled == (call >= 3)
        assert far < 1e-6 if call < 4 else 1e-4 < far < 0.1, call
    assert sorted(eight_bit(parts["unet"])) == names
    assert trial.note == f"float8: {len(names)} of {len(names)} layers, " + (
        "those that it makes faster on this device, after 4 calls in float16"
    )


def test_scales_are_of_the_faces_alone_with_their_bank_full() -> None:
    """Beside a watch on a plain lane that is given no row to spare; the rows of the largest call are timed."""
    lane, _, _, parts = lane_of(ALWAYS, calls=4, batches=(4,))
    plain_parts = made.modules()
    plain, _ = made.lane_of(EDIT, plain_parts, FRAMES, batches=(1, 2))
    with Watch(plain_parts["unet"]) as watch:
        for call in range(4):
            for each in (plain, lane):
                each.edit(rows_of(call), STREAM)
    seen = watch.seen()
    assert lane.counts.padded == 0 and seen.keys() == candidates(plain_parts["unet"]).keys()
    for name, of in seen.items():
        scale = float(parts["unet"].get_submodule(name).scale)
        assert scale == 2.0 ** math.ceil(math.log2(of.amax / 448)), name
    first = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    assert seen[first].rows == 2 * (made.PX // 8) ** 2


def test_only_layers_that_are_faster_change() -> None:
    lane, _, trial, parts = lane_of(wins_where(lambda out: out.shape[1] > 64), calls=1)
    wide = {name for name, part in candidates(parts["unet"]).items() if part.out_features > 64}
    lane.edit(rows_of(0), STREAM)
    assert set(eight_bit(parts["unet"])) == wide and wide
    assert trial.note.startswith(f"float8: {len(wide)} of ")
    lane, _, trial, parts = lane_of(NEVER, calls=1)
    lane.edit(rows_of(0), STREAM)
    assert trial.is_settled and not eight_bit(parts["unet"]) and "faster in none of the" in trial.note


def test_layers_that_were_replaced_are_given_up() -> None:
    lane, _, trial, parts = lane_of(ALWAYS, calls=2)
    layers = [weakref.ref(layer) for layer in candidates(parts["unet"]).values()]
    for call in range(3):
        assert all(layer() is not None for layer in layers) == (call < 2)
        lane.edit(rows_of(call), STREAM)
        gc.collect()
    assert trial.is_settled and layers and not any(layer() for layer in layers)


def test_nothing_is_recorded_before_the_layers_are_chosen_and_all_sizes_then() -> None:
    desk = Desk()
    graphs = Graphs(desk)
    lane, _, trial, _ = lane_of(ALWAYS, calls=3, graphs=graphs)
    lane.prepare(STREAM)
    for call in range(3):
        assert not graphs.keys and not trial.is_settled
        lane.edit(rows_of(call), STREAM)
    assert trial.is_settled and len(graphs.keys) == 3 == desk.log.count("record") and "replay" not in desk.log
    eager, _, _, _ = lane_of(ALWAYS, calls=3)
    for call in range(3):
        eager.edit(rows_of(call), STREAM)
    for each in (lane, eager):
        each.edit(rows_of(3), STREAM)
    assert desk.log.count("replay") == 1 and desk.log.count("record") == 3
    torch.testing.assert_close(lane.latents[:2], eager.latents[:2])


@pytest.mark.parametrize("seed", range(3))
def test_a_device_that_works_late_changes_nothing(seed: int) -> None:
    device = LateStreams(seed)
    late, _, trial, parts = lane_of(ALWAYS, calls=3, streams=device)
    at_once, _, _, _ = lane_of(ALWAYS, calls=3)
    stream = device.stream()
    for call in range(5):
        late.edit(rows_of(call), stream)
        device.finish()
        at_once.edit(rows_of(call), STREAM)
        torch.testing.assert_close(late.latents[:2], at_once.latents[:2])
    late, _, trial, parts = lane_of(ALWAYS, calls=2, streams=(device := LateStreams(seed)))
    stream = device.stream()
    for _ in range(5):  # all handed over before any of it is done
        late.edit(rows_of(0), stream)
    device.finish()
    assert trial.is_settled and eight_bit(parts["unet"])


def test_a_call_that_fails_is_not_counted() -> None:
    parts = made.modules()
    trial, done = Float8Trial(parts["unet"], ALWAYS, 2), list[int]()

    def fail() -> None:
        raise RunError("no")

    with pytest.raises(RunError):
        trial.run(fail)
    trial.run(lambda: done.append(1))
    assert not trial.is_settled and not any(part._forward_pre_hooks for part in parts["unet"].modules())
    assert "no layer" in trial.note and "ended after 1 of the 2 calls" in trial.note
    trial.run(lambda: done.append(2))
    trial.run(lambda: done.append(3))
    assert trial.is_settled and done == [1, 2, 3] and "none of the" in trial.note


def test_what_overflowed_stays_as_it_is() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 16))
    with torch.no_grad(), Watch(module) as watch:
        module(torch.ones(2, 16))
        module[1](torch.full((1, 16), math.inf))
    assert watch.seen().keys() == {"0"}


def test_a_clip_says_what_was_done() -> None:
    frames, edit = made.clip(8), made.Edit((400,))
    want = made.edited_clip(made.edit_of(edit, HostStreams(), made.modules()), frames)
    for calls, words in ((4, "layers, those that it makes faster"), (99, "of the 99 calls that are watched first")):
        parts = made.modules()
        trial = Float8Trial(parts["unet"], ALWAYS, calls)
        lane = made.edit_of(edit, HostStreams(), parts, trial=trial)
        got = made.edited_clip(lane, frames)
        assert lane.notes == (trial.note,) and words in trial.note
        apart = [
            max(
                np.abs(a.astype(int) - b.astype(int)).max() for a, b in zip(g.frame.planes, w.frame.planes, strict=True)
            )
            for g, w in zip(got, want, strict=True)
        ]
        assert max(apart[:4]) == 0 and max(apart) <= 12
        assert (max(apart[-2:]) > 0) == (calls == 4)
    assert made.edit_of(edit, HostStreams(), made.modules()).notes == ()


def test_a_gpu_gets_halves_to_begin_with_or_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "TorchCuda", lambda device: Desk())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old GPU")
    unet = made.modules()["unet"]
    config: Any = SimpleNamespace(device="cpu", precision="float8", execution="auto")
    for name, dtype in (("sd_unet.UNet", torch.float16), ("landmarks.Landmarks", torch.float32)):
        spec = NetworkSpec("n", "-", "onnx", "-", Architecture(name, {}), {}, {}, {})
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
        require_float8("cuda")
        assert networks.load_on_gpu(spec, unet, config).dtype == dtype  # type: ignore[attr-defined]
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
        with pytest.raises(UnavailableError, match="need compute capability 8.9, an old GPU has 8.6: use float16"):
            networks.load_on_gpu(spec, unet, config)


@pytest.mark.parametrize("execution", ["auto", "compiled"])
def test_a_lane_of_a_gpu_is_given_what_the_config_asks_for(execution: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "CudaStreams", lambda device: HostStreams())
    monkeypatch.setattr(lanes, "TorchCuda", lambda device: Desk())
    parts, edit = made.modules(), made.Edit((400,))
    loaded = {name: SimpleNamespace(module=module) for name, module in parts.items()}
    manifest: Any = SimpleNamespace(latent_channels=4, edits={})
    for precision, is_tried in (("auto", False), ("float8", True)):
        config = EngineConfig(device="cuda", execution=execution, precision=precision)  # type: ignore[arg-type]
        spec, method = EditSpec(prompt="a face"), made.method_of(edit)
        lane = lanes.on_device(config, spec, manifest, method, ("all",), loaded, 2 * made.PX, Clock())
        assert isinstance(lane, LaneEdit) and lane._compiles == (execution == "compiled")
        assert bool(lane.notes) == is_tried and all("ended after 0 of the 8 calls" in note for note in lane.notes)


def test_a_cpu_has_no_such_precision() -> None:
    with pytest.raises(InputError, match="precision is 'float8' on the cpu: use one of auto, float32, .*a CUDA device"):
        EngineConfig(precision="float8")
    assert EngineConfig(precision="float8", device="cuda:1").precision == "float8"
