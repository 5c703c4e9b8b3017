"""`relay migrate`: migrates the file to this relay's schema while no relay runs."""

from __future__ import annotations

from pathlib import Path

import click

from relay_tornado.cli.client import check_rights
from relay_tornado.cli.options import relay_options
from relay_tornado.cli.printing import note, print_json
from relay_tornado.errors import NotFound


@click.command(name="migrate")
@relay_options
def command(data: Path, as_json: bool) -> None:
    """Copy relay.db, then migrate it to this relay's schema. No relay may be running on the directory.

    `relay serve` does the same at its start; use this to do it beforehand.
    """
    import asyncio
    import dataclasses

    from relay_tornado.cli.settings_options import settings_from_environment
    from relay_tornado.log_output import configure
    from relay_tornado.storage import database, migrate

    check_rights(data)
    path = data / database.NAME
    if not path.exists():
        raise NotFound(f"there is no {path.name} in {data}: name the relay's directory with --data or RELAY_DATA")
    settings = settings_from_environment(data)
    configure(dataclasses.replace(settings, log_format="console", log_level="warning"))

    async def run() -> None:
        opened = await database.Database.open(settings)
        await opened.close()

    before = migrate.version_of(path)
    asyncio.run(run())
    after = migrate.latest()
    copy = migrate.copy_of(path, after) if 0 < before < after else None
    if as_json:
        print_json({"database": str(path), "from": before, "to": after, "copy": None if copy is None else str(copy)})
    elif before == after:
        note(f"{path} has schema version {after} already: there was nothing to do")
    else:
        kept = "" if copy is None else f"; {copy} is a copy from before"
        click.echo(f"{path} was migrated from schema version {before} to {after}{kept}")
