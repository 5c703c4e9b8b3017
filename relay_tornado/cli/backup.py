"""`relay backup`, `relay restore` and `relay check`."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shlex
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relay_tornado.cli import interrupts
from relay_tornado.cli.client import DATABASE, check_rights, reserve_of
from relay_tornado.cli.errors import NO_MEMORY, Failure, file_words
from relay_tornado.cli.options import options_of, relay_options
from relay_tornado.cli.printing import note, print_json, size_words
from relay_tornado.cli.progress import show_progress
from relay_tornado.errors import NotFound, RelayError
from relay_tornado.model import counted, printable
from relay_tornado.ops.findings import Finding, Report
from relay_tornado.storage.lock import serves

if TYPE_CHECKING:
    from relay_tornado.ops.restore import Restored

LESS_URGENT = 10
"""The niceness of work that is less urgent than the senders' is. With 19, a machine whose processors are busy with
something else would hardly let it go on."""
DAMAGED = 3
NOT_LOOKED_AT = 4


class _NotLookedAt(Failure):
    exit_code = NOT_LOOKED_AT


@click.command(name="backup")
@click.argument("file", type=click.Path(path_type=Path))
@options_of("BACKUP")("--force", is_flag=True, help="Replace FILE if it exists.")
@relay_options
def backup(file: Path, force: bool, data: Path, as_json: bool) -> None:
    """Copy the relay's data to FILE, whether the relay runs or not, and check the copy; a bad copy is not kept.

    The copy has everything that was committed before the backup began.
    """
    from relay_tornado.ops.backup import make
    from relay_tornado.ops.opening import locate

    check_rights(data)
    reserve = reserve_of(data)
    os.nice(LESS_URGENT)
    before = _identity(file)

    def left() -> str:
        now = _identity(file)
        if now not in (None, before):
            return f"{file} is complete and checked"
        return f"no backup was made; {'nothing is left' if now is None else f'{file} is as it was'}"

    with interrupts.tidying_up(left), show_progress(as_json) as progress:
        made = make(locate(data), file, progress, force=force, reserve=reserve)
    report = made.report
    if as_json:
        summary = {"buckets": report.buckets, "events": report.events}
        print_json({"file": str(made.path), "bytes": made.bytes, "seconds": round(made.seconds, 3), **summary})
    else:
        click.echo(f"{made.path}: {size_words(made.bytes)}, {_held(report)}; it was checked")
        _print_findings(report)


@click.command(name="restore")
@click.argument("file", type=click.Path(path_type=Path))
@options_of("RESTORE")("--damaged", is_flag=True, help="Restore FILE even if it is damaged, and report the damage.")
@relay_options
def restore(file: Path, damaged: bool, data: Path, as_json: bool) -> None:
    """Restore the backup FILE into a data directory that is empty or missing."""
    from relay_tornado.ops import restore as restoring
    from relay_tornado.ops.opening import locate

    try:
        path = locate(file)
    except NotFound:
        raise Failure(f"there is no backup {file}: name the file that `relay backup` wrote") from None
    made, there = data / DATABASE, (data / DATABASE).exists()

    def left() -> str:
        if there or not made.exists():
            return f"nothing was restored into {data}; repeat the command"
        return (
            f"{made} is restored and checked; its tokens are valid again, even if revoked or rotated since (`relay "
            "token list`), and its public outputs are paused (`relay bucket show`)"
        )

    with interrupts.tidying_up(left), show_progress(as_json) as progress:
        restored = restoring.restore(path, data, progress, damaged=damaged)
    report = restored.report
    if as_json:
        print_json(
            {
                "database": str(restored.path),
                "id": restored.database,
                "buckets": report.buckets,
                "events": report.events,
                "findings": [dataclasses.asdict(finding) for finding in report.findings],
                "tokens": [{"key": key, "description": text} for key, text in restored.tokens],
                "paused": [{"bucket": bucket, "output": output} for bucket, output in restored.paused],
            }
        )
    else:
        _print_restored(restored, data)


@click.command(name="check")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@options_of("CHECK")("--full", is_flag=True, help="Also check that indexes agree with their tables.")
@relay_options
def check(file: Path | None, full: bool, data: Path, as_json: bool) -> None:
    """Check every page, record and event of the relay's data, or of the backup FILE. Nothing is changed.

    Exit code 0: sound. 3: damage was found. 4: it could not be checked. With --json each of them prints a document.
    """
    from relay_tornado.ops import check as checking
    from relay_tornado.ops.opening import locate

    place = data if file is None else file
    interrupts.end_at_once("stopped: nothing was changed")
    try:
        if file is None:
            check_rights(data)
        os.nice(LESS_URGENT)
        with show_progress(as_json) as progress:
            report = checking.check(locate(place), progress, full=full)
            space = None if file is not None else _space(data)
    except (RelayError, OSError, sqlite3.Error, MemoryError, click.ClickException) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        if isinstance(error, OSError):
            message = file_words(error)
        elif isinstance(error, MemoryError):
            message = NO_MEMORY
        if as_json:
            print_json(_document(Report(place)) | {"sound": None, "error": message})
        raise _NotLookedAt(message) from error
    if space is not None:
        report.findings.append(space)
    if as_json:
        print_json(_document(report))
    else:
        words = "damage was found" if report.damaged else "sound"
        click.echo(f"{report.path}: {words}; {_held(report)}, {size_words(report.bytes)} in {report.seconds:.1f} s")
        _print_findings(report)
    if report.damaged and file is None and serves(data, unknown=False):
        note(
            "a relay runs on this directory: before you stop it or restore anything, read RelayNotReady in "
            "docs/operations.md, as relay.db or relay.db-wal may have been deleted, moved or written over"
        )
    if report.damaged:
        raise click.exceptions.Exit(DAMAGED)


def _identity(file: Path) -> tuple[int, int] | None:
    """Which file it is; None if there is none."""
    with suppress(OSError):
        found = file.stat()
        return found.st_dev, found.st_ino
    return None


def _print_restored(restored: Restored, data: Path) -> None:
    report, where = restored.report, shlex.quote(printable(str(data)))
    words = "it is as damaged as its backup" if report.damaged else "it was checked"
    click.echo(f"{restored.path}: {_held(report)}; {words}")
    _print_findings(report)
    if restored.tokens:
        click.echo(
            "These tokens are valid again with the secrets that they had, even if revoked or rotated since the backup. "
            f"To end one: `relay token revoke KEY --data {where}`."
        )
        for key, text in restored.tokens:
            click.echo(f"  {key}  {printable(text)}".rstrip())
    if restored.paused:
        state = "disabled, as the file is of an older version" if restored.disabled else "paused"
        click.echo(f"These public outputs are {state}. Once no other relay sends their events, let them continue:")
        command, how = ("set", " --enabled") if restored.disabled else ("resume", "")
        for names in restored.paused:
            bucket, output = (shlex.quote(printable(each)) for each in names)
            click.echo(f"  relay output {command} {output} --bucket {bucket}{how} --data {where}")


def _held(report: Report) -> str:
    return f"{counted(report.buckets, 'bucket')}, {counted(report.events, 'event')}"


def _space(data: Path) -> Finding | None:
    from relay_tornado.storage.database import NAME
    from relay_tornado.storage.database_files import wal_of
    from relay_tornado.storage.space import disk_of

    disk = disk_of(wal_of(data / NAME).parent)
    if disk.free >= disk.least(reserve_of(data)):
        return None
    return Finding(
        "warning",
        "space",
        f"{size_words(disk.free)} are free on the disk, less than the reserve: new events are refused",
        "free some space, or let old events leave earlier: `relay bucket set NAME --retention-bytes`",
    )


def _document(report: Report) -> dict[str, Any]:
    document = dataclasses.asdict(report) | {"path": str(report.path), "seconds": round(report.seconds, 3)}
    return {"sound": not report.damaged, **document}


def _print_findings(report: Report) -> None:
    for advice, findings in itertools.groupby(report.findings, lambda finding: finding.advice):
        for finding in findings:
            where = f"{finding.bucket}: " if finding.bucket else ""
            click.echo(printable(f"{finding.level}: {where}{finding.message}"))
        click.echo(printable(f"  what to do: {advice}"))
