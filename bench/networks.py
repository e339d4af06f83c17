"""`mien bench networks`: the networks of an SD1.5-class edit, each in every form it can be run in, at several batch sizes.

    python -m mien.bench.networks [--device cuda] [--model sd15] [--network unet ...] [--form graph ...] [--rows 1 8]

The UNet has the W+ adapter and a bank of one frame at 32x32 and below. Weights are random. Timed is the forward pass alone, from
tensors on the device to tensors on the device; FLOPs are those of the network's definition, whatever a form does.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial

import torch

from mien.bench.network_forms import FORMS, SLOW_FORMS, NetworkForms
from mien.bench.options import add_options, exit_by, guarded, open_recorder
from mien.bench.random_networks import LAYOUTS, NETWORKS, RandomNetwork, random_network
from mien.bench.recorder import Case, Recorder, Works
from mien.bench.timing import when_first_called
from mien.engine.errors import UnavailableError

ROWS = (1, 8, 4, 2, 16)
SLOW_ROWS = (8,)
EVERY_FORM = ("unet", "taesd_encoder", "taesd_decoder")
"""Networks that are fused and captured; the others run eagerly or captured."""


def forms_of(name: str, wanted: Sequence[str], rows: int, slow_rows: Sequence[int] = SLOW_ROWS) -> list[str]:
    """Of the wanted forms, those that make sense for a network and a batch size."""
    possible = set(FORMS) if name in EVERY_FORM else {"torch", "graph"}
    if name != "unet":
        possible -= {"fp8", *SLOW_FORMS}  # of the others next to nothing is a product
    elif rows not in slow_rows:
        possible -= set(SLOW_FORMS)
    return [form for form in wanted if form in possible]


def works(network: RandomNetwork, forms: NetworkForms, names: Sequence[str], rows: int) -> Works:
    """Every form on the same inputs, made ready when it is first called."""
    inputs = network.inputs(rows)
    return Works({form: [when_first_called(partial(forms.call, form, inputs))] for form in names})


def cases(
    recorder: Recorder, model: str, names: Sequence[str], wanted: Sequence[str], rows: Sequence[int]
) -> Iterator[Case]:
    """Every network and batch size, the forms that take long to make ready last. A network is made when its turn comes."""
    dtype = torch.float16 if recorder.device != "cpu" else torch.float32
    named = str(dtype).removeprefix("torch.")
    for slow, name in ((slow, name) for slow in (False, True) for name in names):
        chosen = {count: [f for f in forms_of(name, wanted, count) if (f in SLOW_FORMS) == slow] for count in rows}
        if not any(chosen.values()):
            continue
        try:
            network = random_network(name, model, recorder.device, dtype)
        except UnavailableError as error:
            recorder.record({"network": name, "model": model}, "", {"left_out": str(error)})
            continue
        except Exception as error:  # the other networks go on
            recorder.fail({"network": name, "model": model}, "", error)
            continue
        forms = NetworkForms(network, recorder.device, partial(network.inputs, 8))
        for count, some in [(count, some) for count, of in chosen.items() for some in together(of, slow)]:
            yield Case(
                {"network": name, "model": model, "rows": count, "dtype": named},
                partial(works, network, forms, some, count),
                flops=float(network.flops * count),
                dtype=named,
                against="graph" if slow else "torch",
                captured=False,
                includes="the forward pass, device to device",
                more={"weights": "random"},
            )


def together(forms: Sequence[str], slow: bool) -> list[list[str]]:
    """Those that are timed in turns: all of them; of slow ones each beside the captured one, so that it is kept once it is made."""
    return [["graph", form] for form in forms] if slow else [list(forms)] * bool(forms)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a line a row, append the rows to a results folder if one is given."""
    parser = argparse.ArgumentParser(
        prog="mien bench networks", description="Time the networks of an SD1.5-class edit."
    )
    add_options(parser)
    parser.add_argument("--model", choices=sorted(LAYOUTS), default="sd15", help="mini is for tests")
    parser.add_argument(
        "--network", nargs="+", choices=NETWORKS, default=NETWORKS, metavar="NAME", help=", ".join(NETWORKS)
    )
    parser.add_argument(
        "--form", nargs="+", choices=sorted(FORMS), default=list(FORMS), metavar="FORM", help=", ".join(FORMS)
    )
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS, help="of a batch")
    options = parser.parse_args(arguments)
    if min(options.rows) < 1:
        parser.error("--rows must be at least 1")
    recorder = open_recorder("networks", options)
    with torch.no_grad():
        recorder.run(cases(recorder, options.model, options.network, options.form, options.rows))
    exit_by(recorder)


if __name__ == "__main__":
    guarded(main)
