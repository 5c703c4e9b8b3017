"""`relay doctor`: checks a deployment."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from relay_tornado.cli.access import own_token
from relay_tornado.cli.client import Relay, check_rights, reserve_of
from relay_tornado.cli.options import Duration, data_option, json_option, options_of, url_option
from relay_tornado.cli.printing import note, print_json, print_table
from relay_tornado.doctor.finding import Finding
from relay_tornado.errors import Invalid, NotFound, RelayError
from relay_tornado.storage.lock import Owner, read_owner

UNWELL = 3

_SEE_LOG = "the log of the relay may say why"

_MARGIN = 300.0
"""Seconds that the token for the socket stays valid beyond the time for which the socket is watched."""


@click.command(name="doctor")
@options_of("DOCTOR")(
    "--idle",
    type=Duration(zero=True),
    default="30s",
    show_default=True,
    help="How long to watch an idle socket; 0 skips this.",
)
@url_option
@data_option
@json_option
def doctor(idle: float, public_url: str | None, data: Path, as_json: bool) -> None:
    """Check the machine, the data directory, the webhooks' way through a relay and its URL, and print what is wrong and
    what to do.

    Nothing is changed. Exit code 0: nothing failed. 3: something did.
    """
    from relay_tornado.doctor import machine

    if not data.is_dir():
        raise NotFound(f"there is no directory {data}: name the relay's with --data or RELAY_DATA")
    check_rights(data)
    owner = read_owner(data)
    findings = list(machine.look(data, reserve_of(data), owner))
    findings += _at_the_url(data, owner, public_url, idle)
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        print_table([{"": each.level, "what": each.name, "found": each.says} for each in findings])
        for remedy in dict.fromkeys(f"{each.name}: {each.remedy}" for each in findings if each.remedy):
            click.echo(f"\n{remedy}")
    if any(finding.level == "fail" for finding in findings):
        raise click.exceptions.Exit(UNWELL)


def _at_the_url(data: Path, owner: Owner | None, public_url: str | None, idle: float) -> list[Finding]:
    if owner is None:
        return asyncio.run(_look(public_url, "", None, 0)) if public_url else []
    try:
        with closing(Relay(data, create=False)) as relay:
            info = relay.call("relay.info")
            url, instance = public_url or info["url"] or info["address"], info["instance"]
            found = _flow(relay, info)
            try:
                # One that may connect, and read one bucket at most.
                buckets = [each["id"] for each in relay.call("bucket.list")[:1]]
                with own_token(relay.call, "relay doctor", buckets, api_access=False, life=idle + _MARGIN) as made:
                    if idle:
                        note(f"watching a socket for {idle:.0f} s")
                    return found + asyncio.run(_look(url, instance, (made["key"], made["secret"]), idle))
            except RelayError as error:
                # Such as a full disk; what else is wrong is looked at all the same.
                says = f"no token can be created, so a socket is not watched: {error}"
                found.append(Finding("token", "fail", says, _SEE_LOG))
                return found + asyncio.run(_look(url, instance, None, 0))
    except RelayError as error:
        return [Finding("control", "fail", f"the running relay can't be asked: {error}", _SEE_LOG)]


def _flow(relay: Relay, info: dict[str, Any]) -> list[Finding]:
    """The findings about the webhooks' way through the relay; if it fails to answer, those before that, and that."""
    from relay_tornado.doctor import flow

    found: list[Finding] = []
    try:
        found += flow.look(info, relay.call)
    except RelayError as error:
        says = f"the webhooks' way was not looked at to the end: {error}"
        found.append(Finding("relay", "warn", says, f"run this again; if it says the same, {_SEE_LOG}"))
    return found


async def _look(url: str, instance: str, credentials: tuple[str, str] | None, idle: float) -> list[Finding]:
    from relay_tornado.doctor.address import Address, look

    try:
        address = Address(url, instance)
    except Invalid as error:
        return [Finding("url", "fail", f"{url} leads nowhere: {error.problem}", "correct the setting --public-url")]
    # Findings report the odd answers that Tornado would log.
    logging.getLogger("tornado").addHandler(logging.NullHandler())
    return [finding async for finding in look(address, credentials, idle)]
