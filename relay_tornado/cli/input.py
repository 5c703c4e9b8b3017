"""`relay input …`: creates, changes, shows and deletes inputs, the public URLs that feed buckets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from relay_tornado.cli.client import known_url, open_relay
from relay_tornado.cli.common import (
    Group,
    delete_part,
    given,
    header_options,
    header_rows,
    headers_given,
    rate_given,
    rate_options,
    read_text,
)
from relay_tornado.cli.lookup import find_part, parts_of
from relay_tornado.cli.options import NONE, Lines, Number, options_of, relay_options, sender_options, together
from relay_tornado.cli.printing import Document, print_fields, print_json, print_list, rate_words, webhook_url
from relay_tornado.cli.secret import read_secret
from relay_tornado.model import counted
from relay_tornado.wire.place import PLACE, compared

_option = options_of("INPUT")


_input_options = together(
    _option("--name", help="The input's name."),
    _option("--description", help="What the input is for."),
    _option("--status", "status_code", type=Number(200, 599), help="Status code that senders get."),
    _option("--body", help="Body that senders get; empty for none."),
    _option(
        "--body-file",
        type=click.Path(path_type=Path),
        help='File with the body, at most 250 KB; "-" is standard input.',
    ),
    header_options(_option, "Header that senders get"),
    _option("--custom-domain", metavar="HOST", help="Additional host name of the input; empty for none."),
    _option("--path-prefix", metavar="PATH", help="Additional path of the input; empty for none."),
    _option(
        "--strip-path-prefix/--no-strip-path-prefix", default=None, help="Remove the prefix from the event's path."
    ),
    _option(
        "--response-from-output",
        metavar="OUTPUT",
        help="Senders get a client's answer for this output (its id, or anyOutput); empty for none.",
    ),
    _option(
        "--verify",
        metavar="PROVIDER|none",
        help="Check senders' signatures: github, standard-webhooks, stripe, slack, shopify or gitlab.",
    ),
    _option(
        "--verify-secret",
        "verify_secrets",
        multiple=True,
        type=Lines(),
        help='Secret for --verify; repeat it while rotating. One per line in the variable. "-" reads standard input.',
    ),
    _option(
        "--verify-secret-file",
        "verify_files",
        multiple=True,
        type=click.Path(path_type=Path),
        help="File with a secret for --verify; may be repeated.",
    ),
    _option(
        "--on-failure",
        type=click.Choice(["reject", "mark"]),
        help="What to do with a wrong signature: answer 401, or store the event and mark it.",
    ),
    rate_options(_option),
)
"""The options that `create` and `set` share."""


_bucket_option = _option("--bucket", metavar="BUCKET", help="The input's bucket; INPUT may then be the input's name.")


@click.group(name="input", cls=Group)
def inputs() -> None:
    """Create, change, show and delete inputs, and what they answer."""


@inputs.command()
@click.argument("bucket")
@_option("--id", help="Id in the URL, instead of a random one: 1 to 64 letters, digits, - and _.")
@_input_options
@sender_options
def create(bucket: str, data: Path, public_url: str | None, as_json: bool, **params: Any) -> None:
    """Create an input in the bucket with the name or id BUCKET, and print its URL."""
    options = _options(params)
    with open_relay(data) as relay:
        made = relay.call("input.create", bucket=bucket, options=options)
        base = known_url(relay, public_url)
    _show(made, base, as_json)


@inputs.command(name="list")
@click.argument("bucket", required=False)
@sender_options
def list_(bucket: str | None, data: Path, public_url: str | None, as_json: bool) -> None:
    """List all inputs, or those of the bucket with the name or id BUCKET."""
    with open_relay(data) as relay:
        found = parts_of(relay.call("bucket.list"), "input", bucket)
        base = known_url(relay, public_url)
    rows = (
        {
            "BUCKET": each["name"],
            "NAME": one["name"],
            "ID": one["id"],
            "WEBHOOK URL": webhook_url(base, one["id"]),
            "ANSWERS": _answers(one),
            "VERIFY": _verify_words(one),
            "DESCRIPTION": one["description"],
        }
        for each, one in found
    )
    print_list([one for _, one in found], rows, "there is no input", as_json)


@inputs.command()
@click.argument("input")
@_bucket_option
@sender_options
def show(input: str, bucket: str | None, data: Path, public_url: str | None, as_json: bool) -> None:
    """Show the input with the id INPUT."""
    with open_relay(data) as relay:
        _, found = find_part(relay.call("bucket.list"), "input", input, bucket)
        base = known_url(relay, public_url)
    _show(found, base, as_json)


@inputs.command(name="set")
@click.argument("input")
@_bucket_option
@_input_options
@sender_options
def set_(input: str, bucket: str | None, data: Path, public_url: str | None, as_json: bool, **params: Any) -> None:
    """Change the input with the id INPUT; options that are not given stay as they are.

    If a bucket has only one input, INPUT may be the bucket's name or id.
    """
    options = _options(params)
    if not options:
        raise click.UsageError("nothing to change: name at least one option, like --status 202")
    with open_relay(data) as relay:
        changed = relay.call("input.set", input=input, bucket=bucket, options=options)
        base = known_url(relay, public_url)
    _show(changed, base, as_json)


@inputs.command()
@click.argument("input")
@_bucket_option
@_option("--yes", is_flag=True, help="Do not ask first.")
@relay_options
def delete(input: str, bucket: str | None, yes: bool, data: Path, as_json: bool) -> None:
    """Delete the input with the id INPUT: its URL answers 404 from then on. Its events stay."""
    delete_part(data, "input", input, bucket, yes=yes, as_json=as_json)


def _options(params: dict[str, Any]) -> Document:
    """The given options as fields of the REST interface."""
    body_file: Path | None = params.pop("body_file")
    headers = headers_given(params.pop("headers"), params.pop("no_headers"))
    verify = _verify(params)
    rate, interval = params.pop("rate_limit"), params.pop("rate_interval")
    options = given(params)
    if body_file is not None:
        if "body" in options:
            raise click.UsageError("--body and --body-file both give the body: leave one of them out")
        options["body"] = read_text("--body-file", body_file)
    if headers is not None:
        options["headers"] = headers
    return {**options, **verify, **rate_given(rate, interval)}


def _verify(params: dict[str, Any]) -> Document:
    provider = params.pop("verify")
    secrets = [read_secret("verify-secret", each, None) for each in params.pop("verify_secrets")]
    secrets += [read_secret("verify-secret", None, each) for each in params.pop("verify_files")]
    on_failure = params.pop("on_failure")
    if provider is not None and provider.lower() == NONE.value:
        if secrets or on_failure:
            raise click.UsageError("--verify none checks nothing: leave out its secrets and --on-failure")
        return {"verify": None}
    checks = given({"provider": provider, "secrets": secrets or None, "on_failure": on_failure})
    return {"verify": checks} if checks else {}


def _show(document: Document, base: str | None, as_json: bool) -> None:
    if as_json:
        print_json(document)
        return
    route = "".join(compared(name, document[name]) for name in PLACE)
    print_fields(
        [
            ("input", document["id"]),
            ("name", document["name"]),
            ("description", document["description"] or None),
            ("webhook URL", webhook_url(base, document["id"])),
            ("found at", route or None),
            ("answers", _answers(document)),
            *header_rows(document),
            ("verifies", document["verify"] and _verify_words(document)),
            ("at most", document["rate_limit"] and rate_words(document["rate_limit"])),
        ]
    )


def _answers(document: Document) -> str:
    if document["response_from_output"]:
        return f"what {document['response_from_output']} answers"
    return f"{document['status_code']}, {counted(len(document['body'].encode()), 'byte')}"


def _verify_words(document: Document) -> str:
    """The provider, and what a failure does; only --json shows the secrets."""
    verify = document["verify"]
    return "no" if verify is None else f"{verify['provider']}, {verify['on_failure']}"
