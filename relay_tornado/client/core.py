"""The task behind a subscription: connects, reads ahead into the intake, and reconnects until it is refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from relay_tornado.client import messages
from relay_tornado.client.acks import Acks
from relay_tornado.client.address import Address
from relay_tornado.client.answers import Answers
from relay_tornado.client.checkpoint import Checkpoint, Saver
from relay_tornado.client.errors import GapRefused, Refused, RelayClientError
from relay_tornado.client.event import EventData, Gap, Notice
from relay_tornado.client.intake import Intake
from relay_tornado.client.link import Cut, Link, dial, log
from relay_tornado.client.messages import Document, Malformed
from relay_tornado.client.names import Names
from relay_tornado.client.options import Options
from relay_tornado.client.positions import Left, Passed, Positions, Recent, Tracker, Untracked
from relay_tornado.client.rest import put_answer
from relay_tornado.client.waiting import first_of

LIFE: Final = 15.0
"""Seconds between two heartbeats, which are sent even if the application is busy and nothing is read."""
SMALL: Final = 128
"""The size, in bytes, that counts for an item that is not an event."""
PUTS: Final = 8
"""Maximum number of answers over REST at once."""
LARGE: Final = 700_000
"""Bodies of at least this many bytes go over REST: the relay takes messages of up to 1 MiB, and base64 adds a third."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The last item: nothing follows, for this reason."""

    error: RelayClientError


Item: TypeAlias = EventData | Passed | Left | Gap | Notice | Ended


class Core:
    """The state of one subscription. It holds no reference to the application's object, so that this can be dropped."""

    def __init__(self, address: Address, options: Options, checkpoint: Checkpoint | None) -> None:
        self.options = options
        self.intake: Intake[Item] = Intake(options.buffer)
        self.tracker: Tracker
        if options.explicit:
            self.tracker = Untracked(options.since)
        elif options.consumer is not None or not options.extended:
            self.tracker = Recent(options.since)
        else:
            self.tracker = Positions(options.since)
        self._address = address
        self._saver = None if checkpoint is None else Saver(checkpoint, self.tracker.text, options.checkpoint_every)
        self._answers = Answers(address, options)
        self._puts = asyncio.Semaphore(PUTS)
        self._acks = Acks()
        self._link: Link | None = None
        self._connected = False
        """Whether it was connected at least once."""
        self.over: RelayClientError | None = None
        """The error that ended it."""
        self._gaps: list[Gap] = []
        """Those for which this connection is refused."""
        self._told: set[str] = set()
        self._names = Names()

    # connection loop

    async def run(self) -> None:
        """Runs until cancelled or refused; the last item of the intake is the error that ended it."""
        try:
            if self._saver is not None and (text := await self._saver.load()) is not None:
                self.tracker.load(text)
                # If it can't be saved, no event is given: a program that is started again would get it each time.
                self._saver.moved()
            await self._stay()
        except RelayClientError as error:
            self._end(error)
        except asyncio.CancelledError:
            self._end(_closed())
            raise
        except Exception as error:
            log.exception("the client failed")
            self._end(RelayClientError(f"the client failed: {error!r}"))

    def _end(self, error: RelayClientError) -> None:
        self.over = error
        self._answers.end(error)
        self.intake.put(Ended(error), SMALL)

    async def _stay(self) -> None:
        loop = asyncio.get_running_loop()
        failures, known = 0, False
        while True:
            since: float | None = None
            try:
                link = await dial(self._address, self.options, known)
                try:
                    await link.authenticate()
                    self.tracker.dialled(link.server_time)
                    await link.subscribe(self.tracker.since())
                    since, known = loop.time(), True
                    await self._serve(link)
                finally:
                    self._link = None
                    silence = link.silence
                    self.tracker.cut(silence)
                    if self.options.explicit:
                        # The relay redelivers them, perhaps to this client.
                        self.intake.drop(lambda item: isinstance(item, EventData))
                        self._acks.cut(silence)
                    await link.close()
            except Cut as cut:
                good = since is not None and loop.time() - since >= self.options.backoff.good
                failures = 1 if good else failures + 1
                delay = self.options.backoff.delay(failures)
                self._tell(Notice("disconnected", str(cut), delay=delay))
                await asyncio.sleep(delay)

    async def _serve(self, link: Link) -> None:
        """Reads until the connection ends. Raises Cut and Refused."""
        self._gaps = []
        try:
            self._subscribed(link)
        except Malformed as error:
            link.pass_over(error)
        self._link = link
        breathing = asyncio.create_task(self._breathe(link))
        ended = asyncio.create_task(link.ended())
        try:
            while True:
                await self._room(ended)
                document, size = await link.receive(self.options.idle_timeout)
                try:
                    self._received(document, size)
                except Malformed as error:
                    link.pass_over(error)
                for text in self._acks.late():
                    await link.send(text)
        except Refused as refused:
            if refused.code == 4509:
                raise GapRefused(refused.code, refused.reason, self._gaps) from None
            raise
        finally:
            breathing.cancel()
            ended.cancel()

    async def _room(self, ended: asyncio.Task[None]) -> None:
        """Returns once the intake has room, or the connection has ended: the data that is still unread then is
        little."""
        if self.intake.full and not ended.done():
            await first_of(self.intake.room(), ended)

    async def _breathe(self, link: Link) -> None:
        try:
            while True:
                await asyncio.sleep(LIFE)
                await link.send(messages.PONG)
        except Cut:
            pass

    # incoming messages

    def _subscribed(self, link: Link) -> None:
        entries = messages.read_entries(link.answer) if self.options.extended else []
        self._connected = True
        self._tell(Notice("connected", str(link.answer.get("message", ""))))
        self.tracker.began(link.server_time)
        listed = set()
        for entry in entries:
            name = str(entry.get("bucket_name"))
            if "error" in entry:
                if name not in self._told:
                    self._told.add(name)
                    self._tell(
                        Notice(
                            "missing",
                            f"there is no bucket {name!r}, or the token may not read it: waiting for it",
                            name,
                        )
                    )
                continue
            self._told.discard(name)
            listed.add(str(entry.get("bucket_id")))
            self._names.learn(name, str(entry.get("bucket_id")), str(entry.get("epoch")))
            if entry.get("gap"):
                self._gap(name, entry["gap"])
                if self.options.on_gap == "fail":
                    continue  # the position stays before the gap, so that the next run is told, too
            passed = self.tracker.subscribed(entry)
            if passed is not None:
                self.intake.put(passed, SMALL)
        self._names.keep(listed)
        self.tracker.listed(listed)

    def _received(self, document: Document, size: int) -> None:
        if document.get("type") == "webhook":
            self._came(messages.read_event(document), size)
        else:
            self._heard(document)

    def _came(self, event: EventData, size: int) -> None:
        if self.options.extended and not event.epoch:
            raise Malformed("an event whose id is no position")
        if self.options.explicit and self._acks.came(event.id, event.bucket_id, event.attempt):
            return
        self._names.learn(event.bucket, event.bucket_id, event.epoch)
        got = self.tracker.received(event)
        if got is True:
            self.intake.put(event, size)
        elif isinstance(got, Passed):
            self.intake.put(got, SMALL)

    def _heard(self, document: Document) -> None:
        """Handles a message that is no event."""
        name = str(document.get("bucket_name"))
        match document.get("status"):
            case "ping":
                for each, at in self._names.moved(messages.read_positions(document)):
                    self._passed(each, at)
            case "caught_up":
                at = messages.read_position(document.get("id"))
                bucket_id = self._names.find(name, at)
                self._passed(bucket_id, at)
                self.tracker.caught_up(bucket_id)
                self._acks.caught_up(bucket_id)
                self.intake.put(Notice("caught_up", f"caught up with {name}", name), SMALL)
            case "gap":
                self._gap(name, document.get("gap"))
            case "bucket_deleted":
                # Relays before 0.5.13 send only the name.
                left = Left(str(document.get("bucket_id") or self._names.find(name)))
                self._names.forget(left.bucket_id)
                self.tracker.left(left)
                self.intake.put(left, SMALL)
                self.intake.put(
                    Notice("bucket_deleted", f"the bucket {name!r} was deleted, or left the token's scope", name), SMALL
                )
            case "error":
                message = f"{document.get('message')} ({document.get('code')})"
                log.warning("the relay says: %s", message)
                self._tell(Notice("problem", message))
            case "consumer_deleted":
                consumer = f"the consumer {document.get('consumer')!r} of {name} was deleted"
                log.warning("%s", consumer)
                self._tell(Notice("problem", consumer, name))
            case "unauthorized":
                raise Refused(4001, str(document.get("message", "unauthorized")))

    def _passed(self, bucket_id: str, id: str) -> None:
        passed = self.tracker.passed(bucket_id, id)
        if passed is not None:
            self.intake.put(passed, SMALL)

    def _gap(self, name: str, document: Any) -> None:
        gap = messages.read_gap(name, document)
        if self.options.on_gap == "fail":
            self._gaps.append(gap)
        else:
            self.intake.put(gap, SMALL)

    def _tell(self, notice: Notice) -> None:
        """Passes on a notice at once: it concerns the connection, not the events that the application has yet to
        take."""
        if notice.kind == "disconnected":
            # A client that never connected may have the wrong address; later, connections come and go.
            level = logging.INFO if self._connected or self.options.on_notice is not None else logging.WARNING
            log.log(level, "%s; next try in %.1f s", notice.message, notice.delay)
        elif notice.kind == "missing" and self.options.on_notice is None:
            log.warning("%s", notice.message)
        self.notify(notice)

    def notify(self, notice: Notice) -> None:
        """Calls the application's `on_notice`."""
        if self.options.on_notice is not None:
            try:
                self.options.on_notice(notice)
            except Exception:
                log.exception("on_notice failed")

    # called for the application

    def given(self, event: EventData) -> None:
        """Notes that the application gets the event now."""
        if self.options.explicit:
            self._acks.given(event.id)
        if self._saver is not None:
            self.tracker.given(event)

    def answered(self, event: EventData) -> bool:
        """Whether the application answered an earlier try while this one waited for it. What a consumer that was moved
        repeats is a first try, and meant."""
        return self.options.explicit and event.attempt > 1 and self._acks.answered(event.id)

    def reached(self, passed: Passed) -> None:
        """Notes that the application got everything before this position."""
        if self._saver is not None:
            self.tracker.reached(passed)
            self._saver.moved()

    def left(self, left: Left) -> None:
        """Notes that the application got everything from before the bucket was gone."""
        self.tracker.deleted(left)
        if self._saver is not None:
            self._saver.moved()

    def settle(self, event: EventData) -> None:
        """Notes that the application is done with the event."""
        if self._saver is not None and self.tracker.done(event):
            self._saver.moved()

    async def saved(self) -> None:
        """Returns once the checkpoint is saved, or will be soon. Raises CheckpointError."""
        if self._saver is not None:
            await self._saver.flush()

    async def close(self) -> None:
        """Ends the subscription, and saves the checkpoint. Raises CheckpointError."""
        if self.over is None:
            self._end(_closed())
        await self._answers.close()
        self.intake.drop(lambda item: not isinstance(item, Ended))
        if self._saver is not None:
            await self._saver.close()

    async def respond(
        self, event: EventData, status: int, body: bytes, headers: Mapping[str, list[str]], timeout: float
    ) -> None:
        self._check_over()
        if self.options.extended and len(body) < LARGE:
            await self._answers.send(event.id, status, body, headers, timeout)
        else:
            async with asyncio.timeout(timeout), self._puts:
                await self._put(event.id, status, body, dict(headers), timeout)

    async def _put(self, id: str, status: int, body: bytes, headers: dict[str, list[str]], timeout: float) -> None:
        """Sends an answer over REST until it is stored. Raises Rejected, and the error that ended the client."""
        failures = 0
        while True:
            try:
                return await put_answer(self._address, self.options, id, status, body, headers, timeout)
            except OSError as error:
                log.info("the answer to %s was not stored: %s", id, error)
            failures += 1
            await asyncio.sleep(self.options.backoff.delay(failures))
            self._check_over()

    async def ack(self, event: EventData, everything: bool) -> None:
        self._must_be_explicit()
        text = self._acks.ack(event.id, everything)
        for each in (*self._acks.late(), text):
            await self._transmit(each)

    async def nak(self, event: EventData, delay: float | None) -> None:
        self._must_be_explicit()
        await self._transmit(self._acks.nak(event.id, delay))

    async def done(self, event: EventData) -> None:
        if self.options.explicit:
            await self.ack(event, False)
            return
        self.settle(event)
        await self.saved()

    def _check_over(self) -> None:
        """Raises the error that ended the client, if it has ended; without the traceback of earlier raises, which would
        grow each time."""
        if self.over is not None:
            raise self.over.with_traceback(None)

    def _must_be_explicit(self) -> None:
        if not self.options.explicit:
            raise RelayClientError('only a consumer with ack="explicit" takes acks: name one in subscribe')
        self._check_over()

    async def _transmit(self, text: str | None) -> None:
        if text is not None and self._link is not None:
            # If the connection is cut, `_acks` knows that the message may be lost.
            with suppress(Cut):
                await self._link.send(text)


def _closed() -> RelayClientError:
    return RelayClientError("the subscription is closed")
