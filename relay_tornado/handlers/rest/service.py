"""What REST's handlers share: the services that they translate for, and how a token sees buckets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from relay_tornado.admin.administration import Administration
from relay_tornado.admin.logs import Logs
from relay_tornado.delivery.responses import Responses
from relay_tornado.errors import NotFound, Overloaded
from relay_tornado.handlers.socket import Sockets
from relay_tornado.log.contract import EventLog
from relay_tornado.model import MIB, Bucket, Token
from relay_tornado.registry.access import Access
from relay_tornado.registry.contract import Registry
from relay_tornado.wire.rest import Document

BODIES: Final = 64 * MIB
"""Bytes of request bodies that are on their way in at once; over it 503."""


@dataclass(slots=True)
class Rest:
    """The services behind the REST interface."""

    administration: Administration
    logs: Logs
    responses: Responses
    access: Access
    registry: Registry
    log: EventLog
    sockets: Sockets
    description: Callable[[], Document]
    """Gives the API's own, for /openapi.json."""
    incoming: int = 0
    """Bytes of bodies that are held now."""

    def take(self, size: int) -> None:
        """Counts so many bytes of a body. Raises Overloaded where there are too many."""
        if self.incoming + size > BODIES:
            raise Overloaded("too many large requests at once: send this one again later")
        self.incoming += size

    def give_back(self, size: int) -> None:
        self.incoming -= size

    def buckets(self, token: Token) -> Sequence[Bucket]:
        """The buckets in the token's scope, oldest first."""
        return [bucket for bucket in self.administration.list_buckets() if token.reads(bucket.id)]

    def bucket(self, token: Token, reference: str) -> Bucket:
        """The bucket with this id or name in the token's scope. Raises NotFound, the same for those of others."""
        try:
            bucket = self.administration.find_bucket(reference)
        except NotFound:
            bucket = None
        if bucket is None or not token.reads(bucket.id):
            raise NotFound(f"there is no bucket {reference[:100]!r}: GET /v1/buckets lists those that you have")
        return bucket


def shown(token: Token, document: Any) -> Any:
    """A bucket's, input's or output's document, or a list of them, as the token may see it.

    Secrets (a bucket's `auth`, an input's `verify`, the keys in rules) are there for an administrator's token only.
    """
    return document if token.administrator else _without_secrets(document)


def changes(token: Token, before: Any, given: dict[str, Any]) -> dict[str, Any]:
    """What a client wants changed: what it sent, less what it only read and sent back.

    A token to which the secrets were not shown sends them back empty, and must not clear them by that. `before` is
    the whole document as it is now.
    """
    if token.administrator:
        return given
    seen = _without_secrets(before)
    wanted = {name: value for name, value in given.items() if name not in seen or value != seen[name]}
    for name, parts in _KEPT.items():
        if isinstance(wanted.get(name), dict):
            wanted[name] = {part: each for part, each in wanted[name].items() if each or part not in parts}
    return wanted


_KEPT: Final = {"auth": ("password", "token"), "verify": ("secrets",)}
_SECRETS: Final = {"auth": ("password", "token"), "match": ("secret",)}


def _without_secrets(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_secrets(each) for each in value]
    if not isinstance(value, dict):
        return value
    cleared = {name: _without_secrets(each) for name, each in value.items()}
    for name, parts in _SECRETS.items():
        if isinstance(cleared.get(name), dict):
            cleared[name] = {**cleared[name], **{part: "" for part in parts if cleared[name].get(part)}}
    if isinstance(cleared.get("verify"), dict):
        cleared["verify"] = {**cleared["verify"], "secrets": []}
    return cleared
