"""`relay input …`: the public URLs that feed buckets, and what they answer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from relay_tornado.cli.client import known_url, open_relay
from relay_tornado.cli.options import Lines, data_option, json_option, url_option
from relay_tornado.cli.output import print_fields, print_json, webhook_url


def _option(name: str, *names: str, **attributes: Any) -> Callable[[Any], Any]:
    envvar = "RELAY_INPUT_" + name.removeprefix("--").replace("-", "_").upper()
    return click.option(name, *names, envvar=envvar, show_envvar=True, **attributes)


@click.group(name="input")
def inputs() -> None:
    """Change inputs and what they answer."""


@inputs.command(name="set")
@click.argument("input")
@_option("--name", help="A new name.")
@_option("--description", help="What it is for.")
@_option("--status", "status_code", type=click.IntRange(200, 599), help="Status that senders get.")
@_option("--body", help="Body that senders get; empty for none.")
@_option(
    "--body-file",
    type=click.Path(path_type=Path),
    help='File that holds the body, at most 250 KB; "-" is standard input.',
)
@_option(
    "--header",
    "headers",
    multiple=True,
    type=Lines(),
    metavar="NAME: VALUE",
    help="Header that senders get, instead of those that were set; repeats. The variable has one a line.",
)
@_option("--no-headers", is_flag=True, help="Remove all headers that were set.")
@data_option
@url_option
@json_option
def set_(
    input: str,
    body_file: Path | None,
    headers: tuple[str, ...],
    no_headers: bool,
    data: Path,
    public_url: str | None,
    as_json: bool,
    **params: Any,
) -> None:
    """Change the input with the id INPUT; what is not named stays as it is.

    Where a bucket has one input only, INPUT may be the bucket's name or id.
    """
    options = {name: value for name, value in params.items() if value is not None}
    if body_file is not None:
        if "body" in options:
            raise click.UsageError("--body and --body-file both give the body: leave one of them out")
        options["body"] = _read(body_file)
    if headers and no_headers:
        raise click.UsageError("--header sets headers and --no-headers removes them: leave one of them out")
    if headers or no_headers:
        options["headers"] = _parse(headers)
    if not options:
        raise click.UsageError("nothing to change: name at least one option, like --status 202")
    with open_relay(data) as relay:
        changed = relay.call("input.set", input=input, options=options)
        base = known_url(relay, public_url)
    if as_json:
        print_json(changed)
        return
    lines = [f"{name}: {value}" for name, values in changed["headers"].items() for value in values]
    print_fields(
        [
            ("input", changed["id"]),
            ("name", changed["name"]),
            *([("description", changed["description"])] if changed["description"] else []),
            ("webhook URL", webhook_url(base, changed["id"])),
            ("answers", f"{changed['status_code']}, {len(changed['body'].encode())} bytes"),
            *(("header", line) for line in lines),
        ]
    )


def _read(file: Path) -> str:
    try:
        # Not as text, which would change its line ends.
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise click.UsageError(f"--body-file: {file} can't be read: {reason}") from None


def _parse(lines: tuple[str, ...]) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise click.UsageError(f'--header: {line!r} has no colon: write it like "Content-Type: text/plain"')
        headers.setdefault(name.strip(), []).append(value.strip())
    return headers
