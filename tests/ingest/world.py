"""An ingest over one bucket in memory."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

from relay_tornado import errors
from relay_tornado.ids import new_epoch
from relay_tornado.ingest.endpoints import Place
from relay_tornado.ingest.ingest import Head, Ingest, Upload
from relay_tornado.model import Appended, Bucket, Event, Input, NewEvent
from relay_tornado.registry.memory import MemoryRegistry
from relay_tornado.registry.routes import Routes
from relay_tornado.settings import Settings
from relay_tornado.wire.answers import Answer
from tests.log.memory import MemoryEventLog

INPUT = Input(id="in-1", name="Default public endpoint", created_at=0, updated_at=0)
BUCKET = Bucket(id="b-1", name="orders", created_at=0, updated_at=0, inputs=(INPUT,))
HEADERS = b"Host: relay.test\r\nContent-Type: text/plain\r\n"


def replace_input(**changes: Any) -> Bucket:
    """The bucket with its input changed."""
    return dataclasses.replace(BUCKET, inputs=(dataclasses.replace(INPUT, **changes),))


class FailingLog(MemoryEventLog):
    """A log whose appends fail with `error`."""

    error: BaseException = errors.Unavailable()

    def append(self, bucket_id: str, event: NewEvent) -> asyncio.Future[Appended]:
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        if isinstance(self.error, asyncio.CancelledError):
            future.cancel()
        else:
            future.set_exception(self.error)
        return future


class Waiting:
    """Where senders wait: `asked` is for what, and `answer` is what each gets; None: it waits on."""

    def __init__(self) -> None:
        self.asked: list[tuple[Bucket, Input, Appended]] = []
        self.answer: Answer | None = Answer(202)
        self.left = 0

    def wait(
        self, bucket: Bucket, input: Input, appended: Appended, answered: Callable[[Answer], None]
    ) -> Callable[[], None]:
        self.asked.append((bucket, input, appended))
        if self.answer is not None:
            answered(self.answer)
        return self._leave

    def _leave(self) -> None:
        self.left += 1


class Bench:
    """An ingest over one bucket in memory. `whole`: a webhook in one piece is taken as one."""

    whole = False

    def __init__(self, bucket: Bucket = BUCKET, log: MemoryEventLog | None = None, **settings: Any) -> None:
        self.bucket = bucket
        self.log = MemoryEventLog() if log is None else log
        self.registry = MemoryRegistry()
        self.settings = dataclasses.replace(Settings(), **settings)
        self.answers = Waiting()
        self.now = 1000.0

    async def open(self) -> Bench:
        await self.log.create(self.bucket.id, new_epoch())
        await self.registry.put("bucket", self.bucket.id, self.bucket)
        self.ingest = Ingest(self.log, Routes(self.registry), self.settings, self.answers, lambda: self.now)
        return self

    def upload(self, length: int | None, headers: bytes = HEADERS) -> Upload:
        """What comes of a head with this Content-Length (None: chunks) that is not refused."""
        upload = self._begin(length, headers)
        assert isinstance(upload, Upload)
        return upload

    def refusal(self, length: int, headers: bytes = HEADERS) -> Answer:
        """What comes of one that is."""
        refusal = self._begin(length, headers)
        assert isinstance(refusal, Answer)
        return refusal

    def _begin(self, length: int | None, headers: bytes) -> Upload | Answer:
        return self.ingest.begin(Head("POST", b"/v1/webhooks/in-1", headers, length, "192.0.2.7"))

    async def send(
        self,
        target: bytes = b"/v1/webhooks/in-1",
        body: bytes = b"",
        headers: bytes = HEADERS,
        method: str = "POST",
        chunks: int = 1,
    ) -> Answer:
        """A whole webhook, its body in `chunks` pieces; its answer."""
        length = len(body) if chunks == 1 else None
        place = self.ingest.endpoints.find(target, "") if self.whole and chunks == 1 else None
        if place is not None and not place.endpoint.waits:
            return await self._take(place, method, headers, body)
        upload = self.ingest.begin(Head(method, target, headers, length, "192.0.2.7"))
        if isinstance(upload, Answer):
            return upload
        size = max(1, -(-len(body) // chunks))
        for start in range(0, len(body), size):
            refusal = upload.feed(body[start : start + size])
            if refusal is not None:
                return refusal
        return await finish(upload)

    async def _take(self, place: Place, method: str, headers: bytes, body: bytes) -> Answer:
        outcome: asyncio.Queue[Appended | BaseException] = asyncio.Queue()
        refusal = self.ingest.take(place, method, headers, body, "192.0.2.7", outcome.put_nowait)
        if refusal is None:
            refusal = self.ingest.answer(place, await asyncio.wait_for(outcome.get(), 60))
            await asyncio.sleep(0)
        assert outcome.empty(), "told twice, or in spite of a refusal"
        return refusal

    async def events(self) -> list[Event]:
        return list(await self.log.read(self.bucket.id, 0, 1000, 1 << 30))


async def finish(upload: Upload) -> Answer:
    answers: asyncio.Queue[Answer] = asyncio.Queue()
    upload.finish(answers.put_nowait)
    answer = await asyncio.wait_for(answers.get(), 60)
    await asyncio.sleep(0)
    assert answers.empty(), "answered twice"
    return answer
