"""Injects every fault at length, and prints a table: promise, what was done with which figures, verdict.

`./scripts/prove [ROW …] [--quick]`. With a row that broke a promise, or missed a bound of time, it ends with 1.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
import traceback
from pathlib import Path

import click
import pytest

from tests.faults.outcome import Outcome
from tests.faults.rows import ROWS, Row

KEPT, LATE, BROKEN, SKIPPED, FAILED = "kept", "late", "BROKEN", "skipped", "FAILED"


@click.command()
@click.argument("names", metavar="[ROW]…", nargs=-1, type=click.Choice([row.name for row in ROWS]))
@click.option(
    "--quick", is_flag=True, help="A few seconds for each row: whether it works, with figures of little weight."
)
@click.option("--minutes", type=float, help="For each row that goes by time, instead of 10.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures to this file, too.")
def main(names: tuple[str, ...], quick: bool, minutes: float | None, path: Path | None) -> None:
    """Inject the faults of these rows, or of all, and say which promises were kept. Data goes to TMPDIR."""
    click.echo(f"Python {platform.python_version()}, Linux {platform.release()}; {'quick' if quick else 'long'} form\n")
    click.echo("| row | promise | what came of it | time | verdict |\n| --- | --- | --- | ---: | --- |")
    documents = []
    for row in ROWS:
        if names and row.name not in names:
            continue
        begun = time.monotonic()
        verdict, outcome = _prove(row, _size(row, quick, minutes))
        seconds = time.monotonic() - begun
        click.echo(f"| {row.name} | {row.promise} | {outcome.words()} | {seconds:.0f} s | {verdict} |")
        for problem in [*outcome.broken, *outcome.late][:10]:
            click.echo(f"  {row.name}: {problem[:2000]}", err=True)
        documents.append(
            {
                "row": row.name,
                "verdict": verdict,
                "seconds": round(seconds, 1),
                "figures": outcome.figures,
                "broken": outcome.broken,
                "late": outcome.late,
            }
        )
    if path is not None:
        path.write_text(json.dumps(documents, indent=2, default=str) + "\n")
    if any(document["verdict"] in (LATE, BROKEN, FAILED) for document in documents):
        raise click.exceptions.Exit(1)


def _size(row: Row, quick: bool, minutes: float | None) -> tuple[object, ...]:
    if quick:
        return row.quick
    if minutes is not None and row.name in ("functions", "wire"):
        return (*row.long[:-1], 60 * minutes)
    return row.long


def _prove(row: Row, size: tuple[object, ...]) -> tuple[str, Outcome]:
    """The verdict and what came of it; a harness that fails is a verdict, too, and the other rows go on."""
    try:
        row.needs()
    except pytest.skip.Exception as lacking:
        return SKIPPED, Outcome({"it needs more": str(lacking)})
    with tempfile.TemporaryDirectory(prefix="relay-prove-") as folder:
        try:
            outcome = row.run(Path(folder), *size)
        except AssertionError as error:  # what the clients of the tests see to at each step, as a log without a hole
            words = str(error) or str(traceback.extract_tb(error.__traceback__)[-1].line)
            return BROKEN, Outcome({"what broke": " ".join(words.split())[:300].replace("|", "/")})
        except Exception as error:
            return FAILED, Outcome({"the harness failed": repr(error)[:300].replace("|", "/")})
    return BROKEN if outcome.broken else LATE if outcome.late else KEPT, outcome


if __name__ == "__main__":
    main(prog_name="./scripts/prove")
