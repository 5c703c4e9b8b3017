"""relay_tornado/delivery/frames.py: an event is encoded once, and what is kept has its budget."""

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from relay_tornado.delivery import frames as module
from relay_tornado.delivery.frames import FrameCache
from relay_tornado.errors import BucketGone
from relay_tornado.model import Bucket, Event, Input, Output
from relay_tornado.registry.memory import MemoryRegistry
from tests.delivery.world import frames

BUCKET = Bucket("b", "orders", 0, 0, inputs=(Input("i", "public", 0, 0),))


def event(seq: int, body: bytes = b"x" * 1000) -> Event:
    return Event(seq, "k3v9x1q7m2ab", 0.0, "i", "POST", b"", b"", b"", body, "192.0.2.1")


def cache(budget: int = 1 << 20) -> tuple[FrameCache, MemoryRegistry]:
    registry = MemoryRegistry()
    asyncio.run(registry.put("bucket", "b", BUCKET))
    return FrameCache(registry, budget), registry


def test_an_event_is_encoded_once() -> None:
    """The same bytes come again."""
    kept, _ = cache()
    assert kept.frame("b", event(1)) is kept.frame("b", event(1))
    assert kept.frame("b", event(2), keep=False) is not kept.frame("b", event(2), keep=False)
    (message,) = frames(kept.frame("b", event(1)))
    assert message["meta"]["input_name"] == "public"


def test_the_budget_is_kept_and_the_oldest_leaves_first() -> None:
    """Also with a frame that is larger than the whole budget."""
    kept, _ = cache(10_000)
    made = {seq: kept.frame("b", event(seq)) for seq in range(1, 101)}
    assert 5_000 < kept.size <= 10_000
    assert kept.frame("b", event(100)) is made[100]
    assert kept.frame("b", event(1)) is not made[1]
    kept.frame("b", event(101, b"x" * 20_000))
    assert kept.size == 0


def test_a_changed_bucket_is_forgotten() -> None:
    """New frames tell the new name; the budget is given back, and nothing else of the cache is touched."""
    kept, registry = cache()
    asyncio.run(registry.put("bucket", "c", replace(BUCKET, id="c", name="billing", inputs=())))
    kept.frame("b", event(1))
    other = kept.frame("c", event(1))
    asyncio.run(registry.put("bucket", "b", replace(BUCKET, name="sales")))
    kept.forget("b")
    kept.forget("unknown")
    assert frames(kept.frame("b", event(1)))[0]["meta"]["bucket_name"] == "sales"
    assert kept.frame("c", event(1)) is other
    kept.forget("b")
    kept.forget("c")
    assert kept.size == 0


def test_many_that_change_at_once_cost_no_look_at_all_frames_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the file is opened anew. What is left of them takes no room, and no other frame's place."""
    looks = 0

    class Turns(deque[Any]):
        def __iter__(self) -> Iterator[Any]:
            nonlocal looks
            for each in super().__iter__():
                looks += 1
                yield each

    monkeypatch.setattr(module, "deque", Turns)
    kept, registry = cache(1 << 20)
    for number in range(100):
        bucket = replace(BUCKET, id=f"b-{number}", name=f"name-{number}", inputs=())
        asyncio.run(registry.put("bucket", bucket.id, bucket))
        for seq in (1, 2):
            kept.frame(bucket.id, event(seq, b"x"))
    for number in range(99):
        kept.forget(f"b-{number}")
    assert 0 < looks < 3 * 200
    last = kept.frame("b-99", event(1, b"x"))
    assert kept.size < 3 * (len(last) + 200)
    for seq in range(3, 100):
        kept.frame("b-0", event(seq, b"x" * 8_000))
        kept.frame("b-1", event(seq, b"x" * 8_000))
        kept.forget("b-1")
    assert kept.frame("b-99", event(1, b"x")) is last
    for seq in range(100, 300):
        kept.frame("b-0", event(seq, b"x" * 8_000))
    assert (1 << 19) < kept.size <= 1 << 20
    assert kept.frame("b-99", event(1, b"x")) is not last


def test_an_input_that_is_gone_has_no_name() -> None:
    """Its events are still there."""
    kept, _ = cache()
    old = replace_input(event(1))
    assert frames(kept.frame("b", old))[0]["meta"]["input_name"] == ""


def replace_input(made: Event) -> Event:
    return Event(made.seq, made.epoch, 0.0, "gone", "POST", b"", b"", b"", b"", "192.0.2.1")


def test_a_bucket_that_is_not_there() -> None:
    """It is said, and not remembered."""
    kept, registry = cache()
    with pytest.raises(BucketGone):
        kept.frame("x", event(1))
    asyncio.run(registry.delete("bucket", "b"))
    with pytest.raises(BucketGone):
        kept.own("b", event(1), truncate=True)


def test_a_truncated_frame_is_not_kept() -> None:
    """It is one subscriber's own."""
    kept, _ = cache()
    assert frames(kept.own("b", event(1), truncate=True))[0]["truncated"] is True
    assert kept.size == 0
    assert "truncated" not in frames(kept.frame("b", event(1)))[0]


def test_copies_and_events_are_kept_apart() -> None:
    """Where there are outputs, the event itself has its own frame; both count, and both are forgotten."""
    kept, registry = cache()
    assert kept.event("b", event(1)) is kept.frame("b", event(1))
    assert kept.numbers("b", event(1)) == (0,)
    outputs = tuple(Output(f"o-{n}", n, f"output {n}", 0, 0) for n in (2, 1))
    asyncio.run(registry.put("bucket", "b", replace(BUCKET, outputs=outputs)))
    kept.forget("b")
    assert kept.size == 0
    joined, whole = kept.frame("b", event(1)), kept.event("b", event(1))
    assert [each["meta"]["id"][-2:] for each in frames(joined)] == ["-1", "-2"]
    assert [each["meta"]["id"][-2:] for each in frames(whole)] == ["-1"]
    assert frames(whole)[0]["meta"]["output_name"] == ""
    assert kept.numbers("b", event(1)) == [1, 2]
    assert (kept.frame("b", event(1)), kept.event("b", event(1))) == (joined, whole)
    assert kept.frame("b", event(1)) is joined
    assert kept.event("b", event(1)) is whole
    assert [each["meta"]["output_name"] for each in frames(kept.own("b", event(1), after=1))] == ["output 2"]
    assert kept.own("b", event(1), after=2) == b""
    assert len(joined) + len(whole) < kept.size < len(joined) + len(whole) + 1000
    kept.forget("b")
    assert kept.size == 0


def test_the_budget_counts_both() -> None:
    """The oldest leaves first, of whichever kind."""
    kept, registry = cache(10_000)
    asyncio.run(registry.put("bucket", "b", replace(BUCKET, outputs=(Output("o", 1, "out", 0, 0),))))
    for seq in range(1, 51):
        kept.frame("b", event(seq))
        kept.event("b", event(seq))
    assert 5_000 < kept.size <= 10_000
    kept.forget("b")
    assert kept.size == 0
