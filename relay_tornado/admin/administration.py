"""Creates, changes and removes buckets, inputs, outputs and tokens, for REST and for commands."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol
from uuid import uuid4
from weakref import WeakValueDictionary

from relay_tornado.admin.buckets import changed_bucket, check_size, new_bucket
from relay_tornado.admin.consumers import ConsumerAdministration
from relay_tornado.admin.durable import TokenPositions
from relay_tornado.admin.housekeeping import Housekeeping
from relay_tornado.admin.imports import take
from relay_tornado.admin.inputs import find_input, with_changed_input, with_new_input, without_input
from relay_tornado.admin.logs import Logs
from relay_tornado.admin.lookup import find_part, nowhere
from relay_tornado.admin.outputs import (
    find_output,
    with_changed_output,
    with_disabled_output,
    with_new_output,
    without_output,
)
from relay_tornado.admin.sessions import Sessions
from relay_tornado.admin.tokens import changed_token, new_token, no_such_token, rotated_token
from relay_tornado.errors import BucketGone, Conflict, NotFound, RelayError, Unknown
from relay_tornado.ids import new_epoch
from relay_tornado.log.consumers import Key, Terms, output_key
from relay_tornado.log.contract import EventLog
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.low_memory import Lock
from relay_tornado.model import DAY, Bucket, BucketId, Input, Output, Token, counted
from relay_tornado.pieces import Pieces
from relay_tornado.registry.contract import Registry
from relay_tornado.registry.uses import Uses
from relay_tornado.settings import Settings
from relay_tornado.wire.fields import Document
from relay_tornado.wire.rest import token_document

Wanted = Callable[[Bucket], Mapping[str, Any]]
"""Returns the options of a change, given the bucket as it is when it is changed; may be called more than once."""

_ATTEMPTS = 10
"""How often a change is retried after another one came first."""
MAX_BINS: Final = 20
"""The maximum number of bins at a time; a bin that is kept no longer counts."""
_BIN: Final = "bin-"
_BIN_ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"  # no characters that look alike


class Client(Protocol):
    """A subscriber: its address, its token's key, its consumer's name, and the seq that it has reached, by bucket."""

    key: str

    @property
    def client_ip(self) -> str: ...

    @property
    def consumer(self) -> str: ...

    @property
    def positions(self) -> Mapping[BucketId, int]: ...


class Administration:
    """Options are plain JSON data in the forms of wire/rest.py. An option left out keeps its value; unknown ones are
    stored and shown, except those of a token.

    A bucket is given by its name or its id everywhere. Raises Invalid, NotFound, Conflict, and the storage's errors
    (Unavailable, NoSpace). A method that has begun should be awaited to its end; if it is not, `reconcile` at the next
    start repairs what is left.
    """

    def __init__(
        self,
        log: EventLog,
        registry: Registry,
        settings: Settings,
        ledgers: Ledgers,
        logs: Logs,
        *,
        uses: Uses | None = None,
        sessions: Sessions | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`ledgers` are the consumers, `logs` serves commands about events. `uses` knows when tokens were last used,
        `sessions` holds the page's sessions, None if there is no page. `clock` returns unix seconds."""
        self.settings = settings
        self.url = settings.public_url
        """The URL at which senders reach the relay, for printing webhook URLs. If no public URL is set, the composition
        root sets the address that it listens on."""
        self.instance = uuid4().hex
        """Identifies this process, to check whether an address leads to it."""
        self.address = ""
        """The URL of the address that the relay listens on; "" if it does not."""
        self.logs = logs
        self.ledgers = ledgers
        self.consumers = ConsumerAdministration(log, ledgers, logs.stored.results)
        self.sessions = sessions
        self.uses = Uses() if uses is None else uses
        self.demo = False
        """Whether the relay was started as a demo."""
        self.clients: Callable[[], Sequence[Client]] = tuple
        """Returns the subscribers; set by the owner of the sockets."""
        self.troubles: Callable[[], Document] = dict
        """Returns what the running parts know to be wrong; set by the composition root."""
        self._log = log
        self._registry = registry
        self._clock = clock
        self._turns: WeakValueDictionary[str, Lock] = WeakValueDictionary()
        self._positions = TokenPositions(log, registry, ledgers, clock, self._turn)
        self.housekeeping = Housekeeping(
            log, registry, settings, ledgers, self._remove_bucket, self._remove_token, clock
        )

    # buckets

    async def create_bucket(self, name: str, first: int = 1, /, **options: Any) -> Bucket:
        """Creates a bucket with one input, and its log, whose first seq is `first`. Options: `BucketFields`, and
        `default_input`, false for no input. Raises Conflict if the name is taken."""
        bucket = new_bucket(name, options, self.settings, self._clock())
        self._check_free(bucket.name)
        # The log comes first: nobody knows the id yet, and events can be appended to a bucket as soon as it is visible.
        await self._log.create(bucket.id, new_epoch(), first)
        try:
            followed = await self._positions.follow(bucket, first)
            await self._registry.put("bucket", bucket.id, bucket, expect=0)
        except Unknown:
            raise  # the bucket may have been stored, and then needs its log; `reconcile` finds out
        except RelayError:
            await self.housekeeping.drop_log(bucket.id)
            raise
        made = await self._positions.complete(followed, self._positions.follow(bucket, first, followed))
        await self._positions.tidy(made)
        return bucket

    async def create_bin(self) -> Bucket:
        """Creates a request bin: a bucket with a name of its own that shows what arrives, and ends in a day unless it
        is kept. Raises Conflict if there are too many bins."""
        async with self._turn(_BIN):  # otherwise a bin that is being created would not be counted
            bins = [each for each in self.list_buckets() if each.name.startswith(_BIN) and each.expires_at]
            if len(bins) >= MAX_BINS:
                raise Conflict(
                    f"there are {len(bins)} request bins already, and no more are made: delete one, or keep one"
                )
            name = _BIN + "".join(secrets.choice(_BIN_ALPHABET) for _ in range(8))
            return await self.create_bucket(name, description="A request bin", expires_at=self._clock() + DAY)

    async def set_bucket(self, reference: str, wanted: Wanted | None = None, /, **options: Any) -> Bucket:
        """Changes a bucket; options: `BucketFields`, or those that `wanted` returns."""

        def change(bucket: Bucket) -> Bucket:
            changed = changed_bucket(bucket, wanted(bucket) if wanted else options, self.settings, self._clock())
            if changed.name != bucket.name:
                self._check_free(changed.name)
            return changed

        return await self._change(self.find_bucket(reference), change)

    async def delete_bucket(self, reference: str, *, force: bool = False) -> Bucket:
        """Removes a bucket with its inputs, outputs and events; returns the removed record. Its name is free at once.

        Without `force`, raises Conflict if the bucket has outputs, or inputs other than its first, or is changed
        meanwhile.
        """
        bucket = self.find_bucket(reference)
        revision = None if force else self._registry.revision("bucket", bucket.id)
        first = next((each for each in bucket.inputs if each.created_at == bucket.created_at), None)
        if not force and (bucket.outputs or any(each is not first for each in bucket.inputs)):
            raise Conflict(
                f"the bucket {bucket.name!r} has {counted(len(bucket.inputs), 'input')} and "
                f"{counted(len(bucket.outputs), 'output')}: delete all but the input that it was made with, or say "
                "force (force=true in the query) to delete everything"
            )
        await self._remove_bucket(bucket, revision)
        return bucket

    async def _remove_bucket(self, bucket: Bucket, revision: int | None) -> None:
        """Raises Conflict if the bucket is no longer at this revision (None: any)."""
        await self._registry.delete("bucket", bucket.id, revision)
        await self.housekeeping.drop_log(bucket.id)
        self.ledgers.forget(bucket.id)

    def list_buckets(self) -> Sequence[Bucket]:
        """All buckets, oldest first."""
        return self._registry.list("bucket")

    def find_bucket(self, reference: str) -> Bucket:
        """The bucket with this id or name. Raises NotFound."""
        bucket = self._registry.find_bucket(reference)
        if bucket is None:
            raise NotFound(f"there is no bucket {reference[:100]!r}: `relay bucket list` shows which there are")
        return bucket

    async def import_events(self, reference: str, documents: Sequence[Any]) -> dict[str, int]:
        """Imports a batch of an export's events; see `admin.imports`."""
        return await take(self._log, self.find_bucket(reference), documents)

    # inputs

    async def create_input(self, bucket: str, /, **options: Any) -> tuple[Bucket, Input]:
        """Creates an input; options: `InputFields`. Returns it with its bucket.

        Raises Conflict if the id, or the pair of custom_domain and path_prefix, is taken.
        """
        found = self.find_bucket(bucket)
        changed = await self._change(found, lambda now: with_new_input(now, options, self._clock()))
        return changed, changed.inputs[-1]

    async def set_input(
        self, reference: str, bucket: str | None = None, wanted: Wanted | None = None, /, **options: Any
    ) -> tuple[Bucket, Input]:
        """Changes an input; options: `InputFields`, or those that `wanted` returns. Returns it with its bucket.

        `reference` is the input's id, or the name or id of a bucket with a single input. With `bucket`, it is the id or
        name of an input in that bucket.
        """
        found, before = self.find_input(reference, bucket)

        def change(now: Bucket) -> Bucket:
            return with_changed_input(now, before.id, wanted(now) if wanted else options, self._clock())

        changed = await self._change(found, change)
        return changed, find_input(changed, before.id)

    async def delete_input(self, reference: str, bucket: str | None = None, /) -> Input:
        """Removes an input, given as in `set_input`; returns the removed record. Its events stay."""
        found, gone = self.find_input(reference, bucket)
        await self._change(found, lambda now: without_input(now, gone.id, self._clock()))
        return gone

    def find_input(self, reference: str, bucket: str | None = None, /) -> tuple[Bucket, Input]:
        """An input, given as in `set_input`, with its bucket. Raises NotFound, and Invalid if it is ambiguous."""
        return self._find_part(reference, bucket, "input")

    # outputs

    async def create_output(self, bucket: str, /, **options: Any) -> tuple[Bucket, Output]:
        """Creates an output; options: `OutputFields`. Returns it with its bucket."""
        found = self.find_bucket(bucket)
        changed = await self._change(found, lambda now: with_new_output(now, options, self._clock()))
        return changed, changed.outputs[-1]

    async def set_output(
        self, reference: str, bucket: str | None = None, wanted: Wanted | None = None, /, **options: Any
    ) -> tuple[Bucket, Output]:
        """Changes an output; options: `OutputFields`, or those that `wanted` returns. Returns it with its bucket.

        `reference` and `bucket` are as in `set_input`.
        """
        found, before = self.find_output(reference, bucket)

        def change(now: Bucket) -> Bucket:
            return with_changed_output(now, before.id, wanted(now) if wanted else options, self._clock())

        changed = await self._change(found, change)
        output = find_output(changed, before.id)
        if not output.internal and output.destination != before.destination:
            await self.consumers.hasten(changed.id, output.n)
        return changed, output

    async def disable_output(self, bucket: Bucket, output: Output, reason: str) -> None:
        """Disables an output of the bucket on the relay's own decision. The reason is shown; it applies to the
        destination that `output` has."""
        await self._change(bucket, lambda now: with_disabled_output(now, output, reason, self._clock()), bounded=False)

    async def delete_output(self, reference: str, bucket: str | None = None, /) -> Output:
        """Removes an output, given as in `set_output`; returns the removed record. Its number is never reused. An
        input whose `response_from_output` names it answers by itself from then on."""
        found, gone = self.find_output(reference, bucket)
        await self._change(found, lambda now: without_output(now, gone.id, self._clock()))
        return gone

    def find_output(self, reference: str, bucket: str | None = None, /) -> tuple[Bucket, Output]:
        """An output, given as in `set_output`, with its bucket. Raises NotFound, and Invalid if it is ambiguous."""
        return self._find_part(reference, bucket, "output")

    def _find_part(self, reference: str, bucket: str | None, kind: str) -> tuple[Bucket, Any]:
        buckets = self.list_buckets() if bucket is None else [self.find_bucket(bucket)]
        found = find_part(buckets, kind, reference, within=bucket is not None)
        if found is None and bucket is None:
            raise nowhere(kind, reference)
        if found is None:
            raise NotFound(f"there is no {kind} {reference[:100]!r}: `relay bucket show` prints the {kind}s' ids")
        return found

    # tokens

    async def create_token(self, /, **options: Any) -> tuple[Token, str]:
        """Creates a token; options: `TokenFields`. Returns it with its secret, which can't be retrieved later."""
        token, secret = new_token(options, self._registry.list("bucket"), self._clock())
        try:
            begun = await self._positions.begin(None, token)
            await self._registry.put("token", token.key, token, expect=0)
        except Unknown:
            raise  # the token may have been stored; `reconcile` finds out
        except RelayError:
            await self._positions.end(token, None)
            raise
        made = await self._positions.complete(begun, self._positions.begin(None, token, begun))
        await self._positions.tidy(made)
        return token, secret

    async def set_token(self, key: str, /, **options: Any) -> Token:
        """Changes a token; options: `TokenFields`."""
        return await self._change_token(key, lambda token: changed_token(token, options, self._registry.list("bucket")))

    async def rotate_token(self, key: str, grace: float = 0.0) -> tuple[Token, str]:
        """Gives a token a new secret; returns both. The previous secret expires after `grace` seconds."""
        secret = ""

        def change(token: Token) -> Token:
            nonlocal secret
            changed, secret = rotated_token(token, grace, self._clock())
            return changed

        return await self._change_token(key, change), secret

    async def revoke_token(self, key: str) -> Token:
        """Removes a token; returns the removed record. The owner of its live sockets closes them."""
        async with self._turn(key):
            token = self.find_token(key)
            await self._remove_token(token, None)
        return token

    async def _remove_token(self, token: Token, revision: int | None) -> None:
        """Raises Conflict if the token is no longer at this revision (None: any)."""
        await self._registry.delete("token", token.key, revision)
        await self._positions.end(token, None)

    def find_token(self, key: str) -> Token:
        """The token with this key. Raises NotFound."""
        token = self._registry.get("token", key)
        if token is None:
            raise no_such_token(key, self._registry.list("token"))
        return token

    def describe_token(self, token: Token) -> Document:
        """A token in the form in which it is shown, with its last use."""
        return token_document(token, self.uses.last(token.key))

    def list_tokens(self) -> Sequence[Token]:
        """All tokens that were not revoked, oldest first, including expired ones."""
        return self._registry.list("token")

    # clients

    async def list_clients(self) -> list[dict[str, Any]]:
        """The subscribers and, by bucket, how many events each is behind the head."""
        found, pieces = [], Pieces()
        for client in self.clients():
            behind = {}
            for bucket_id, seq in client.positions.items():
                with suppress(BucketGone):
                    behind[bucket_id] = max((await self._log.bounds(bucket_id)).head - seq, 0)
            found.append(
                {"client_ip": client.client_ip, "token": client.key, "consumer": client.consumer, "behind": behind}
            )
            await pieces.done(1 + len(behind))
        return found

    # upkeep

    async def reconcile(self) -> None:
        """Runs at a start, before anything else: removes logs without a bucket and positions without a public output,
        completes the positions of durable tokens, and takes up the events that were in flight when the previous process
        ended."""
        await self.housekeeping.reconcile()
        await self._positions.reconcile()
        await self.ledgers.recover()

    async def _change(self, found: Bucket, change: Callable[[Bucket], Bucket], *, bounded: bool = True) -> Bucket:
        """Changes a bucket as it is by now, one change at a time, together with the positions that depend on it. With
        `bounded`, raises Conflict if the change makes the record too large."""
        async with self._turn(found.id):
            for _ in range(_ATTEMPTS):
                bucket = self.find_bucket(found.id)
                revision = self._registry.revision("bucket", bucket.id)
                changed = change(bucket)
                if changed is bucket:
                    return bucket
                if bounded:
                    check_size(bucket, changed)
                outputs = await self._begin_outputs(bucket, changed)
                try:
                    begun = await self._positions.stay(bucket, changed)
                    await self._registry.put("bucket", bucket.id, changed, expect=revision)
                except Unknown:
                    raise  # the change may have been stored; `reconcile` finds out
                except RelayError as error:
                    await self._positions.fade(changed, bucket)
                    for key in outputs:
                        with suppress(RelayError):  # removed at the next start, or when the output becomes public
                            await self.ledgers.delete(key)
                    if not isinstance(error, Conflict) or self._registry.revision("bucket", bucket.id) == revision:
                        raise
                    continue
                await self._positions.fade(bucket, changed)
                await self._end_queues(bucket, changed)
                made = await self._positions.complete(begun, self._positions.stay(bucket, changed, begun))
                break
            else:
                raise Conflict("the bucket is being changed by others all the time: try again")
        await self._positions.tidy(made)
        return changed

    def _turn(self, key: str) -> Lock:
        """The lock for changing one bucket (by id) or token (by key), or for creating a bin (`_BIN`)."""
        return self._turns.setdefault(key, Lock())

    async def _begin_outputs(self, before: Bucket, changed: Bucket) -> Sequence[Key]:
        """Creates a position at the head for each output that becomes public, and returns their keys. This happens
        before the output is visible, so that it gets every event from then on, whatever happens in between."""
        public = {output.n for output in before.outputs if not output.internal}
        begun = [
            output_key(changed.id, output.n)
            for output in changed.outputs
            if not output.internal and output.n not in public
        ]
        if begun:
            head = (await self._log.bounds(changed.id)).head
            for key in begun:
                # An existing one is left from when the output was public before, or from a change that failed.
                await self.ledgers.delete(key)
                await self.ledgers.store.create(key, head, Terms(), self._clock())
        return begun

    async def _end_queues(self, before: Bucket, changed: Bucket) -> None:
        """Forgets the queues of outputs that are gone: nobody can poll them, as no other output gets their numbers."""
        for number in {output.n for output in before.outputs} - {output.n for output in changed.outputs}:
            with suppress(RelayError):  # it only takes space, until its bucket is deleted
                await self.logs.end_queue(before.id, number)

    async def _change_token(self, key: str, change: Callable[[Token], Token]) -> Token:
        """As `_change`, for a token."""
        async with self._turn(key):
            for _ in range(_ATTEMPTS):
                token = self.find_token(key)
                revision = self._registry.revision("token", key)
                changed = change(token)
                try:
                    begun = await self._positions.begin(token, changed)
                    await self._registry.put("token", key, changed, expect=revision)
                except Unknown:
                    raise  # as in `_change`
                except RelayError as error:
                    await self._positions.end(changed, token)
                    if not isinstance(error, Conflict) or self._registry.revision("token", key) == revision:
                        raise
                    continue
                await self._positions.end(token, changed)
                made = await self._positions.complete(begun, self._positions.begin(token, changed, begun))
                break
            else:
                raise Conflict("the token is being changed by others all the time: try again")
        await self._positions.tidy(made)
        return changed

    def _check_free(self, name: str) -> None:
        if any(bucket.name == name for bucket in self._registry.list("bucket")):
            raise Conflict(f"there is a bucket {name!r} already: choose another name, or change that one")
