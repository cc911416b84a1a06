"""Lines of the standard input are predicted as they arrive."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmcls.cli import arriving
from llmcls.cli.arriving import ArrivingRows
from llmcls.cli.predictions import predict_batches
from llmcls.data.inputs import BadRow
from llmcls.processes.world import ALONE, World
from llmcls.records import Example, Prediction


@dataclass(frozen=True)
class Stub:
    """A classifier that says "a" of everything."""

    world: World = ALONE
    encoder: Any = field(default_factory=lambda: SimpleNamespace(template=SimpleNamespace(uses=lambda _: True)))

    def stream(self, examples: Iterable[Example], **_: object) -> Iterator[Prediction]:
        return (Prediction("a", 1.0, (1.0,), 1.0) for _ in examples)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines wait for others as long as it takes, so that no speed of the machine decides."""
    monkeypatch.setattr(arriving, "PATIENCE", 600.0)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("piece", [1, 3, 1 << 16])
@pytest.mark.parametrize(
    ("written", "texts"),
    [
        (b"", []), (b"a", ["a"]), (b"a\n", ["a"]), (b"a\nb", ["a", "b"]), (b"\n", [""]),
        (b"a\n\n\nb\n", ["a", "", "", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]), (b"a\rb\n", ["a\rb"]), (b"\xef\xbb\xbfa\n\xef\xbb\xbfb", ["a", "\ufeffb"]),
        ("é🙂\nü".encode(), ["é🙂", "ü"]), (b"x\xe9\nok\n", [None, "ok"]),
        (b"a\x0bb\x0cc\xe2\x80\xa8d", ["a\x0bb\x0cc\u2028d"]),
        (b"w" * 200_000 + b"\nb", ["w" * 200_000, "b"]),
    ],
)  # fmt: skip
def test_lines(written: bytes, texts: list[str | None], piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if piece < 100 and len(written) > 1000:
        piece *= 1000
    monkeypatch.setattr(arriving, "PIECE", piece)
    rows = list(ArrivingRows(io.BytesIO(written)))
    assert [None if isinstance(row, BadRow) else row.example.text for row in rows] == texts
    numbers = [row.source if isinstance(row, BadRow) else row.example.source for row in rows]
    assert numbers == [f"line {number}" for number in range(1, len(texts) + 1)]


def test_each_line_comes_out_before_the_next_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arriving, "PATIENCE", 0.0)
    inner, outer = os.pipe()
    with os.fdopen(inner, "rb") as stream, os.fdopen(outer, "wb", buffering=0) as writer:
        written = ["one\n", "two\nthree\n", "four"]
        writer.write(written.pop(0).encode())
        found: list[list[str]] = []
        for batch in predict_batches(ArrivingRows(stream), Stub(), size=8):  # type: ignore[arg-type]
            found.append([values["text"] for values, _ in batch.results])
            if written:
                writer.write(written.pop(0).encode())
            if not written:
                writer.close()  # only the end says that the last line, without a line break, is whole
    assert found == [["one"], ["two", "three"], ["four"]]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(("lines", "size"), [(1000, 128), (128, 128), (50_000, 1024), (5, 1)])
def test_a_piped_file_is_cut_into_batches_of_the_usual_size(lines: int, size: int) -> None:
    written = "".join(f"text of row {number}\n" for number in range(lines)).encode()
    batches = list(predict_batches(ArrivingRows(io.BytesIO(written)), Stub(), size=size))  # type: ignore[arg-type]
    sizes = [len(batch.results) for batch in batches]
    assert sum(sizes) == lines and set(sizes[:-1]) <= {size}
    texts = [values["text"] for batch in batches for values, _ in batch.results]
    assert texts == [f"text of row {number}" for number in range(lines)]


def test_what_the_system_cannot_read_is_said(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    with os.fdopen(os.dup(0), "rb") as stream:
        os.dup2(folder, stream.fileno())
        with pytest.raises(IsADirectoryError):
            ArrivingRows(stream).take(1)
    os.close(folder)


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_the_real_command_answers_line_by_line(run: Path, options: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "llmcls", "predict", "--run", str(run), "--input", "-", "-q", *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdin and process.stdout
        if not options:
            assert process.stdout.readline() == '"text","predicted","probability"\n'
        for text in ("one", "two", "three"):
            process.stdin.write(f"{text}\n")
            process.stdin.flush()
            line = process.stdout.readline()
            assert (json.loads(line)["text"] if options else next(csv.reader([line]))[0]) == text
        process.stdin.close()
        assert process.stdout.read() == "" and process.wait(timeout=60) == 0
