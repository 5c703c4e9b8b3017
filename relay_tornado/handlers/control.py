"""The control socket: an owner-only Unix socket through which commands reach the running relay.

A request is one line: `{"command": "bucket.create", "arguments": {…}}`. So is the answer: `{"result": …}` or
`{"error": {"code": …, "message": …}}`. A connection may carry any number of them, one after another.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import socket
import stat
import struct
import tempfile
import traceback
from pathlib import Path
from typing import Any

import msgspec
import structlog

from relay_tornado.admin.administration import Administration
from relay_tornado.admin.commands import run_command
from relay_tornado.errors import Invalid, NotWritable, RelayError
from relay_tornado.low_memory import RETRY_DELAY, try_log
from relay_tornado.ops.export_format import LONGEST_LINE

_logger = structlog.get_logger(__name__)

NAME = "relay.sock"
MAX_PATH = 107
"""Maximum length of a Unix socket's path in bytes, without its closing NUL."""
MAX_LINE = LONGEST_LINE
"""Maximum length of a request in bytes."""
MAX_CONNECTIONS = 16
IDLE = 60.0
"""Seconds that a connection may wait for its next request, or for its answer to be read."""
FINISH = 2.0
"""Seconds that running commands may take at shutdown."""

CLOSING = {"error": {"code": "closing", "message": "the relay hangs up; this command was not run"}}
"""The last line on a connection that the relay ends: a command without an answer was not run."""

_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    command: str
    arguments: dict[str, Any] = {}


_decoder = msgspec.json.Decoder(_Request)


class ControlServer:
    """Serves the commands of admin/commands.py to this process's user and root."""

    def __init__(self, administration: Administration, directory: Path) -> None:
        """`directory` is the data directory, whose lock this process holds."""
        self._administration = administration
        self._directory = directory
        self._path: Path | None = None
        self._folder: Path | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._waiting: set[asyncio.Task[None]] = set()

    async def start(self) -> Path:
        """Starts listening; returns the socket's path. Raises NotWritable."""
        try:
            path = self._place()
        except OSError as error:
            raise NotWritable(f"there is no folder for the control socket ({error}): name one in TMPDIR") from None
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise NotWritable(f"{path} is no socket, and stands where the control socket belongs: move it away")
            path.unlink()  # left by a process that ended without removing it: the directory is ours alone
        listener = socket.socket(socket.AF_UNIX)
        try:
            # Before binding, so that there is no moment at which anybody else could connect.
            os.fchmod(listener.fileno(), 0o600)
            listener.bind(os.fspath(path))
        except OSError as error:
            listener.close()
            self._remove_folder()
            advice = "give the user that runs the relay the right to write to its directory"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                advice = "free some space"
            raise NotWritable(f"the control socket {path} can't be made ({error.strerror}): {advice}") from None
        listener.listen()
        listener.setblocking(False)
        self._path = path
        self._accepting = accepting = asyncio.create_task(self._accept(listener), name="relay-control")
        accepting.add_done_callback(lambda _: listener.close())
        return path

    async def close(self, seconds: float = FINISH) -> None:
        """Lets running commands finish, for `seconds` and `FINISH` at most, ends, and removes the socket. May be
        repeated."""
        accepting, self._accepting = self._accepting, None
        if accepting is None:
            return
        accepting.cancel()
        await asyncio.wait((accepting,))
        for task in self._waiting:
            task.cancel()
        if self._connections:
            _, late = await asyncio.wait(self._connections, timeout=min(seconds, FINISH))
            for task in late:
                self._connections[task].transport.abort()
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self._path is not None:
            with contextlib.suppress(OSError):  # the next relay here replaces it
                self._path.unlink()
        self._remove_folder()

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _place(self) -> Path:
        """The socket's path: in the data directory or, if that is unsafe or too long, in a folder of its own."""
        path = self._directory.absolute() / NAME
        if len(os.fsencode(path)) <= MAX_PATH and _is_safe(self._directory):
            return path
        self._folder = Path(tempfile.mkdtemp(prefix="relay-"))
        if len(os.fsencode(self._folder / NAME)) > MAX_PATH:
            self._folder.rmdir()
            self._folder = Path(tempfile.mkdtemp(prefix="relay-", dir="/tmp"))
        return self._folder / NAME

    async def _accept(self, listener: socket.socket) -> None:
        """Accepts on the socket itself: a server of the loop may stop accepting once it has run out of memory."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
                await self._take(connection)
            except (OSError, MemoryError) as error:
                try_log(_logger.warning, "control_not_accepted", error=repr(error), again_in=RETRY_DELAY)
                await asyncio.sleep(RETRY_DELAY)

    async def _take(self, connection: socket.socket) -> None:
        try:
            reader, writer = await asyncio.open_unix_connection(sock=connection, limit=MAX_LINE)
            asyncio.create_task(self._connected(reader, writer))  # noqa: RUF006 - it notes itself
        except BaseException:
            connection.close()
            raise

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            if self._is_closing() or len(self._connections) >= MAX_CONNECTIONS or not _is_allowed(writer):
                return
            self._connections[task] = writer
            await self._converse(reader, writer, task)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the other side left, or is idle
        finally:
            await _hang_up(writer)
            self._connections.pop(task, None)
            self._waiting.discard(task)

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, task: asyncio.Task[None]
    ) -> None:
        while not self._is_closing():
            self._waiting.add(task)
            try:
                async with asyncio.timeout(IDLE):
                    line = await reader.readuntil(b"\n")
            except asyncio.LimitOverrunError:
                await self._send(writer, _error(Invalid(f"a request may have {MAX_LINE} bytes at most")))
                return
            except TimeoutError:
                break
            except asyncio.CancelledError:
                if not self._is_closing():
                    raise
                break
            self._waiting.discard(task)
            await self._send(writer, await self._answer(line))
        await self._send(writer, CLOSING)

    def _is_closing(self) -> bool:
        return self._accepting is None

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = _decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return _error(Invalid('a request is one line of JSON: {"command": "…", "arguments": {…}}'))
        try:
            return {"result": await run_command(self._administration, request.command, request.arguments)}
        except RelayError as error:
            return _error(error)
        except Exception as error:
            # The arguments may hold secrets, and so may an exception's text, so only the place of the error is logged.
            where = "".join(traceback.format_tb(error.__traceback__))
            _logger.error("command_failed", command=request.command, error=type(error).__name__, where=where)
            return _error(RelayError("the relay failed on this command; its log says why"))

    async def _send(self, writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
        writer.write(msgspec.json.encode(answer) + b"\n")
        async with asyncio.timeout(IDLE):
            await writer.drain()


def _error(error: RelayError) -> dict[str, Any]:
    return {"error": {"code": error.code, "message": str(error)}}


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        async with asyncio.timeout(FINISH):
            await writer.wait_closed()
    except (OSError, TimeoutError, asyncio.CancelledError):
        writer.transport.abort()  # the other side does not read


def _is_safe(directory: Path) -> bool:
    """Whether only this process's user and root could replace the socket."""
    status = directory.stat()
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o022


def _is_allowed(writer: asyncio.StreamWriter) -> bool:
    peer = writer.get_extra_info("socket")
    _, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    allowed = uid in (0, os.geteuid())
    if not allowed:
        _logger.warning("control_refused", uid=uid, hint="use the relay's own user, or root")
    return allowed
