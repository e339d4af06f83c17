"""The networks that find and measure faces in an imported bundle: the user's, or copies of the embedded bundle's."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from mien.engine.backend import Artifact
from mien.engine.bundle import MANIFEST, PACKAGED, Bundle
from mien.engine.errors import BundleError

EMBEDDED = PACKAGED / "tiny"


def embedded_networks(names: Iterable[str]) -> tuple[dict[str, Any], dict[str, bytes], str]:
    """Manifest entries by name, files by path, verified, and the licence, out of the embedded bundle. Raises BundleError."""
    bundle = Bundle.open(EMBEDDED)
    whole = json.loads((EMBEDDED / MANIFEST).read_text(encoding="utf-8"))
    entries: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    for name in names:
        spec = bundle.networks[name]
        entries[name] = whole["networks"][name]
        files[spec.file] = Artifact(bundle.folder / spec.file, spec.sha256).read()
        if spec.int8 is not None:
            files[spec.int8.file] = Artifact(bundle.folder / spec.int8.file, spec.int8.sha256).read()
    licence = bundle.manifest.licences.get("weights", "not stated")
    return entries, files, f"{licence}, from the bundle {bundle.name} {bundle.manifest.version}"


def depth_entry(path: Path, file: str, crop_px: int) -> dict[str, Any]:
    """The manifest entry of a depth network in ONNX: image (1, 3, S, S) in [-1, 1] -> depth (1, 1, any, any), float32.

    Raises BundleError for another signature, or a side that is fixed and not the crop's.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError) as error:
        raise BundleError(f"{path} is not an ONNX file: {error}") from None
    graph = model.graph
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer):
        raise BundleError(f"{path} keeps its weights in other files: save it as one file")
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    have = ", ".join(f"{v.name} {_dims(v)}" for v in [*inputs, *graph.output])
    wrong = BundleError(
        f"{path} has {have or 'no inputs'}; a depth network is image (1, 3, {crop_px}, {crop_px}) or with free sides ->"
        " depth (1, 1, H, W), float32"
    )
    if [v.name for v in inputs] != ["image"] or [v.name for v in graph.output] != ["depth"]:
        raise wrong
    image, depth = _dims(inputs[0]), _dims(graph.output[0])
    fits = len(image) == len(depth) == 4 and image[1] == 3 and image[0] in (1, "?") and depth[1] in (1, "?")
    if (
        not fits
        or any(side not in (crop_px, "?") for side in image[2:])
        or not all(map(_is_float, (inputs[0], graph.output[0])))
    ):
        raise wrong
    sides: list[int | str] = [crop_px if image[2 + i] == crop_px else name for i, name in enumerate("HW")]
    return {
        "file": file,
        "format": "onnx",
        "architecture": {"name": "depth.Depth", "kwargs": {}},
        "inputs": {"image": {"shape": [1, 3, *sides], "dtype": "float32"}},
        "outputs": {"depth": {"shape": [1, 1, "?", "?"], "dtype": "float32"}},
    }


def _dims(value: Any) -> tuple[int | str, ...]:
    shape = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else "?" for dim in shape)


def _is_float(value: Any) -> bool:
    return bool(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT)
