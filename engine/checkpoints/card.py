"""The model card of an imported bundle: what it was made of, what it can do, and whose licences it is under."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WARNINGS: Mapping[str, str] = {
    "unet": "Stable Diffusion 1.x and 2.x come under OpenRAIL licences, whose restrictions of use go with the weights;"
    " SD-Turbo under Stability AI's community licence, which restricts commercial use.",
    "wplus": "The W+ Adapter is under the S-Lab License 1.0: non-commercial use only.",
    "e4e": "e4e was trained with NVIDIA's StyleGAN2 of FFHQ and an IR-SE50 face network, both non-commercial.",
    "identity": "The weights of insightface and of IR-SE50 are for non-commercial research.",
    "landmarks": "cunjian/pytorch_face_landmark has no licence file, so nothing is permitted in writing.",
    "parser": "zllrunning's parser is MIT; its training pictures, CelebAMask-HQ, are for non-commercial research.",
    "directions": "The published W+ directions derive from sources under CC BY-NC: non-commercial use only.",
}


@dataclass(frozen=True, slots=True)
class Provenance:
    """A part and the files it came from: the folder's and the file's name, sha256."""

    part: str
    files: tuple[tuple[str, str], ...]
    licence: str


def model_card(
    name: str, parts: Sequence[Provenance], facts: Mapping[str, str], edits: Sequence[str], notes: Sequence[str]
) -> str:
    """Markdown. facts: what the bundle is set to, by name. notes: what the import left out."""
    lines = [
        f"# {name}",
        "",
        "Assembled on this machine by `mien models import` out of files that others published. mien's authors did not make,",
        "check or license those weights.",
        "",
        "## Parts",
        "",
        "| part | file | sha256 |",
        "|---|---|---|",
        *(f"| {p.part} | {_cell(file)} | `{sha256}` |" for p in parts for file, sha256 in p.files),
        "",
        "## Settings",
        "",
        *(f"- {key}: {value}" for key, value in facts.items()),
        *(f"- note: {note}" for note in notes),
        "",
        "## Edits",
        "",
        f"{', '.join(edits)}." if edits else "No directions were given: the bundle is edited by prompts.",
        "",
        "## Licences",
        "",
        "| part | licence |",
        "|---|---|",
        *(f"| {p.part} | {_cell(p.licence)} |" for p in parts),
        "",
        *(f"- {WARNINGS[p.part]}" for p in parts if p.part in WARNINGS),
        "- The bundle as a whole may be used only as the strictest of these licences allows. Do not pass it on unless every one"
        " of them lets you.",
        "",
    ]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
