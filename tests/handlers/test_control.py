"""The control socket: who may use it, what it answers, and what it bears."""

import asyncio
import errno
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay_tornado.errors import NotWritable
from relay_tornado.handlers import control
from relay_tornado.handlers.control import ControlServer
from tests.admin.world import OpenWorld, World
from tests.admin.worlds import open_memory as open_memory
from tests.admin.worlds import open_world as open_world
from tests.admin.worlds import world as world
from tests.failing import once
from tests.needs import needs_root
from tests.waiting import until

TIMEOUT = 60


@asynccontextmanager
async def serving(world: World, folder: Path) -> AsyncIterator[tuple[ControlServer, Path]]:
    server = ControlServer(world.administration, folder)
    path = await server.start()
    try:
        yield server, path
    finally:
        await server.close()


class Client:
    """A connection to a control socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, line: bytes) -> Any:
        self.writer.write(line)
        return await self.answer()

    async def answer(self) -> Any:
        line = await asyncio.wait_for(self.reader.readline(), TIMEOUT)
        return json.loads(line) if line else None

    async def call(self, command: str, **arguments: Any) -> Any:
        return await self.ask(json.dumps({"command": command, "arguments": arguments}).encode() + b"\n")


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 24)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


@pytest.mark.gen_test
async def test_commands_go_through(open_memory: OpenWorld, tmp_path: Path) -> None:
    """Several commands on one connection are answered in order, results and errors alike."""
    async with open_memory() as world, serving(world, tmp_path) as (_, path), connected(path) as client:
        made = await client.call("bucket.create", name="orders")
        assert made["result"]["name"] == "orders"
        taken = await client.call("bucket.create", name="orders")
        assert taken["error"]["code"] == "conflict"
        wrong = await client.call("bucket.set", bucket="orders", options={"max_body": 0})
        assert (wrong["error"]["code"], wrong["error"]["message"].partition(":")[0]) == ("invalid", "max_body")
        missing = await client.call("bucket.show", bucket="nothing")
        assert missing["error"]["code"] == "not_found"
        world.administration.url = "https://relay.example.org"
        assert (await client.ask(b'{"command":"relay.info"}\n'))["result"]["url"] == "https://relay.example.org"


@pytest.mark.gen_test
async def test_malformed_requests(open_memory: OpenWorld, tmp_path: Path) -> None:
    """What is no request is answered as invalid, and the connection goes on."""
    async with open_memory() as world, serving(world, tmp_path) as (_, path), connected(path) as client:
        for line in (
            b"\n",
            b"{\n",
            b"null\n",
            b"[]\n",
            b'{"command":5}\n',
            b'{"command":"bucket.list","arguments":[]}\n',
            b'{"command":"bucket.list","more":1}\n',
            b'{"command":"bucket.create","arguments":{"name":"\xff"}}\n',
            b'{"command":"bucket.create","arguments":{"name":"\\ud800"}}\n',
            b'{"command":"bucket.create","arguments":{"name":"a","options":{"max_body":1e999}}}\n',
            b"[" * 100_000 + b"\n",
        ):
            assert (await client.ask(line))["error"]["code"] == "invalid", line[:60]
        assert (await client.call("bucket.list")) == {"result": []}


@pytest.mark.gen_test
async def test_lines_are_bounded(open_memory: OpenWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line over the limit is refused, and ends its connection; the largest body of an input fits."""
    async with open_memory() as world, serving(world, tmp_path) as (_, path), connected(path) as client:
        await client.call("bucket.create", name="orders")
        largest = await client.call("input.set", input="orders", options={"body": "\x01" * 250_000})
        assert len(largest["result"]["body"]) == 250_000
    monkeypatch.setattr(control, "MAX_LINE", 1000)
    async with open_memory() as world, serving(world, tmp_path) as (_, path), connected(path) as client:
        assert "1000 bytes at most" in (await client.ask(b"x" * 3000))["error"]["message"]
        assert await client.answer() is None


@pytest.mark.gen_test
@pytest.mark.parametrize("lacking", ["StreamReader", "StreamReaderProtocol"])
async def test_connections_are_accepted_behind_one_that_there_was_no_memory_for(
    open_memory: OpenWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    """That one is closed, and the next one served."""
    monkeypatch.setattr(control, "RETRY_DELAY", 0.01)
    async with open_memory() as world, serving(world, tmp_path) as (_, path):
        with monkeypatch.context() as patch, socket.socket(socket.AF_UNIX) as turned_away:
            turned_away.setblocking(False)
            patch.setattr(asyncio.streams, lacking, once(getattr(asyncio.streams, lacking)))
            loop = asyncio.get_running_loop()
            await loop.sock_connect(turned_away, os.fspath(path))
            assert await asyncio.wait_for(loop.sock_recv(turned_away, 1), TIMEOUT) == b""
        async with connected(path) as client:
            assert "result" in await client.call("relay.info")


@pytest.mark.gen_test
async def test_an_idle_connection_is_closed(
    open_memory: OpenWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sends nothing is sent away, and told so: what it asks then was not done, and it asks anew."""
    async with open_memory() as world, serving(world, tmp_path) as (_, path), connected(path) as client:
        assert await client.call("bucket.list") == {"result": []}
        monkeypatch.setattr(control, "IDLE", 0.05)
        # It waits already, for as long as was said before.
        assert await client.call("bucket.list") == {"result": []}
        assert (await client.answer())["error"]["code"] == "closing"
        assert await client.answer() is None


@pytest.mark.gen_test
async def test_connections_are_bounded(open_memory: OpenWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One over the limit is closed; when another has left, there is room again."""
    monkeypatch.setattr(control, "MAX_CONNECTIONS", 1)
    async with open_memory() as world, serving(world, tmp_path) as (server, path):
        async with connected(path) as first, connected(path) as second:
            assert await first.call("bucket.list") == {"result": []}
            assert await second.answer() is None
        await until(lambda: not server._connections)
        async with connected(path) as third:
            assert await third.call("bucket.list") == {"result": []}


@pytest.mark.gen_test
async def test_a_bug_is_answered_and_says_nothing_secret(
    open_memory: OpenWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected exception is an `internal` error; neither it nor the log shows the arguments."""

    async def bug(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    async with open_memory() as world, serving(world, tmp_path) as (_, path), connected(path) as client:
        monkeypatch.setattr(world.administration, "create_bucket", bug)
        auth = {"type": "token", "token": "hunter2"}
        with capture_logs() as logs:
            answer = await client.call("bucket.create", name="orders", options={"auth": auth})
        assert answer["error"]["code"] == "internal"
        assert await client.call("bucket.list") == {"result": []}
        (line,) = logs
        assert (line["event"], line["command"], line["error"]) == ("command_failed", "bucket.create", "RuntimeError")
        assert "in bug" in line["where"]
        assert "hunter2" not in str(line) + str(answer)


@pytest.mark.gen_test
async def test_the_socket_is_its_owners(open_memory: OpenWorld, tmp_path: Path) -> None:
    """It lies in the data directory with mode 0600, whatever the umask, and is removed at the end."""
    tmp_path.chmod(0o700)
    before = os.umask(0)
    try:
        async with open_memory() as world, serving(world, tmp_path) as (server, path):
            assert path == tmp_path / "relay.sock"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            await server.close()
            assert not path.exists()
    finally:
        os.umask(before)


@pytest.mark.gen_test
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
async def test_a_directory_that_others_may_write_to(open_memory: OpenWorld, tmp_path: Path, mode: int) -> None:
    """Somebody could put another socket in its place there, so it lies in a fresh folder of its owner's alone."""
    tmp_path.chmod(mode)
    async with open_memory() as world, serving(world, tmp_path) as (_, path), connected(path) as client:
        assert path.parent != tmp_path
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert await client.call("bucket.list") == {"result": []}
    assert not path.parent.exists()


@pytest.mark.gen_test
async def test_a_long_path(open_memory: OpenWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path of 107 bytes is used as it is; over that the socket lies in a fresh 0700 folder, removed at the end."""
    exact = tmp_path / ("x" * (107 - len(os.fsencode(tmp_path)) - 2 - len("relay.sock")))
    longer = exact.with_name(exact.name + "x")
    for folder in (exact, longer):
        folder.mkdir(mode=0o700)
    async with open_memory() as world, serving(world, exact) as (_, path), connected(path) as client:
        assert path == exact / "relay.sock"
        assert len(os.fsencode(path)) == 107
        assert await client.call("bucket.list") == {"result": []}
    for temporary in (tmp_path, longer):
        monkeypatch.setattr(control.tempfile, "tempdir", str(temporary))
        async with open_memory() as world, serving(world, longer) as (_, path), connected(path) as client:
            assert len(os.fsencode(path)) <= 107
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert await client.call("bucket.list") == {"result": []}
        assert not path.parent.exists()
        assert list(longer.iterdir()) == []


@pytest.mark.gen_test
async def test_no_folder_for_the_socket(
    open_memory: OpenWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where neither the data directory nor a temporary folder does, the refusal says what to name."""
    tmp_path.chmod(0o777)
    monkeypatch.setattr(control.tempfile, "tempdir", str(tmp_path / "nothing"))
    async with open_memory() as world:
        with pytest.raises(NotWritable, match="TMPDIR"):
            await ControlServer(world.administration, tmp_path).start()


@pytest.mark.gen_test
async def test_a_stale_socket_is_replaced(open_memory: OpenWorld, tmp_path: Path) -> None:
    """What a killed relay left is replaced; what is no socket is left alone, and said."""
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "relay.sock"))
    stale.close()
    async with open_memory() as world, serving(world, tmp_path) as (_, path), connected(path) as client:
        assert await client.call("bucket.list") == {"result": []}
    (tmp_path / "relay.sock").write_text("precious")
    async with open_memory() as world:
        server = ControlServer(world.administration, tmp_path)
        with pytest.raises(NotWritable, match="move it away"):
            await server.start()
        await server.close()
    assert (tmp_path / "relay.sock").read_text() == "precious"


@pytest.mark.gen_test
async def test_a_full_disk_has_no_room_for_the_socket(
    open_memory: OpenWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is said, and no right is missing."""

    def bind(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(socket.socket, "bind", bind)
    async with open_memory() as world:
        with pytest.raises(NotWritable, match=r"No space left on device\): free some space$"):
            await ControlServer(world.administration, tmp_path).start()


STRANGER = """
import os, socket, sys
client = socket.socket(socket.AF_UNIX)
client.settimeout(60)
os.setgid(65534)
os.setuid(int(sys.argv[2]))
client.connect(sys.argv[1])
try:
    client.sendall(b'{"command":"relay.info"}\\n')
    print(client.recv(1000).decode())
except (BrokenPipeError, ConnectionResetError):
    print()
"""


@pytest.mark.gen_test
async def test_another_user_is_sent_away(open_memory: OpenWorld) -> None:
    """Even where the file's rights would let him in, the peer's uid is checked; the same way in works for root."""
    needs_root("only root can become another user")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        async with open_memory() as world, serving(world, Path(folder)) as (_, path):
            path.chmod(0o666)
            for uid, let_in in ((0, True), (65534, False)):
                with capture_logs() as logs:
                    process = await asyncio.create_subprocess_exec(
                        *(sys.executable, "-I", "-c", STRANGER, str(path), str(uid)),
                        stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE,
                    )
                    out, err = await asyncio.wait_for(process.communicate(), TIMEOUT)
                    # He may be gone before the server has looked at who he is.
                    await until(lambda let_in=let_in, logs=logs: let_in or logs)
                assert [line["event"] for line in logs] == ([] if let_in else ["control_refused"])
                assert (process.returncode, err) == (0, b"")
                assert ("result" in out.decode()) == let_in


@pytest.mark.gen_test
async def test_closing_lets_a_running_command_finish(open_memory: OpenWorld, tmp_path: Path) -> None:
    """It is answered; whoever asks nothing is told that the relay stops, and can't connect any more."""
    async with open_memory() as world, serving(world, tmp_path) as (server, path):
        begun, go_on = asyncio.Event(), asyncio.Event()
        create = world.administration.create_bucket

        async def slow(name: str, first: int = 1, /, **options: Any) -> Any:
            begun.set()
            await go_on.wait()
            return await create(name, first, **options)

        world.administration.create_bucket = slow  # type: ignore[method-assign]
        async with connected(path) as busy, connected(path) as idle:
            assert await idle.call("bucket.list") == {"result": []}
            asked = asyncio.ensure_future(busy.call("bucket.create", name="orders"))
            await asyncio.wait_for(begun.wait(), TIMEOUT)
            closing = asyncio.ensure_future(server.close())
            assert (await idle.answer())["error"]["code"] == "closing"
            assert await idle.answer() is None
            with pytest.raises(OSError, match=r"refused|No such file"):
                await asyncio.open_unix_connection(path)
            go_on.set()
            assert (await asked)["result"]["name"] == "orders"
            assert (await busy.answer())["error"]["code"] == "closing"
            await asyncio.wait_for(closing, TIMEOUT)
        assert not path.exists()


@pytest.mark.gen_test
@pytest.mark.parametrize(("most", "seconds"), [(0.05, 3600.0), (3600.0, 0.05)])
async def test_closing_does_not_wait_for_a_stuck_client(
    open_memory: OpenWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: float, seconds: float
) -> None:
    """One that does not read its answers is cut off, after the time that the stop has if that is the shorter one."""
    monkeypatch.setattr(control, "FINISH", most)
    async with open_memory() as world, serving(world, tmp_path) as (server, path):
        await world.administration.create_bucket("orders")
        await world.administration.set_input("orders", body="x" * 250_000)
        stuck = socket.socket(socket.AF_UNIX)
        stuck.setblocking(False)
        stuck.connect(str(path))
        stuck.send(b'{"command":"bucket.list"}\n' * 20)
        receive = partial(asyncio.get_running_loop().sock_recv, stuck)
        received = await asyncio.wait_for(receive(1), TIMEOUT)
        await asyncio.wait_for(server.close(seconds), TIMEOUT)
        while part := await asyncio.wait_for(receive(1 << 20), TIMEOUT):
            received += part
        stuck.close()
        assert not received.endswith(b"\n")
