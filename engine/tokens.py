"""CLIP's tokenizer (Radford et al. 2021, section 2.4): a prompt becomes 77 token ids, and what of it did not fit is answered too.

The byte-pair encoding is transformers'; the files are those of a published `tokenizer` folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mien.engine.errors import BundleError, EditError, UnavailableError
from mien.engine.types import Array

VOCABULARY, MERGES, CONFIG, SPECIAL = FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """A prompt as a text encoder reads it.

    ids: (1, length) int64, start, prompt, end, padding. lost: the end of the prompt that did not fit, as it was written; "" if all did.
    """

    ids: Array
    lost: str = ""


class Tokenizer:
    """Prompts to tokens.

    files: content of vocab.json and merges.txt, and, where there are, tokenizer_config.json and special_tokens_map.json, which name the
    padding (SD 1: the end token 49407, SD 2: "!", 0). source: where they come from, for errors. length: of the answer, with start and end.
    Raises BundleError, or UnavailableError without transformers.
    """

    def __init__(self, files: Mapping[str, bytes], source: str = "tokenizer", length: int = 77) -> None:
        if find_spec("transformers") is None:
            raise UnavailableError("the tokenizer needs transformers: pip install 'mien[export]'")
        for name in (VOCABULARY, MERGES):
            if name not in files:
                raise BundleError(f"{source} has no {name}: give the tokenizer folder of a Stable Diffusion repository")
        vocabulary = _read_json(files, VOCABULARY, source)
        merges = _read_merges(files[MERGES], f"{source}/{MERGES}")
        pad = _padding(_read_json(files, CONFIG, source), _read_json(files, SPECIAL, source))
        for token in (BOS, EOS, pad, *(part for a, b in merges for part in (a, b, a + b))):
            if not isinstance(vocabulary.get(token), int):
                raise BundleError(
                    f"{source}/{VOCABULARY} has no id for {token!r}: give CLIP's, and the {MERGES} beside it"
                )
        self.length = length
        self.bos, self.eos, self.pad = (vocabulary[token] for token in (BOS, EOS, pad))
        # Padding is added below, not by the library: there "!" in a prompt would become SD 2's padding.
        self._encode = import_module("transformers").CLIPTokenizer(vocab=vocabulary, merges=merges)

    @classmethod
    def open(cls, folder: Path, length: int = 77) -> Tokenizer:
        """Out of a folder. Raises BundleError, UnavailableError."""
        try:
            files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}
        except OSError as error:
            raise BundleError(f"cannot read {error.filename}: {error.strerror}") from None
        return cls(files, str(folder), length)

    def encode(self, prompt: str) -> Tokens:
        """The prompt's tokens, cut to `length` with what was lost said. Raises EditError for a prompt that is not valid Unicode."""
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError:
            raise EditError(f"the prompt {prompt!r} is not valid Unicode: write it in UTF-8") from None
        answer = self._encode(prompt, add_special_tokens=False, return_offsets_mapping=True)
        words, offsets = answer["input_ids"], answer["offset_mapping"]
        room = self.length - 2
        lost = prompt[offsets[room][0] :] if len(words) > room else ""
        ids = [self.bos, *words[:room], self.eos]
        ids += [self.pad] * (self.length - len(ids))
        return Tokens(np.array([ids], np.int64), lost)


def _read_json(files: Mapping[str, bytes], name: str, source: str) -> dict[str, Any]:
    """A file's object; {} for a file that is absent."""
    try:
        content = json.loads(files.get(name, b"{}").decode("utf-8"))
    except ValueError as error:
        raise BundleError(f"{source}/{name} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise BundleError(f"{source}/{name} holds a {type(content).__name__}, not an object: is it a tokenizer's file?")
    return content


def _read_merges(content: bytes, source: str) -> list[tuple[str, str]]:
    """Pairs, the first to be merged first; the line that names the version is left out."""
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise BundleError(f"{source} is not UTF-8 text") from None
    pairs = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#version"):
            continue
        first, _, second = line.rstrip("\r").partition(" ")
        if not first or not second or " " in second:
            raise BundleError(f"{source}, line {number} is {line!r}, not two tokens with a space between")
        pairs.append((first, second))
    return pairs


def _padding(config: Mapping[str, Any], special: Mapping[str, Any]) -> str:
    """The padding token; special_tokens_map.json prevails in folders from before `added_tokens_decoder`, as in transformers."""
    named = config.get("pad_token")
    if "added_tokens_decoder" not in config:
        named = special.get("pad_token", named)
    if isinstance(named, dict):
        named = named.get("content")
    return EOS if named is None else str(named)
