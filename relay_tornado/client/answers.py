"""Sends answers to events on a connection of their own, so that replies to them do not wait behind unread events."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from relay_tornado.client import messages
from relay_tornado.client.address import Address
from relay_tornado.client.errors import Rejected, RelayClientError
from relay_tornado.client.link import Cut, Link, TooBig, dial, rejected
from relay_tornado.client.options import Options
from relay_tornado.client.waiting import first_of


@dataclass(slots=True, eq=False)
class _Waiting:
    id: str
    text: str
    stored: asyncio.Future[None]
    sent: bool = False

    def end(self, error: RelayClientError | None) -> None:
        """Sets the outcome: stored, or failed. Ignored if the sender has given up."""
        if self.stored.done():
            return
        if error is None:
            self.stored.set_result(None)
        else:
            self.stored.set_exception(error)


class Answers:
    """Sends an application's answers until the relay has stored them, over as many connections as that takes.

    The relay answers a connection's messages in order, so a reply that names no event is about the oldest message.
    """

    def __init__(self, address: Address, options: Options) -> None:
        self._address = address
        self._options = options
        self._waiting: list[_Waiting] = []
        self._more = asyncio.Event()
        self._stale = False
        self._task: asyncio.Task[None] | None = None

    async def send(self, id: str, status: int, body: bytes, headers: Mapping[str, list[str]], timeout: float) -> None:
        """Returns once the relay has stored the answer. Raises Rejected, TimeoutError, and the error that ended the
        client."""
        text = messages.encode(messages.respond(id, status, body, headers))
        waiting = _Waiting(id, text, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._more.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="relay client answers")
        try:
            async with asyncio.timeout(timeout):
                await waiting.stored
        except TimeoutError:
            # The connection may be dead without notice, so the next answer gets a new one.
            self._stale = True
            self._more.set()
            raise
        finally:
            # An answer that was sent keeps its place in the order until the reply.
            if not waiting.sent and waiting in self._waiting:
                self._waiting.remove(waiting)

    def end(self, error: RelayClientError) -> None:
        """Fails all pending answers with this error; none may be sent afterwards."""
        if self._task is not None:
            self._task.cancel()
        self._fail(error)

    async def close(self) -> None:
        """Returns once the connection is closed; call `end` first."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        failures = 0
        while True:
            while not self._waiting:
                self._more.clear()
                await self._more.wait()
            try:
                link = await dial(self._address, self._options, known=True)
                try:
                    await link.authenticate()
                    failures = 0
                    await self._serve(link)
                except TooBig:
                    # The largest pending message is at fault, whatever the others are; the oldest, of equal ones.
                    largest = max((each for each in self._waiting if each.sent), key=_size, default=None)
                    self._end(largest, Rejected("too_large", "the answer is too big for the relay"))
                    raise
                finally:
                    self._waiting = [each for each in self._waiting if not each.stored.done()]
                    for each in self._waiting:
                        each.sent = False
                    await link.close()
            except Cut:
                failures += 1
                await asyncio.sleep(self._options.backoff.delay(failures))
            except RelayClientError as error:
                self._fail(error)
                return

    async def _serve(self, link: Link) -> None:
        """Serves a connection until it ends. Raises Cut and Refused."""
        self._stale = False
        reading = asyncio.create_task(self._read(link))
        try:
            while not self._stale:
                self._more.clear()
                for each in tuple(self._waiting):
                    if not (each.sent or each.stored.done()):
                        each.sent = True
                        try:
                            await link.send(each.text)
                        except Cut:
                            await reading  # handles the replies received before, and raises
                            raise
                await first_of(self._more.wait(), reading)
                if reading.done():
                    reading.result()
            raise Cut("an answer was not stored in time")
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, link: Link) -> None:
        while True:
            # Also while nothing is pending, so that a dead connection is noticed before the next answer is sent on it.
            document, _ = await link.receive(self._options.idle_timeout)
            match document.get("status"):
                case "responded":
                    self._settle(None, document.get("id"))
                case "error":
                    self._settle(rejected(document), document.get("id"))

    def _settle(self, error: RelayClientError | None, id: object = None) -> None:
        """Sets the outcome of the oldest answer sent for this event (None: the oldest of all)."""
        self._end(next((each for each in self._waiting if each.sent and id in (None, each.id)), None), error)

    def _end(self, waiting: _Waiting | None, error: RelayClientError | None) -> None:
        if waiting is not None:
            self._waiting.remove(waiting)
            waiting.end(error)

    def _fail(self, error: RelayClientError) -> None:
        """Fails all pending answers with this error."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.end(error)


def _size(waiting: _Waiting) -> int:
    return len(waiting.text)
