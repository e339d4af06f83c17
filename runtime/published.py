"""Well-known combinations of published files (published.json): where each file lies, and what is made of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from mien.engine.checkpoints.sources import Settings, Sources
from mien.engine.errors import InputError
from mien.engine.spec import nearest

TABLE = "published.json"
HUGGING_FACE = "https://huggingface.co"
_FILES = (
    "unet",
    "vae",
    "text_encoder",
    "tokenizer",
    "wplus",
    "e4e",
    "controlnet",
    "parser",
    "landmarks",
    "identity",
    "depth",
)


@dataclass(frozen=True, slots=True)
class Hosts:
    """Where repositories are served from, as their own sites serve them."""

    huggingface: str = HUGGING_FACE
    github: str = "https://github.com"
    github_raw: str = "https://raw.githubusercontent.com"


@dataclass(frozen=True, slots=True)
class Source:
    """Files of one repository. urls: by file, the places to try in turn."""

    name: str
    licence: str
    urls: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Combination:
    """A bundle that can be pulled. entry: its part of the table."""

    name: str
    description: str
    sources: tuple[Source, ...]
    entry: Mapping[str, Any]

    def request(self, downloads: Path) -> tuple[Sources, Settings]:
        """What to import, once every file lies below `downloads` in its source's folder."""

        def paths(value: Any) -> tuple[Path, ...]:
            return tuple(downloads / path for path in ([value] if isinstance(value, str) else value))

        single = {key: downloads / self.entry[key] for key in _FILES if key in self.entry}
        loras = tuple((downloads / path, float(scale)) for path, scale in self.entry.get("lora", {}).items())
        taesd = paths(self.entry.get("taesd", ()))
        sources = Sources(
            **single,
            taesd=(taesd[0], taesd[1]) if taesd else None,
            loras=loras,
            directions=paths(self.entry.get("directions", ())),
        )
        by_name = {source.name: source.licence for source in self.sources}
        licences = {part: by_name[path.relative_to(downloads).parts[0]] for part, path in sources.given()}
        return sources, Settings(
            sampling=self.entry.get("sampling"), prediction=self.entry.get("prediction"), licences=licences
        )


def combinations(table: Mapping[str, Any] | None = None, hosts: Hosts | None = None) -> dict[str, Combination]:
    """Every combination by name. table: content of published.json, the packaged one unless given."""
    known = table if table is not None else _read_table()
    sources = {name: _source(name, entry, hosts or Hosts()) for name, entry in known["sources"].items()}
    out = {}
    for name, entry in known["bundles"].items():
        wanted = dict.fromkeys(value.partition("/")[0] for value in _values(entry))
        out[name] = Combination(name, entry["description"], tuple(sources[key] for key in wanted), entry)
    return out


def combination(name: str, table: Mapping[str, Any] | None = None, hosts: Hosts | None = None) -> Combination:
    """One by name. Raises InputError with the nearest."""
    known = combinations(table, hosts)
    if name not in known:
        raise InputError(
            f"nothing is known of {name!r}{nearest(name, known)}; mien models pull knows: {', '.join(known)}"
        )
    return known[name]


def _read_table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(files(__package__).joinpath(TABLE).read_text(encoding="utf-8"))
    return table


def _source(name: str, entry: Mapping[str, Any], hosts: Hosts) -> Source:
    revision = entry.get("revision", "main")
    if "huggingface" in entry:
        roots = [f"{hosts.huggingface}/{repository}/resolve/{revision}" for repository in entry["huggingface"]]
    elif "release" in entry:
        roots = [f"{hosts.github}/{entry['release']}/releases/download/{revision}"]
    else:
        roots = [f"{hosts.github_raw}/{entry['github']}/{revision}"]
    return Source(name, entry["licence"], {file: tuple(f"{root}/{file}" for root in roots) for file in entry["files"]})


def _values(entry: Mapping[str, Any]) -> Iterator[str]:
    """Every path of a bundle's entry."""
    for key, value in entry.items():
        if key in _FILES:
            yield value
        elif key in ("taesd", "directions", "lora"):
            yield from value
