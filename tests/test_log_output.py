"""The log: one form for every logger, and nothing secret in it."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from relay_tornado.ids import new_secret
from relay_tornado.log_output import configure, redact
from relay_tornado.low_memory import LogWatch
from relay_tornado.settings import Settings
from tests.failing import once
from tests.waiting import until


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leaves logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {
        name: logging.getLogger(name).level for name in ("tornado.general", "tornado.access", "aiosqlite", "asyncio")
    }
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)
    structlog.reset_defaults()


def opened(**settings: str) -> io.StringIO:
    stream = io.StringIO()
    configure(dataclasses.replace(Settings(), **settings), stream)  # type: ignore[arg-type]
    return stream


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_one_form() -> None:
    """Away from a terminal each line is a JSON object, whoever logs it."""
    stream = opened()
    structlog.get_logger("relay_tornado.x").info("started", port=8080, data=b"a\xff", text="é".encode())
    logging.getLogger("tornado.application").warning("a %s in %d", "word", 3)
    first, second = lines(stream)
    assert (first["event"], first["port"], first["level"], first["logger"]) == (
        "started",
        8080,
        "info",
        "relay_tornado.x",
    )
    assert (second["event"], second["level"], second["logger"]) == ("a word in 3", "warning", "tornado.application")
    assert (first["data"], first["text"]) == ("a\\xff", "é")
    assert str(first["timestamp"]).endswith("Z")


def test_for_people() -> None:
    """For a terminal a line is text."""
    stream = opened(log_format="console")
    structlog.get_logger("relay_tornado.x").info("started", port=8080)
    assert "started" in stream.getvalue()
    assert "port=8080" in stream.getvalue()
    assert "{" not in stream.getvalue()


def test_levels() -> None:
    """What is below the level is not logged; nor is what libraries say about everything that comes in."""
    stream = opened(log_level="debug")
    structlog.get_logger("relay_tornado.x").debug("told")
    logging.getLogger("tornado.general").info("Malformed HTTP message: Invalid header value 'hunter2'")
    logging.getLogger("aiosqlite").debug("executing")
    assert [line["event"] for line in lines(stream)] == ["told"]
    stream = opened(log_level="warning")
    structlog.get_logger("relay_tornado.x").info("not told")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("form", ["json", "console"])
def test_exceptions(form: str) -> None:
    """A traceback is in the line, and what is secret in it is not."""
    secret = new_secret()
    stream = opened(log_format=form)
    for log in (structlog.get_logger("relay_tornado.x").exception, logging.getLogger("tornado.application").exception):
        try:
            raise ValueError(f"no such token: {secret}")
        except ValueError:
            log("failed")
    assert stream.getvalue().count("ValueError: no such token") == 2
    assert stream.getvalue().count("Traceback") == 2
    assert secret not in stream.getvalue()


SECRET = "sk-rly_vc1OmlwNMvR9fCDtNd9TPJdCrmr5TJBc8k6n9Qtr3JM06SKF5"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"got {SECRET}, which is wrong", "got sk-rly_[redacted], which is wrong"),
        ("POST /v1/webhooks/3f2a-in/path?token=x HTTP/1.1", "POST /v1/webhooks/[redacted] HTTP/1.1"),
        ("'http://h/v1/webhooks/3f2a'", "'http://h/v1/webhooks/[redacted]'"),
        ("Authorization: Basic YTpi", "Authorization: Basic [redacted]"),
        ("{'Authorization': 'Bearer abc.def'}", "{'Authorization': 'Bearer [redacted]'}"),
        ("authorization=abc123", "authorization=[redacted]"),
        ("bearer abcdefgh12345678", "bearer [redacted]"),
        ("the basic idea", "the basic idea"),
        ("GET /v1/socket", "GET /v1/socket"),
    ],
)
def test_redaction(text: str, clean: str) -> None:
    """Token secrets, Authorization values and input paths are taken out, and nothing else."""
    assert redact(text) == clean


def test_redaction_reaches_every_value() -> None:
    """Also values inside of values, names of values, and arguments of the standard library's records."""
    stream = opened()
    structlog.get_logger("relay_tornado.x").info(
        "m", a=[{"b": f"x {SECRET}"}], c={SECRET: 1}, d=SECRET.encode(), e=ValueError(SECRET), f=(1, None, 2.5, True)
    )
    logging.getLogger("tornado.application").warning("%s and %r", SECRET, {"k": SECRET})
    logging.getLogger("asyncio").error("Task %(task)s", {"task": SECRET})
    assert len(lines(stream)) == 3
    assert SECRET not in stream.getvalue()
    assert lines(stream)[0]["f"] == [1, None, 2.5, True]


def test_failed_handshakes_are_not_logged() -> None:
    """Each scanner on the net would write a line; other warnings of Tornado stay."""
    stream = opened()
    logging.getLogger("tornado.general").warning("SSL Error on %s %s: %s", 7, "peer", "nonsense")
    logging.getLogger("tornado.general").warning("something else")
    assert [line["event"] for line in lines(stream)] == ["something else"]


@pytest.mark.parametrize("how", ["the error", "the error at hand", "a library's", "in a thread"])
@pytest.mark.gen_test
async def test_a_want_of_memory_has_lost_tasks_looked_for(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library wakes who waits, and what fails at that is caught and logged: the loop is told of nothing."""
    loop = asyncio.get_running_loop()
    opened()
    logging.getLogger().addHandler(LogWatch(loop))
    future: asyncio.Future[None] = loop.create_future()
    waiting = loop.create_task(asyncio.wait_for(future, None))
    await asyncio.sleep(0)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "call_soon", once(loop.call_soon))
        try:
            future.set_result(None)
        except MemoryError as error:
            log = structlog.get_logger("relay_tornado")
            if how == "the error":
                log.error("handler_failed", exc_info=error)
            elif how == "the error at hand":
                log.exception("handler_failed")
            elif how == "in a thread":
                loop.set_debug(True)  # in which only what may come from a thread is let in from one
                await asyncio.to_thread(log.error, "handler_failed", exc_info=error)
            else:
                logging.getLogger("tornado.application").error("Uncaught exception", exc_info=True)
    await until(waiting.done)
