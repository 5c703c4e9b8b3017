"""`relay token …`: creates, lists, changes and revokes tokens."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import click

from relay_tornado.cli.client import call, known_url, open_relay
from relay_tornado.cli.common import Group, given
from relay_tornado.cli.errors import unless_seen
from relay_tornado.cli.options import (
    Duration,
    Lines,
    Moment,
    format_duration,
    options_of,
    relay_options,
    sender_options,
)
from relay_tornado.cli.printing import Document, print_answer, print_fields, print_json, print_list, socket_url, when
from relay_tornado.cli.secret import must_be_seen


class Names(Lines):
    """A bucket's name or id; the variable has several, separated by commas."""

    name = "name|id"
    envvar_list_splitter = ","


_option = options_of("TOKEN")

_ADMINISTRATOR: Final = (
    "yes: it changes and deletes every bucket, makes tokens, and reads secrets; a client's token has --bucket"
)


@click.group(cls=Group)
def token() -> None:
    """Create, list, change and revoke tokens."""


@token.command()
@_option(
    "--bucket",
    "buckets",
    multiple=True,
    type=Names(),
    help="Bucket that the token may read; may be repeated. Default: all, also future ones, as an administrator.",
)
@_option(
    "--api-access",
    type=click.Choice(["enabled", "disabled"]),
    default="enabled",
    show_default=True,
    help="Whether REST is allowed.",
)
@_option(
    "--durable/--no-durable",
    default=False,
    help="Keep the token's position, so that its clients miss nothing while they are away.",
)
@_option("--description", help="Whose token it is, and what for.")
@_option("--expires", type=Moment(), help="When the token expires: 30d from now, a date (UTC), unix seconds, or none.")
@sender_options
def create(
    buckets: tuple[str, ...],
    api_access: str,
    durable: bool,
    description: str | None,
    expires: Any,
    data: Path,
    public_url: str | None,
    as_json: bool,
) -> None:
    """Create a token, and print its key and its secret. The secret is shown only this once."""
    must_be_seen()
    options = given(
        {
            "api_access": api_access == "enabled",
            "durable": durable or None,
            "buckets": list(buckets) or None,
            "description": description,
            "expires_at": expires,
        }
    )
    with open_relay(data, create=True) as relay:
        base = known_url(relay, public_url)
        made = relay.call("token.create", options=options)
    key = made["key"]
    rows = [
        ("reads", ", ".join(buckets) or "every bucket, including later ones"),
        ("API access", api_access),
        ("administrator", _ADMINISTRATOR if not buckets and api_access == "enabled" else None),
        ("durable", "yes: the relay keeps its position" if durable else "no"),
        ("expires", when(options.get("expires_at"))),
        ("socket", socket_url(base)),
    ]
    unseen = (
        f"the token {key} was made, and nobody has seen its secret: `relay token rotate {key}` gives it a new one, "
        f"`relay token revoke {key}` removes the token"
    )
    _show_once(made, rows, unseen, as_json)


@token.command(name="list")
@relay_options
def list_(data: Path, as_json: bool) -> None:
    """List all tokens, without their secrets."""
    with open_relay(data) as relay:
        tokens = relay.call("token.list")
        names = {} if as_json else {each["id"]: each["name"] for each in relay.call("bucket.list")}
    now = time.time()
    rows = (
        {
            "KEY": each["key"],
            "BUCKETS": ", ".join(names.get(one, f"{one} (deleted)") for one in each["scopes"]["buckets"]) or "all",
            "API ACCESS": each["api_access"],
            "DURABLE": "yes" if each["durable"] else "no",
            "CREATED": when(each["created_at"]),
            "LAST USED": when(each["last_used_at"]),
            "EXPIRES": when(each["expires_at"]) + (" (expired)" if (each["expires_at"] or now + 1) <= now else ""),
            "DESCRIPTION": each["description"],
        }
        for each in tokens
    )
    print_list(tokens, rows, "there is no token yet: make one with `relay token create`", as_json)


@token.command(name="set")
@click.argument("key")
@_option("--durable/--no-durable", default=None, help="Keep the token's position from now on, or forget it.")
@relay_options
def set_(key: str, durable: bool | None, data: Path, as_json: bool) -> None:
    """Change the token with the key KEY."""
    if durable is None:
        raise click.UsageError("say which of the two: --durable keeps the token's position, --no-durable forgets it")
    changed = call(data, "token.set", key=key, options={"durable": durable})
    kept = f"The relay keeps the position of the token {key} from now on."
    forgotten = f"The relay keeps no position of the token {key} any more."
    print_answer(changed, kept if durable else forgotten, as_json)


@token.command()
@click.argument("key")
@_option(
    "--grace",
    type=Duration(zero=True),
    default="0",
    show_default=True,
    help="How long the old secret stays valid, so that clients can be changed one by one.",
)
@relay_options
def rotate(key: str, grace: float, data: Path, as_json: bool) -> None:
    """Give the token with the key KEY a new secret, and print it. The secret is shown only this once."""
    must_be_seen()
    made = call(data, "token.rotate", key=key, grace=grace)
    valid = f"valid for {format_duration(grace)} more" if grace else None
    unseen = (
        f"the token {key} has a new secret that nobody has seen: `relay token rotate {key}` gives it another one; "
        f"the old secret {f'is {valid}' if valid else 'has ended'}"
    )
    _show_once(made, [("old secret", valid or "ended; connections made with it are closed")], unseen, as_json)


@token.command()
@click.argument("key")
@relay_options
def revoke(key: str, data: Path, as_json: bool) -> None:
    """Revoke the token with the key KEY, and close its connections."""
    answer = call(data, "token.revoke", key=key)
    print_answer(answer, f"Revoked the token {answer['id']}.", as_json)


def _show_once(made: Document, rows: Iterable[tuple[str, str | None]], unseen: str, as_json: bool) -> None:
    """Prints a token's new secret, with these rows behind it. Raises Failure that says `unseen` if it can't be
    printed."""
    with unless_seen(unseen):
        if as_json:
            print_json(made)
            return
        print_fields([("key", made["key"]), ("secret", made["secret"]), *rows])
        click.echo("\nKeep the secret now: it is not stored, and nobody can show it again.")
