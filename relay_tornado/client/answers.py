"""Answers to events, on a connection of their own: what the relay says of them does not wait behind unread events."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from relay_tornado.client import messages
from relay_tornado.client.address import Address
from relay_tornado.client.errors import Rejected, RelayClientError
from relay_tornado.client.link import Cut, Link, TooBig, dial, rejected
from relay_tornado.client.options import Options


@dataclass(slots=True, eq=False)
class _Waiting:
    id: str
    text: str
    stored: asyncio.Future[None]
    sent: bool = False

    def end(self, error: RelayClientError | None) -> None:
        """It is stored, or it failed; who has given it up is told no more."""
        if self.stored.done():
            return
        if error is None:
            self.stored.set_result(None)
        else:
            self.stored.set_exception(error)


class Answers:
    """Sends what an application answers until the relay has stored it, over as many connections as that takes.

    The relay answers a connection's messages in their order: a word that names no event is about the oldest that was
    sent.
    """

    def __init__(self, address: Address, options: Options) -> None:
        self._address = address
        self._options = options
        self._waiting: list[_Waiting] = []
        self._more = asyncio.Event()
        self._stale = False
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    async def send(self, id: str, status: int, body: bytes, headers: Mapping[str, list[str]], timeout: float) -> None:
        """Returns once the relay has stored it. Raises Rejected, TimeoutError, and what ended the connections."""
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
            # Perhaps the connection is dead, and nobody told: the next one gets another.
            self._stale = True
            self._more.set()
            raise
        finally:
            # What was sent keeps its place in the order until it is answered.
            if not waiting.sent and waiting in self._waiting:
                self._waiting.remove(waiting)

    def end(self, error: RelayClientError) -> None:
        """Everything that waits fails with this; nothing may be sent any more."""
        if self._task is not None:
            self._task.cancel()
        self._fail(error)

    async def close(self) -> None:
        """Returns once the connection is closed; `end` came before."""
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
                    # What was sent before it was answered before this.
                    self._settle(Rejected("too_large", "the answer is too big for the relay"))
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
        """Until the connection ends. Raises Cut and Refused."""
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
                            await reading  # which takes what was said before, and raises
                            raise
                more = asyncio.ensure_future(self._more.wait())
                try:
                    await asyncio.wait((reading, more), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    more.cancel()
                if reading.done():
                    reading.result()
            raise Cut("an answer was not stored in time")
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, link: Link) -> None:
        while True:
            # Also while there is nothing to answer: what comes next must not go into a connection that is dead.
            document, _ = await link.receive(self._options.idle_timeout)
            match document.get("status"):
                case "responded":
                    self._settle(None, document.get("id"))
                case "error":
                    self._settle(rejected(document), document.get("id"))

    def _settle(self, error: RelayClientError | None, id: object = None) -> None:
        """Of what was sent, the oldest one for this event (None: the oldest) is stored, or it failed."""
        waiting = next((each for each in self._waiting if each.sent and id in (None, each.id)), None)
        if waiting is not None:
            self._waiting.remove(waiting)
            waiting.end(error)

    def _fail(self, error: RelayClientError) -> None:
        """Everything that waits fails with this."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.end(error)
