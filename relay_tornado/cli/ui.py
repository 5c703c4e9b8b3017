"""`relay ui`: prints a link that signs in to the relay's page, for users who may run commands here."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import click

from relay_tornado.cli.client import known_url, open_relay
from relay_tornado.cli.options import options_of, sender_options
from relay_tornado.cli.printing import note, print_answer, print_json
from relay_tornado.cli.secret import must_be_seen

_option = options_of("UI")
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  # looked for, not listened on


@click.command()
@_option("--sign-out-all", is_flag=True, help="Sign everybody out of the page instead, and print no link.")
@sender_options
def ui(sign_out_all: bool, data: Path, public_url: str | None, as_json: bool) -> None:
    """Print a link to the relay's page that signs you in as an administrator: once, and within ten minutes.

    The relay has to be running. A session lasts seven days.
    """
    with open_relay(data) as relay:
        if sign_out_all:
            ended = relay.call("ui.end")
            print_answer(ended, f"Signed out: {ended['ended']}.", as_json)
            return
        must_be_seen()
        made = relay.call("ui.code")
        url = link(known_url(relay, public_url) or "", made["code"])
    if as_json:
        print_json({"url": url, "expires_in": made["expires_in"]})
    else:
        click.echo(url)
        note("this link works once, within ten minutes: whoever opens it is signed in as an administrator")


def link(base: str, code: str) -> str:
    """The page's URL with a code in its fragment, which browsers do not send to servers."""
    parts = urlsplit(base)
    if parts.hostname in _EVERYWHERE:
        port = "" if parts.port is None else f":{parts.port}"
        base = parts._replace(netloc=_EVERYWHERE[parts.hostname] + port).geturl()
    return f"{base.rstrip('/')}/ui/#code={code}"
