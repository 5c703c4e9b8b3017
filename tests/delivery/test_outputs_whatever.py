"""Events, changes of outputs and renewed subscribes at random: no copy is missed or repeated."""

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from relay_tornado.model import Output
from tests.delivery.outputs import header_is, kind, output
from tests.delivery.world import Reader, World, quiet, run, until

KINDS = ("a", "b", "c")


def _configuration(chance: random.Random) -> tuple[Output, ...]:
    return tuple(
        output(
            n,
            rules=chance.choice([None, None, header_is(chance.choice(KINDS))]),
            disabled=chance.random() < 0.2,
            internal=chance.random() < 0.8,
        )
        for n in range(1, 5)
        if chance.random() < 0.6
    )


def _copies(outputs: tuple[Output, ...], event_kind: str, target: int | None, force: bool) -> tuple[int, ...]:
    """What the rules of the protocol say of one event; 0 is the one that goes to no output."""
    if not outputs:
        return () if target is not None else (0,)
    return tuple(
        each.n
        for each in outputs
        if each.internal
        and not each.disabled
        and target in (None, each.n)
        and (force or each.rules is None or each.rules["match"]["value"] == event_kind)
    )


@settings(deadline=None)
@given(seed=st.integers(0, 1 << 32), apart=st.sampled_from(["", "", "filter", "outputs", "max_body"]))
def test_no_copy_is_missed_or_repeated_however_it_interleaves(seed: int, apart: str) -> None:
    """Events, changes of outputs and rules, renewed subscribes and pauses at random: each event comes with the copies
    that the outputs gave at one moment since it came, whole and in order; and from each id that came, another
    subscriber goes on behind it exactly."""

    async def test() -> None:
        chance = random.Random(seed)
        world = World(seed)
        configurations = [_configuration(chance)]
        await world.bucket(outputs=configurations[0])
        events: list[tuple[str, int | None, bool, int]] = []

        async def append() -> None:
            event_kind, target = chance.choice(KINDS), chance.choice([None, None, None, 1, 2, 5])
            force = chance.random() < 0.2
            events.append((event_kind, target, force, len(configurations) - 1))
            body = b"x" * chance.choice([1, 1000, 100_000])
            await world.append(body=body, headers=kind(event_kind), target=target, force=force)

        for _ in range(chance.randrange(6)):
            await append()
        special: dict[str, Any] = {
            "": {}, "filter": {"filter": header_is("a")}, "outputs": {"outputs": "none"}, "max_body": {"max_body": 10},
        }[apart]  # fmt: skip
        reader, delivery, _ = await world.subscribe(since="earliest", **special)
        for _ in range(chance.randrange(10, 50)):
            match chance.randrange(8):
                case 0:
                    reader.paused = True
                case 1:
                    reader.resume()
                case 2:
                    if not reader.paused:
                        reader, delivery, _ = await world.subscribe(reader=reader, replaces=delivery, **special)
                case 3:
                    configurations.append(_configuration(chance))
                    await world.change(outputs=configurations[-1])
                case 4:
                    await quiet(chance.randrange(5))
                case _:
                    await append()
        reader.resume()
        await until(lambda: not delivery.busy and delivery.positions()["id-orders"] == (len(events), 0))

        def wanted(seq: int, outputs: tuple[Output, ...]) -> tuple[int, ...]:
            event_kind, target, force, _ = events[seq - 1]
            if apart == "filter" and event_kind != "a":
                return ()
            return (0,) if apart == "outputs" else _copies(outputs, event_kind, target, force)

        got: list[tuple[int, int]] = [_parts(each) for each in reader.ids()]
        assert got == sorted(set(got))
        for seq in range(1, len(events) + 1):
            copies = tuple(n for each, n in got if each == seq)
            assert copies in [wanted(seq, outputs) for outputs in configurations[events[seq - 1][3] :]], seq
        now = [(seq, n) for seq in range(1, len(events) + 1) for n in wanted(seq, configurations[-1])]
        epoch = await world.epoch()
        for place, (seq, n) in chance.sample(list(zip(reader.ids(), got, strict=True)), min(3, len(got))):
            again, resumed, _ = await world.subscribe(since=f"{epoch}-{place}", reader=Reader(), **special)
            await until(lambda: not resumed.busy)  # noqa: B023 - awaited here
            behind = (seq, n or 99)
            assert [_parts(each) for each in again.ids()] == [each for each in now if each > behind]

    run(test)


def _parts(place: str) -> tuple[int, int]:
    """Seq and output's number of what stands behind an epoch; 0 is no output."""
    seq, _, n = place.partition("-")
    return int(seq), int(n or 0)
