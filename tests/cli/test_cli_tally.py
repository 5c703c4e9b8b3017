"""What an agent says of its work: lines, a status, totals."""

from __future__ import annotations

import json
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from relay_tornado.agent.agent import Outcome
from relay_tornado.agent.request import Request
from relay_tornado.agent.target import Answer, Trouble
from relay_tornado.cli import tally as module
from relay_tornado.cli.screen import Screen
from relay_tornado.cli.tally import Tally
from relay_tornado.client.event import Gap, Notice
from tests.cli.terminal import Terminal
from tests.client.events import event_of

EVENT: Any = event_of(path="/of/the/event", output="out")
REQUEST = Request("POST", "http://127.0.0.1", b"/orders?secret=1", (), b"")
GOOD, BUSY, AWAY = Answer(201, {}, b""), Answer(503, {}, b""), Trouble("connection\x1brefused")


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tally that is made and closed lasted 1.26 s."""
    moments = iter((100.0, 101.26))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(moments), time=lambda: 1234.56789))


def said(capsys: pytest.CaptureFixture[str]) -> tuple[list[str], list[str]]:
    """The lines since the last time, their times away, and the notes."""
    shown = capsys.readouterr()
    lines = [re.sub(r"^[0-2][0-9]:[0-5][0-9]:[0-5][0-9]  ", "", line) for line in shown.out.splitlines()]
    return lines, [note.removeprefix("relay: ") for note in shown.err.splitlines()]


def test_each_event_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """What was asked, without its query, what came of it and how long it took; its tries where there were several."""
    tally = Tally(Screen(), as_json=False, endless=True)
    tally.ended(EVENT, Outcome("delivered", GOOD, 1, 0.0124, REQUEST))
    tally.ended(EVENT, Outcome("refused", BUSY, 2, 1.0, REQUEST))
    tally.ended(EVENT, Outcome("failed", AWAY, 1, 0.0, None))
    tally.ended(event_of(path="", method="GET"), Outcome("failed", AWAY, 1, 0.0, None))
    lines, notes = said(capsys)
    assert lines == [
        "POST   /orders  201  12 ms",
        "POST   /orders  503  1000 ms  2 tries",
        "POST   /of/the/event  connection\\x1brefused  0 ms",
        "GET    /  connection\\x1brefused  0 ms",
    ]
    assert notes == []
    tally.close(0)
    assert said(capsys) == ([], ["1 delivered, 1 refused, 2 failed in 1 s"])


def test_each_event_is_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    """For programs: the same fields whatever came of it, and how long it took or is waited."""
    tally = Tally(Screen(), as_json=True, endless=True)
    tally.ended(EVENT, Outcome("delivered", GOOD, 2, 0.01234, REQUEST))
    tally.retrying(EVENT, None, AWAY, 1, 0.98765)
    tally.gap(Gap("orders", 3, 5, 3, "retention"))
    common = {"at": 1234.568, "id": "k3v9x1q7m2ab-1", "bucket": "orders", "output": "out", "method": "POST"}
    lines, notes = said(capsys)
    delivered, retrying, gap = map(json.loads, lines)
    assert delivered == {
        "what": "delivered",
        **common,
        "path": "/orders",
        "status": 201,
        "error": None,
        "tries": 2,
        "duration_ms": 12.3,
    }
    assert retrying == {
        "what": "retrying",
        **common,
        "path": "/of/the/event",
        "status": None,
        "error": AWAY.words,
        "tries": 1,
        "wait": 0.988,
    }
    assert gap == {
        "what": "gap",
        "at": 1234.568,
        "bucket": "orders",
        "from": 3,
        "to": 5,
        "count": 3,
        "reason": "retention",
    }
    assert notes == ["3 events (3 to 5) of orders are missing (retention)"]
    tally.close(4)
    (totals,), notes = said(capsys)
    assert json.loads(totals) == {
        "what": "totals",
        "delivered": 1,
        "refused": 0,
        "failed": 0,
        "unfinished": 4,
        "missing": 3,
        "seconds": 1.3,
    }
    assert notes == []


def test_fewer_and_fewer_tries_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """The first, second, fourth, eighth …; and once, where there is no end of them, how to pass over an event."""
    endless, bounded = (Tally(Screen(), as_json=False, endless=each) for each in (True, False))
    for tally, request in ((bounded, REQUEST), (endless, None)):
        for tries in range(1, 20):
            tally.retrying(EVENT, request, BUSY, tries, 0.25)
        lines, notes = said(capsys)
        path = "/orders" if request else "/of/the/event"
        assert lines == [f"POST   {path}  503; try {tries} in 0.2 s" for tries in (2, 3, 5, 9, 17)]
        assert notes == []
    for tries in range(1, 8):
        endless.retrying(EVENT, REQUEST, BUSY, tries, 0.25)
    assert said(capsys)[1] == []
    for tries in range(8, 20):
        endless.retrying(EVENT, REQUEST, BUSY, tries, 0.25)
    (note,) = said(capsys)[1]
    assert note.startswith("k3v9x1q7m2ab-1 failed 8 times and is retried without end")


def test_a_header_that_can_not_be_sent_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """By its name, as far as that is one."""
    tally = Tally(Screen(), as_json=False, endless=True)
    for dropped in (("X-\x1b", "Y"), ("Y", "Z" * 200)):
        request = Request("POST", "http://127.0.0.1", b"/", (), b"", dropped)
        tally.ended(EVENT, Outcome("delivered", GOOD, 1, 0.0, request))
    names = [
        note.removeprefix("the header ").removesuffix(" can't be sent, and is left out") for note in said(capsys)[1]
    ]
    assert names == [repr("X-\\x1b"), "'Y'", repr("Z" * 80)]


def test_headers_that_can_not_be_sent_without_end(capsys: pytest.CaptureFixture[str]) -> None:
    """Their names come from senders: so many are told, and no more are kept."""
    tally = Tally(Screen(), as_json=False, endless=True)
    for number in range(1_000):
        request = Request("POST", "http://127.0.0.1", b"/", (), b"", (f"X {number}",))
        tally.ended(EVENT, Outcome("delivered", GOOD, 1, 0.0, request))
    assert len(said(capsys)[1]) == len(tally._dropped) == 100


def test_what_is_missing_or_not_finished_is_in_the_totals(capsys: pytest.CaptureFixture[str]) -> None:
    """As far as it is known how many."""
    tally = Tally(Screen(), as_json=False, endless=True)
    for gap in (Gap("orders", 3, 5, 3, "retention"), Gap("orders", None, None, None, "reset")):
        tally.gap(gap)
    assert said(capsys)[0] == []
    tally.stopping(0)
    assert said(capsys)[1] == []
    tally.stopping(2)
    (note,) = said(capsys)[1]
    assert "Ctrl-C again stops at once" in note
    tally.close(2)
    assert said(capsys)[1] == ["0 delivered, 0 refused, 0 failed, 2 not finished, 3 missing in 1 s"]


def test_the_connection_is_told_when_it_changes(capsys: pytest.CaptureFixture[str]) -> None:
    """Once each way, and whatever else the client says, but for what was delivered."""
    tally = Tally(Screen(), as_json=False, endless=True)
    connected, away = Notice("connected"), Notice("disconnected", "refused")
    for notice in (away, away, connected, connected, Notice("caught_up", bucket="orders"), away):
        tally.notice(notice)
    gone = "refused: reconnecting"
    assert said(capsys) == ([], [gone, "connected to the relay", gone])
    for notice in (
        Notice("missing", "no a", "a"),
        Notice("bucket_deleted", "b is gone", "b"),
        Notice("problem", "words"),
    ):
        tally.notice(notice)
    assert said(capsys)[1] == ["no a", "b is gone", "words"]


def test_the_status_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """How the connection is, what there was, and one event that is being tried again; nothing behind the end."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr("relay_tornado.cli.screen.note", lambda text: None)
    tally = Tally(Screen(), as_json=False, endless=False)
    tally.show()
    assert terminal.last == "connecting"
    tally.notice(Notice("connected"))
    assert terminal.last == "connected"
    tally.retrying(EVENT, REQUEST, BUSY, 3, 2.0)
    assert terminal.last == "connected  503, try 4 in 2 s"
    tally.notice(Notice("disconnected", "refused"))
    assert terminal.last == "the relay is away  503, try 4 in 2 s"
    tally.ended(EVENT, Outcome("delivered", GOOD, 4, 0.0, REQUEST))
    assert terminal.last == "the relay is away  1 delivered"
    assert "\x1b[32m201" in terminal.getvalue()
    tally.retrying(EVENT, REQUEST, BUSY, 1, 2.0)
    assert "\x1b[33m503; try 2" in terminal.getvalue()
    tally.close(0)
    assert terminal.last == ""
