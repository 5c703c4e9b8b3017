"""relay_tornado/delivery/replay_pacing.py: how much of the loop's time goes to those who read the log."""

import asyncio
import functools
import itertools
from collections.abc import Callable
from itertools import pairwise

import pytest

from relay_tornado.delivery import replay_pacing
from relay_tornado.delivery.replay_pacing import FAR_BEHIND, READ_SECONDS, REST_FACTOR, SLICE, ReplayPacing
from relay_tornado.low_memory import exception_handler
from tests.delivery import virtual
from tests.delivery.virtual import event_loop as event_loop
from tests.delivery.virtual import virtual_test
from tests.delivery.world import stocked, until
from tests.failing import once

SECTION = 0.001
BEHIND = FAR_BEHIND + 1


class Day:
    """Turns whose clock is the virtual loop's, sections that take `SECTION`, and senders as the test wants them."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, virtual.VirtualLoop)
        self.loop = loop
        self.senders = False
        """Whether they send as much as they can."""
        self.stored = 0
        self.waiting = 0
        self.pacing = ReplayPacing(lambda: self.waiting, self._stored, loop.time)
        self.ran: list[str] = []
        self.times: list[float] = []
        self.begun = loop.passed

    @property
    def passed(self) -> float:
        return self.loop.passed - self.begun

    def _stored(self) -> int:
        self.stored += 1000 * self.senders
        return self.stored

    def section(self, name: str, seconds: float = SECTION) -> Callable[[], str]:
        def section() -> str:
            self.loop.passed += seconds
            self.ran.append(name)
            self.times.append(self.passed)
            return name

        return section

    async def runs(self, name: str, behind: int, count: int) -> None:
        for _ in range(count):
            assert await self.pacing.run(self.section(name), behind) == name

    def start(self, *tasks: tuple[str, int, int]) -> "asyncio.Future[list[None]]":
        return asyncio.gather(*(self.runs(*task) for task in tasks))


def test_who_is_near_ends_a_rest_on_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the loop that a relay runs on, too, somebody near the head does not wait for those far behind."""
    uvloop = pytest.importorskip("uvloop", reason="it comes with the extra `fast`")
    for longest in ("_LONGEST", "_LOOK"):
        monkeypatch.setattr(replay_pacing, longest, 3600.0)
    passed = 0.0

    def work() -> None:
        nonlocal passed
        passed += 1000.0

    async def test() -> None:
        pressed = ReplayPacing(lambda: 0, itertools.count(1).__next__, lambda: passed)
        worked, rests = (asyncio.create_task(pressed.run(work, BEHIND)) for _ in range(2))
        await worked
        async with asyncio.timeout(60):
            assert await pressed.run(lambda: "near", FAR_BEHIND) == "near"
        rests.cancel()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())


def test_a_turn_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it can't begin, or somebody can't be woken, all who wait have their turn."""

    async def test() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(exception_handler)
        pacing = ReplayPacing(lambda: 0, itertools.count(1).__next__, lambda: 0.0)

        def section(number: int) -> int:
            if number == 1:
                monkeypatch.setattr(loop, "call_soon", once(loop.call_soon))
            return number

        waiting = [asyncio.create_task(pacing.run(functools.partial(section, number), 0)) for number in range(4)]
        monkeypatch.setattr(pacing, "_pressed", once(pacing._pressed, after=1))
        async with asyncio.timeout(60):
            assert await asyncio.gather(*waiting) == [0, 1, 2, 3]

    asyncio.run(test())


@virtual_test
async def test_a_turn_of_the_loop_has_one_slice() -> None:
    """However many want to work, in any turn of the loop they take a slice and the section that was begun."""
    day = Day()
    all_of_them = day.start(*((f"{number}", behind, 5) for number, behind in enumerate([0, BEHIND] * 50)))
    while not all_of_them.done():
        before = day.passed
        await asyncio.sleep(0)
        assert day.passed - before <= SLICE + 2 * SECTION
    assert len(day.ran) == 500
    assert day.passed == pytest.approx(500 * SECTION), "an idle relay rests nowhere"


@virtual_test
async def test_short_sections_share_a_slice() -> None:
    """While nobody sends, a turn of the loop has as many as fit, near the head or not."""
    for behind in (0, BEHIND):
        day = Day()
        waiting = [day.pacing.run(day.section("", SLICE / 4), behind) for _ in range(20)]
        all_of_them = asyncio.gather(*waiting)
        turns, most = 0, 0
        while not all_of_them.done():
            before = len(day.ran)
            await asyncio.sleep(0)
            ran = len(day.ran) - before
            turns, most = turns + bool(ran), max(most, ran)
        assert turns <= 6
        assert most <= 8, "those that ran at once, and a turn's"


@virtual_test
async def test_one_alone_never_waits() -> None:
    """Each turn of the loop has its own slice, also behind one that was used up."""
    day = Day()
    await day.start(*((f"{number}", BEHIND, 3) for number in range(5)))
    for _ in range(5):
        await asyncio.sleep(SECTION)
        for _ in range(2):
            with pytest.raises(StopIteration):
                day.pacing.run(day.section("alone", SLICE * 0.4), BEHIND).send(None)


@virtual_test
async def test_a_rest_is_bounded() -> None:
    """Where the machine is suspended within a section."""
    day = Day()
    day.senders = True
    await day.pacing.run(day.section("suspended", 2.0), BEHIND)
    before = day.passed
    await day.runs("next", BEHIND, 1)
    assert day.passed - before <= 0.05 + 3 * SECTION


@virtual_test
async def test_an_event_that_begins_to_wait_is_given_way() -> None:
    """However long nothing came before it."""
    day = Day()
    short = SLICE / 10
    for waiting in (0, 0, 1):
        day.waiting = waiting
        for _ in range(2):
            await day.pacing.run(day.section("", short), BEHIND)
        day.loop.passed += 1.0 - waiting
        await asyncio.sleep(0)
    pauses = [after - before - short for before, after in pairwise(day.times)]
    assert [pauses[each] for each in (0, 2, 4)] == pytest.approx([0, 0, short * REST_FACTOR])


@virtual_test
async def test_first_come_first_served() -> None:
    """Nobody has a second section while somebody waits for a first one."""
    day = Day()
    day.senders = True
    await day.start(*((f"{number}", BEHIND, 3) for number in range(20)))
    for at in range(0, 60, 20):
        assert len(set(day.ran[at : at + 20])) == 20


@virtual_test
async def test_senders_keep_their_time() -> None:
    """While many events come, full replays have one section a turn, and then rest `REST_FACTOR` times as long."""
    day = Day()
    day.senders = True
    await day.start(*((f"{number}", BEHIND, 10) for number in range(20)))
    assert len(day.times) == 200
    for before, after in pairwise(day.times):
        assert after - before >= SECTION * (1 + REST_FACTOR) * 0.999


@virtual_test
async def test_a_read_in_another_thread_counts() -> None:
    """What a section has another thread do is rested for as well."""
    day = Day()
    day.senders = True

    def section() -> None:
        day.pacing.charge(READ_SECONDS)

    for _ in range(10):
        await day.pacing.run(section, BEHIND)
    assert 9 * READ_SECONDS * REST_FACTOR * 0.99 <= day.passed <= 10 * READ_SECONDS * REST_FACTOR * 1.1


@virtual_test
async def test_a_rest_ends_with_the_senders() -> None:
    """As soon as the senders had time to send again, and did not, replays have the loop."""
    day = Day()
    day.senders = True
    replay = day.start(("replay", BEHIND, 100))
    while len(day.ran) < 2:  # noqa: ASYNC110  # the clock moves
        await asyncio.sleep(SECTION)
    day.senders = False
    before, done = day.passed, len(day.ran)
    await replay
    assert day.passed - before <= (100 - done) * SECTION + 2 * replay_pacing._AFTERGLOW


@virtual_test
@pytest.mark.parametrize(("syncs", "most"), [(0.001, 0.2), (0.02, 1.0)])
async def test_the_disk_is_not_waited_for(syncs: float, most: float) -> None:
    """While an event waits to be stored for a moment, replays give way; while it waits for a slow disk, they have the
    loop."""
    day = Day()
    day.waiting = 1
    replay = day.start(("replay", BEHIND, 10_000))
    while day.passed < 1.0:
        await asyncio.sleep(syncs)
        day.stored += 1
    share = len(day.ran) * SECTION / day.passed
    assert most / 2 < share <= most
    replay.cancel()
    with pytest.raises(asyncio.CancelledError):
        await replay


@virtual_test
async def test_the_more_is_stored_the_less_is_replayed() -> None:
    """Senders that were just answered want the loop, in proportion to what they sent."""
    shares = []
    for rate in (0, 1, 4):
        day = Day()
        replay = day.start(("replay", BEHIND, 200))
        while not replay.done():
            await asyncio.sleep(SECTION)
            day.stored += rate
        shares.append(day.passed)
    assert shares[0] < shares[1] < shares[2]


@virtual_test
async def test_who_is_near_the_head_rests_for_nobody() -> None:
    """A subscriber that is nearly live has its turn at once, whatever senders and full replays do."""
    day = Day()
    day.senders = True
    replay = day.start(*((f"{number}", BEHIND, 50) for number in range(5)))
    for _ in range(20):
        await asyncio.sleep(SECTION)
        before = day.passed
        await day.pacing.run(day.section("live"), FAR_BEHIND)
        assert day.passed - before <= 3 * SECTION
    await replay


@virtual_test
async def test_who_is_near_the_head_starves_nobody() -> None:
    """While some near the head always have something to do, full replays go on."""
    day = Day()
    day.senders = True
    live = asyncio.ensure_future(day.start(*((f"live-{number}", 0, 10_000) for number in range(10))))
    await day.runs("replay", BEHIND, 20)
    assert day.passed <= 20 * 0.06
    live.cancel()
    with pytest.raises(asyncio.CancelledError):
        await live


@virtual_test
async def test_what_a_section_raises_comes_out() -> None:
    """At once and in the queue, and a waiter that has left is passed over."""
    day = Day()

    def fails() -> None:
        day.ran.append("failed")
        raise LookupError

    with pytest.raises(LookupError):
        await day.pacing.run(fails, 0)
    day.senders = True
    left = asyncio.ensure_future(day.pacing.run(fails, 0))
    await asyncio.sleep(0)
    left.cancel()
    with pytest.raises(LookupError):
        await day.pacing.run(fails, 0)
    assert day.ran == ["failed", "failed"]
    await day.runs("next", BEHIND, 1)


@virtual_test
async def test_a_replay_gives_way_and_live_events_do_not() -> None:
    """While many events come, a full replay writes a chunk now and then; who is live gets each event at once,
    and one that is nearly live catches up within a few turns."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, virtual.VirtualLoop)

    def clock() -> float:
        loop.passed += SECTION / 10
        return loop.passed

    world = await stocked(5000)
    pacing = world.deliveries._shared.pacing
    pacing._clock = clock
    pacing._stored = itertools.count(1, 1000).__next__
    live, delivery, _ = await world.subscribe("orders")
    await until(lambda: not delivery.busy)
    far, _, _ = await world.subscribe("orders", since="earliest")
    near, _, _ = await world.subscribe("orders", since={"last": 500})
    await until(lambda: len(near.seqs()) == 500, 50)
    written = len(far.seqs())
    assert written <= 1000
    for number in range(20):
        await world.append(1)
        await until(lambda: len(live.seqs()) == number + 1, 5)  # noqa: B023
    assert live.at_once == 20
    pacing._stored = lambda: 0
    while len(far.seqs()) < 5020:  # noqa: ASYNC110  # the clock moves
        await asyncio.sleep(SECTION)
