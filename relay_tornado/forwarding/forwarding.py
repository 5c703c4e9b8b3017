"""All public outputs of a relay: creates, changes and ends a forwarder for each, following the registry.

An output's position is a consumer of kind `output`, named by its number. It is created at the log's head when the
output becomes public, stays while the output is disabled or paused, and is removed when the output becomes internal or
is deleted.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import suppress
from typing import Final, TypeAlias

import structlog

from relay_tornado.copies import Subjects
from relay_tornado.counters import Counters
from relay_tornado.errors import Damaged, Forbidden, Invalid, NotFound, NotSent, Overloaded, RelayError
from relay_tornado.forwarding.bounds import Memory, Slots
from relay_tornado.forwarding.forwarder import Forwarder
from relay_tornado.forwarding.guard import Guard, GuardedResolver, Refused
from relay_tornado.forwarding.request import encode
from relay_tornado.forwarding.shared import Answers, Shared
from relay_tornado.log.consumers import Key, output_key
from relay_tornado.log.contract import EventLog
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.model import KIB, Bucket, BucketId, Event, Output
from relay_tornado.outgoing.transport import Answer, Bounds, Transport, Unanswered
from relay_tornado.proxy_trust import parse_ranges
from relay_tornado.rate_limits import RepeatLimit
from relay_tornado.registry.contract import Kind, Registry
from relay_tornado.registry.routes import Routes
from relay_tornado.settings import Settings
from relay_tornado.wire.destination import Destination, joined_paths, parse, parse_new

BOUNDS: Final = Bounds(body=64 * KIB, head=32 * KIB, idle_each=4, idle_all=256)
"""The limits for a destination's answer, and for idle connections."""
_AGAIN: Final = 1.0
"""Seconds until a position that could not be opened is tried again."""
_ONCE: Final = 10
"""Maximum number of events being sent to URLs at once."""
_PATIENCE: Final = 5.0
"""Seconds that a start waits for the first attempt to open each position."""
_SLASHES: Final = re.compile(rb"//+")

Disable: TypeAlias = Callable[[Bucket, Output, str], Awaitable[None]]

_log = structlog.get_logger(__name__)


def _spread() -> float:
    return random.uniform(0.8, 1.2)  # noqa: S311 - nothing secret


class Forwarding:
    """`await start()` begins to send; `await finish(…)`, if there is time, and `await stop()` end it."""

    def __init__(
        self,
        log: EventLog,
        registry: Registry,
        routes: Routes,
        ledgers: Ledgers,
        answers: Answers,
        settings: Settings,
        disable: Disable,
        *,
        counters: Counters,
        own: Callable[[], Collection[tuple[str, int]]] = tuple,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        spread: Callable[[], float] = _spread,
    ) -> None:
        """`answers` stores results, `disable` disables an output for a reason. `own` returns the addresses and ports
        that the relay listens on. `clock` returns unix seconds, `monotonic` monotonic seconds, `spread` a factor from
        0.8 to 1.2 for delays. Raises Invalid if `forward_allow` can't be parsed."""
        self._registry = registry
        self._ledgers = ledgers
        self._public = _place(settings.public_url or "")
        self._routes = routes
        self._forwarders: dict[BucketId, dict[int, Forwarder]] = {}
        self._leaving: dict[Forwarder, asyncio.Task[None]] = {}
        self._dirty: dict[tuple[BucketId, int], int] = {}
        self._unopened: dict[tuple[BucketId, int], RepeatLimit] = {}
        """Limits what is logged of outputs that could not be opened."""
        self._worker: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        """Set once the worker has tried to open each position."""
        self._finishing = self._stopped = False
        self._once = 0
        self._end_watch: Callable[[], None] = lambda: None
        self._watch = log.watch(None, self._wake)
        resolver = GuardedResolver(Guard(parse_ranges(settings.forward_allow or ""), own))
        self._transport = Transport(resolver, BOUNDS)
        self._shared = Shared(
            log,
            answers,
            self._transport,
            Memory(settings.forward_buffer),
            Slots(settings.forward_requests),
            Subjects(),
            counters,
            self._watch.head,
            self._leads_back,
            disable,
            clock,
            monotonic,
            spread,
        )

    # one request, on demand

    async def send(self, event: Event, url: str) -> tuple[Answer, float]:
        """Sends an event to a URL once and at once, as a public output with that destination would; returns the answer
        and the seconds it took. Nothing is stored. Raises Invalid, Forbidden, Overloaded, and NotSent if nobody
        answered."""
        destination = parse_new(url, "url")
        if self._once >= _ONCE:
            raise Overloaded("too many events are being sent to URLs: send this one again in a moment")
        if self._leads_back(destination, event.path):
            raise Forbidden("the URL is this relay's own: name another one")
        output = Output("", 0, "", 0.0, 0.0, destination=url)
        self._once += 1
        began = self._shared.monotonic()
        try:
            head, body = encode(event, output, destination, self._shared.clock())
            answer = await self._transport.send(
                head, body, destination, method=event.method, verify=True, timeout=output.timeout
            )
        except Refused as refused:
            raise Forbidden(f"the URL is not called: {refused}") from None
        except Unanswered as unanswered:
            raise NotSent(f"the event was not answered: {unanswered}") from None
        finally:
            self._once -= 1
        return answer, self._shared.monotonic() - began

    # state

    def reaches(self, bucket_id: BucketId, event: Event, output: int | None) -> bool:
        """Whether this event is to be sent to that output now (None: to any)."""
        return any(
            each.reaches(event)
            for number, each in self._forwarders.get(bucket_id, {}).items()
            if output in (None, number)
        )

    def full(self, bucket_id: BucketId, coming: int) -> bool:
        """Whether the queue of one of the bucket's outputs is full, counting the `coming` events."""
        forwarders = self._forwarders.get(bucket_id)
        return forwarders is not None and any(each.full(coming) for each in forwarders.values())

    def next_probe(self, key: Key) -> float | None:
        """See `Forwarder.next_probe`; of an output's consumer. None for any other."""
        each = self._forwarders.get(key.bucket_id, {}).get(int(key.name)) if key.kind == "output" else None
        return None if each is None else each.next_probe()

    @property
    def in_flight(self) -> int:
        """The number of requests in flight."""
        return sum(each.in_flight for each in self._all())

    @property
    def circuits_open(self) -> int:
        """The number of outputs whose circuit is open."""
        return sum(each.circuit_open for each in self._all())

    def failures(self) -> dict[str, str]:
        """Why the last attempt failed, by the ids of the outputs whose circuit is open."""
        return {each.output.id: each.failure for each in self._all() if each.circuit_open}

    @property
    def parked(self) -> int:
        """The number of events on retry schedules."""
        return sum(each.parked for each in self._all())

    # start and stop

    async def start(self) -> None:
        """Opens the positions of all public outputs. `Housekeeping.reconcile` has removed those of others."""
        self._end_watch = self._registry.watch(self._changed)
        for bucket in self._registry.list("bucket"):
            self._changed("bucket", bucket.id)
        if self._worker is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._tried.wait(), _PATIENCE)

    async def finish(self, seconds: float) -> None:
        """Begins no more requests, and waits up to `seconds` for those in flight. Outputs are still followed: one that
        becomes public meanwhile has its position, and queues stay bounded."""
        self._finishing = True
        for each in self._all():
            each.rest()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for each in [*self._all(), *self._leaving]:
                    await each.ended()

    async def stop(self) -> None:
        """Cancels the requests in flight, and begins no more: their events are sent again after the next start."""
        self._stopped = True
        self._watch.close()
        self._end_watch()
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait([self._worker])
        for bucket_id, forwarders in list(self._forwarders.items()):
            for number in list(forwarders):
                self._end(bucket_id, number)
        waiting = set(self._leaving.values())
        if waiting:
            for each in self._leaving:
                each.cut_off()
            await asyncio.wait(waiting)
        await self._transport.close()

    # changes

    def _wake(self, bucket_id: BucketId) -> None:
        for each in self._forwarders.get(bucket_id, {}).values():
            each.poke()

    def _changed(self, kind: Kind, key: str) -> None:
        if kind != "bucket":
            return
        bucket = self._registry.get("bucket", key)
        public = {} if bucket is None else {each.n: each for each in bucket.outputs if not each.internal}
        known = self._forwarders.get(key, {})
        for number, output in public.items():
            if bucket is not None and number in known:
                try:
                    known[number].change(bucket, output)
                except Exception:
                    _log.exception("output_not_changed", bucket=key, output=number)
                    self._look_at(key, number)
        for number in known.keys() - public.keys():
            known[number].end()  # the worker may be busy with others
        for number in known.keys() ^ public.keys():
            # The output gets the events that are published from now on.
            self._look_at(key, number)

    def _look_at(self, bucket_id: BucketId, number: int) -> None:
        self._dirty.setdefault((bucket_id, number), self._watch.head(bucket_id))
        if self._worker is None and not self._stopped:
            self._worker = asyncio.get_running_loop().create_task(self._work(), name="relay-outputs")

    async def _work(self) -> None:
        """Brings positions and forwarders in line with the registry, one output after the other. Those that fail are
        tried again and again, and do not delay the others."""
        try:
            while self._dirty:
                failed = await self._settle_all()
                self._tried.set()
                self._dirty.update(failed)
                if failed:
                    await asyncio.sleep(_AGAIN)
        finally:
            self._worker = None

    async def _settle_all(self) -> dict[tuple[BucketId, int], int]:
        """Settles each dirty output until none is left; returns those that failed."""
        failed: dict[tuple[BucketId, int], int] = {}
        while self._dirty:
            (bucket_id, number), head = next(iter(self._dirty.items()))
            del self._dirty[bucket_id, number]
            if (bucket_id, number) in failed:
                continue  # marked again while another was opened; it keeps the head that it was to begin at
            try:
                await self._settle(bucket_id, number, head)
            except NotFound:
                pass
            except Exception as error:
                failed[bucket_id, number] = head
                self._tell(bucket_id, number, error)
                continue
            self._unopened.pop((bucket_id, number), None)
        return failed

    def _tell(self, bucket_id: BucketId, number: int, error: Exception) -> None:
        """Called in an `except` block, each second while the error lasts."""
        limit = self._unopened.setdefault((bucket_id, number), RepeatLimit(self._shared.monotonic))
        if isinstance(error, Damaged) or not limit.due(repr(error)):
            return  # a damaged one is logged elsewhere: a person has to repair it
        if isinstance(error, RelayError):
            _log.warning("output_not_opened", bucket=bucket_id, output=number, reason=str(error))
        else:
            _log.exception("output_not_opened", bucket=bucket_id, output=number)

    async def _settle(self, bucket_id: BucketId, number: int, head: int) -> None:
        known = self._forwarders.get(bucket_id, {}).get(number)
        bucket = self._registry.get("bucket", bucket_id)
        output = None if bucket is None else bucket.output(number)
        public = output is not None and not output.internal
        if known is not None and (not public or known.over or known.ledger.gone):
            self._end(bucket_id, number)
            known = None
        if bucket is None or output is None or output.internal:
            await self._ledgers.delete(output_key(bucket_id, number))
        elif known is None:
            await self._open(bucket, output, head)
        elif known.bucket is not bucket:
            known.change(bucket, output)

    async def _open(self, bucket: Bucket, output: Output, head: int) -> None:
        ledger = await self._ledgers.open(output_key(bucket.id, output.n), head)
        try:
            forwarder = Forwarder(self._shared, bucket, output, ledger, lambda: self._look_at(bucket.id, output.n))
        except BaseException:
            self._ledgers.close(ledger)
            raise
        if self._finishing:
            forwarder.rest()
        self._forwarders.setdefault(bucket.id, {})[output.n] = forwarder
        # The output may have changed, or may be gone, since.
        self._changed("bucket", bucket.id)
        forwarder.poke()

    def _end(self, bucket_id: BucketId, number: int) -> None:
        """Ends a forwarder; its requests in flight continue."""
        forwarder = self._forwarders[bucket_id].pop(number)
        if not self._forwarders[bucket_id]:
            del self._forwarders[bucket_id]
        forwarder.end()
        self._leaving[forwarder] = asyncio.get_running_loop().create_task(self._let_go(forwarder))

    async def _let_go(self, forwarder: Forwarder) -> None:
        await forwarder.ended()
        self._ledgers.close(forwarder.ledger)
        del self._leaving[forwarder]

    def _all(self) -> Iterator[Forwarder]:
        for forwarders in self._forwarders.values():
            yield from forwarders.values()

    def _leads_back(self, destination: Destination, path: bytes) -> bool:
        """Whether a request for a destination with an event's path behind it comes in here again by the public URL, for
        an input's id or its prefix. Each slash before an id may be several."""
        own = self._public
        if own is None or (destination.host.rstrip("."), destination.port) != (own.host.rstrip("."), own.port):
            return False
        whole = joined_paths(destination.path, path) if path else destination.path
        base, target = own.path.rstrip(b"/"), _SLASHES.sub(b"/", whole)
        if not target.startswith(base + b"/"):
            return False
        inside = target.removeprefix(base)
        return inside.startswith(b"/v1/") or self._routes.locate(own.host, inside) is not None


def _place(url: str) -> Destination | None:
    """The relay's public URL in its parts, as those of destinations."""
    try:
        return parse(url)
    except Invalid:
        return None
