"""Connects a command with the relay: through the control socket of a running one, or by opening the data directory.

This may change at any moment, as a server starts or stops. Until the command is sent, it is checked again; afterwards
the answer, or its absence, decides.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click
from click.core import ParameterSource

from relay_tornado.cli import answers
from relay_tornado.cli.answers import Refused
from relay_tornado.cli.errors import ASKED_URL
from relay_tornado.cli.lazy_imports import import_uncollected, structlog_alone
from relay_tornado.cli.printing import note
from relay_tornado.errors import Locked, NotFound, NotWritable, Unavailable
from relay_tornado.storage.lock import read_owner

if TYPE_CHECKING:
    from relay_tornado.admin.administration import Administration

DATABASE = "relay.db"
PATIENCE = 20.0
"""Seconds that a command waits for a server that is starting or stopping (longer than a drain), and for the first
message of a running one."""
SPEAK = 1.0
"""Seconds of waiting after which a note says so."""

_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid


@dataclass(frozen=True, slots=True)
class RemoteRelay:
    """The relay that `--url` names; `said` is whether it is from the command line, not the variable.

    `options` are what another command line needs to reach the same relay; a secret is not repeated.
    """

    url: str
    said: bool
    secret: Callable[[], str]
    options: tuple[str, ...] = ()


class _Lost(Exception):
    """The connection to the running relay was lost; `sent`: it may have received the command."""

    def __init__(self, sent: bool) -> None:
        super().__init__()
        self.sent = sent


class Caller(Protocol):
    """A relay that runs the commands of admin/commands.py."""

    def call(self, command: str, **arguments: Any) -> Any:
        """Runs a command and returns its answer. Raises RelayError."""

    def close(self) -> None:
        """Closes the connection, or the opened data directory; the next call opens it again."""


class Relay:
    """The relay of a data directory."""

    def __init__(self, data: Path, create: bool) -> None:
        self._data = data
        self._create = create
        self._connection: _Online | _Offline | None = None

    def call(self, command: str, **arguments: Any) -> Any:
        while True:
            if self._connection is None:
                self._connection = _connect(self._data, self._create)
            try:
                return self._connection.call(command, arguments)
            except _Lost as lost:
                self.close()
                if lost.sent and not _only_reads(command):
                    raise Unavailable(f"the relay stopped before it answered{_again(command)}") from None

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _only_reads(command: str) -> bool:
    return command.endswith((".list", ".show", ".info", ".search", ".dead"))


def _again(command: str) -> str:
    """The advice if it is not known whether a command was carried out; "" for one that changes nothing."""
    if _only_reads(command):
        return ""
    if command == "bucket.import":
        return ". Importing the same again adds the rest"
    return ". This may be done all the same: check before you repeat it"


@contextmanager
def open_relay(data: Path, create: bool = False) -> Iterator[Caller]:
    """The relay at `--url`, or of this data directory; with `create`, a missing directory is created."""
    remote = remote_given()
    if remote is None:
        relay: Caller = Relay(data, create)
    else:
        from relay_tornado.cli.remote import Remote

        click.get_current_context().meta[ASKED_URL] = remote.url
        relay = Remote(remote.url, remote.secret())
    with closing(relay):
        yield relay


def call(data: Path, command: str, **arguments: Any) -> Any:
    """Runs one command on the relay at `--url`, or of this data directory. Returns its answer. Raises RelayError."""
    with open_relay(data) as relay:
        return relay.call(command, **arguments)


def remote_given() -> RemoteRelay | None:
    """The relay that `--url` names, None if it is not given. Raises UsageError if it is not clear which relay is
    meant."""
    context = click.get_current_context(silent=True)
    remote: RemoteRelay | None = None if context is None else context.find_root().obj
    if context is None or remote is None:
        return None
    if context.get_parameter_source("data") is ParameterSource.COMMANDLINE:
        if not remote.said:
            return None  # the flag wins over the variable
        raise click.UsageError("--url and --data both say which relay is meant: leave one of them out")
    return remote


def known_url(relay: Caller, public_url: str | None) -> str | None:
    """The URL under which senders reach the relay: as given, or as the relay knows it; None if it is not known."""
    url: str | None = public_url or relay.call("relay.info")["url"]
    return url


def _connect(data: Path, create: bool) -> _Online | _Offline:
    begun = time.monotonic()
    told = False
    while True:
        try:
            return _try_to_connect(data, create)
        except Locked as error:
            waited = time.monotonic() - begun
            if waited > PATIENCE:
                raise
            if waited > SPEAK and not told:
                note(f"waiting for it: {error}")
                told = True
            time.sleep(0.05)


def _try_to_connect(data: Path, create: bool) -> _Online | _Offline:
    """Raises Locked if another process has the directory, and takes no commands (yet)."""
    check_rights(data)
    owner = read_owner(data)
    if owner is None:
        new = not (data / DATABASE).exists()
        if new and not create:
            raise NotFound(
                f"there is no relay's data in {data}: name its directory with --data or RELAY_DATA, "
                "or begin with `relay serve` or `relay bucket create`"
            )
        offline = _Offline(data)
        if new:
            note(
                f"made a new data directory {data.absolute()}; where a relay has one already, name that with --data or "
                "RELAY_DATA"
            )
        return offline
    who = f"process {owner.pid} (relay {owner.version})"
    if owner.socket is None:
        raise Locked(f"{data} is in use by {who}, which takes no commands (yet): try again, or stop it")
    try:
        return _Online(owner.socket)
    except PermissionError:
        raise Refused(f"{data} is in use by {who} of another user: run this as that user, or as root") from None
    except (OSError, _Lost):
        if not owner.socket.exists() and (data / owner.socket.name).exists():
            raise Refused(
                f"{data} is in use by {who}, and was at {owner.socket.parent} when that was started: move it back "
                "there, and the relay goes on by itself"
            ) from None
        raise Locked(
            f"{data} is in use by {who}, which does not answer at {owner.socket}: try again, or stop it"
        ) from None


def reserve_of(data: Path) -> int:
    """The setting `reserve` of the relay that runs on this directory; if none runs, of one that would start here."""
    from relay_tornado.cli.settings_options import settings_from_environment

    owner = None
    with suppress(NotWritable):  # the lock can't be read
        owner = read_owner(data)
    if owner is not None and owner.reserve is not None:
        return owner.reserve
    return settings_from_environment(data).reserve


def check_rights(data: Path) -> None:
    """Raises Refused if the directory exists and is another user's."""
    try:
        found = data.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        mend = "name a shorter one" if error.errno == errno.ENAMETOOLONG else "run this as the relay's user, or as root"
        raise Refused(f"{data} can't be reached ({error.strerror}): {mend}") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid == os.geteuid():
        return
    if not os.access(data, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        raise Refused(f"{data} belongs to another user (uid {found.st_uid}): run this as that user, or as root")


class _Online:
    """A connection to the running relay's control socket (handlers/control.py)."""

    def __init__(self, path: Path) -> None:
        """Raises OSError or _Lost if nobody answers."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._lines = self._socket.makefile("rb")
        try:
            self._socket.settimeout(PATIENCE)
            self._socket.connect(os.fspath(path))
            peer = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            if _CREDENTIALS.unpack(peer)[1] not in (0, os.geteuid(), path.parent.stat().st_uid):
                raise PermissionError
            # A relay that has answered once has accepted the connection: if it stops before the next one, it says so.
            self.call("relay.info", {})
            self._socket.settimeout(answers.ANSWER)
        except BaseException:
            self.close()
            raise

    def call(self, command: str, arguments: dict[str, Any]) -> Any:
        request = json.dumps({"command": command, "arguments": arguments}).encode() + b"\n"
        try:
            self._socket.sendall(request)
        except BrokenPipeError:
            pass  # its last message can still be read
        except OSError:
            raise _Lost(sent=True) from None
        answer = self._read(command)
        error = answer.get("error")
        if error is None:
            return answer.get("result")
        if error["code"] == "closing":
            raise _Lost(sent=False)
        raise Refused(error["message"])

    def _read(self, command: str) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except TimeoutError:
            raise Unavailable(
                "the running relay did not answer in time: it is stopped (kill -CONT lets it go on), stuck, or slow; "
                f"its log may say why, and a restart loses nothing{_again(command)}"
            ) from None
        except OSError:
            raise _Lost(sent=True) from None
        if not line.endswith(b"\n"):
            raise _Lost(sent=True)
        answer: dict[str, Any] = answers.decode(line)
        return answer

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


class _Offline:
    """The opened data directory, under the relay's lock until it is closed."""

    def __init__(self, data: Path) -> None:
        """Raises StartupError, of which Locked is a subclass."""
        structlog_alone()
        # Imported here, so that commands that find a running relay start faster.
        import_uncollected("relay_tornado.engine")
        import asyncio
        import dataclasses

        from relay_tornado.cli.settings_options import settings_from_environment
        from relay_tornado.engine import open_administration
        from relay_tornado.log_output import configure
        from relay_tornado.storage import migrate

        settings = settings_from_environment(data)
        configure(dataclasses.replace(settings, log_format="console", log_level="warning"))
        path = data / DATABASE
        before, newest = migrate.version_of(path), migrate.latest()
        self._runner = asyncio.Runner()
        self._context = open_administration(settings)
        try:
            self._administration: Administration = self._runner.run(self._context.__aenter__())
        except BaseException:
            self._runner.close()
            raise
        if 0 < before < newest:
            note(
                f"{path} was migrated from schema version {before} to {newest}, which an older relay can't open; "
                f"{migrate.copy_of(path, newest)} is a copy from before"
            )

    def call(self, command: str, arguments: dict[str, Any]) -> Any:
        from relay_tornado.admin.commands import run_command

        return self._runner.run(run_command(self._administration, command, arguments))

    def close(self) -> None:
        try:
            self._runner.run(self._context.__aexit__(None, None, None))
        finally:
            self._runner.close()
