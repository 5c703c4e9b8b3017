"""`relay output …`: creates, changes, shows and deletes outputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from relay_tornado.cli.client import call, open_relay
from relay_tornado.cli.common import Group, delete_part, given, header_options, header_rows, headers_given, read_text
from relay_tornado.cli.destination import tell_refusal
from relay_tornado.cli.lookup import find_part, parts_of
from relay_tornado.cli.options import Duration, Number, format_duration, options_of, relay_options, together
from relay_tornado.cli.printing import Document, note, print_fields, print_json, print_list
from relay_tornado.cli.secret import must_be_seen, read_secret
from relay_tornado.ids import new_signing_secret

_option = options_of("OUTPUT")

_GENERATE: Final = "generate"
_SECRETS: Final[dict[str, Callable[[], str]]] = {_GENERATE: new_signing_secret, "none": str}
"""Words in place of a secret: one generates it, the other removes it."""


_output_options = together(
    _option("--name", help="The output's name; clients see it as output_name."),
    _option("--description", help="What the output is for."),
    _option("--destination", help="Where its events go; clients see it as output_destination."),
    _option(
        "--internal/--public",
        default=None,
        help="Delivered by a connected client (the default), or forwarded by the relay itself.",
    ),
    _option("--disabled/--enabled", default=None, help="Disable or enable the output."),
    _option(
        "--lock-path/--no-lock-path",
        default=None,
        help="Do not append to the destination what follows the input in the URL.",
    ),
    _option("--timeout", type=Duration(zero=True), help="How long an answer may take, at most 180s."),
    _option("--retries", type=Number(-1, 1000), help="Retries after the first three tries; -1: one try in all."),
    _option(
        "--tls-verification/--no-tls-verification",
        default=None,
        help="Whether to verify the destination's certificate.",
    ),
    _option(
        "--strict-order/--no-strict-order",
        default=None,
        help="Public output: hold later events until a failed one is delivered or given up.",
    ),
    _option(
        "--secret",
        metavar="whsec_…|generate|none",
        help="Public output: sign requests with this secret (Standard Webhooks); generate creates and shows one, "
        '"-" reads it from standard input.',
    ),
    header_options(_option, "Header that replaces the sender's"),
)
"""The options that `create` and `set` share."""


_bucket_option = _option(
    "--bucket", metavar="BUCKET", help="The output's bucket; OUTPUT may then be the output's name."
)


@click.group(cls=Group)
def output() -> None:
    """Create, change, show and delete outputs, and set which events they get."""


@output.command()
@click.argument("bucket")
@_output_options
@relay_options
def create(bucket: str, data: Path, as_json: bool, **params: Any) -> None:
    """Create an output in the bucket with the name or id BUCKET."""
    options = _options(params)
    with open_relay(data) as relay:
        made = relay.call("output.create", bucket=bucket, options=options)
        tell_refusal(relay, made)
    _show(made, as_json, reveal=params["secret"] == _GENERATE)


@output.command(name="list")
@click.argument("bucket", required=False)
@relay_options
def list_(bucket: str | None, data: Path, as_json: bool) -> None:
    """List all outputs, or those of the bucket with the name or id BUCKET."""
    found = parts_of(call(data, "bucket.list"), "output", bucket)
    rows = (
        {
            "BUCKET": each["name"],
            "NUMBER": str(one["number"]),
            "NAME": one["name"],
            "ID": one["id"],
            "KIND": _kind(one),
            "DESTINATION": one["destination"],
            "RULES": "yes" if one["rules"] else "no",
        }
        for each, one in found
    )
    print_list([one for _, one in found], rows, "there is no output: every subscriber gets each event once", as_json)


@output.command()
@click.argument("output")
@_bucket_option
@relay_options
def show(output: str, bucket: str | None, data: Path, as_json: bool) -> None:
    """Show the output with the id OUTPUT."""
    _, found = find_part(call(data, "bucket.list"), "output", output, bucket)
    _show(found, as_json)


@output.command(name="set")
@click.argument("output")
@_bucket_option
@_output_options
@relay_options
def set_(output: str, bucket: str | None, data: Path, as_json: bool, **params: Any) -> None:
    """Change the output with the id OUTPUT; options that are not given stay as they are.

    If a bucket has only one output, OUTPUT may be the bucket's name or id.
    """
    options = _options(params)
    if not options:
        raise click.UsageError("nothing to change: name at least one option, like --disabled")
    _set(data, output, bucket, options, as_json, reveal=params["secret"] == _GENERATE)


@output.command()
@click.argument("output")
@_bucket_option
@relay_options
def pause(output: str, bucket: str | None, data: Path, as_json: bool) -> None:
    """Pause the public output with the id OUTPUT until it is resumed; its events wait in the log."""
    _set(data, output, bucket, {"paused": True}, as_json)


@output.command()
@click.argument("output")
@_bucket_option
@relay_options
def resume(output: str, bucket: str | None, data: Path, as_json: bool) -> None:
    """Resume a paused output where it stopped."""
    _set(data, output, bucket, {"paused": False}, as_json)


@output.command()
@click.argument("output")
@_bucket_option
@_option("--file", type=click.Path(path_type=Path), help='File with the new rules as JSON; "-" is standard input.')
@_option("--none", is_flag=True, help="Remove the rules, so that it gets every event.")
@relay_options
def rules(output: str, bucket: str | None, file: Path | None, none: bool, data: Path, as_json: bool) -> None:
    """Show or set which events the output with the id OUTPUT gets.

    Without --file or --none it prints the current rules.
    """
    if file is not None and none:
        raise click.UsageError("--file sets rules and --none removes them: leave one of them out")
    if file is None and not none:
        _, found = find_part(call(data, "bucket.list"), "output", output, bucket)
    else:
        wanted = None if file is None else _read(file)
        found = call(data, "output.set", output=output, bucket=bucket, options={"rules": wanted})
    if as_json or found["rules"]:
        print_json(found["rules"])
    else:
        note("the output has no rules: it gets every event")


@output.command()
@click.argument("output")
@_bucket_option
@_option("--yes", is_flag=True, help="Do not ask first.")
@relay_options
def delete(output: str, bucket: str | None, yes: bool, data: Path, as_json: bool) -> None:
    """Delete the output with the id OUTPUT."""
    delete_part(data, "output", output, bucket, yes=yes, as_json=as_json)


def _options(params: dict[str, Any]) -> Document:
    """The given options as fields of the REST interface."""
    if params["secret"] == _GENERATE:
        must_be_seen()
    headers = headers_given(params.pop("headers"), params.pop("no_headers"))
    options = given(params)
    if "secret" in options:
        options["secret"] = _SECRETS.get(options["secret"], lambda: read_secret("secret", params["secret"], None))()
    return options if headers is None else {**options, "headers": headers}


def _set(
    data: Path, output: str, bucket: str | None, options: Document, as_json: bool, *, reveal: bool = False
) -> None:
    with open_relay(data) as relay:
        changed = relay.call("output.set", output=output, bucket=bucket, options=options)
        if not options.keys().isdisjoint(("destination", "internal")):
            tell_refusal(relay, changed)
    if options.get("paused") is False and changed["disabled"]:
        note(
            f"the output is disabled, too, and gets no event: enable it by `relay output set {changed['id']} --enabled`"
        )
    if options.get("disabled") is False and changed["paused"]:
        note(f"the output is paused, too, and gets no event: resume it by `relay output resume {changed['id']}`")
    _show(changed, as_json, reveal=reveal)


def _read(file: Path) -> Any:
    try:
        return json.loads(read_text("--file", file))
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--file: {file} holds no JSON: {error}") from None


def _show(document: Document, as_json: bool, *, reveal: bool = False) -> None:
    if as_json:
        print_json(document)
        return
    print_fields(
        [
            ("output", document["id"]),
            ("number", str(document["number"])),
            ("name", document["name"]),
            ("description", document["description"] or None),
            ("kind", _kind(document)),
            ("destination", document["destination"] or "none"),
            ("timeout", format_duration(document["timeout"])),
            ("tries", _tries(document)),
            ("order", "strict" if document["strict_order"] else None),
            ("signed with", (document["secret"] if reveal else "a secret, see --json") if document["secret"] else None),
            *header_rows(document),
            ("rules", "yes, see `relay output rules`" if document["rules"] else "none, it gets every event"),
        ]
    )


def _tries(document: Document) -> str:
    if (document["durability"] or {}).get("enabled"):
        return f"by the schedule {document['durability'].get('schedule') or 'long'}"
    return "1" if document["retries"] < 0 else str(3 + document["retries"])


def _kind(document: Document) -> str:
    words = ["internal" if document["internal"] else "public"]
    if document["paused"]:
        words.append("paused")
    if document["disabled"]:
        reason = document["disabled_reason"]
        words.append(f"disabled by the relay: {reason}" if reason else "disabled")
    return ", ".join(words)
