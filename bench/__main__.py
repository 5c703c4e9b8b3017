"""`python -m bench ingest|delivery|replay|all|compare|growth|search [--quick] [--json FILE]`."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import click

from bench import compare, delivery, growth, ingest, peers, replay, report, search
from bench.servers import LOAD_CORE, SERVER_CORE

PARTS = {"ingest": ingest.run, "delivery": delivery.run, "replay": replay.run}


@click.command()
@click.argument("part", type=click.Choice([*PARTS, "all", "compare", "growth", "search"]))
@click.option("--quick", is_flag=True, help="A few seconds, to see that it works; the figures mean little.")
@click.option("--events", default=1_000_000, show_default=True, help="Length of the long log of growth and search.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write what was measured to this file, too.")
def main(part: str, quick: bool, events: int, path: Path | None) -> None:
    """Measure the relay, pinned to one core, with the load on another; medians of 3. Data goes to TMPDIR."""
    if SERVER_CORE == LOAD_CORE:
        click.echo("Only one core may be used here: the load takes its time from the server.", err=True)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if part in ("compare", "growth") and (packages := peers.missing()):
        raise click.ClickException(f"these Debian packages are missing: {' '.join(packages)}; ./scripts/bench has them")
    machine = report.machine()
    click.echo(", ".join(f"{name} {value}" for name, value in machine.items()))
    results: dict[str, Any] = {name: run(quick) for name, run in PARTS.items() if part in (name, "all")}
    if part == "compare":
        results |= compare.run(quick)
    if part == "growth":
        results |= growth.run(quick, events)
    if part == "search":
        results |= {"search": search.run(quick, events)}
    if path is not None:
        path.write_text(json.dumps({"machine": machine, **results}, indent=2) + "\n")


main(prog_name="python -m bench")
