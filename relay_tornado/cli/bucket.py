"""`relay bucket …`: creates, changes, shows and deletes buckets."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Final

import click

from relay_tornado.cli.client import call, known_url, open_relay, remote_given
from relay_tornado.cli.common import Group, ask, given, program, rate_given, rate_options
from relay_tornado.cli.errors import unless_seen
from relay_tornado.cli.options import (
    NONE,
    Duration,
    Moment,
    NoneOr,
    Number,
    Size,
    options_of,
    relay_options,
    sender_options,
    together,
)
from relay_tornado.cli.printing import (
    Document,
    auth_words,
    dedupe_words,
    exact_size,
    note,
    print_answer,
    print_fields,
    print_json,
    print_list,
    rate_words,
    retention_words,
    webhook_url,
    when,
)
from relay_tornado.cli.secret import read_secret
from relay_tornado.model import printable
from relay_tornado.settings import Settings

_AUTH = click.Choice(["none", "basic", "token"])

_SWITCHES: Final = frozenset({"on", "off", "yes", "no", "true", "false", "1", "0"})
"""Words that are refused as the name of a header: the user takes the option for a switch."""


_option = options_of("BUCKET")


_bucket_options = together(
    _option("--description", help="What the bucket is for."),
    _option(
        "--retention-age",
        type=NoneOr(Duration()),
        help="Remove events that are older: 30d, 12h; a plain number is in seconds.",
    ),
    _option("--retention-events", type=NoneOr(Number(min=1)), help="Keep at most this many events."),
    _option("--retention-bytes", type=NoneOr(Size()), help="Keep at most this many bytes of events."),
    _option(
        "--wait-for-consumers/--no-wait-for-consumers",
        default=None,
        help="Keep events that a consumer is not done with, despite the limits.",
    ),
    _option("--hard-max-bytes", type=NoneOr(Size()), help="Size up to which --wait-for-consumers keeps events."),
    _option(
        "--dedupe",
        metavar="HEADER|auto|none",
        help="Store a repeated event once, recognised by this header; auto knows the usual headers.",
    ),
    _option("--dedupe-window", type=Duration(), help="How long a repeat is recognised (24h)."),
    _option(
        "--ephemeral/--no-ephemeral",
        default=None,
        help="Store no content: only clients that are connected get an event.",
    ),
    _option(
        "--expires",
        "expires_at",
        type=Moment(),
        help="When to delete the bucket and its events: 1d from now, a date (UTC), unix seconds, or none.",
    ),
    rate_options(_option),
    _option("--auth", type=_AUTH, help="What senders must send: nothing, a user and password, or a token."),
    _option("--username", help="For --auth basic."),
    _option("--password", help='For --auth basic; "-" reads it from standard input.'),
    _option("--password-file", type=click.Path(path_type=Path), help="File with the password."),
    _option("--token", help='For --auth token; "-" reads it from standard input.'),
    _option("--token-file", type=click.Path(path_type=Path), help="File with the token."),
    _option(
        "--large-webhooks/--no-large-webhooks",
        default=None,
        help="Accept bodies up to the relay's large_max_body (10MiB) instead of max_body (3MiB).",
    ),
    _option("--max-body", type=NoneOr(Size()), help="Largest body of a webhook, overriding the relay's settings."),
)
"""The options that `create` and `set` share."""

_NAMED: Final = 10
"""The most consumers that a note names."""


@click.group(cls=Group)
def bucket() -> None:
    """Create, change, show and delete buckets."""


@bucket.command()
@click.argument("name")
@_bucket_options
@sender_options
def create(name: str, data: Path, public_url: str | None, as_json: bool, **params: Any) -> None:
    """Create the bucket NAME with one input, and print its URL for senders."""
    options = _options(params)
    with open_relay(data, create=True) as relay:
        made = relay.call("bucket.create", name=name, options=options)
        base = known_url(relay, public_url)
    shown = shlex.quote(made["name"])
    with unless_seen(f"the bucket {made['name']} was made: `relay bucket show {shown}` shows it"):
        if as_json:
            print_json(made)
            return
        _print(made, base)
        remote = remote_given()
        elsewhere = "" if remote is None else "".join(f" {shlex.quote(each)}" for each in remote.options)
        where = "" if remote is not None or data == Settings().data else f" --data {shlex.quote(str(data))}"
        click.echo("")
        if base is None:
            settings = Settings()
            base = f"http://{settings.host}:{settings.port}"
            click.echo(f"Start the relay:          {program()} serve{where}")
        url = webhook_url(base, made["inputs"][0]["id"])
        click.echo(printable(f"Send a webhook:           curl {url} -d hello{_proof(made['auth'])}"))
        access = f"{program()}{elsewhere} token create --bucket {shown}{where}"
        click.echo(printable(f"Give clients access:      {access}"))


@bucket.command(name="list")
@sender_options
def list_(data: Path, public_url: str | None, as_json: bool) -> None:
    """List all buckets."""
    with open_relay(data) as relay:
        buckets = relay.call("bucket.list")
        base = known_url(relay, public_url)
    rows = (
        {
            "NAME": each["name"],
            "ID": each["id"],
            "WEBHOOK URL": " ".join(webhook_url(base, one["id"]) for one in each["inputs"]),
            "RETENTION": retention_words(each["retention"]),
            "DEDUPE": dedupe_words(each["dedupe"]),
            "AUTH": auth_words(each["auth"]),
            "DESCRIPTION": each["description"],
        }
        for each in buckets
    )
    print_list(buckets, rows, "there is no bucket yet: make one with `relay bucket create NAME`", as_json)


@bucket.command()
@click.argument("bucket")
@sender_options
def show(bucket: str, data: Path, public_url: str | None, as_json: bool) -> None:
    """Show the bucket with the name or id BUCKET."""
    with open_relay(data) as relay:
        found = relay.call("bucket.show", bucket=bucket)
        base = known_url(relay, public_url)
    if as_json:
        print_json(found)
    else:
        _print(found, base)


@bucket.command(name="set")
@click.argument("bucket")
@_option("--name", help="A new name.")
@_bucket_options
@sender_options
def set_(bucket: str, data: Path, public_url: str | None, as_json: bool, **params: Any) -> None:
    """Change the bucket with the name or id BUCKET; options that are not given stay as they are."""
    options = _options(params)
    if not options:
        raise click.UsageError("nothing to change: name at least one option, like --retention-age 7d")
    with open_relay(data) as relay:
        before = relay.call("bucket.show", bucket=bucket)
        changed = relay.call("bucket.set", bucket=before["id"], options=options)
        base = known_url(relay, public_url)
        fades = changed["ephemeral"] and not before["ephemeral"]
        there = relay.call("consumer.list", bucket=changed["id"]) if fades and not as_json else []
    if as_json:
        print_json(changed)
        return
    _print(changed, base)
    if names := [each["name"] for each in there if each["kind"] == "client"]:
        shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        note(
            f"no client can subscribe with these consumers while the bucket is ephemeral: {shown}. They keep their "
            "positions, and --wait-for-consumers still waits for them if it is set; `relay consumer delete` ends that"
        )
    if _keeps_less(before["retention"], changed["retention"]):
        limits = retention_words(changed["retention"])
        note(f"events over these limits ({limits}) leave within a minute or two, and do not come back")


@bucket.command()
@click.argument("bucket")
@_option("--yes", "--force", "yes", is_flag=True, help="Do not ask first.")
@relay_options
def delete(bucket: str, yes: bool, data: Path, as_json: bool) -> None:
    """Delete the bucket with the name or id BUCKET, its inputs, its outputs and every event in it."""
    # Not one connection: a server may start while the question waits for an answer.
    found = call(data, "bucket.show", bucket=bucket)
    ask(yes, f"Delete the bucket {found['name']!r} and every event in it?")
    answer = call(data, "bucket.delete", bucket=found["id"], force=True)
    print_answer(answer, f"Deleted the bucket {found['name']} ({found['id']}).", as_json)


def _proof(auth: Document) -> str:
    """The curl options for this authentication, without a secret: curl asks for the password itself."""
    if auth["type"] == "basic":
        return f" -u {shlex.quote(auth['username'])}"
    return ' -H "Authorization: Bearer TOKEN"' if auth["type"] == "token" else ""


def _options(params: dict[str, Any]) -> Document:
    """The given options as fields of the REST interface."""
    auth = {
        "type": params.pop("auth"),
        "username": params.pop("username"),
        "password": read_secret("password", params.pop("password"), params.pop("password_file")),
        "token": read_secret("token", params.pop("token"), params.pop("token_file")),
    }
    retention = {f"max_{part}": params.pop(f"retention_{part}") for part in ("age", "events", "bytes")}
    retention |= {name: params.pop(name) for name in ("wait_for_consumers", "hard_max_bytes")}
    dedupe = {"header": params.pop("dedupe"), "window": params.pop("dedupe_window")}
    limit = rate_given(params.pop("rate_limit"), params.pop("rate_interval"))
    options = {**given(params), **limit}
    if dedupe["header"] is not None:
        dedupe["header"] = _dedupe_header(dedupe["header"])
    if dedupe["header"] == NONE.value:
        if dedupe["window"] is not None:
            raise click.UsageError("--dedupe-window does nothing with --dedupe none: leave one of them out")
        options["dedupe"] = None
        dedupe = {}
    for name, part in (("auth", auth), ("retention", retention), ("dedupe", dedupe)):
        if fields := given(part):
            options[name] = fields
    return options


def _keeps_less(before: Document, after: Document) -> bool:
    """Whether some limit of the retention is lower than before."""
    limits = ((before[name], after[name]) for name in ("max_age", "max_events", "max_bytes"))
    return any(new is not None and (old is None or new < old) for old, new in limits)


def _dedupe_header(text: str) -> str:
    """The header's name, `auto` or `none`. Raises UsageError."""
    word = text.lower()
    if word in _SWITCHES:
        raise click.UsageError(f"--dedupe {text} names a header: auto knows the usual ones, none switches it off")
    return word if word in ("auto", NONE.value) else text


def _print(found: Document, base: str | None) -> None:
    size = found["max_body"]
    largest = "as the setting large_max_body says" if found["large_webhooks"] else "as the setting max_body says"
    limit, end = found["rate_limit"], found["expires_at"]
    rows = [("bucket", found["name"]), ("id", found["id"]), ("description", found["description"] or None)]
    for each in found["inputs"]:
        rows += [("input", f"{each['id']}  {each['name']}, answers {each['status_code']}")]
        rows += [("webhook URL", webhook_url(base, each["id"]))]
    rows += [("output", f"{each['id']}  {each['name']}, {each['destination']}") for each in found["outputs"]]
    rows += [
        ("retention", retention_words(found["retention"])),
        ("dedupe", dedupe_words(found["dedupe"])),
        ("auth", auth_words(found["auth"])),
        ("ephemeral", "yes, no content is stored" if found["ephemeral"] else None),
        ("at most", limit and rate_words(limit)),
        ("largest body", largest if size is None else exact_size(size)),
        ("created", when(found["created_at"])),
        ("deleted at", end and when(end)),
    ]
    print_fields(rows)
