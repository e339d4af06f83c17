"""Pulling: files fetched, resumed, held to their hash and imported, from a server of this machine."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mien.engine.bundle import Bundle
from mien.engine.errors import BundleError, InputError, RunError, UnavailableError
from mien.runtime import published as table
from mien.runtime.app import run
from mien.runtime.downloads import LOCK, Downloads
from mien.runtime.published import Hosts, combination, combinations

CONTENT = bytes(range(256)) * 8192  # 2 MiB, more than a read
TEXT = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `files` by path. stop_after: bytes after which the connection is closed, once each; ranges: whether it
    answers them; requests: (path, Range) as they came; moved: path -> where it is redirected.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.moved: dict[str, str] = {}
        self.failing: dict[str, int] = {}
        self.stop_after: list[int] = []
        self.ranges, self.etag = True, True
        self.requests: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server  # type: ignore[assignment]

    def do_GET(self) -> None:
        state = self.server
        state.requests.append((self.path, self.headers.get("Range")))
        if self.path in state.moved:
            self.answer(302, {"Location": state.moved[self.path]}, b"")
        elif self.path in state.failing or self.path not in state.files:
            self.answer(state.failing.get(self.path, 404), {}, b"no")
        else:
            self.send(state.files[self.path])

    def send(self, data: bytes) -> None:
        etag = f'"{hashlib.sha256(data).hexdigest()[:8]}"'
        headers = {"ETag": etag} if self.server.etag else {}
        asked = self.headers.get("Range")
        held = self.headers.get("If-Range") in (None, etag)
        if asked is None or not self.server.ranges or not held:
            self.answer(200, headers, data)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-"))
        if start >= len(data):
            self.answer(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
            return
        self.answer(206, {**headers, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}, data[start:])

    def answer(self, code: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if code in (200, 206) and self.server.stop_after:
            data = data[: self.server.stop_after.pop(0)]
            self.close_connection = True
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        made.files["/w.bin"] = CONTENT
        yield made
        made.shutdown()
        thread.join()


def lock(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / LOCK).read_text()))


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    folder = tmp_path / "new" / "source"
    got = Downloads(folder, lambda *told: seen.append(told)).fetch("sub/w.bin", [f"{server.url}/w.bin"])
    assert got == folder / "sub" / "w.bin" and got.read_bytes() == CONTENT
    assert lock(folder) == {"files": {"sub/w.bin": {"sha256": TEXT}}, "partial": {}}
    assert seen[0] == ("sub/w.bin", 0, len(CONTENT)) and seen[-1] == ("sub/w.bin", len(CONTENT), len(CONTENT))
    Downloads(folder).fetch("sub/w.bin", [f"{server.url}/w.bin"])
    assert len(server.requests) == 1
    assert sorted(p.name for p in folder.rglob("*")) == ["lock.json", "sub", "w.bin"]


def test_a_break_is_gone_over_while_more_arrives(server: Server, tmp_path: Path) -> None:
    server.stop_after = [700_000, 1, 300_000]
    Downloads(tmp_path).fetch("w.bin", [f"{server.url}/w.bin"])
    assert (tmp_path / "w.bin").read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None, "bytes=700000-", "bytes=700001-", "bytes=1000001-"]


def test_an_interrupted_download_goes_on(server: Server, tmp_path: Path) -> None:
    server.stop_after = [500_000, 0]
    with pytest.raises(UnavailableError, match=r"broke off after 500,000 of 2,097,152 bytes.*run the command again"):
        Downloads(tmp_path).fetch("w.bin", [f"{server.url}/w.bin"])
    assert (tmp_path / "w.bin.part").read_bytes() == CONTENT[:500_000]
    assert not (tmp_path / "w.bin").exists() and lock(tmp_path)["partial"]["w.bin"]["total"] == len(CONTENT)
    Downloads(tmp_path).fetch("w.bin", [f"{server.url}/w.bin"])
    assert (tmp_path / "w.bin").read_bytes() == CONTENT and server.requests[-1][1] == "bytes=500000-"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lock.json", "w.bin"]


def test_ctrl_c_keeps_what_arrived(server: Server, tmp_path: Path) -> None:
    def interrupt(name: str, done: int, total: int | None) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Downloads(tmp_path, interrupt).fetch("w.bin", [f"{server.url}/w.bin"])
    kept = (tmp_path / "w.bin.part").stat().st_size
    assert 0 < kept < len(CONTENT)
    assert Downloads(tmp_path).fetch("w.bin", [f"{server.url}/w.bin"]).read_bytes() == CONTENT
    assert server.requests[-1][1] == f"bytes={kept}-"


@pytest.mark.parametrize("etag", [True, False])
def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path, etag: bool) -> None:
    server.ranges, server.etag = False, etag
    (tmp_path / "w.bin.part").write_bytes(b"x" * 1000)
    assert Downloads(tmp_path).fetch("w.bin", [f"{server.url}/w.bin"]).read_bytes() == CONTENT
    assert server.requests == [("/w.bin", "bytes=1000-")]


@pytest.mark.parametrize("etag", [True, False])
def test_a_file_that_changed_meanwhile_is_not_glued_together(server: Server, tmp_path: Path, etag: bool) -> None:
    server.etag, server.stop_after = etag, [500_000, 0]
    with pytest.raises(UnavailableError):
        Downloads(tmp_path).fetch("w.bin", [f"{server.url}/w.bin"])
    server.files["/w.bin"] = b"another" * 100_000
    assert Downloads(tmp_path).fetch("w.bin", [f"{server.url}/w.bin"]).read_bytes() == b"another" * 100_000


@pytest.mark.parametrize("size", [len(CONTENT), len(CONTENT) + 5])
def test_a_part_that_is_already_whole_or_too_long(server: Server, tmp_path: Path, size: int) -> None:
    (tmp_path / "w.bin.part").write_bytes((CONTENT + b"12345")[:size])
    assert Downloads(tmp_path).fetch("w.bin", [f"{server.url}/w.bin"]).read_bytes() == CONTENT
    assert len(server.requests) == (1 if size == len(CONTENT) else 2)


def test_a_range_survives_a_redirect(server: Server, tmp_path: Path) -> None:
    server.moved["/repo/resolve/main/w.bin"] = f"{server.url}/w.bin"
    (tmp_path / "w.bin.part").write_bytes(CONTENT[:1000])
    got = Downloads(tmp_path).fetch("w.bin", [f"{server.url}/repo/resolve/main/w.bin"])
    assert got.read_bytes() == CONTENT and server.requests[-1] == ("/w.bin", "bytes=1000-")


def test_another_hash_than_the_first_time_is_refused(server: Server, tmp_path: Path) -> None:
    url = f"{server.url}/w.bin"
    Downloads(tmp_path).fetch("w.bin", [url]).unlink()
    server.files["/w.bin"] = CONTENT[:-1] + b"!"
    with pytest.raises(BundleError, match=rf"is not the file it was.*first time it was {TEXT}.*delete w.bin from"):
        Downloads(tmp_path).fetch("w.bin", [url])
    assert [p.name for p in tmp_path.iterdir()] == [LOCK]
    server.files["/w.bin"] = CONTENT
    got = Downloads(tmp_path).fetch("w.bin", [url])
    got.write_bytes(b"damaged here")
    with pytest.raises(BundleError, match=r"w.bin is damaged.*delete it"):
        Downloads(tmp_path).fetch("w.bin", [url])


def test_the_next_address_is_tried_where_a_file_is_gone(server: Server, tmp_path: Path) -> None:
    server.failing["/private"] = 401
    urls = [f"{server.url}/private", f"{server.url}/gone", f"{server.url}/w.bin"]
    assert Downloads(tmp_path).fetch("w.bin", urls).read_bytes() == CONTENT
    with pytest.raises(UnavailableError, match=r"/gone answers 404 Not Found: the file is gone or asks for a login"):
        Downloads(tmp_path).fetch("v.bin", urls[:2])


def test_a_server_in_trouble(server: Server, tmp_path: Path) -> None:
    server.failing["/w.bin"] = 503
    with pytest.raises(UnavailableError, match="answers 503 Service Unavailable: try again later"):
        Downloads(tmp_path).fetch("w.bin", [f"{server.url}/w.bin", f"{server.url}/other"])
    assert len(server.requests) == 1


def test_no_network(tmp_path: Path) -> None:
    with pytest.raises(
        UnavailableError, match=r"cannot fetch from 127.0.0.1:\d+ \(.*refused\): pulling needs the network"
    ):
        Downloads(tmp_path).fetch("w.bin", [f"http://127.0.0.1:{closed_port()}/w.bin"])


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        Downloads(tmp_path / "file" / "below").fetch("w.bin", [f"{server.url}/w.bin"])


@pytest.mark.parametrize("text", ["{", "[]", '{"files": 3}', '{"files": {"a": 3}}'])
def test_a_damaged_lock(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK).write_text(text)
    with pytest.raises(BundleError, match="lock.json cannot be read.*delete it"):
        Downloads(tmp_path)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_every_combination_of_the_table_is_whole() -> None:
    """Every path of an entry is a file, or the folder of files, of a source; every licence is told."""
    for name, entry in combinations().items():
        root = Path("downloads")
        sources, settings = entry.request(root)
        settings.check()
        files = {root / source.name / file for source in entry.sources for file in source.urls}
        for part, path in sources.given():
            assert any(file.is_relative_to(path) for file in files), (name, path)
            assert settings.licences[part]
        used = {path.relative_to(root).parts[0] for _, path in sources.given()}
        assert used == {source.name for source in entry.sources}, name
        assert all(
            url.startswith("https://") for source in entry.sources for urls in source.urls.values() for url in urls
        )


def test_addresses() -> None:
    wplus = combination("sd15-wplus", hosts=Hosts(huggingface="https://hf.test"))
    urls = {file: url for source in wplus.sources for file, url in source.urls.items()}
    sd15 = "stable-diffusion-v1-5/resolve/main/unet/config.json"
    assert urls["unet/config.json"] == (
        f"https://hf.test/stable-diffusion-v1-5/{sd15}",
        f"https://hf.test/runwayml/{sd15}",
    )
    release = "https://github.com/csxmli2016/w-plus-adapter/releases/download/v1"
    assert urls["wplus_adapter.bin"] == (f"{release}/wplus_adapter.bin",)
    assert urls["w_direction/latent_directions/smile.npy"][0].startswith(
        "https://raw.githubusercontent.com/csxmli2016/"
    )
    with pytest.raises(InputError, match="did you mean 'sd15-lcm'"):
        combination("sd15_lcm")


@pytest.fixture
def mini(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """mini("pull", "mini", ...) -> exit code, with a table whose `mini` is a miniature repository and TAESD on the server."""
    pytest.importorskip("transformers")
    from tests import published

    repository = published.write_repository(tmp_path / "site" / "repo")
    encoder, decoder = published.write_taesd(tmp_path / "site" / "taesd")
    made = {
        "sources": {
            "repo": {"huggingface": ["gone/repo", "me/repo"], "licence": "OpenRAIL", "files": []},
            "taesd": {"huggingface": ["me/taesd"], "licence": "MIT", "files": [encoder.name, decoder.name]},
        },
        "bundles": {
            "mini": {
                "description": "small",
                "unet": "repo",
                "taesd": [f"taesd/{encoder.name}", f"taesd/{decoder.name}"],
                "sampling": "lcm_lora",
            }
        },
    }
    for file in sorted(p for p in repository.rglob("*") if p.is_file() and p.parent.name != "vae"):
        made["sources"]["repo"]["files"].append(str(file.relative_to(repository)))
        server.files[f"/me/repo/resolve/main/{file.relative_to(repository)}"] = file.read_bytes()
    for file in (encoder, decoder):
        server.files[f"/me/taesd/resolve/main/{file.name}"] = file.read_bytes()
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(table, "_read_table", lambda: made)
    return lambda *words, host=server.url: run(["models", *words, "--host", host])


def test_pull_fetches_and_imports(
    mini: Callable[..., int], server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.stop_after = [0]
    assert mini("pull", "mini") == 3
    err = capfd.readouterr().err
    assert err.startswith("mien: error: cannot fetch from 127.0.0.1") and err.count("\n") == 1
    assert mini("pull", "mini") == 0
    told = capfd.readouterr()
    assert told.err == "" and "licence  taesd: MIT" in told.out and "mini: 8 networks" in told.out
    bundle = Bundle.open("mini")
    assert bundle.folder == tmp_path / "cache" / "bundles" / "mini" and bundle.verify() > 0
    licences = {"unet": "OpenRAIL", "text_encoder": "OpenRAIL", "taesd": "MIT"}
    assert {key: bundle.manifest.licences[key] for key in licences} == licences
    assert bundle.manifest.sampling is not None and bundle.manifest.sampling.sampler == "lcm"
    count = len(server.requests)
    assert mini("pull", "mini") == 2
    assert "exists: give another name, or --overwrite" in capfd.readouterr().err and len(server.requests) == count
    assert mini("pull", "mini", "--overwrite", "--into", str(tmp_path / "elsewhere")) == 0
    assert Bundle.open(tmp_path / "elsewhere" / "mini").sha256 == bundle.sha256 and len(server.requests) == count


def test_pull_without_network(mini: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert mini("pull", "mini", host=f"http://127.0.0.1:{closed_port()}") == 3
    err = capfd.readouterr().err
    assert err.startswith("mien: error: cannot fetch") and "needs the network" in err and err.count("\n") == 1
    assert not (tmp_path / "cache" / "bundles").exists()


def test_pull_lists_and_fetches_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "pull", "--list"]) == 0
    out = capfd.readouterr().out
    assert all(name in out for name in ("sd15-lcm ", "sd15-wplus ", "instruct-pix2pix ", "sd-turbo ", "sd15-canny "))
    assert "github.com/csxmli2016/w-plus-adapter: S-Lab License 1.0: non-commercial" in out
    assert run(["models", "pull", "--list", "--json"]) == 0
    (row,) = [row for row in json.loads(capfd.readouterr().out) if row["name"] == "sd-turbo"]
    assert row["sources"]["sd-turbo"]["urls"][0].startswith("https://huggingface.co/stabilityai/sd-turbo/resolve/main/")
    assert run(["models", "pull"]) == 2 and "mien models pull --list" in capfd.readouterr().err
    assert run(["models", "pull", "sd15-lmc"]) == 2 and "did you mean 'sd15-lcm'" in capfd.readouterr().err
