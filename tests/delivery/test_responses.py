"""relay_tornado/delivery/responses.py: answers are kept, and the first one is the waiting sender's."""

import asyncio
from dataclasses import replace
from typing import Any, cast

import pytest

from relay_tornado.delivery import responses
from relay_tornado.delivery.responses import Responses
from relay_tornado.errors import Invalid, NotFound, Unavailable
from relay_tornado.ids import parse_id
from relay_tornado.model import Appended, Bucket, Event, Input, Output, Result
from relay_tornado.wire.answers import Answer
from tests.delivery.virtual import VirtualLoop, run
from tests.delivery.world import TOKEN, World, quiet
from tests.failing import lose_timers, once
from tests.log.memory_results import MemoryResults

OUTPUTS = tuple(Output(f"out-{n}", n, f"output {n}", 0, 0) for n in (1, 2))


def result(status_code: int = 200, body: bytes = b"", **headers: str) -> Result:
    values = {name.replace("_", "-"): [value] for name, value in headers.items()}
    return Result("sent" if status_code else "failed", status_code, values, body, 0, 0, 0.0)


class Desk:
    """Responses over a world with one bucket; everybody reaches everything unless `reached` says otherwise."""

    bucket: Bucket
    epoch: str

    def __init__(self, wait: float = 20.0, most: int = 1000) -> None:
        self.world = World()
        self.results = MemoryResults(self.world.log)
        self.reached: bool | None = True
        self.asked: list[tuple[int, int | None]] = []
        self.responses = Responses(self.results, self.world.log, self.world.registry, self, wait=wait, most=most)
        self.answers: list[Answer] = []
        self.answered = asyncio.Event()

    def reaches(self, bucket_id: str, event: Event, output: int | None) -> bool:
        self.asked.append((event.seq, output))
        if self.reached is None:
            return self.world.deliveries.reaches(bucket_id, event, output)
        return self.reached

    def wait(
        self, seq: int, output: str = "anyOutput", *, duplicate: bool = False, input_id: str = "in-id-orders"
    ) -> Any:
        waits = Input(input_id, "public", 0, 0, response_from_output=output)
        return self.responses.wait(self.bucket, waits, Appended(self.epoch, seq, duplicate), self._answered)

    def _answered(self, answer: Answer) -> None:
        self.answers.append(answer)
        self.answered.set()

    async def respond(self, id: str, made: Result) -> None:
        await self.responses.respond(TOKEN, parse_id(f"{self.epoch}-{id}"), made)


async def opened(count: int = 1, **options: Any) -> Desk:
    """A desk whose bucket has so many events."""
    desk = Desk(**options)
    desk.bucket = await desk.world.bucket(outputs=OUTPUTS, next_output=3)
    desk.epoch = await desk.world.epoch()
    await desk.world.append(count)
    return desk


@pytest.mark.gen_test
async def test_the_first_answer_wins_and_later_ones_are_kept() -> None:
    """The sender gets what the first client answers, once it is stored; the second is stored, too."""
    desk = await opened()
    desk.wait(1)
    assert desk.responses.waiting == 1
    await desk.respond("1-2", result(0))
    assert desk.answers == []
    await desk.respond("1-2", result(201, b"first", X_Key="v"))
    await desk.respond("1-1", result(202, b"second"))
    (answer,) = desk.answers
    assert (answer.status, answer.body) == (201, b"first")
    assert ("X-Key", "v") in answer.headers
    assert desk.responses.waiting == 0
    assert [each.status_code for each in (await desk.results.of("id-orders", 1, 1))[1, 2]] == [0, 201]
    assert [each.status_code for each in (await desk.results.of("id-orders", 1, 1))[1, 1]] == [202]


@pytest.mark.gen_test
async def test_a_named_output_counts_its_copies_answers_alone() -> None:
    """What is answered for another copy, or for the event itself, is kept and passed over."""
    desk = await opened(2)
    desk.wait(1, "out-2")
    for place in ("1-1", "1", "2-2"):
        await desk.respond(place, result(500))
    assert desk.answers == []
    await desk.respond("1-2", result(204, b"dropped"))
    (answer,) = desk.answers
    assert (answer.status, answer.body) == (204, b"")
    assert desk.asked == [(1, 2)]


@pytest.mark.gen_test
@pytest.mark.parametrize("lost", [False, True])
async def test_nobody_answers(lost: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its time a sender reads 504, which names the event; also where there was no memory to set a timer."""
    if lost:
        lose_timers(monkeypatch)
    desk = await opened(wait=0.01)
    desk.wait(1)
    async with asyncio.timeout(60):
        await desk.answered.wait()
    (answer,) = desk.answers
    assert answer.status == 504
    assert f"{desk.epoch}-1".encode() in answer.body
    assert b"within 0.01 seconds" in answer.body
    # What comes then is kept, for a duplicate.
    monkeypatch.setattr(desk.responses, "_wait", 60.0)
    await desk.respond("1", result(200, b"late"))
    assert len(desk.answers) == 1
    desk.wait(1, duplicate=True)
    await quiet()
    assert [each.body for each in desk.answers[1:]] == [b"late"]


def test_an_answer_that_is_read_late_is_in_time() -> None:
    """The loop stood still, as on a machine that was suspended: the answer may have come long before."""

    async def test() -> None:
        desk = await opened(2, wait=10.0)
        for seq in (1, 2):
            desk.wait(seq)
        await quiet()
        cast(VirtualLoop, asyncio.get_running_loop()).passed += 60
        await quiet()
        await desk.respond("1", result(200, b"in time"))
        assert [each.body for each in desk.answers] == [b"in time"]
        await asyncio.sleep(11)
        assert [each.status for each in desk.answers] == [200, 504]

    run(test)


@pytest.mark.parametrize("fails", [False, True])
def test_an_answer_that_is_stored_late_is_in_time(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a slow disk: the sender waits on for what a client has answered, unless it can't be stored."""

    async def test() -> None:
        desk = await opened(2, wait=10.0)
        record = desk.results.record

        async def slow(*arguments: Any) -> Any:
            await asyncio.sleep(15)
            if fails:
                raise Unavailable("the disk is gone")
            return await record(*arguments)

        monkeypatch.setattr(desk.results, "record", slow)
        for seq in (1, 2):
            desk.wait(seq)
        answering = asyncio.create_task(desk.respond("1", result(200, b"in time")))
        await asyncio.sleep(11)
        assert [each.status for each in desk.answers] == [504]
        await asyncio.wait([answering])
        assert isinstance(answering.exception(), Unavailable) is fails
        assert [each.status for each in desk.answers] == [504, 504 if fails else 200]
        assert desk.responses.waiting == 0

    run(test)


def test_an_answer_that_comes_while_a_stored_one_is_looked_for_is_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a slow disk: a duplicate's sender gets it if its time is over meanwhile."""

    async def test() -> None:
        desk = await opened(wait=10.0)
        monkeypatch.setattr(desk.results, "first", lambda *_: asyncio.sleep(15))
        desk.wait(1, duplicate=True)
        await quiet()
        await desk.respond("1", result(200, b"in time"))
        assert desk.answers == []
        await asyncio.sleep(11)
        assert [each.body for each in desk.answers] == [b"in time"]
        await asyncio.sleep(5)
        assert len(desk.answers) == 1

    run(test)


@pytest.mark.gen_test
async def test_nobody_would_get_it() -> None:
    """504 at once, by who is subscribed and what the outputs are; a deleted output has no copies."""
    desk = await opened()
    desk.reached = None

    def at_once(seq: int, output: str) -> bool:
        desk.answers.clear()
        leave = desk.wait(seq, output)
        if desk.answers:
            assert desk.answers[0].status == 504
            assert f"{desk.epoch}-{seq}".encode() in desk.answers[0].body
        leave()
        return bool(desk.answers)

    assert at_once(1, "anyOutput")
    await desk.world.subscribe("orders")
    await desk.world.append()
    assert not at_once(2, "anyOutput")
    assert not at_once(2, "out-2")
    assert at_once(2, "out-3")
    await desk.world.change(outputs=(OUTPUTS[0], replace(OUTPUTS[1], disabled=True)))
    desk.bucket = desk.world.registry.get("bucket", "id-orders")
    assert at_once(2, "out-2")
    await desk.world.change(outputs=())
    desk.bucket = desk.world.registry.get("bucket", "id-orders")
    assert not at_once(2, "anyOutput")
    assert at_once(2, "out-1")
    assert desk.responses.waiting == 0


@pytest.mark.gen_test
async def test_a_duplicate_gets_the_stored_answer_or_waits_for_it() -> None:
    """Like the first one: of its output, and both get the one that comes."""
    desk = await opened()
    desk.wait(1)
    desk.wait(1, duplicate=True)
    desk.wait(1, "out-1", duplicate=True)
    await quiet()
    assert desk.responses.waiting == 3
    await desk.respond("1-2", result(201))
    assert [answer.status for answer in desk.answers] == [201, 201]
    await desk.respond("1-1", result(202))
    assert [answer.status for answer in desk.answers] == [201, 201, 202]
    desk.wait(1, "out-1", duplicate=True)
    desk.wait(1, "out-2", duplicate=True)
    desk.wait(1, duplicate=True)
    await quiet()
    assert [answer.status for answer in desk.answers[3:]] == [202, 201, 201]


@pytest.mark.gen_test
async def test_an_event_that_has_the_place_of_one_that_was_lost() -> None:
    """Its answer is not for the sender of the lost one."""
    desk = await opened()
    desk.wait(1)
    desk.world.log.lose("id-orders", 1)
    await desk.world.append()
    epochs = (await desk.world.log.bounds("id-orders")).epochs
    await desk.responses.respond(TOKEN, parse_id(f"{epochs[-1].epoch}-1"), result(200, b"another's"))
    assert desk.answers == []
    assert desk.responses.waiting == 1


@pytest.mark.gen_test
@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.parametrize("stored", [False, True])
async def test_an_answer_while_a_duplicate_looks(stored: bool, failing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes while the stored answer is read is the sender's only where there is none, or it can't be read."""
    desk = await opened()
    if stored:
        await desk.respond("1-2", result(201, b"stored"))
    reads, first = asyncio.Event(), desk.results.first

    async def slow(*arguments: Any) -> Any:
        found = await first(*arguments)
        await reads.wait()
        if failing:
            raise Unavailable("the disk failed")
        return found

    monkeypatch.setattr(desk.results, "first", slow)
    desk.wait(1, duplicate=True)
    await quiet()
    await desk.respond("1-1", result(202, b"later"))
    await desk.respond("1-1", result(203, b"last"))
    assert desk.answers == []
    reads.set()
    async with asyncio.timeout(60):
        await desk.answered.wait()
    assert [each.body for each in desk.answers] == [b"stored" if stored and not failing else b"later"]
    assert desk.responses.waiting == 0


@pytest.mark.gen_test
async def test_a_duplicate_of_what_is_gone() -> None:
    """Nobody can get it any more: 504 at once."""
    desk = await opened(2)
    await desk.world.keep(1)
    desk.wait(1, duplicate=True)
    await quiet()
    assert [answer.status for answer in desk.answers] == [504]


@pytest.mark.gen_test
async def test_so_many_may_wait() -> None:
    """One more of an input is told 503 with the id of its event, which is stored; whoever leaves makes room."""
    desk = await opened(4, most=3)
    leave = desk.wait(1)
    desk.wait(2)
    desk.wait(3)
    (answer,) = desk.answers
    assert answer.status == 503
    assert f"{desk.epoch}-3".encode() in answer.body
    assert not any(name == "Retry-After" for name, _ in answer.headers)
    leave()
    leave()
    assert desk.responses.waiting == 1
    desk.wait(4)
    assert len(desk.answers) == 1
    desk.responses.close()
    assert [each.status for each in desk.answers] == [503, 504, 504]
    assert desk.responses.waiting == 0


@pytest.mark.gen_test
async def test_senders_of_one_input_leave_places_for_others() -> None:
    """So those of another input wait, too, and with all of them gone, every place is free again."""
    desk = await opened(22, most=16)
    leave = [desk.wait(seq) for seq in range(1, 15)]
    assert [answer.status for answer in desk.answers] == [503, 503]
    for seq in range(15, 19):
        desk.wait(seq, input_id="in-2")
    assert [answer.status for answer in desk.answers] == [503, 503, 503]
    desk.wait(19, input_id="in-3")
    assert len(desk.answers) == 3
    assert desk.responses.waiting == 16
    for each in leave:
        each()
    for seq in (20, 21, 22):
        desk.wait(seq, input_id="in-3")
    assert len(desk.answers) == 3
    desk.responses.close()
    assert desk.responses.waiting == 0


@pytest.mark.gen_test
async def test_what_cannot_be_answered() -> None:
    """An id that is nobody's, another bucket's, another epoch's stretch or an output that never was; a wrong status."""
    desk = await opened(2)
    # After a restart a new epoch begins at 3.
    desk.world.log.reopen()
    await desk.world.append()
    for place in ("3", "4", "0", "1-3"):
        with pytest.raises(NotFound, match=f"{desk.epoch}-{place} in your buckets"):
            await desk.respond(place, result())
    with pytest.raises(NotFound):
        await desk.responses.respond(TOKEN, parse_id("zzzzzzzzzzzz-1"), result())
    other = replace(TOKEN, buckets=frozenset({"other"}))
    with pytest.raises(NotFound):
        await desk.responses.respond(other, parse_id(f"{desk.epoch}-1"), result())
    for status in (1, 199, 600):
        with pytest.raises(Invalid):
            await desk.respond("1", result(status))
    for status in (200, 599):
        await desk.respond("1", result(status))
    await desk.respond("2-2", result())
    await desk.world.keep(1)
    with pytest.raises(NotFound):
        await desk.respond("2", result())
    await desk.world.log.drop("id-orders")
    with pytest.raises(NotFound):
        await desk.respond("3", result())


@pytest.mark.gen_test
async def test_a_copy_that_there_is_not() -> None:
    """An answer to a copy that rules, a target or `disabled` keep out is refused and not stored, unless one is."""
    desk = await opened(0)
    rules = {"match": {"type": "value", "value": "a", "parameter": {"source": "header", "name": "x-kind"}}}
    await desk.world.append(2, headers=b"X-Kind: b\r\n")
    await desk.world.append(1, headers=b"X-Kind: b\r\n", target=2)
    await desk.world.append(1, headers=b"X-Kind: b\r\n", force=True)
    await desk.respond("1-1", result(201))
    await desk.world.change(outputs=(replace(OUTPUTS[0], rules=rules), OUTPUTS[1]))
    for place in ("2-1", "3-1"):
        with pytest.raises(NotFound, match=f"{desk.epoch}-{place} in your buckets"):
            await desk.respond(place, result())
    for place in ("1-1", "2-2", "3-2", "4-1", "2"):
        await desk.respond(place, result())
    await desk.world.change(outputs=(OUTPUTS[0], replace(OUTPUTS[1], disabled=True)))
    await desk.respond("2-1", result())
    await desk.respond("2-2", result())
    await desk.world.change(outputs=(replace(OUTPUTS[0], disabled=True),))
    for place in ("4-2", "3-1"):
        with pytest.raises(NotFound):
            await desk.respond(place, result())
    kept = await desk.results.of("id-orders", 1, 4)
    assert sorted(kept) == [(1, 1), (2, 0), (2, 1), (2, 2), (3, 2), (4, 1)]


@pytest.mark.gen_test
async def test_an_answer_that_is_not_stored_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is told so, and the sender waits on."""
    desk = await opened()
    desk.wait(1)

    async def record(*_: object) -> bool:
        raise Unavailable("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(desk.results, "record", record)
        with pytest.raises(Unavailable):
            await desk.respond("1", result())
    assert desk.answers == []
    await desk.respond("1", result(200))
    assert len(desk.answers) == 1


@pytest.mark.gen_test
async def test_a_sender_on_which_the_wait_fails_leaves_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for lack of memory: it is told at once, and does not count as waiting."""
    desk = await opened()
    monkeypatch.setattr(responses, "after", once(responses.after))
    with pytest.raises(MemoryError):
        desk.wait(1)
    assert desk.responses.waiting == 0
    desk.wait(1)
    await desk.respond("1", result())
    assert len(desk.answers) == 1
