"""`relay export` and `relay import`: a bucket's events with exact bytes, out and in again."""

from __future__ import annotations

import json
import os
import pty
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.sync.client import ClientConnection, connect

from relay_tornado.cli import export_import
from relay_tornado.errors import Invalid, Unavailable
from relay_tornado.model import Event
from relay_tornado.ops import export_format as forms
from relay_tornado.ops.export import export
from relay_tornado.ops.export_format import LARGEST_SEQ, Stub, item_line, parse
from tests.acceptance.relay import TIMEOUT, Relay
from tests.cli.runner import Runner
from tests.needs import needs, needs_root
from tests.ops.filling import change, fill
from tests.ops.stored import content, epochs, log

events = st.builds(
    Event,
    seq=st.integers(1, 2**62),
    epoch=st.just("k3v9x1q7m2ab"),
    received_at=st.floats(0, 4e9),
    input_id=st.text(st.characters(exclude_categories=["Cs"])),
    method=st.sampled_from(["POST", "GET", "QUERY"]),
    path=st.binary(),
    query=st.binary(),
    headers=st.binary(),
    body=st.binary() | st.text(st.characters(exclude_categories=["Cs"])).map(str.encode),
    remote_ip=st.just("::1"),
    resend_of=st.none() | st.just("k3v9x1q7m2ab-4"),
    target=st.none() | st.integers(1, 99),
    force=st.booleans(),
    verified=st.none() | st.booleans(),
    verdict=st.text(st.characters(exclude_categories=["Cs"])),
)


@given(events)
def test_a_line_holds_every_event(event: Event) -> None:
    """Whatever bytes an event has, its line gives it back, and is one line."""
    line = item_line(event)
    assert line.count(b"\n") == 1
    assert parse(line) == event


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "no whole line"),
        (b"[]", "an object"),
        (b"5", "an object"),
        (b"[" * 200_000, "no whole line"),
        (b'{"seq": "\xff"}', "no whole line"),
        (b'{"seq": 1}', "needs either"),
        (b'{"relay_export": 2}', "version 2"),
        (b'{"relay_export": 1}', "no header"),
    ],
)
def test_what_is_no_line_is_said(line: bytes, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        parse(line)


def test_a_changed_line_is_noticed() -> None:
    """The checksum goes with an event; a field that nobody knows, and a seq of none, are refused."""
    event = Event(3, "k3v9x1q7m2ab", 1.0, "i", "POST", b"", b"", b"", b"hello", "::1")
    line = item_line(event)
    bare = line[: line.index(b',"crc"')] + b"}"
    assert parse(bare) == event
    stub = Stub(3, "k3v9x1q7m2ab", 1.0, "i", "POST", 700)
    assert parse(item_line(stub)) == stub
    assert parse(item_line(stub).replace(b"{", b'{"crc":1,', 1)) == stub
    for name, most, end in (
        ("seq", 1 << 62, bare.replace(b":3,", b":4611686018427387904,")),
        ("size", 1 << 40, item_line(stub).replace(b"700", b"1099511627776")),
    ):
        assert getattr(parse(end), name) == most
    for changed, words in (
        (line.replace(b"hello", b"hullo"), "crc"),
        (line.replace(b"{", b'{"mode":1,', 1), "does not know: mode"),
        (line.replace(b":3,", b":0,"), "seq below 1"),
        (bare.replace(b":3,", b":4611686018427387905,"), "that no log has"),
        (bare.replace(b"{", b'{"target":4611686018427387905,', 1), "that no log has"),
        (item_line(stub).replace(b"700", b"1099511627777"), "that no log has"),
        (item_line(stub).replace(b"700", b"-1"), "that no log has"),
        (bare.replace(b"{", b'{"target":-9223372036854775809,', 1), "that no log has"),
        (bare.replace(b":3,", b':"3",'), "is no event"),
        (bare.replace(b'"hello"', b"5"), "a body that can't be read"),
        (bare.replace(b'"body":"hello"', b'"body_base64":"aGVs bG8="'), "a body that can't be read"),
        (bare.replace(b'"body":"hello"', '"body_base64":"é"'.encode()), "a body that can't be read"),
        (bare.replace(b'"body":"hello"', b'"body_base64":5'), "a body that can't be read"),
        (bare.replace(b"{", b'{"body_base64":"aGVsbG8=",', 1), "either body or body_base64"),
    ):
        with pytest.raises(Invalid, match=words):
            parse(changed)


def test_there_and_back(cli: Runner, tmp_path: Path) -> None:
    """seq, time, bytes and marks arrive as they were, in a new bucket with a new epoch and the old one's retention."""
    fill(cli.data, "orders", 700, resend_of="k3v9x1q7m2ab-4", verified=True, verdict="good")
    fill(cli.data, "orders", 5)
    cli.json("bucket", "set", "orders", "--retention-age", "none")
    done = cli.json("export", "orders", tmp_path / "e.ndjson")
    assert done == {"bucket": "orders", "file": str(tmp_path / "e.ndjson"), "events": 705, "last": 705}
    assert (tmp_path / "e.ndjson").stat().st_mode & 0o777 == 0o600
    answer = cli.json("import", "copy", tmp_path / "e.ndjson")
    assert (answer["imported"], answer["head"], answer["created"]) == (705, 705, True)
    assert content(cli, "copy") == content(cli, "orders")
    assert log(cli, "copy") == log(cli, "orders")
    assert cli.json("bucket", "show", "copy")["retention"] == cli.json("bucket", "show", "orders")["retention"]
    assert {epoch for epoch, _ in epochs(cli, "copy")}.isdisjoint({epoch for epoch, _ in epochs(cli, "orders")})
    assert cli.json("check")["findings"] == []


def test_a_repeated_import_adds_nothing(cli: Runner, tmp_path: Path) -> None:
    """What is there is passed over, also in another run of the relay, and the rest goes on with a newer epoch."""
    fill(cli.data, "orders", 300)
    cli.json("export", "orders", tmp_path / "e.ndjson")
    lines = (tmp_path / "e.ndjson").read_bytes().splitlines(keepends=True)
    half = b"".join(lines[:120])
    (tmp_path / "half").write_bytes(half + lines[120][:50])
    assert "line 121 is cut off" in cli.refused("import", "copy", tmp_path / "half")
    assert log(cli, "copy")[:2] == (1, 119)
    assert cli.json("import", "copy", tmp_path / "e.ndjson")["imported"] == 181
    assert cli.json("import", "copy", tmp_path / "e.ndjson")["imported"] == 0
    assert content(cli, "copy") == content(cli, "orders")
    assert [start for _, start in epochs(cli, "copy")] == [1, 120]
    assert cli.json("check")["findings"] == []


def test_a_line_without_end(cli: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more of it is read than an event can take; what comes before is imported."""
    fill(cli.data, "orders", 3)
    cli.json("export", "orders", tmp_path / "e.ndjson")
    monkeypatch.setattr(forms, "LONGEST_LINE", 10_000)
    with (tmp_path / "e.ndjson").open("ab") as file:
        file.truncate(file.tell() + (1 << 24))
    assert "line 5 is longer than the 10000 bytes" in cli.refused("import", "copy", tmp_path / "e.ndjson")
    assert log(cli, "copy")[:2] == (1, 3)


@pytest.mark.parametrize("text", [b"\x01", b'"', b"a", "\u20ac".encode()])
def test_a_text_of_many_escapes(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    """However its characters are written in JSON, an event's line is no longer than one that is imported."""
    monkeypatch.setattr(forms, "LONGEST_LINE", 60_000)
    body = text * (40_000 // len(text))
    event = Event(1, "k3v9x1q7m2ab", 1.0, "in", "POST", b"", b"", b"", body, "::1")
    line = item_line(event)
    assert len(line) <= 60_000
    assert (b"body_base64" in line) == (text in b'\x01"')
    assert parse(line) == event


def test_an_ephemeral_bucket_takes_no_content(cli: Runner, tmp_path: Path) -> None:
    """By an import neither: none of it lies on the disk."""
    fill(cli.data, "orders", 3)
    cli.json("export", "orders", tmp_path / "e.ndjson")
    cli.json("bucket", "create", "brief", "--ephemeral")
    assert "'brief' is ephemeral" in cli.refused("import", "brief", tmp_path / "e.ndjson")
    assert log(cli, "brief")[:2] == (1, 0)


@pytest.mark.parametrize("chunk", [1, export_import.CHUNK])
def test_an_export_is_continued(cli: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """--append goes on where the file ends, cutting off what is no whole line; nothing is overwritten without it."""
    monkeypatch.setattr(export_import, "CHUNK", chunk)
    file = tmp_path / "e.ndjson"
    fill(cli.data, "orders", 100)
    cli.json("export", "orders", file, "--append")
    assert "--append" in cli.refused("export", "orders", file)
    fill(cli.data, "orders", 50)
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    for events, last in ((51, 150), (0, 0)):
        done = cli.json("export", "orders", file, "--append")
        assert (done["events"], done["last"]) == (events, last)
    for cut in (whole[:20], whole[:5], b'{"relay_export":' + b"1" * 100_000, whole + b"{" * 100_000):
        file.write_bytes(cut)
        assert cli.json("export", "orders", file, "--append")["events"] == (50 if b"\n" in cut else 150)
        seqs = [json.loads(line).get("seq") for line in file.read_bytes().splitlines()]
        assert seqs == [None, *range(1, 151)]
    for arguments in ((file, "--append", "--after", "3"), ("-", "--append")):
        assert "leave --after out" in cli.misused("export", "orders", *arguments)
    for notes in (b"notes of mine\n", b"notes\nof mine", b"notes of mine", b'{"relay"'):
        file.write_bytes(notes)
        assert "name another file" in cli.refused("export", "orders", file, "--append")
        assert file.read_bytes() == notes


def test_an_export_is_continued_with_its_own_events_only(cli: Runner, tmp_path: Path) -> None:
    """After a restore other events have the seqs of those that were lost: what the file holds of them is told, and
    nothing is added. A file of another bucket is told, too; one that ends where the backup does goes on."""
    fill(cli.data, "orders", 10)
    cli.json("export", "orders", tmp_path / "backed")
    cli.json("backup", tmp_path / "b.db")
    fill(cli.data, "orders", 5)
    cli.json("export", "orders", tmp_path / "all")
    (tmp_path / "header").write_bytes((tmp_path / "all").read_bytes().splitlines(keepends=True)[0])
    restored = Runner(tmp_path / "restored")
    restored.json("restore", tmp_path / "b.db")
    fill(restored.data, "orders", 8, size=200)
    fill(restored.data, "billing", 30)
    for name in ("all", "header"):
        before = (tmp_path / name).read_bytes()
        said = restored.refused("export", "orders", tmp_path / name, "--append")
        assert "gap: reset" in said
        assert "into a new file" in said
        assert "another bucket" in restored.refused("export", "billing", tmp_path / name, "--append")
        assert (tmp_path / name).read_bytes() == before
    assert restored.json("export", "orders", tmp_path / "backed", "--append")["events"] == 8
    assert cli.json("import", "copy", tmp_path / "backed")["imported"] == 18
    assert content(cli, "copy") == content(restored, "orders")


def test_parts_put_together(cli: Runner, tmp_path: Path) -> None:
    """Exports by seq and by id, on standard output, are one export when they are joined; one that begins later makes
    a log that begins there."""
    fill(cli.data, "orders", 60)
    epoch = epochs(cli, "orders")[-1][0]
    first, second = cli("export", "orders").stdout_bytes, b""
    lines = first.splitlines(keepends=True)
    second = cli("export", "orders", "-", "--after", f"{epoch}-40").stdout_bytes
    assert second.splitlines()[1:] == cli("export", "orders", "--after", "40").stdout_bytes.splitlines()[1:]
    (tmp_path / "joined").write_bytes(b"".join(lines[:41]) + second)
    assert cli.json("import", "joined", tmp_path / "joined")["imported"] == 60
    (tmp_path / "late").write_bytes(second)
    assert cli.json("import", "late", tmp_path / "late")["imported"] == 20
    assert log(cli, "late")[:2] == (41, 60)
    assert content(cli, "late") == content(cli, "orders")[40:]
    assert cli.json("check")["findings"] == []
    for after, lines_left in (("0", 61), ("59", 2), ("60", 1), (f"{epoch}-0", 61), (f"{epoch}-60", 1)):
        assert cli("export", "orders", "--after", after).stdout_bytes.count(b"\n") == lines_left
    for after in ("61", "zzzzzzzzzzzz-3", f"{epoch}-99"):
        assert cli("export", "orders", "--after", after).exit_code == 1


def test_what_does_not_fit_is_refused(cli: Runner, tmp_path: Path) -> None:
    """A hole, other events in their places, another bucket's header, and no header: each names its line, and the lines
    before it are imported."""
    fill(cli.data, "orders", 20)
    fill(cli.data, "billing", 20)
    for name in ("orders", "billing"):
        cli.json("export", name, tmp_path / name)
    lines = (tmp_path / "orders").read_bytes().splitlines(keepends=True)
    (tmp_path / "hole").write_bytes(b"".join(lines[:10] + lines[11:]))
    assert "line 11: event 11 does not follow event 9" in cli.refused("import", "a", tmp_path / "hole")
    assert log(cli, "a")[:2] == (1, 9)
    assert cli.json("import", "a", tmp_path / "orders")["imported"] == 11
    assert "line 2: event 1 of the bucket differs" in cli.refused("import", "billing", tmp_path / "orders")
    (tmp_path / "both").write_bytes((tmp_path / "orders").read_bytes() + (tmp_path / "billing").read_bytes())
    assert "line 22 is the header of another" in cli.refused("import", "b", tmp_path / "both")
    (tmp_path / "bare").write_bytes(b"".join(lines[1:]))
    assert "line 1 comes before" in cli.refused("import", "c", tmp_path / "bare")
    late = json.loads(lines[5]) | {"received_at": time.time() + 100_000}
    del late["crc"]
    (tmp_path / "late").write_bytes(b"".join(lines[:5]) + json.dumps(late).encode() + b"\n")
    assert "line 6: the event was received in the future" in cli.refused("import", "e", tmp_path / "late")
    assert log(cli, "e")[:2] == (1, 4)
    assert cli.refused("import", "a/b", tmp_path / "orders").startswith("name: holds a")  # which no line says
    (tmp_path / "empty").write_bytes(b"")
    assert "the export is empty" in cli.refused("import", "d", tmp_path / "empty")


def test_exports_that_are_whole(cli: Runner, tmp_path: Path) -> None:
    """One of no events yet, that goes on with those that came, and one of a log that does not begin with 1 any more."""
    fill(cli.data, "orders", 0)
    cli.json("export", "orders", tmp_path / "none")
    assert cli.json("import", "copy", tmp_path / "none")["imported"] == 0
    fill(cli.data, "orders", 5)
    cli.json("export", "orders", tmp_path / "none", "--append")
    fill(cli.data, "orders", 5)
    cli.json("export", "orders", tmp_path / "none", "--append")
    assert cli.json("import", "copy", tmp_path / "none")["imported"] == 10
    change(cli.data / "relay.db", "DELETE FROM event WHERE seq < 4", "UPDATE log SET first = 4, bytes = 0 WHERE head")
    cli.json("export", "orders", tmp_path / "left")
    assert cli.json("import", "left", tmp_path / "left")["imported"] == 7
    assert cli("export", "orders", "--after", "3").stdout.count("\n") == 8
    assert "this bucket holds 4 to 10" in cli.refused("export", "orders", "--after", "2")


def test_with_a_running_relay(new_relay: Callable[..., Relay], tmp_path: Path) -> None:
    """Both work while a relay runs, with an event larger than a page of the protocol; clients see what was imported."""
    fill(tmp_path / "data", "orders", 400)
    fill(tmp_path / "data", "orders", 1, size=9 << 20)
    relay = new_relay()
    relay.start()
    assert relay.command("export", "orders", str(tmp_path / "e"))["events"] == 401
    assert relay.command("import", "copy", str(tmp_path / "e"))["imported"] == 401
    assert relay.command("import", "copy", str(tmp_path / "e"))["imported"] == 0
    assert relay.command("check")["findings"] == []
    assert relay.stop() == 0


def test_who_reads_every_bucket_misses_nothing_of_a_later_part(new_relay: Callable[..., Relay], tmp_path: Path) -> None:
    """A part of an export makes a bucket that begins with it. Who joins at its first event is told no gap, be it one
    that refuses gaps, one with a consumer, or a durable token."""
    fill(tmp_path / "data", "orders", 20)
    relay = new_relay()
    relay.start()
    relay.command("export", "orders", str(tmp_path / "part"), "--after", "14")
    durable, token = (relay.command("token", "create", *options) for options in (["--durable"], []))
    with connect(relay.ws_url, proxy=None) as socket, connect(relay.ws_url, proxy=None) as worker:
        for each, fields in ((socket, {"on_gap": "fail"}), (worker, {"consumer": "worker"})):
            subscribe(each, token, fields)
        assert relay.command("import", "part", str(tmp_path / "part"))["imported"] == 6
        for each in (socket, worker):
            assert seqs(each, 6) == [15, 16, 17, 18, 19, 20]
    for name in ("worker", f"token:{durable['key']}"):
        consumer = relay.command("consumer", "show", "part", name)
        assert (consumer["pending"], consumer["gaps"]) == (6, None)
    relay.command("export", "orders", str(tmp_path / "none"), "--after", "20")
    assert relay.command("import", "none", str(tmp_path / "none"))["head"] == 20
    assert relay.command("check")["findings"] == []
    assert relay.stop() == 0


@pytest.mark.parametrize("restarted", [False, True])
def test_who_reads_an_empty_bucket_misses_nothing_of_a_later_part(
    restarted: bool, new_relay: Callable[..., Relay], tmp_path: Path
) -> None:
    """An empty bucket that takes over a part of an export begins with it: nobody who reads it from its beginning on is
    told a gap, connected or not, be it one that refuses gaps, one with a consumer, or a durable token."""
    fill(tmp_path / "data", "orders", 20)
    relay = new_relay()
    relay.start()
    relay.command("export", "orders", str(tmp_path / "part"), "--after", "14")
    relay.command("bucket", "create", "part")
    if restarted:
        assert relay.stop() == 0
        relay.start()
    durable, token = (relay.command("token", "create", *options) for options in (["--durable"], []))
    members = [{"on_gap": "fail"}, {"consumer": "worker"}, {"consumer": "mirror", "ack": "receipt", "on_gap": "fail"}]
    part = {"buckets": ["part"]}
    with ExitStack() as stack:
        sockets = []
        for fields in [*members, {"consumer": "away"}]:
            socket = stack.enter_context(connect(relay.ws_url, proxy=None))
            sockets.append(socket)
            beginning = subscribe(socket, token, fields | part)
        sockets.pop().close()
        assert relay.command("import", "part", str(tmp_path / "part"))["imported"] == 6
        with connect(relay.ws_url, proxy=None) as later:
            subscribe(later, token, {"since": beginning, "on_gap": "fail"} | part, until="subscribed")
            for each in [*sockets, later]:
                assert seqs(each, 6) == [15, 16, 17, 18, 19, 20]
    for name in ("worker", "away", f"token:{durable['key']}"):
        consumer = relay.command("consumer", "show", "part", name)
        assert (consumer["pending"], consumer["gaps"]) == (6, None)
    assert relay.command("consumer", "show", "part", "mirror")["gaps"] is None
    assert relay.command("check")["findings"] == []
    assert relay.stop() == 0


def seqs(socket: ClientConnection, count: int) -> list[int | None]:
    """Of the next frames, None for one that is no event; signs of life may come between them."""
    found: list[int | None] = []
    while len(found) < count:
        frame = json.loads(socket.recv(TIMEOUT))
        if frame.get("status") != "ping":
            found.append(frame.get("meta", {}).get("seq"))
    return found


def subscribe(socket: ClientConnection, token: dict[str, Any], fields: dict[str, Any], until: str = "caught_up") -> str:
    """Subscribes; returns the position that the last answer names."""
    socket.send(json.dumps({"action": "auth", **token}))
    socket.send(json.dumps({"action": "subscribe", **fields}))
    while (said := json.loads(socket.recv(TIMEOUT))).get("status") != until:
        pass
    return str(said.get("id"))


def test_an_export_after_a_number_of_19_digits(cli: Runner, tmp_path: Path) -> None:
    """Whatever seq a log may have is one to begin after."""
    fill(cli.data, "orders", 3)
    header, *events = [json.loads(line) for line in cli("export", "orders").stdout_bytes.splitlines()]
    header |= {"first": LARGEST_SEQ - 2, "head": LARGEST_SEQ}
    lines = [header, *({**each, "seq": each["seq"] + LARGEST_SEQ - 3} for each in events)]
    (tmp_path / "e").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cli.json("import", "late", tmp_path / "e")["head"] == LARGEST_SEQ
    assert cli.json("export", "late", tmp_path / "rest", "--after", LARGEST_SEQ - 1)["events"] == 1
    assert cli.json("check")["findings"] == []


READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'


def test_a_disk_that_is_mounted_read_only(cli: Runner) -> None:
    """What lies in a file alone is read from there; what needs files that can't be made there says so, and no word of
    rights."""
    needs_root("it mounts a directory")
    needs("unshare", "install util-linux")
    fill(cli.data, "orders", 5)

    def relay(*arguments: str) -> subprocess.CompletedProcess[str]:
        place = ["unshare", "-m", "sh", "-c", READ_ONLY, "sh", str(cli.data)]
        command = [*place, sys.executable, "-m", "relay_tornado", *arguments, "--data", str(cli.data)]
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)

    assert relay("export", "orders").stdout.count("\n") == 6
    with closing(sqlite3.connect(cli.data / "relay.db")) as raw:  # a WAL that was copied without what stands beside it
        raw.execute("UPDATE meta SET version = 'x'")
        raw.commit()
        wal = (cli.data / "relay.db-wal").read_bytes()
    (cli.data / "relay.db-wal").write_bytes(wal)
    (cli.data / "relay.db-wal").chmod(0o600)
    for arguments in (("export", "orders"), ("check",), ("doctor", "--idle", "0")):
        said = relay(*arguments)
        assert said.returncode in (1, 3, 4)
        assert "mount" in said.stdout + said.stderr
        assert "chmod 0600" not in said.stdout + said.stderr
        assert "give the directory" not in said.stdout


def test_an_import_from_a_terminal_says_what_it_waits_for(tmp_path: Path) -> None:
    """On stderr, before it reads; Ctrl-D ends it."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"RELAY_DATA": str(tmp_path / "data")}
    process = subprocess.Popen(
        [sys.executable, "-m", "relay_tornado", "import", "copy"],
        stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        os.write(ours, b"\x04")
        said = process.communicate(timeout=60)[1]
        assert said.startswith("relay: reading events from standard input: end them with Ctrl-D\n")
        assert "the export is empty" in said
        assert process.returncode == 1
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


def test_places_that_leave_during_an_export(cli: Runner) -> None:
    """It says that retention took them, as of any event."""
    fill(cli.data, "orders", 3, ephemeral=True)
    path = cli.data / "relay.db"
    written: list[bytes] = []

    def write(line: bytes) -> None:
        written.append(line)
        if len(written) == 2:
            change(path, "UPDATE log SET first = 3", "DELETE FROM event WHERE seq < 3")

    with pytest.raises(Unavailable, match="retention removed the events up to 2 meanwhile"):
        export(path, "orders", None, write, lambda *_: None)
    assert len(written) == 2
