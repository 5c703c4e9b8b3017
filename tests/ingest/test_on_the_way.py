"""What is between a webhook's head and its place in the log: what counts meanwhile is let go of, however that ends."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from relay_tornado import errors
from relay_tornado.ingest.ingest import Ingest
from relay_tornado.model import Appended, Dedupe, Output
from relay_tornado.registry.routes import Routes
from relay_tornado.shares import Shares
from tests.failing import once
from tests.ingest.world import BUCKET, Bench, finish
from tests.waiting import until


class Full:
    """Whether a queue is full, and with how many more it was asked."""

    def __init__(self) -> None:
        self.full = False
        self.coming: list[int] = []

    def __call__(self, bucket_id: str, coming: int) -> bool:
        self.coming.append(coming)
        return self.full


BOUNDED = Output(
    "o-1", 1, "out", 0, 0, internal=False, destination="http://192.0.2.1/", throttle={"max_queue_depth": 1}
)
UNBOUNDED = Output("o-2", 2, "another", 0, 0, internal=False, destination="http://192.0.2.1/")


async def queued() -> tuple[Bench, Full]:
    """An ingest over one bucket with both outputs."""
    bench, full = await Bench(dataclasses.replace(BUCKET, outputs=(BOUNDED, UNBOUNDED))).open(), Full()
    bench.ingest = Ingest(bench.log, Routes(bench.registry), bench.settings, bench.answers, queue_full=full)
    return bench, full


@pytest.mark.gen_test
async def test_a_queue_that_is_full_once_the_body_is_there() -> None:
    """It is refused then, counted, and let go of."""
    bench, full = await queued()
    upload = bench.upload(4)
    assert upload.feed(b"body") is None
    full.full = True
    assert (await finish(upload)).status == 429
    assert bench.ingest.counters.rejections["queue_full"] == 1
    assert (bench.ingest.buffered, await bench.events()) == (0, [])


@pytest.mark.gen_test
async def test_what_can_not_be_handed_to_the_log_waits_for_no_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does what was committed: it counts as one that comes only in between."""
    bench, full = await queued()
    with monkeypatch.context() as patch:
        patch.setattr(bench.log, "submit", once(bench.log.submit))
        with pytest.raises(MemoryError):
            await bench.send(body=b"x")
    assert (await bench.send(body=b"x")).status == 200
    full.coming.clear()
    assert (await bench.send(body=b"x")).status == 200
    assert set(full.coming) == {0}
    assert len(await bench.events()) == 2


@pytest.mark.gen_test
async def test_what_is_being_committed_counts_as_queued() -> None:
    """Until it is committed: from then on the queue itself counts it, before its sender hears of it and goes on."""
    bench, full = await queued()
    place = bench.ingest.endpoints.find(b"/v1/webhooks/in-1", "")
    assert place is not None
    coming: list[int] = []

    def done(_: object) -> None:
        bench.ingest.crowded(place.endpoint)
        coming.append(full.coming[-1])

    for _ in range(3):
        assert bench.ingest.take(place, "POST", b"", b"", "192.0.2.7", done) is None
    assert full.coming == [0, 1, 2]
    await until(lambda: len(coming) == 3)
    assert coming == [2, 1, 0]
    full.full = True
    refusal = bench.ingest.take(place, "POST", b"", b"", "192.0.2.7", done)
    assert refusal is not None
    assert refusal.status == 429


@pytest.mark.gen_test
async def test_repeats_of_what_is_made_by_hand() -> None:
    """Their body counts, too; and where there is no such input, nothing is made."""
    bench = await Bench(dataclasses.replace(BUCKET, dedupe=Dedupe("auto", 60))).open()

    async def made(body: bytes) -> int:
        appended = await bench.ingest.make("in-1", "POST", b"", b"", b"webhook-id: 1\r\n", body, "192.0.2.7")
        return appended.seq

    assert [await made(body) for body in (b"a", b"b", b"a")] == [1, 2, 1]
    with pytest.raises(errors.NotFound):
        await bench.ingest.make("in-2", "POST", b"", b"", b"", b"", "192.0.2.7")


@pytest.mark.gen_test
async def test_the_limit_of_what_is_made_by_hand() -> None:
    """It is the bucket's, and may be reached."""
    bench = await Bench(max_body=10).open()

    def make(size: int) -> asyncio.Future[Appended]:
        return bench.ingest.make("in-1", "POST", b"", b"", b"", b"x" * size, "192.0.2.7")

    assert (await make(10)).seq == 1
    with pytest.raises(errors.TooLarge):
        make(11)


@pytest.mark.gen_test
async def test_no_memory_to_count_what_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """503, and only what was counted is let go of."""
    bench = await Bench().open()
    stays, upload = bench.upload(None), bench.upload(None)
    assert stays.feed(b"x" * 10) is None
    assert upload.feed(b"y") is None
    with monkeypatch.context() as patch:
        patch.setattr(Shares, "take", once(Shares.take))
        refusal = upload.feed(b"z")
    assert refusal is not None
    assert refusal.status == 503
    assert bench.ingest.buffered == 10
    stays.abandon()
    assert bench.ingest.buffered == 0


@pytest.mark.gen_test
async def test_a_body_for_which_there_is_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """503, and what had come of it is let go of."""
    bench = await Bench().open()
    upload = bench.upload(None)
    assert upload.feed(b"x") is None

    class Short(bytes):
        def __radd__(self, _: object) -> bytes:
            raise MemoryError

    refusal = upload.feed(Short(b"y"))
    assert refusal is not None
    assert refusal.status == 503
    assert bench.ingest.buffered == 0
