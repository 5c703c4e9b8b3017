"""/tokens: access for clients, made and changed by administrators' tokens only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from marshmallow import Schema, fields

from relay_tornado.admin.tokens import MAX_GRACE
from relay_tornado.errors import Forbidden, Invalid
from relay_tornado.handlers.rest.base import RestHandler, operation
from relay_tornado.handlers.rest.schemas import Deleted, TokenAnswer, TokenWithSecretAnswer
from relay_tornado.model import Token
from relay_tornado.pieces import Pieces
from relay_tornado.wire.fields import Choice, Document, Few, Flag, Number, StockFields, Text, described, load
from relay_tornado.wire.rest import deleted_document, moment


class ScopesFields(StockFields):
    buckets = fields.List(
        Text(1_000),
        allow_none=True,
        metadata=described("Names or ids of buckets; empty means every bucket, null is as if it were absent."),
    )
    tunnels = Few(
        Text(1_000),
        1_000,
        allow_none=True,
        metadata=described("Only stored and returned: this relay has no tunnels."),
    )


class TokenBody(StockFields):
    """What can be said of a token. A token that ends makes and changes none that outlasts it."""

    OURS = frozenset({"durable"})
    ECHOED = frozenset(
        {"id", "key", "created_at", "updated_at", "last_used_at", "last_login", "account_id", "active", "secret"}
    )

    description = Text(4_000, lines=True, metadata=described("What the token is for."))
    name = Text(4_000, lines=True, metadata=described("The same as `description`, which counts if both are given."))
    scopes = fields.Nested(
        ScopesFields, allow_none=True, metadata=described("What the token may see. Default: every bucket.")
    )
    api_access = Choice(
        "",
        "enabled",
        "disabled",
        metadata=described(
            "Whether the token may use this interface. Without, it can only connect, and answer events. Default: "
            "`enabled`."
        ),
    )
    durable = Flag(
        metadata=described(
            "Whether the relay keeps the token's position in every bucket that it reads. Default: false."
        )
    )
    expires_at = moment(
        "The unix time in seconds at which the token ends; null and 0 are never, or when the token that asks ends."
    )


class RotateBody(Schema):
    grace = Number(
        f"must be a number of seconds from 0 to {MAX_GRACE:.0f}.",
        0,
        MAX_GRACE,
        load_default=0.0,
        metadata=described("For how many seconds the old secret stays valid."),
    )


_BODY = TokenBody()


class TokensHandler(RestHandler):
    PATH = "/v1/tokens"

    @operation("List all tokens, without their secrets", TokenAnswer(many=True))
    async def get(self) -> None:
        administration = self.rest.administration
        found, pieces = [], Pieces()
        for token in administration.list_tokens():
            found.append(administration.describe_token(token))
            await pieces.done()
        self.answer(found)

    @operation("Create a token; only this answer shows its secret", TokenWithSecretAnswer(), status=201, body=_BODY)
    async def post(self) -> None:
        options = _options(self.document())
        if options.get("expires_at") is None:
            options["expires_at"] = self.token.expires_at
        _check_end(self.token, options["expires_at"])
        with _in_scopes():
            token, secret = await self.rest.administration.create_token(**options)
        self.answer({**self.rest.administration.describe_token(token), "secret": secret}, 201)


class TokenHandler(RestHandler):
    PATH = "/v1/tokens/{token}"

    @operation("Change a token; absent fields stay as they are", TokenAnswer(), body=_BODY)
    async def put(self, token: str) -> None:
        found = self.rest.administration.find_token(token)
        options = _options(self.document(), found.description)
        _check_end(self.token, options.get("expires_at", found.expires_at))
        with _in_scopes():
            changed = await self.rest.administration.set_token(found.key, **options)
        self.answer(self.rest.administration.describe_token(changed))

    @operation("Revoke a token, and close its connections", Deleted())
    async def delete(self, token: str) -> None:
        revoked = await self.rest.administration.revoke_token(token)
        self.answer(deleted_document(revoked.key))


class RotateHandler(RestHandler):
    PATH = "/v1/tokens/{token}/rotate"

    @operation(
        "Give a token a new secret; only this answer shows it",
        TokenWithSecretAnswer(),
        body=RotateBody(),
        body_optional=True,
    )
    async def post(self, token: str) -> None:
        found = self.rest.administration.find_token(token)
        _check_end(self.token, found.expires_at)
        grace = self.given()["grace"]
        rotated, secret = await self.rest.administration.rotate_token(found.key, grace)
        self.answer({**self.rest.administration.describe_token(rotated), "secret": secret})


def _check_end(asking: Token, end: float | None) -> None:
    """Raises Forbidden where a token that ends gives access that outlasts it."""
    if asking.expires_at is not None and (end is None or end > asking.expires_at):
        raise Forbidden(
            f"the token that asks ends at {asking.expires_at:.0f}, and can't give access for longer: "
            "name an earlier expires_at, or use a token that does not end"
        )


@contextmanager
def _in_scopes() -> Iterator[None]:
    """Where a bucket of a token's scope is refused, the field is named as the API's form has it."""
    try:
        yield
    except Invalid as error:
        if error.field != "buckets":
            raise
        raise error.within("scopes") from None


def _options(document: dict[str, Any], description: str = "") -> Document:
    """What Administration takes, from the form of the API, for a token with this description. Raises Invalid."""
    # Stock clients always send both, whatever they know of `active`.
    if document.get("active") is False and "last_login" not in document:
        raise Invalid("a token can't be switched off: delete it, or give it an expires_at", "active")
    given = load(_BODY, document)
    # The name of what was read, sent back beside a description that was emptied, says nothing.
    if not given.get("description") and given.get("name", description) != description:
        given["description"] = given["name"]
    options: Document = {name: given[name] for name in ("description", "durable", "expires_at") if name in given}
    if options.get("expires_at") == 0:
        options["expires_at"] = None  # some clients can't leave a number out
    if given.get("api_access"):
        options["api_access"] = given["api_access"] == "enabled"
    scopes = given.get("scopes") or {}
    if scopes.get("buckets") is not None:  # null is what clients send that mean to leave it as it is
        options["buckets"] = scopes["buckets"] or None
    if "tunnels" in scopes:
        options["tunnels"] = scopes["tunnels"] or []
    return options


HANDLERS = (TokensHandler, TokenHandler, RotateHandler)
