"""What commands for buckets, inputs and outputs have in common: options that make one field, and how one is found."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from relay_tornado.cli.client import open_relay
from relay_tornado.cli.errors import Failure
from relay_tornado.cli.options import NONE
from relay_tornado.cli.output import Document, print_json
from relay_tornado.errors import NotClear, NotFound


def headers_given(lines: Sequence[str], none: bool) -> dict[str, list[str]] | None:
    """The headers of `--header` and `--no-headers`; None where neither was given. Raises UsageError."""
    if lines and none:
        raise click.UsageError("--header sets headers and --no-headers removes them: leave one of them out")
    if not lines and not none:
        return None
    headers: dict[str, list[str]] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise click.UsageError(f'--header: {line!r} has no colon: write it like "Content-Type: text/plain"')
        headers.setdefault(name.strip(), []).append(value.strip())
    return headers


def rate_given(rate: Any, interval: float | None) -> Document:
    """`rate_limit` as `--rate-limit` and `--rate-interval` gave it."""
    if rate is NONE:
        if interval is not None:
            raise click.UsageError("--rate-interval does nothing with --rate-limit none: leave one of them out")
        return {"rate_limit": None}
    given = {name: value for name, value in (("events", rate), ("interval", interval)) if value is not None}
    return {"rate_limit": given} if given else {}


def header_rows(document: Document) -> list[tuple[str, str]]:
    """The headers of an input or an output for `print_fields`."""
    return [("header", f"{name}: {value}") for name, values in document["headers"].items() for value in values]


def read_text(option: str, file: Path) -> str:
    """The text of a file, or of standard input for "-", with its line ends as they are. Raises UsageError."""
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise click.UsageError(f"{option}: {file} can't be read: {reason}") from None


def ask(yes: bool, question: str) -> None:
    """Returns where the answer is yes. Raises UsageError where nobody can be asked, and Failure for no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("nobody is here to be asked whether to delete it: say --yes")
    if not click.confirm(question, err=True):
        raise Failure("nothing was deleted")


def find_part(buckets: Sequence[Document], part: str, reference: str, bucket: str | None) -> tuple[Document, Document]:
    """The bucket and its input or output (`part`: "inputs" or "outputs") that a reference names, as the relay itself
    finds it: by id, within `bucket` by name too, or as the only one of the bucket that it names. Raises NotFound and
    NotClear."""
    kind = part.removesuffix("s")
    parts = parts_of(buckets, part, bucket)
    found = [(each, one) for each, one in parts if one["id"] == reference]
    if not found and bucket is not None:
        found = [(each, one) for each, one in parts if one["name"] == reference]
        if len(found) > 1:
            raise NotClear(found[0][0]["name"], kind, [one["id"] for _, one in found], reference)
    if not found and bucket is None:
        for each in buckets:
            if reference in (each["id"], each["name"]):
                return each, _only(each, part)
    if not found:
        raise NotFound(f"there is no {kind} {reference[:100]!r}: `relay {kind} list` shows which there are")
    return found[0]


def _only(bucket: Document, part: str) -> Document:
    found: list[Document] = bucket[part]
    if len(found) != 1:
        raise NotClear(bucket["name"], part.removesuffix("s"), [one["id"] for one in found])
    return found[0]


def find_output(bucket: Document, reference: str) -> Document:
    """The bucket's output with this id or name. Raises Failure, saying which there are, and NotClear."""
    try:
        return find_part([bucket], "outputs", reference, bucket["id"])[1]
    except NotFound:
        raise no_output(bucket, reference) from None


def no_output(bucket: Document, reference: str) -> Failure:
    """The error where a bucket has no such output."""
    names = ", ".join(each["name"] or each["id"] for each in bucket["outputs"]) or "none"
    return Failure(f"there is no output {reference!r} in {bucket['name']}: it has {names}")


def delete_part(data: Path, part: str, reference: str, bucket: str | None, *, yes: bool, as_json: bool) -> None:
    """Deletes an input or an output (`part` as for `find_part`) after asking, and says so. Raises Failure, NotFound and
    NotClear."""
    kind = part.removesuffix("s")
    with open_relay(data) as relay:
        owner, found = find_part(relay.call("bucket.list"), part, reference, bucket)
    ask(yes, f"Delete the {kind} {found['name']!r} of the bucket {owner['name']!r}?")
    with open_relay(data) as relay:
        answer = relay.call(f"{kind}.delete", bucket=owner["id"], **{kind: found["id"]})
    if as_json:
        print_json(answer)
    else:
        click.echo(f"Deleted the {kind} {found['name']} ({found['id']}).")


def parts_of(buckets: Iterable[Document], part: str, bucket: str | None) -> list[tuple[Document, dict[str, Any]]]:
    """Every input or output, of one bucket or of all, with its bucket. Raises NotFound."""
    searched = [each for each in buckets if bucket is None or bucket in (each["id"], each["name"])]
    if not searched and bucket is not None:
        raise NotFound(f"there is no bucket {bucket!r}: `relay bucket list` shows which there are")
    return [(each, one) for each in searched for one in each[part]]
