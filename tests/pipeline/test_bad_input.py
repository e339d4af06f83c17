"""What a user can get wrong: each has its exit code and its one-line error, no traceback, and nothing left at OUT."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mien.runtime.app import run

MIEN = [sys.executable, "-c", "from mien.runtime.cli import main; main()"]


@dataclass
class Bench:
    """What a case works with: a good clip, a good bundle, and a folder that must be empty of results afterwards."""

    folder: Path
    make_clip: Callable[..., Path]
    good_bundle: Path
    kept: Path

    @property
    def out(self) -> Path:
        return self.folder / "results" / "out.mp4"

    @property
    def clip(self) -> Path:
        path = self.folder / "clip.mp4"
        if not self.kept.exists():
            shutil.copy(self.make_clip("clip.mp4", audio="aac"), self.kept)
        elif not path.exists():
            shutil.copy(self.kept, path)
        return path

    def file(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path

    def pipe(self, name: str) -> Path:
        os.mkfifo(self.folder / name)
        return self.folder / name

    def bundle(self, change: Callable[[Path], object]) -> str:
        folder = Path(shutil.copytree(self.good_bundle, self.folder / "bundle"))
        change(folder)
        return str(folder)

    def picture(self) -> Path:
        import cv2

        path = self.folder / "picture.png"
        cv2.imwrite(str(path), np.full((64, 96, 3), 90, np.uint8))
        return path

    def arguments(
        self, *more: str, source: object = None, out: object = None, edit: str | None = "smile=1"
    ) -> list[str]:
        words = ["edit", str(source or self.clip), str(out or self.out), "--bundle", str(self.good_bundle)]
        return [*words, *(["--edit", edit] if edit else []), *more]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept") / "clip.mp4"


@pytest.fixture
def bench(tmp_path: Path, make_clip: Callable[..., Path], blank_bundle: Path, kept: Path) -> Bench:
    (tmp_path / "results").mkdir()
    return Bench(tmp_path, make_clip, blank_bundle, kept)


def truncated(b: Bench) -> Path:
    data = b.clip.read_bytes()
    return b.file("short.mp4", data[: len(data) // 2])


def sound(b: Bench, *, cover: bool) -> Path:
    """Half a second of FLAC, with a picture of its cover if wanted."""
    path = b.folder / "sound.flac"
    with av.open(str(path), "w", format="flac") as out:
        stream = out.add_stream("flac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 8000, 0, Fraction(1, 8000)
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    if cover:
        data, png = path.read_bytes(), b.picture().read_bytes()
        assert data[:4] == b"fLaC" and data[4] & 0x7F == 0, "the stream information comes first"
        texts = struct.pack(">II9sI", 3, 9, b"image/png", 0)
        block = texts + struct.pack(">IIIII", 96, 64, 24, 0, len(png)) + png
        path.write_bytes(data[:42] + b"\x06" + len(block).to_bytes(3, "big") + block + data[42:])
    return path


def read_only_folder(b: Bench) -> Path:
    """A folder that takes no file, also for root."""
    if os.geteuid() == 0:
        return Path("/proc")
    folder = b.folder / "locked"
    folder.mkdir(mode=0o555)
    return folder


def rewrite(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        value = json.loads((folder / "bundle.json").read_text())
        change(value)
        (folder / "bundle.json").write_text(json.dumps(value))

    return write


def broken(change: Callable[[Path], object]) -> Callable[[Bench], list[str]]:
    """An edit with a bundle that was changed."""
    return lambda b: b.arguments("--bundle", b.bundle(change))


def other_card(folder: Path) -> None:
    (folder / "MODEL_CARD.md").write_text("x")


def existing(b: Bench) -> list[str]:
    b.out.write_bytes(b"precious")
    return b.arguments()


Case = tuple[str, Callable[[Bench], list[str]], int, str]
CASES: list[Case] = [
    # IN
    ("missing", lambda b: b.arguments(source=b.folder / "gone.mp4"), 2, r"no such file: .*gone\.mp4"),
    ("empty", lambda b: b.arguments(source=b.file("e.mp4", b"")), 2, r"is empty \(0 bytes\)"),
    ("truncated", lambda b: b.arguments(source=truncated(b)), 2, r"short\.mp4 is not a readable video, or is cut short"),
    ("text", lambda b: b.arguments(source=b.file("t.mp4", b"hello\nthere\n" * 99)), 2, r"t\.mp4 is not a readable video|is a text"),
    ("bytes", lambda b: b.arguments(source=b.file("r.mp4", bytes(range(256)) * 40)), 2, r"r\.mp4 is not a readable video"),
    ("audio only", lambda b: b.arguments(source=sound(b, cover=False)), 2, r"has no video stream \(only audio\)"),
    ("cover only", lambda b: b.arguments(source=sound(b, cover=True)), 2, r"no video stream \(only audio, cover art\)"),
    ("one pixel", lambda b: b.arguments(source=b.make_clip("p.mkv", size=(1, 1), codec="ffv1")), 2, r"cannot hold the odd size 1x1"),
    ("odd size", lambda b: b.arguments(source=b.make_clip("o.mkv", size=(95, 63), codec="ffv1")), 2, r"odd size 95x63: use --codec ffv1"),
    ("pipe", lambda b: b.arguments(source=b.pipe("in.mp4")), 2, r"in\.mp4 is a device or a pipe, not a file"),
    ("pipe of a picture", lambda b: b.arguments(source=b.pipe("in.png"), out=b.out.with_suffix(".png")), 2, r"in\.png is a device"),
    ("folder", lambda b: b.arguments(source=b.folder), 2, r"is a folder: give the path of a video"),
    ("missing picture", lambda b: b.arguments(source=b.folder / "no.png", out=b.out.with_suffix(".png")), 2, r"no such file"),
    ("picture to video", lambda b: b.arguments(source=b.picture()), 2, r"IN .* is a picture and OUT .* a video"),
    ("video to picture", lambda b: b.arguments(out=b.out.with_suffix(".png")), 2, r"clip\.mp4 is not a picture"),
    ("part of a picture", lambda b: b.arguments("--to", "1", source=b.picture(), out=b.out.with_suffix(".png")), 2, r"are for videos"),
    # OUT
    ("no folder", lambda b: b.arguments(out=b.folder / "no" / "out.mp4"), 2, r"folder .*/no does not exist"),
    ("below a file", lambda b: b.arguments(out=b.clip / "out.mp4"), 2, r"folder .*clip\.mp4 does not exist"),
    ("read only", lambda b: b.arguments(out=read_only_folder(b) / "out.mp4"), 2, r"cannot (be written|create a file in)"),
    ("exists", existing, 2, r"out\.mp4 exists: give another name, or --overwrite"),
    ("same file", lambda b: b.arguments("--overwrite", out=b.clip), 2, r"is the input itself"),
    ("same file by URL", lambda b: b.arguments("--overwrite", source=f"file://{b.clip}", out=b.clip), 2, r"is the input itself"),
    ("is a folder", lambda b: b.arguments(out=b.folder), 2, r"has the ending 'none'|is a folder"),
    ("ending", lambda b: b.arguments(out=b.out.with_suffix(".xyz")), 2, r"has the ending '\.xyz': use one of \.mp4"),
    ("no ending", lambda b: b.arguments(out=b.out.with_suffix("")), 2, r"has the ending 'none'"),
    ("mov with ffv1", lambda b: b.arguments("--codec", "ffv1", out=b.out.with_suffix(".mov")), 2, r"ffv1 does not go into \.mov"),
    ("report folder", lambda b: b.arguments("--report", str(b.folder / "no" / "r.json")), 2, r"folder .*/no does not exist"),
    ("report is OUT", lambda b: b.arguments("--report", str(b.out)), 2, r"the report and OUT are the same file"),
    ("report is OUT by ..", lambda b: b.arguments("--report", f"{b.out.parent}/../results/out.mp4"), 2, r"the report and OUT are"),
    ("report is beside", lambda b: b.arguments("--compare", "--report", f"{b.out}.compare.mp4"), 2, r"the report and the side-by-side are"),
    ("report is a device", lambda b: b.arguments("--report", "/dev/full"), 2, r"/dev/full is a device or a pipe, not a file"),
    ("OUT is a pipe", lambda b: b.arguments("--overwrite", out=b.pipe("o.mp4")), 2, r"o\.mp4 is a device or a pipe, not a file"),
    # edits
    ("no edit", lambda b: b.arguments(edit=None), 2, r"nothing to edit: give --edit"),
    ("unknown edit", lambda b: b.arguments(edit="smlie=1"), 2, r"unknown edit 'smlie', did you mean 'smile'\? .* has smile"),
    ("out of range", lambda b: b.arguments(edit="smile=9"), 2, r"strength of edit 'smile' is 9; accepted: -1\.5 to 1\.5"),
    ("nan", lambda b: b.arguments(edit="smile=nan"), 2, r"'smile' is nan, not a finite number"),
    ("infinite", lambda b: b.arguments(edit="smile=-inf"), 2, r"'smile' is -inf, not a finite number"),
    ("not a number", lambda b: b.arguments(edit="smile=much"), 2, r"'smile' is 'much', not a number"),
    ("no name", lambda b: b.arguments(edit="=1"), 2, r"'=1' names no edit"),
    ("twice", lambda b: b.arguments("--edit", "smile=0.5"), 2, r"edit 'smile' is given twice"),
    ("region", lambda b: b.arguments("--region", "moth"), 2, r"region is 'moth'; accepted: .*did you mean 'mouth'"),
    ("method", lambda b: b.arguments("--method", "wpluss"), 2, r"unknown method 'wpluss'"),
    ("blend", lambda b: b.arguments("--blend", "magic"), 2, r"blend is 'magic'"),
    ("no steps", lambda b: b.arguments("--steps", "0"), 2, r"--steps is 0: use a whole number from 1 to 50"),
    ("many steps", lambda b: b.arguments("--steps", "51"), 2, r"--steps is 51: use a whole number from 1 to 50"),
    ("steps in words", lambda b: b.arguments("--steps", "two"), 2, r"--steps is 'two': "),
    ("faces", lambda b: b.arguments("--faces", "some"), 2, r"--faces is 'some': use largest, all, or a whole number"),
    ("no faces", lambda b: b.arguments("--faces", "0"), 2, r"--faces is '0'"),
    ("strength", lambda b: b.arguments("--strength", "1.5"), 2, r"strength is 1\.5; accepted: 0 to 1"),
    ("seed", lambda b: b.arguments("--seed", "-1"), 2, r"seed is -1"),
    ("option", lambda b: b.arguments("--option", "w_scale"), 2, r"--option 'w_scale' is not KEY=VALUE"),
    # part and encoder
    ("from after to", lambda b: b.arguments("--from", "2", "--to", "1"), 2, r"--from 2 to --to 1 is empty"),
    ("negative from", lambda b: b.arguments("--from", "-1"), 2, r"--from is -1: use a number of seconds"),
    ("nan from", lambda b: b.arguments("--from", "nan"), 2, r"--from is nan"),
    ("no such time", lambda b: b.arguments("--from", "1e300"), 2, r"has no frame from 1e\+300 s"),
    ("behind the end", lambda b: b.arguments("--from", "60"), 2, r"has no frame from 60 s"),
    ("negative crf", lambda b: b.arguments("--crf", "-1"), 2, r"--crf is -1: use a whole number from 0"),
    ("crf", lambda b: b.arguments("--crf", "52"), 2, r"--crf is 52"),
    ("codec", lambda b: b.arguments("--codec", "av1"), 2, r"unknown codec 'av1': use one of h264, hevc, ffv1"),
    ("preset", lambda b: b.arguments("--preset", "warp"), 2, r"unknown preset 'warp'"),
    ("encoder", lambda b: b.arguments("--encoder", "gpu"), 2, r"unknown encoder 'gpu': use one of auto, cpu, nvenc"),
    ("nvenc of ffv1", lambda b: b.arguments("--encoder", "nvenc", "--codec", "ffv1"), 2, r"NVENC has no ffv1: use h264 or hevc"),
    # bundle
    ("unknown bundle", lambda b: b.arguments("--bundle", "tinny"), 2, r"unknown bundle 'tinny'"),
    ("not a bundle", lambda b: b.arguments("--bundle", str(b.folder)), 2, r"is not a bundle: it has no bundle\.json"),
    ("changed file", broken(lambda f: (f / "detector.onnx").write_bytes(b"x")), 2, r"detector\.onnx is corrupt: .* \w{64}, .* \w{64}"),
    ("missing file", broken(lambda f: (f / "parser.onnx").unlink()), 2, r"'parser\.onnx' that bundle\.json names is missing"),
    ("not JSON", broken(lambda f: (f / "bundle.json").write_text("{")), 2, r"bundle\.json is not JSON"),
    ("newer bundle", broken(rewrite(lambda m: m.update(format=2))), 2, r"format 2 is unknown.*update mien"),
    ("missing key", broken(rewrite(lambda m: m.pop("crop"))), 2, r"the key 'crop' is missing"),
    ("escape", broken(rewrite(lambda m: m["networks"]["parser"].update(file="../p.onnx"))), 2, r"'\.\./p\.onnx' is refused"),
    # machine
    ("backend", lambda b: b.arguments("--backend", "onnx"), 2, r"unknown backend 'onnx'"),
    ("tensorrt", lambda b: b.arguments("--backend", "tensorrt"), 3, r"backend 'tensorrt' cannot be used"),
    ("gpu", lambda b: b.arguments("--backend", "onnxruntime", "--device", "cuda:0"), 3, r"runs on the cpu only"),
    ("device", lambda b: b.arguments("--device", "tpu"), 2, r"unknown device 'tpu'"),
    ("threads", lambda b: b.arguments("--threads", "-2"), 2, r"threads is -2"),
    # the command line itself
    ("unknown option", lambda b: b.arguments("--smile"), 2, r"--smile"),
    ("no OUT", lambda b: ["edit", str(b.clip)], 2, r"Missing argument 'OUT'"),
    ("unknown command", lambda b: ["edti"], 2, r"unknown command 'edti', did you mean 'edit'\?"),
    ("unknown model", lambda b: ["models", "show", "tinny"], 2, r"unknown bundle 'tinny'"),
    ("changed model", lambda b: ["models", "verify", b.bundle(other_card)], 2, r"MODEL_CARD\.md is corrupt"),
    ("edits of nothing", lambda b: ["edits", "list", "--bundle", "tinny"], 2, r"unknown bundle 'tinny'"),
]  # fmt: skip
IN_A_PROCESS = {"missing", "cover only", "unknown edit", "changed file", "tensorrt", "no OUT", "steps in words"}


def check(error: str, message: str) -> None:
    lines = error.splitlines()
    assert len(lines) == 1, error
    assert lines[0].startswith("mien: error: ")
    assert re.search(message, lines[0]), lines[0]


def test_the_table_is_long_and_its_names_differ() -> None:
    names = [case[0] for case in CASES]
    assert len(names) == len(set(names)) >= 25 and set(names) >= IN_A_PROCESS


@pytest.mark.parametrize(("name", "arguments", "code", "message"), CASES, ids=[case[0] for case in CASES])
def test_bad_input(
    name: str,
    arguments: Callable[[Bench], list[str]],
    code: int,
    message: str,
    bench: Bench,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = arguments(bench)
    clip = bench.clip.read_bytes()
    if name in IN_A_PROCESS:
        done = subprocess.run([*MIEN, *words], capture_output=True, text=True, timeout=300, check=False)
        got, out, error = done.returncode, done.stdout, done.stderr
    else:
        capfd.readouterr()
        got = run(words)
        out, error = capfd.readouterr()
    assert got == code, error
    check(error, message)
    assert out == ""
    left = sorted(path.name for path in (bench.folder / "results").iterdir())
    assert left == (["out.mp4"] if name == "exists" else []), "nothing may be left at OUT"
    if name == "exists":
        assert bench.out.read_bytes() == b"precious"
    assert bench.clip.read_bytes() == clip, "IN is never touched"


def start(words: list[str], **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([*MIEN, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


@pytest.mark.parametrize("ending", [".mkv", ".mp4"])
def test_a_full_disk(ending: str, bench: Bench) -> None:
    words = bench.arguments("--codec", "ffv1", out=bench.out.with_suffix(ending))
    process = start(words, preexec_fn=limit_file_size)
    out, error = process.communicate(timeout=300)
    assert process.returncode == 4, error
    check(error, r"cannot write .*: File too large: free some space")
    assert out == "" and list((bench.folder / "results").iterdir()) == []


def test_an_interrupt_while_packages_are_imported_is_one_line() -> None:
    code = (
        "import sys; from mien.runtime.cli import main; sys.meta_path.insert(0, type('Hit', (), {'find_spec':"
        " staticmethod(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))})); main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (130, "mien: error: interrupted\n")


@pytest.mark.parametrize("closed", ["0", "1", "2", "1 2"])
def test_streams_that_are_closed_are_no_fault(bench: Bench, closed: str) -> None:
    """Else the first file that is opened would be the standard output."""
    endings = " ".join(f"{number}>&-" for number in closed.split())
    words = shlex.join([*MIEN, *bench.arguments("--codec", "ffv1", out=bench.out.with_suffix(".mkv"))])
    done = subprocess.run(["sh", "-c", f"{words} {endings}"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0 and done.stderr == ""
    with av.open(str(bench.out.with_suffix(".mkv"))) as result:
        assert sum(bool(packet.size) for packet in result.demux(video=0)) == 12


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_leaves_nothing(number: signal.Signals, bench: Bench) -> None:
    times = tuple((i * 512, 512) for i in range(200))
    clip = bench.make_clip("long.mp4", size=(320, 240), times=times, time_base=Fraction(1, 12800))
    before = signal.signal(number, signal.SIG_DFL)  # what is ignored here, under nohup, would be ignored there
    process = start(bench.arguments("--codec", "hevc", "--preset", "veryslow", source=clip))
    signal.signal(number, before)
    deadline = time.monotonic() + 600
    try:
        while not list((bench.folder / "results").iterdir()):
            assert process.poll() is None and time.monotonic() < deadline, "the run must reach its second pass"
            time.sleep(0.02)
        process.send_signal(number)
        out, error = process.communicate(timeout=600)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130, error
    check(error, "interrupted")
    assert out == "" and list((bench.folder / "results").iterdir()) == []


def test_a_reader_that_leaves_is_no_error(bench: Bench) -> None:
    process = start(["models", "show", str(bench.good_bundle), "--json"])
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=300) == 0
    process.stderr.close()


def test_debug_shows_the_traceback_and_keeps_the_code(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    assert run([*bench.arguments("--debug", edit="smlie=1")]) == 2
    error = capfd.readouterr().err
    assert "Traceback" in error and error.splitlines()[-1].startswith("mien: error: unknown edit")
