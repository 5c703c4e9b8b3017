"""`relay export` and `relay import`: a bucket's events as lines of JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from operator import getitem
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, NamedTuple

import click

from relay_tornado.admin.lookup import named
from relay_tornado.cli import interrupts
from relay_tornado.cli.answers import Refused
from relay_tornado.cli.client import Caller, check_rights, open_relay
from relay_tornado.cli.errors import STDOUT, Failure, about
from relay_tornado.cli.options import options_of, relay_options
from relay_tornado.cli.printing import note, print_json
from relay_tornado.cli.progress import show_progress
from relay_tornado.cli.streams import is_closed
from relay_tornado.errors import Conflict, Invalid, RelayError
from relay_tornado.model import counted, printable

if TYPE_CHECKING:
    from relay_tornado.ops.export_format import Header

STANDARD = Path("-")
BATCH_EVENTS = 256
BATCH_BYTES = 1 << 20
CHUNK = 1 << 20

_BUCKET_FIELDS = ("description", "retention")
_option = options_of("EXPORT")


@click.command(name="export")
@click.argument("bucket")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True), default="-")
@_option("--after", metavar="SEQ|ID", help="Only events after this one, to continue an export to `-`.")
@_option("--append", is_flag=True, help="Continue where FILE ends, also after an export that was interrupted.")
@relay_options
def export(bucket: str, file: Path, after: str | None, append: bool, data: Path, as_json: bool) -> None:
    """Write the events of BUCKET to FILE (`-`: standard output), with their exact bytes, as lines of JSON."""
    from relay_tornado.ops.export import export as write_export
    from relay_tornado.ops.opening import locate
    from relay_tornado.storage.database_files import sync

    if append and (after is not None or file == STANDARD):
        raise click.UsageError("--append finds out by itself where FILE ends: leave --after out, and name a FILE")
    check_rights(data)
    path = locate(data)
    opened = False

    def left() -> str:
        if file == STANDARD:
            return "the output is incomplete; --after and the seq of its last whole line continue it"
        if not opened or not file.exists():
            return "nothing was exported"
        return f"{file} is incomplete; --append continues it"

    with (
        interrupts.tidying_up(left),
        _output(file, append) as (output, continued),
        show_progress(as_json) as progress,
    ):
        opened = True
        position, source = (after, None) if continued is None else (continued.after, continued.source)
        done = write_export(path, bucket, position, output.write, progress, header=continued is None, source=source)
        output.flush()
        if file != STANDARD:
            os.fsync(output.fileno())
            with suppress(PermissionError):  # a directory may be writable and not readable
                sync(file.absolute().parent)
    if done.found:
        note(
            f"the log of {done.bucket} is damaged, and does not say which events it holds: all that the relay's file "
            "still has were exported, and others may be missing before and after them; `relay check` says more"
        )
    if file == STANDARD:
        note(f"exported {counted(done.events, 'event')} of {done.bucket}")
    elif as_json:
        print_json({"bucket": done.bucket, "file": str(file), "events": done.events, "last": done.last})
    else:
        click.echo(
            f"{file}: {counted(done.events, 'event')} of {printable(done.bucket)}, up to {done.last}"
            if done.events
            else f"{file}: no new event of {printable(done.bucket)}"
        )


class _Continued(NamedTuple):
    """An export that is continued in its file: after the event with the id `after`, from the bucket with the id
    `source`, if the file names it."""

    after: str
    source: str | None


@contextmanager
def _output(file: Path, append: bool) -> Iterator[tuple[IO[bytes], _Continued | None]]:
    """Yields the file to write to, and where a continued export goes on."""
    if file == STANDARD:
        if is_closed("stdout"):
            raise Failure(f"{STDOUT} is closed, so nobody would get the events: name a file")
        with about(STDOUT):
            yield sys.stdout.buffer, None
        return
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if append else os.O_EXCL)
    try:
        descriptor = os.open(file, flags, 0o600)
    except FileExistsError:
        raise Conflict(f"{file} is there already: name another file, or continue it with --append") from None
    with about(file), os.fdopen(descriptor, "r+b") as output:
        try:
            yield output, _continued(file, output)
        except BaseException:
            with suppress(OSError):  # the disk may be full
                output.flush()
            if not append and os.fstat(descriptor).st_size == 0:
                file.unlink()
            raise


def _continued(file: Path, output: BinaryIO) -> _Continued | None:
    """Removes an incomplete line at the end. Returns where the export goes on, None if the file is empty. Raises
    Conflict if it is no export, and leaves it unchanged then."""
    from relay_tornado.ids import format_id
    from relay_tornado.ops.export_format import BEGINNING, Header, parse

    end = _line_end(output, output.seek(0, os.SEEK_END))
    if end == 0:
        output.seek(0)
        if not BEGINNING.startswith(output.read(len(BEGINNING))):
            raise Conflict(f"{file} is no export: name another file")
        output.seek(0)
        output.truncate()
        return None
    start = _line_end(output, end - 1)
    output.seek(start)
    place = "last"
    try:
        last = parse(output.read(end - start))
        place = "first"
        output.seek(0)
        first = parse(output.readline())
    except Invalid as error:
        raise Conflict(f"the {place} line of {file} {error}: name another file") from None
    output.seek(end)
    output.truncate()
    source = str(first.bucket.get("id")) if isinstance(first, Header) else None
    if isinstance(last, Header):
        newest = last.epochs[-1].get("epoch") if last.epochs else None
        return _Continued(format_id(str(newest), last.first - 1), source)
    return _Continued(format_id(last.epoch, last.seq), source)


def _line_end(output: BinaryIO, end: int) -> int:
    """The offset after the last complete line before `end`; 0 if there is none."""
    while end > 0:
        start = max(end - CHUNK, 0)
        output.seek(start)
        found = output.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


@click.command(name="import")
@click.argument("bucket")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True), default="-")
@relay_options
def import_(bucket: str, file: Path, data: Path, as_json: bool) -> None:
    """Read the events of an export from FILE (`-`: standard input) into BUCKET, which is new or empty.

    Repeat an import that was interrupted: events that are there already are skipped.
    """
    job: _Import | None = None

    def left() -> str:
        if job is None or not job.bucket_id:
            return "nothing was imported"
        done = f"imported {counted(job.imported, 'event')} into {bucket}, up to {job.head}, and perhaps the next batch"
        return f"{done}; importing the same again adds the rest"

    with (
        interrupts.tidying_up(left),
        _input(file) as (lines, size),
        open_relay(data, create=True) as relay,
        show_progress(as_json) as progress,
    ):
        job = _Import(relay, bucket)
        job.run(lines, lambda done: progress("importing events", done, size))
    if as_json:
        print_json({"bucket": job.bucket_id, "created": job.created, "imported": job.imported, "head": job.head})
        return
    passed = f"; {job.read - job.imported} were there already" if job.read > job.imported else ""
    click.echo(f"{bucket}: imported {counted(job.imported, 'event')}, up to {job.head}{passed}")
    if job.created:
        click.echo("The bucket is new: its URL is another one, see `relay bucket show`.")


@contextmanager
def _input(file: Path) -> Iterator[tuple[BinaryIO, int]]:
    if file == STANDARD:
        if sys.stdin.isatty():
            note("reading events from standard input: end them with Ctrl-D")
        yield sys.stdin.buffer, 0
        return
    with file.open("rb") as lines:
        yield lines, os.fstat(lines.fileno()).st_size


class _Import:
    """One import: reads lines, and sends batches of events to the relay."""

    def __init__(self, relay: Caller, bucket: str) -> None:
        self.read = 0
        self.imported = 0
        self.head = 0
        self.bucket_id = ""
        self.created = False
        self._relay = relay
        self._name = bucket
        self._source = ""
        self._header: Header | None = None
        self._last = 0
        """The last seq that was read, or the seq before those of the header."""

    def run(self, lines: BinaryIO, progress: Callable[[int], None]) -> None:
        """Imports all lines. Raises RelayError, whose message names the line if one is the cause."""
        from relay_tornado.ops.export_format import LONGEST_LINE, Header, document, parse

        batch: list[tuple[int, Any]] = []
        size = done = number = 0
        for number, line in enumerate(iter(lambda: lines.readline(LONGEST_LINE + 1), b""), 1):
            done += len(line)
            try:
                if len(line) > LONGEST_LINE:
                    raise Invalid(
                        f"is longer than the {LONGEST_LINE} bytes that an event can take: is the file an export?"
                    )
                if not line.endswith(b"\n"):
                    raise Invalid("is cut off: export the rest with --append, and import the file again")
                found = parse(line)
                if isinstance(found, Header):
                    self._begin(found)
                    continue
                self._check_order(found.seq)
            except Invalid as error:
                self._send(batch)
                raise Invalid(f"line {number} {error}") from None
            if batch and (len(batch) == BATCH_EVENTS or size + len(line) > BATCH_BYTES):
                self._send(batch)
                progress(done)
                batch, size = [], 0
            batch.append((number, document(found)))
            size += len(line)
        if not number:
            raise Invalid("the export is empty: name another file, or export the bucket again")
        self._send(batch)
        self._check_end()

    def _check_order(self, seq: int) -> None:
        """Checks that the header comes first, and then its first event. The relay reports lines that are missing later.
        Raises Invalid."""
        header = self._header
        if header is None:
            raise Invalid("comes before the header that an export begins with")
        if self._last < header.first and seq != header.first:
            raise Invalid(
                f"is event {seq}, but the header says that the export begins with event {header.first}: events are "
                "missing, export the bucket again"
            )
        self._last = seq

    def _check_end(self) -> None:
        """Raises Invalid if the last header names events that did not come."""
        header = self._header
        if header is not None and self._last < header.head:
            raise Invalid(
                f"the events {self._last + 1} to {header.head}, which the header names, are missing at the end: export "
                "the rest with --append, and import the file again"
            )

    def _begin(self, header: Header) -> None:
        source = str(header.bucket.get("id"))
        if self._source and source != self._source:
            raise Invalid("is the header of another bucket's export: import each into a bucket of its own")
        self._header, self._last = header, header.first - 1
        if self._source:
            return
        self._source = source
        found = next(iter(named(self._relay.call("bucket.list"), self._name, getitem)), None)
        if found is None:
            options = {name: header.bucket[name] for name in _BUCKET_FIELDS if header.bucket.get(name)}
            # The new log begins at the export's first event, so that a client that reads all of it gets no gap.
            begin = {"first": header.first} if header.first > 1 else {}
            try:
                found = self._relay.call("bucket.create", name=self._name, options=options, **begin)
            except Invalid as error:  # a running relay's is Refused already
                raise Refused(str(error)) from None
            self.created = True
            self.head = max(header.first, 1) - 1
        self.bucket_id = found["id"]

    def _send(self, batch: list[tuple[int, Any]]) -> None:
        """Imports events, each with the number of its line. If one is refused, imports those before it, and raises
        Invalid, which names its line."""
        if not batch:
            return
        lines, events = zip(*batch, strict=True)
        try:
            answer = self._relay.call("bucket.import", bucket=self.bucket_id, events=events)
        except (Invalid, Conflict, Refused) as error:
            if len(batch) == 1:
                raise Invalid(f"line {lines[0]}: {error}") from error
            half = len(batch) // 2
            self._send(batch[:half])
            self._send(batch[half:])
            return
        except RelayError as error:
            raise Invalid(f"lines {lines[0]} to {lines[-1]}: {error}") from error
        self.read += len(batch)
        self.imported += answer["imported"]
        self.head = answer["head"]
