"""How requests and commands name a consumer of a bucket, and who may see it."""

from __future__ import annotations

from collections.abc import Sequence

from relay_tornado.admin.lookup import named, no_such_part
from relay_tornado.errors import NotClear, NotFound
from relay_tornado.log.consumers import Key, output_key
from relay_tornado.model import Bucket, Output, Token


def key_of(bucket: Bucket, reference: str) -> Key:
    """The key of a consumer, from its reference (see `reference_of`). An output is given by its number, id or name; if
    a name looks like another output's number or id, that output is meant. Raises NotFound if there is no such output,
    and NotClear if several have the name."""
    kind, colon, name = reference.partition(":")
    if colon and kind == "client":
        return Key(bucket.id, "client", name)
    if colon and kind == "token":
        return Key(bucket.id, "token", name)
    if colon and kind == "output":
        found = _outputs(bucket, name)
        if not found:
            raise no_such_part(bucket, "output", name)
        if len(found) > 1:
            raise NotClear(bucket.name, "output", [each.id for each in found], name)
        return output_key(bucket.id, found[0].n)
    return Key(bucket.id, "client", reference)


def may_see(token: Token, reference: str) -> bool:
    """Whether a token with access to the bucket may see and move this consumer. Only an administrator may see another
    token's, whether it exists or not."""
    kind, colon, name = reference.partition(":")
    return not colon or kind != "token" or token.administrator or name == token.key


def missing(bucket: Bucket, reference: str) -> NotFound:
    """The error for a consumer that does not exist, or that the caller may not see."""
    kind, _, name = reference.partition(":")
    found = _outputs(bucket, name) if kind == "output" else ()
    if found and found[0].internal:
        return NotFound(
            f"the output {found[0].name[:100]!r} is internal, and has no position: it is a public one's, or that of a "
            "client that subscribes with a consumer"
        )
    return NotFound(
        f"the bucket {bucket.name!r} has no consumer {reference[:100]!r}: a client makes one when it subscribes with "
        "it; an output's is output:NAME, a durable token's token:KEY"
    )


def _outputs(bucket: Bucket, name: str) -> Sequence[Output]:
    """The outputs with this number, or else with this id or name."""
    return [each for each in bucket.outputs if str(each.n) == name] or named(bucket.outputs, name)
