"""`relay search`: finds events by their content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from relay_tornado.cli.logs import page_options, print_events, time_options
from relay_tornado.cli.options import options_of, relay_options
from relay_tornado.cli.printing import note
from relay_tornado.model import STATUSES

_option = options_of("SEARCH")


@click.command()
@click.argument("text", required=False, default="")
@_option("--bucket", help="The bucket's name or id. Default: every bucket.")
@_option("--method", help="Only events with this method.")
@_option("--path", help="Only events whose path contains this.")
@_option("--header", help="Only events with this header: a name, or NAME: VALUE with a part of its value.")
@_option(
    "--verified",
    type=click.Choice(("true", "false", "none")),
    help="Only events with this result of the signature check.",
)
@_option("--delivery", type=click.Choice(STATUSES), help="Only events whose latest delivery has this status.")
@time_options(_option)
@page_options(_option)
@relay_options
def search(text: str, data: Path, as_json: bool, **params: Any) -> None:
    """Find events with TEXT in their path, query, header values or body, newest first.

    TEXT is one or more terms, separated by spaces, all of which have to occur; put a term that contains spaces in
    double quotes. Case is ignored.
    """
    page = print_events(
        data,
        "logs.search",
        {"text": text, **params},
        lambda each: {"PATH": each["extra_path"], "SIZE": str(each["size"]), "STATUS": each["status"]},
        as_json,
    )
    if not as_json and not page["complete"]:
        note("some older events were not looked at: they are not in the index (yet)")
