"""The log's writer: nobody who reads the log, or does not, holds the relay up."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import select
import subprocess
import sys
import termios
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from structlog.testing import capture_logs

from relay_tornado import log_stream
from relay_tornado.log_stream import LogHandler
from tests.serving import RELAY, TIMEOUT, environment

ROOM = 16384


class Pipe:
    """A pipe of 16 KiB that is read only on demand."""

    def __init__(self) -> None:
        self.end, end = os.pipe()
        fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, ROOM)
        self.stream: IO[str] = os.fdopen(end, "w")

    def lines(self, count: int) -> list[str]:
        found = b""
        while found.count(b"\n") < count:
            assert select.select([self.end], [], [], TIMEOUT)[0]
            if not (more := os.read(self.end, 1 << 16)):
                break
            found += more
        return found.decode().splitlines()

    def close(self) -> None:
        os.close(self.end)
        self.stream.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("relay_tornado.x", logging.INFO, "", 0, text, None, None)


def numbered(count: int) -> list[str]:
    return [f"{number:01000}" for number in range(count)]


def log_all(handler: LogHandler, texts: list[str]) -> None:
    for text in texts:
        handler.handle(record(text))


def until_quiet(handler: LogHandler) -> None:
    end = time.monotonic() + TIMEOUT
    while handler.catching_up:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_line_is_there_at_once(pipe: Pipe) -> None:
    """While somebody reads, there is no thread: a line of a process that is killed the next moment is there."""
    handler = LogHandler(pipe.stream)
    for text in ("one", "two\ud800"):
        handler.handle(record(text))
    assert not handler.catching_up
    assert pipe.lines(2) == ["one", "two\\ud800"]


@pytest.mark.parametrize("blocking", [True, False])
def test_nobody_waits_for_a_reader(pipe: Pipe, blocking: bool) -> None:
    """Once it reads again, all lines come, in order, and new ones behind them."""
    os.set_blocking(pipe.stream.fileno(), blocking)
    handler = LogHandler(pipe.stream)
    texts = numbered(100)
    log_all(handler, texts)
    assert pipe.lines(100) == texts
    until_quiet(handler)
    handler.handle(record("next"))
    assert pipe.lines(1) == ["next"]


def test_a_line_that_is_longer_than_the_pipe(pipe: Pipe) -> None:
    """As a long traceback: whole, and nobody waits for it."""
    handler = LogHandler(pipe.stream)
    handler.handle(record("x" * 3 * ROOM))
    handler.handle(record("next"))
    assert pipe.lines(2) == ["x" * 3 * ROOM, "next"]


def test_lines_that_are_left_out_are_counted(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded, and the log says what is missing."""
    monkeypatch.setattr(log_stream, "_MOST", 10)
    handler = LogHandler(pipe.stream)
    texts = numbered(60)
    log_all(handler, texts)
    with capture_logs() as logs:
        kept = pipe.lines(20)
        end = time.monotonic() + TIMEOUT
        while not logs:
            assert time.monotonic() < end
            time.sleep(0.01)
    pipe.stream.close()
    kept += pipe.lines(60)
    assert kept == texts[: len(kept)]
    assert [(each["event"], each["count"]) for each in logs] == [("log_lines_left_out", 60 - len(kept))]
    assert len(kept) < 40


def test_a_close_waits_for_nothing_where_no_line_waits(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that logs a line ends at once."""
    handler = LogHandler(pipe.stream)
    handler.handle(record("one"))
    pauses: list[float] = []
    with monkeypatch.context() as patch:
        patch.setattr(log_stream, "_LAST", 0.1)
        patch.setattr(log_stream.time, "sleep", pauses.append)
        handler.close()
    assert (pauses, pipe.lines(1)) == ([], ["one"])


def test_a_reader_that_has_left(pipe: Pipe, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines for nobody raise nothing, and leave no thread."""
    handler = LogHandler(pipe.stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), pipe.end)
    log_all(handler, numbered(100))
    assert not handler.catching_up
    assert "BrokenPipeError" in capsys.readouterr().err


def test_a_lack_of_memory_while_lines_wait(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line may be lost, the later ones are written."""
    write = LogHandler._write
    lacking = [MemoryError()]

    def lack(handler: LogHandler, line: bytes) -> None:
        if lacking:
            raise lacking.pop()
        write(handler, line)

    monkeypatch.setattr(LogHandler, "_write", lack)
    handler = LogHandler(pipe.stream)
    texts = numbered(100)
    log_all(handler, texts)
    found = pipe.lines(99)
    assert len(found) == 99
    assert [text for text in texts if text in found] == found


@pytest.mark.parametrize("stopped", [True, False])
@pytest.mark.parametrize("length", [300, 800, 3000])
def test_a_terminal_that_shows_nothing(stopped: bool, length: int) -> None:
    """It was stopped with Ctrl-S, or its program hangs. It may have room for a part of a line."""
    end, terminal = os.openpty()
    if stopped:
        termios.tcflow(terminal, termios.TCOOFF)
    texts = [f"{number:0{length}}" for number in range(200)]
    with os.fdopen(terminal, "w") as stream:
        try:
            handler = LogHandler(stream)
            thread = threading.Thread(target=log_all, args=(handler, texts), daemon=True)
            thread.start()
            thread.join(TIMEOUT)
            assert not thread.is_alive()
            termios.tcflow(terminal, termios.TCOON)
            found = b""
            while found.count(b"\n") < len(texts):
                found += os.read(end, 1 << 16)
            assert found.decode().splitlines() == texts
            until_quiet(handler)
        finally:
            os.close(end)


def test_lines_that_wait_when_the_process_ends(pipe: Pipe) -> None:
    """They come if they are read in the next second."""
    program = """
import logging, sys
from relay_tornado.log_stream import LogHandler
handler = LogHandler(sys.stderr)
for number in range(100):
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, f"{number:01000}", None, None))
print("logged", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=pipe.stream) as process:
        pipe.stream.close()
        assert process.stdout is not None
        assert process.stdout.readline() == b"logged\n"
        assert pipe.lines(100) == numbered(100)
        assert process.wait(TIMEOUT) == 0


def test_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    """A stream in memory has none."""
    with pytest.raises((OSError, ValueError)):
        LogHandler(sys.stderr)


def test_a_relay_whose_log_nobody_reads(tmp_path: Path, pipe: Pipe) -> None:
    """It serves, and ends in time, as with a terminal that was stopped by Ctrl-S."""
    data = ["--data", str(tmp_path / "data")]
    made = subprocess.run(
        [*RELAY, "token", "create", *data, "--json"],
        env=environment(),
        capture_output=True,
        timeout=TIMEOUT,
        check=True,
    )
    secret = json.loads(made.stdout)["secret"]
    with subprocess.Popen(
        [*RELAY, "serve", *data, "--port", "0", "--log-format", "json"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=pipe.stream,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = next(line for line in process.stdout if "listening on" in line)
            url = line.split("listening on ", 1)[1].split()[0]
            for number in range(120):
                ask = urllib.request.Request(
                    f"{url}/v1/buckets",
                    json.dumps({"name": f"b{number}"}).encode(),
                    {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"},
                )
                with urllib.request.urlopen(ask, timeout=TIMEOUT) as answer:
                    assert answer.status in (200, 201)
            process.terminate()
            assert process.wait(TIMEOUT) == 0
        finally:
            process.kill()
    pipe.stream.close()
    names = [json.loads(line).get("bucket") for line in pipe.lines(120) if line.endswith("}")]
    assert "b0" in names
    assert "b119" not in names


class NoMemory:
    """A poll for which the kernel has no memory."""

    def poll(self, *_: object) -> list[tuple[int, int]]:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def test_a_kernel_without_memory_to_look(pipe: Pipe, capsys: pytest.CaptureFixture[str]) -> None:
    """The lines come all the same, in order, and no tracebacks beside them."""
    handler = LogHandler(pipe.stream)
    handler._poll = NoMemory()  # type: ignore[assignment]
    for number in range(3):
        handler.emit(record(f"line {number}"))
    assert pipe.lines(3) == ["line 0", "line 1", "line 2"]
    handler.close()
    assert capsys.readouterr().err == ""
