"""The one way by which buckets, inputs and tokens are made, changed and removed, whoever asks for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from relay_tornado.admin.buckets import changed_bucket, changed_input, new_bucket
from relay_tornado.admin.housekeeping import Housekeeping, Reconciled
from relay_tornado.admin.tokens import new_token
from relay_tornado.errors import Conflict, Invalid, NotFound, RelayError, Unknown
from relay_tornado.ids import new_epoch
from relay_tornado.log.contract import EventLog
from relay_tornado.model import Bucket, Input, Token
from relay_tornado.registry.contract import Registry
from relay_tornado.settings import Settings

_logger = structlog.get_logger(__name__)

_ATTEMPTS = 10
"""How often a change is tried again because somebody else's came first."""


class Administration:
    """Options are plain JSON data as wire/rest.py has them, and what is left out stays as it is.

    A bucket is named by its name or its id, everywhere. Errors: Invalid, NotFound, Conflict, and the storage's own
    (Unavailable, NoSpace). A method that was begun should be awaited to its end; where it is not, `reconcile` at the
    next start mends what is left.
    """

    def __init__(
        self, log: EventLog, registry: Registry, settings: Settings, clock: Callable[[], float] = time.time
    ) -> None:
        """`clock` gives unix seconds."""
        self.settings = settings
        self.url = settings.public_url
        """Where senders reach the relay, for whoever prints webhook URLs; the composition root puts the address here
        that it listens on where no public one is set."""
        self._log = log
        self._registry = registry
        self._clock = clock
        self._housekeeping = Housekeeping(log, registry, settings)

    # buckets

    async def create_bucket(self, name: str, /, **options: Any) -> Bucket:
        """Makes a bucket with its log and one input. Conflict where the name is taken.

        Options: description, stream, large_webhooks, max_body, auth, retention, dedupe.
        """
        bucket = new_bucket(name, options, self.settings, self._clock())
        self._check_free(bucket.name)
        # The log first: nobody knows the id yet, and a bucket that can be seen can be appended to.
        await self._log.create(bucket.id, new_epoch())
        try:
            await self._registry.put("bucket", bucket.id, bucket, expect=0)
        except Unknown:
            raise  # the bucket may be there after all, and needs its log then; `reconcile` sees which it is
        except RelayError:
            await self._drop_log(bucket.id)
            raise
        return bucket

    async def set_bucket(self, reference: str, /, **options: Any) -> Bucket:
        """Changes a bucket; the options are those of `create_bucket`, and name."""

        def change(bucket: Bucket) -> Bucket:
            changed = changed_bucket(bucket, options, self.settings, self._clock())
            if changed.name != bucket.name:
                self._check_free(changed.name)
            return changed

        return await self._change(lambda: self.find_bucket(reference), change)

    async def delete_bucket(self, reference: str) -> Bucket:
        """Removes a bucket, its inputs and its events; returns what it was. Its name is free at once."""
        bucket = self.find_bucket(reference)
        await self._registry.delete("bucket", bucket.id)
        await self._drop_log(bucket.id)
        return bucket

    def list_buckets(self) -> Sequence[Bucket]:
        """Every bucket, oldest first."""
        return list(self._registry.list("bucket"))

    def find_bucket(self, reference: str) -> Bucket:
        """The bucket with this id or name. Raises NotFound."""
        bucket: Bucket | None = self._registry.get("bucket", reference)
        if bucket is not None:
            return bucket
        for each in self._registry.list("bucket"):
            if each.name == reference:
                found: Bucket = each
                return found
        raise NotFound(f"there is no bucket {reference[:100]!r}: `relay bucket list` shows which there are")

    # inputs

    async def set_input(self, reference: str, /, **options: Any) -> tuple[Bucket, Input]:
        """Changes an input; options: name, description, status_code, body, headers. Returns it in its bucket.

        `reference` is the input's id; where a bucket has one input only, the bucket's name or id does as well.
        """
        input_id = self._find_input(reference)[1].id
        bucket = await self._change(
            lambda: self._find_input(input_id)[0],
            lambda bucket: changed_input(bucket, input_id, options, self._clock()),
        )
        return bucket, next(each for each in bucket.inputs if each.id == input_id)

    def _find_input(self, reference: str) -> tuple[Bucket, Input]:
        for bucket in self._registry.list("bucket"):
            for each in bucket.inputs:
                if each.id == reference:
                    return bucket, each
        try:
            named = self.find_bucket(reference)
        except NotFound:
            raise NotFound(
                f"there is no input {reference[:100]!r}: `relay bucket show` prints the inputs' ids"
            ) from None
        if len(named.inputs) != 1:
            raise Invalid(f"the bucket {named.name!r} has {len(named.inputs)} inputs: name the one you mean by its id")
        return named, named.inputs[0]

    # tokens

    async def create_token(self, /, **options: Any) -> tuple[Token, str]:
        """Makes a token; returns it with its secret, which nobody can find out again.

        Options: description, buckets (names or ids; left out: all), api_access (true), expires_at (unix seconds).
        """
        token, secret = new_token(options, self._registry.list("bucket"), self._clock())
        await self._registry.put("token", token.key, token, expect=0)
        return token, secret

    async def revoke_token(self, key: str) -> Token:
        """Removes a token; returns what it was. Its live sockets are closed by whoever holds them."""
        token: Token | None = self._registry.get("token", key)
        if token is None:
            raise NotFound("there is no token with this key: `relay token list` shows the keys")
        await self._registry.delete("token", key)
        return token

    def list_tokens(self) -> Sequence[Token]:
        """Every token that was not revoked, oldest first; expired ones too."""
        return list(self._registry.list("token"))

    # upkeep

    async def reconcile(self) -> Reconciled:
        """At a start, before anything else: a log for every bucket, and no log without a bucket."""
        return await self._housekeeping.reconcile()

    async def trim_all(self) -> int:
        """Removes what the buckets' retention no longer holds; returns how many events left."""
        return await self._housekeeping.trim_all()

    async def run_housekeeping(self) -> None:
        """Trims all buckets every `retention_interval`, until it is cancelled."""
        await self._housekeeping.run()

    async def _drop_log(self, bucket_id: str) -> None:
        try:
            await self._log.drop(bucket_id)
        except RelayError as error:
            # There is no such bucket for anybody; only its rows still take space.
            _logger.warning("bucket_log_kept", bucket_id=bucket_id, reason=str(error), hint="removed at the next start")

    async def _change(self, find: Callable[[], Bucket], change: Callable[[Bucket], Bucket]) -> Bucket:
        for _ in range(_ATTEMPTS):
            bucket = find()
            revision = self._registry.revision("bucket", bucket.id)
            changed = change(bucket)
            if changed is bucket:
                return bucket
            try:
                await self._registry.put("bucket", bucket.id, changed, expect=revision)
            except Conflict:
                if self._registry.revision("bucket", bucket.id) == revision:
                    raise
                continue
            return changed
        raise Conflict("the bucket is being changed by others all the time: try again")

    def _check_free(self, name: str) -> None:
        if any(bucket.name == name for bucket in self._registry.list("bucket")):
            raise Conflict(f"there is a bucket {name!r} already: choose another name, or change that one")
