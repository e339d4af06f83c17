"""The tokenizer against CLIP's known ids and a plain byte-pair encoding, with the vocabulary built as CLIP publishes it."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import regex
from transformers import CLIPTokenizer

from mien.engine.errors import BundleError, EditError, UnavailableError
from mien.engine.tokens import Tokenizer

WORDS = regex.compile(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
PROMPTS = [
    "",
    "a photo of a cat",
    "A  Photo\tof\n a CAT ",
    "she's 25, isn't she? they'll've gone!!! :-)",
    "Portrait, 85mm f/1.4, ISO-100 (best quality:1.2), [bokeh]...",
    "don't I'D we're rock'n'roll 'quoted'",
    "naïve café Zoë — ÜBERGRÖSSE ﬁne",
    "cafe\N{COMBINING ACUTE ACCENT} in two code points",
    "日本語のテキスト と 한국어, русский текст, العربية",
    "emoji 😀👩‍👩‍👧 and symbols ½ ² ™ €100",
    "under_score snake_case C++ <b>html</b> &amp; #hash @at 100%",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "supercalifragilisticexpialidocious " * 3,
    "\u00a0non\u2009breaking\u200bzero width",
]
LONG = ", ".join(f"Detail number {i} of a Very Long prompt" for i in range(12))


def byte_symbols() -> list[str]:
    """One printable character per byte, in the vocabulary's order: the printable ones first, then the rest from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(rest))]


def symbol_of_byte() -> dict[int, str]:
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    rest = [byte for byte in range(256) if byte not in printable]
    return dict(zip(printable + rest, byte_symbols(), strict=True))


class PlainBpe:
    """Byte-pair encoding as Sennrich et al. 2016 write it, one pair at a time."""

    def __init__(self, merges: list[tuple[str, str]], ids: dict[str, int]) -> None:
        self.rank = {pair: i for i, pair in enumerate(merges)}
        self.ids = ids
        self.symbols = symbol_of_byte()

    def encode(self, text: str) -> list[int]:
        text = " ".join(unicodedata.normalize("NFC", text).split()).lower()
        return [self.ids[part] for word in WORDS.findall(text) for part in self.split(word)]

    def split(self, word: str) -> list[str]:
        parts = [self.symbols[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            pairs = list(zip(parts, parts[1:], strict=False))
            best = min(pairs, key=lambda pair: self.rank.get(pair, len(self.rank)))
            if best not in self.rank:
                break
            at = pairs.index(best)
            parts[at : at + 2] = ["".join(best)]
        return parts


@pytest.fixture(scope="module")
def clip(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PlainBpe]:
    """A tokenizer folder as SD 1 publishes it, and the plain encoding over the same merges."""
    path = shared_data / "text" / "bpe_simple_vocab_16e6.txt.gz"
    if not path.is_file():
        pytest.skip(f"no {path.name} in the shared data")
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    symbols = byte_symbols()
    entries = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *("".join(pair) for pair in merges)]
    entries += ["<|startoftext|>", "<|endoftext|>"]
    ids = {entry: i for i, entry in enumerate(entries)}
    assert len(ids) == len(entries) == 49408
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    text = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges), ""])
    (folder / "merges.txt").write_text(text, encoding="utf-8")
    write_padding(folder, "<|endoftext|>", "<|endoftext|>")
    return folder, PlainBpe(merges, ids)  # type: ignore[arg-type]


def write_padding(folder: Path, config: str, special: str) -> None:
    """The two small files of a published folder, with what each says of the padding."""
    names = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    config_json = {**names, "model_max_length": 77, "pad_token": config, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config_json), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps({**names, "pad_token": special}), encoding="utf-8")


@pytest.fixture(scope="module")
def tokenizer(clip: tuple[Path, PlainBpe]) -> Tokenizer:
    return Tokenizer.open(clip[0])


def test_known_ids(tokenizer: Tokenizer):
    tokens = tokenizer.encode("a photo of a cat")
    assert tokens.ids.shape == (1, 77) and tokens.ids.dtype == np.int64
    assert tokens.ids[0].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407] + [49407] * 70
    assert tokens.lost == ""


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_plain_encoding_answers_the_same(tokenizer: Tokenizer, clip: tuple[Path, PlainBpe], prompt: str):
    words = clip[1].encode(prompt)
    assert len(words) <= 75
    tokens = tokenizer.encode(prompt)
    assert tokens.ids[0].tolist() == [49406, *words, *[49407] * (76 - len(words))]
    assert not tokens.lost


def test_what_does_not_fit_is_said(tokenizer: Tokenizer, clip: tuple[Path, PlainBpe]):
    words = clip[1].encode(LONG)
    tokens = tokenizer.encode(LONG)
    assert tokens.ids[0].tolist() == [49406, *words[:75], 49407]
    assert tokens.lost and LONG.endswith(tokens.lost)
    assert clip[1].encode(tokens.lost) == words[75:]


@pytest.mark.parametrize("filler, last", [("cat ", "İstanbul É!"), ("日", "é ü"), ("  a\u0301 ", "Ａ")])
def test_exactly_what_fits_is_kept(tokenizer: Tokenizer, clip: tuple[Path, PlainBpe], filler: str, last: str):
    """At the border: 75 tokens fit, with the next word all of it is lost, as it was written."""
    per = len(clip[1].encode(filler))
    fits = filler * (75 // per) + "a " * (75 % per)
    assert len(clip[1].encode(fits)) == 75
    assert not tokenizer.encode(fits).lost
    tokens = tokenizer.encode(f"{fits} {last}")
    assert tokens.lost == last
    assert tokens.ids[0].tolist() == tokenizer.encode(fits).ids[0].tolist()


@pytest.mark.parametrize(
    "config, special, pad",
    [("<|endoftext|>", "<|endoftext|>", 49407), ("<|endoftext|>", "!", 0), ("!", "!", 0)],
    ids=["SD 1", "SD 2", "both"],
)
def test_the_padding_is_the_published(clip: tuple[Path, PlainBpe], tmp_path: Path, config: str, special: str, pad: int):
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(clip[0] / name, tmp_path)
    write_padding(tmp_path, config, special)
    assert CLIPTokenizer.from_pretrained(str(tmp_path), local_files_only=True).pad_token_id == pad
    tokens = Tokenizer.open(tmp_path).encode("wow!")
    words = clip[1].encode("wow!")
    assert words[-1] == 256  # the exclamation mark of the prompt, which is not the padding
    assert tokens.ids[0].tolist() == [49406, *words, 49407, *[pad] * (75 - len(words))]


def test_padding_of_newer_and_barer_folders(clip: tuple[Path, PlainBpe]):
    """With `added_tokens_decoder`, tokenizer_config.json alone counts, and may spell the token out; without files it is the end."""
    files = {name: (clip[0] / name).read_bytes() for name in ("vocab.json", "merges.txt")}
    assert Tokenizer(files).pad == 49407
    config = {"added_tokens_decoder": {}, "pad_token": {"content": "!", "lstrip": False}}
    files |= {
        "tokenizer_config.json": json.dumps(config).encode(),
        "special_tokens_map.json": b'{"pad_token": "<|endoftext|>"}',
    }
    assert Tokenizer(files).pad == 0


def test_another_length(clip: tuple[Path, PlainBpe]):
    tokens = Tokenizer.open(clip[0], length=5).encode("a photo of a cat")
    assert tokens.ids.tolist() == [[49406, 320, 1125, 539, 49407]] and tokens.lost == "a cat"


def test_a_prompt_that_is_no_unicode_is_refused(tokenizer: Tokenizer):
    with pytest.raises(EditError, match="not valid Unicode"):
        tokenizer.encode("caf\udce9")


SMALL = {
    "vocab.json": b'{"a": 0, "b</w>": 1, "ab</w>": 2, "<|startoftext|>": 3, "<|endoftext|>": 4}',
    "merges.txt": b"a b</w>\n",
}


def test_a_small_vocabulary():
    assert Tokenizer(SMALL).encode("ab").ids[0, :4].tolist() == [3, 2, 4, 4]


@pytest.mark.parametrize(
    "change, word",
    [
        ({"vocab.json": None}, "has no vocab.json"),
        ({"merges.txt": None}, "has no merges.txt"),
        ({"vocab.json": b"{"}, "vocab.json is not JSON"),
        ({"vocab.json": b"\xff{}"}, "vocab.json is not JSON"),
        ({"vocab.json": b"[]"}, "vocab.json holds a list"),
        ({"vocab.json": b'{"a": 0}'}, "has no id for '<|startoftext|>'"),
        ({"vocab.json": SMALL["vocab.json"].replace(b"2", b'"2"')}, "has no id for 'ab</w>'"),
        ({"merges.txt": b"a b</w>\na c\n"}, "has no id for 'c'"),
        ({"merges.txt": b"#version: 0.2\na b c\n"}, "line 2 is 'a b c'"),
        ({"merges.txt": b"\xff"}, "merges.txt is not UTF-8"),
        ({"special_tokens_map.json": b'{"pad_token": "[PAD]"}'}, "has no id for '[PAD]'"),
    ],
)
def test_files_it_cannot_use_are_refused(change: dict[str, bytes | None], word: str):
    files = {name: content for name, content in {**SMALL, **change}.items() if content is not None}
    with pytest.raises(BundleError) as caught:
        Tokenizer(files, "bundle/tokenizer")
    assert "bundle/tokenizer" in str(caught.value) and word in str(caught.value)


def test_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(BundleError, match="has no vocab.json"):
        Tokenizer.open(tmp_path / "nowhere")


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UnavailableError, match=r"pip install 'mien\[export\]'"):
        Tokenizer(SMALL)
