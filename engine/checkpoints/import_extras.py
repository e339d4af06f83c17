"""What an imported bundle has beside its Stable Diffusion model: face networks, depth, the W+ adapter, a ControlNet."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from mien.engine.checkpoints import faces, network_entries
from mien.engine.checkpoints.analysis import depth_entry, embedded_networks
from mien.engine.checkpoints.card import Provenance
from mien.engine.checkpoints.draft import Draft
from mien.engine.checkpoints.face_fit import FaceNetwork
from mien.engine.checkpoints.parts import Parts, controlnet_layout
from mien.engine.checkpoints.reading import flatten, read_nested
from mien.engine.checkpoints.sources import Sources
from mien.engine.errors import BundleError
from mien.engine.networks.sd_layout import Layout, wplus_weights

ANALYSIS = ("detector", "landmarks", "parser")


def add_analysis(draft: Draft, sources: Sources) -> None:
    """parser, landmarks, identity and depth that are given; detector, landmarks and parser that are not, as `tiny` has them."""
    draft.tell("reading the face networks")
    for network, path, read in (
        ("parser", sources.parser, faces.bisenet),
        ("landmarks", sources.landmarks, faces.landmarks),
        ("identity", sources.identity, faces.identity),
    ):
        if path is not None:
            _add_face(draft, network, path, read(read_nested(path), str(path)))
            draft.came_from(network, (path,))
    if sources.depth is not None:
        draft.networks["depth"] = depth_entry(sources.depth, "depth.onnx", draft.settings.crop_px)
        draft.files["depth.onnx"] = sources.depth
        draft.came_from("depth", (sources.depth,))
    copied = [name for name in ANALYSIS if name not in draft.networks]
    entries, files, licence = embedded_networks(copied)
    draft.networks |= entries
    draft.files |= files
    draft.provenance.append(Provenance(", ".join(copied), (), licence))


def add_adapter(draft: Draft, wplus: Path, e4e: Path, layout: Layout) -> dict[str, Tensor]:
    """w_projection and w_encoder; the adapter's attention weights under the UNet's names. Raises BundleError."""
    raw = read_nested(wplus)
    projection = faces.wplus_projection(raw, str(wplus))
    width = projection.state["norm.weight"].shape[0]
    if width != layout.cross_attention_dim:
        raise BundleError(
            f"{wplus} makes tokens {width} wide, the UNet reads {layout.cross_attention_dim}: the W+ Adapter is for SD1.5"
        )
    prefix = "wplus_adapter."
    flat = flatten(raw, str(wplus))
    published = {key.removeprefix(prefix): tensor for key, tensor in flat.items() if key.startswith(prefix)}
    weights = wplus_weights(published, layout, str(wplus))
    _add_face(draft, "w_projection", wplus, projection)
    draft.came_from("wplus", (wplus,))
    draft.tell(f"reading {e4e.name}")
    _add_face(draft, "w_encoder", e4e, faces.e4e(read_nested(e4e), str(e4e)))
    draft.came_from("e4e", (e4e,))
    return weights


def add_controlnet(draft: Draft, parts: Parts, path: Path, layout: Layout) -> None:
    """controlnet and control_context. Raises BundleError."""
    draft.tell(f"reading {path.name}, controlnet")
    part = parts.read(path, "controlnet")
    entries = network_entries.controlnet_entries("controlnet.safetensors", controlnet_layout(part, layout))
    draft.write("controlnet.safetensors", part.state, entries)
    draft.came_from("controlnet", part.files)


def _add_face(draft: Draft, network: str, path: Path, found: FaceNetwork) -> None:
    network_entries.check_code_width(str(path), found.kwargs)
    file = f"{network}.safetensors"
    entry = network_entries.face_entry(network, file, found.architecture, found.kwargs)
    draft.write(file, found.state, {network: entry})
