"""relay_tornado/delivery with outputs: which copies of an event a subscriber gets, and how it goes on between them."""

import itertools
import time
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay_tornado.copies import Subjects
from relay_tornado.delivery import dispatch
from relay_tornado.errors import Invalid
from relay_tornado.model import Event, Output
from relay_tornado.rules import Rules, compile_rules
from relay_tornado.subject import Subject
from tests.delivery.outputs import header_is, kind, output
from tests.delivery.world import World, quiet, stocked, until


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("outputs", "stream", "ids"),
    [
        ([], True, ["1"]),
        ([output(1)], True, ["1-1"]),
        ([output(3), output(1), output(2)], True, ["1-1", "1-2", "1-3"]),
        ([output(1, disabled=True), output(2)], True, ["1-2"]),
        ([output(1, internal=False), output(2)], True, ["1-2"]),
        ([output(1, internal=False)], True, []),
        ([output(1, disabled=True)], True, []),
        ([output(1, rules=header_is("a")), output(2, rules=header_is("b"))], True, ["1-1"]),
        ([output(1, rules={}), output(2, rules=header_is("b"))], True, ["1-1"]),
        ([], False, []),
        ([output(1)], False, []),
    ],
)
async def test_which_copies_go_out(outputs: list[Output], stream: bool, ids: list[str]) -> None:
    """Once where there are no outputs, else once for each enabled internal output whose rules match, in order of n;
    live and in a replay the same, and positions pass what goes nowhere."""
    world = await stocked(0, outputs=tuple(outputs), stream=stream)
    reader, delivery, _ = await world.subscribe("orders", extended=True)
    await until(lambda: not delivery.busy)
    await world.append(headers=kind("a"))
    await quiet()
    assert reader.ids() == ids
    assert reader.at_once == (1 if ids else 0)
    assert list(delivery.moved().values()) == [f"{(await world.log.bounds('id-orders')).epochs[0].epoch}-1"]
    replayed, again, _ = await world.subscribe("orders", since="earliest")
    await until(lambda: not again.busy)
    assert replayed.ids() == ids
    assert world.counters.deliveries == (2 if ids else 0)
    looking, third, _ = await world.subscribe("orders", since="earliest", outputs="none")
    await until(lambda: not third.busy)
    await world.append(headers=kind("b"))
    await quiet()
    assert looking.ids() == ["1", "2"]
    assert looking.messages[0]["meta"]["output_name"] == ""


@pytest.mark.gen_test
async def test_what_a_copy_says() -> None:
    """Name and destination of its output; the output's headers instead of the sender's; the extra path on the
    destination unless it is locked, before its query and without the event's."""
    world = World()
    await world.bucket(
        outputs=(
            replace(output(1), destination="http://a.example/in/?x=1#f", headers={"a": ["1", "2"], "new": ["3"]}),
            replace(output(2, lock_path=True), headers={"Transfer-Encoding": ["chunked"], "host": ["h"]}),
            replace(output(3), destination=""),
        )
    )
    reader, _, _ = await world.subscribe("orders")
    await world.append(path=b"/extra/%2F", headers=b"A: b\r\nC: d\r\n", body=b'{"x": "\xc3\xa9"}')
    await until(lambda: len(reader.messages) == 3)
    metas = [message["meta"] for message in reader.messages]
    assert [meta["output_name"] for meta in metas] == ["output 1", "output 2", "output 3"]
    assert [meta["output_destination"] for meta in metas] == [
        "http://a.example/in/extra/%2F?x=1#f",
        "http://to-2.example",
        "",
    ]
    assert {meta["path"] for meta in metas} == {"/extra/%2F"}
    assert [message["headers"] for message in reader.messages] == [
        {"A": ["1", "2"], "C": ["d"], "New": ["3"]},
        {"A": ["b"], "C": ["d"]},
        {"A": ["b"], "C": ["d"]},
    ]
    assert {message["body"] for message in reader.messages} == {'{"x": "é"}'}


@pytest.mark.gen_test
async def test_a_copy_with_a_target_goes_there_alone() -> None:
    """Where its output is disabled, public or deleted, to nobody; `force` passes rules over."""
    world = World()
    await world.bucket(
        outputs=(output(1), output(2, rules=header_is("b")), output(3, disabled=True), output(4, internal=False))
    )
    reader, delivery, _ = await world.subscribe("orders")
    await until(lambda: not delivery.busy)
    for fields in ({"target": 1}, {"target": 2}, {"target": 2, "force": True}, {"target": 3}, {"target": 4},
                   {"target": 9}, {"force": True}):  # fmt: skip
        await world.append(headers=kind("a"), resend_of="k3v9x1q7m2ab-1", **fields)
    await quiet()
    assert reader.ids() == ["1-1", "3-2", "7-1", "7-2"]
    assert delivery.positions()["id-orders"].seq == 7
    await world.change(outputs=())
    await world.append(target=1)
    await world.append(force=True)
    await quiet()
    assert reader.ids()[4:] == ["9"]
    looking, _, _ = await world.subscribe("orders", since="earliest", outputs="none")
    await until(lambda: looking.ids() == [str(seq) for seq in range(1, 10)])


@pytest.mark.gen_test
async def test_cursors_between_copies() -> None:
    """After E-2-2 come the copies of 2 for higher outputs, then 3; a bare E-2 is after all of 2."""
    world = World()
    await world.bucket(outputs=(output(1), output(2), output(3)))
    await world.append(3)
    epoch = await world.epoch()

    async def after(position: str, **fields: Any) -> tuple[list[str], int]:
        reader, delivery, (answer,) = await world.subscribe("orders", since=f"{epoch}-{position}", **fields)
        await until(lambda: not delivery.busy)
        assert answer["recovered"]
        return reader.ids(), answer["start"]

    assert await after("2-1") == (["2-2", "2-3", "3-1", "3-2", "3-3"], 2)
    assert await after("2-2") == (["2-3", "3-1", "3-2", "3-3"], 2)
    assert await after("2-3") == (["3-1", "3-2", "3-3"], 3)
    assert await after("2-9") == (["3-1", "3-2", "3-3"], 3)
    assert await after("2") == (["3-1", "3-2", "3-3"], 3)
    assert await after("3-3") == ([], 4)
    assert await after("0-1") == (["1-1", "1-2", "1-3", "2-1", "2-2", "2-3", "3-1", "3-2", "3-3"], 1)
    assert await after("2-1", outputs="none") == (["3"], 3)
    assert await after("2-2", max_body=1) == (["2-3", "3-1", "3-2", "3-3"], 2)
    assert await after("2-2", filter=header_is("none")) == ([], 2)
    # What the outputs are at delivery counts.
    await world.change(outputs=(output(1), output(2), output(3, disabled=True), output(4)))
    assert await after("2-2") == (["2-4", "3-1", "3-2", "3-4"], 2)
    await world.change(outputs=(output(1), output(2)))
    assert await after("2-2") == (["3-1", "3-2"], 3)
    await world.change(outputs=())
    assert await after("2-2") == (["3"], 3)
    assert await after("2") == (["3"], 3)


@pytest.mark.gen_test
async def test_a_cursor_between_copies_of_an_event_that_is_gone() -> None:
    """What would have come behind it is told as a gap, where something would."""
    world = World()
    await world.bucket(outputs=(output(1), output(2)))
    await world.append(4)
    epoch = await world.epoch()
    await world.keep(2)
    _, _, (answer,) = await world.subscribe("orders", since=f"{epoch}-2-1")
    assert (answer["start"], answer["gap"]) == (3, {"from": 2, "to": 2, "count": 1, "reason": "retention"})
    _, _, (answer,) = await world.subscribe("orders", since=f"{epoch}-2-2")
    assert (answer["start"], answer["gap"]) == (3, None)
    _, _, (answer,) = await world.subscribe("orders", since=f"{epoch}-1-2")
    assert (answer["start"], answer["gap"]["from"]) == (3, 2)
    # With the events behind it leaves what was not had of the cursor's own.
    _, _, (answer,) = await world.subscribe("orders", since=f"{epoch}-1-1")
    assert (answer["start"], answer["gap"]) == (3, {"from": 1, "to": 2, "count": 2, "reason": "retention"})
    for cursor, gap in (("1-1", 2), ("2-1", None)):
        _, _, (answer,) = await world.subscribe("orders", since=f"{epoch}-{cursor}", outputs="none")
        assert (answer["start"], answer["gap"] and answer["gap"]["from"]) == (3, gap), "it was had"
    await world.change(ephemeral=True)
    for cursor, gap in (("3-1", 3), ("3-2", 4)):
        _, _, (answer,) = await world.subscribe("orders", since=f"{epoch}-{cursor}")
        assert (answer["start"], answer["gap"]["from"], answer["gap"]["reason"]) == (5, gap, "ephemeral")


@pytest.mark.gen_test
async def test_an_event_that_leaves_between_its_copies() -> None:
    """Where retention takes it before the rest of its copies came: a gap, and the next one with all of its own."""
    world = World()
    await world.bucket(outputs=(output(1), output(2), output(3)))
    await world.append(4)
    epoch = await world.epoch()
    reader, delivery, _ = await world.subscribe("orders", since=f"{epoch}-2-2", start=False)
    await world.keep(2)
    delivery.start()
    await until(lambda: not delivery.busy)
    assert [each.get("gap", {}).get("from") for each in reader.statuses()] == [2, None]
    assert reader.ids() == [f"{seq}-{n}" for seq in (3, 4) for n in (1, 2, 3)]


@pytest.mark.gen_test
async def test_a_renewed_subscribe_goes_on_between_copies() -> None:
    """On one connection no copy comes twice, also where it is replaced before the rest of an event has come."""
    world = World()
    await world.bucket(outputs=(output(1), output(2), output(3)))
    await world.append(2)
    epoch = await world.epoch()
    reader, first, _ = await world.subscribe("orders", since=f"{epoch}-1-1", start=False)
    reader, second, (answer,) = await world.subscribe("orders", reader=reader, replaces=first)
    assert answer["start"] == 1
    await until(lambda: not second.busy)
    assert reader.ids() == ["1-2", "1-3", "2-1", "2-2", "2-3"]
    reader, third, (answer,) = await world.subscribe("orders", reader=reader, replaces=second)
    assert answer["start"] == 3
    await until(lambda: not third.busy)
    assert len(reader.ids()) == 5


@pytest.mark.gen_test
async def test_changes_of_outputs_and_rules_take_effect_at_delivery() -> None:
    """Events that wait for a slow reader go where the outputs say when they go out."""
    world = World()
    await world.bucket(outputs=(output(1),))
    reader, delivery, _ = await world.subscribe("orders")
    await until(lambda: not delivery.busy)
    await world.append()
    await quiet()
    reader.paused = True
    await world.append(headers=kind("a"))
    await quiet()
    await world.append(headers=kind("a"))
    await world.change(outputs=(output(1, rules=header_is("b")), output(2, rules=header_is("a"))))
    reader.resume()
    await quiet()
    await world.append(headers=kind("b"))
    await quiet()
    assert reader.ids() == ["1-1", "2-1", "3-2", "4-1"]
    await world.change(stream=False)
    await world.append(headers=kind("b"))
    await quiet()
    await world.change(stream=True, outputs=())
    await world.append(headers=kind("b"))
    await quiet()
    assert reader.ids()[4:] == ["6"]


@pytest.mark.gen_test
async def test_filters() -> None:
    """Only what passes comes; positions pass the rest, live, in a replay and in pings; caught_up comes as ever."""
    world = World()
    await world.bucket(outputs=(output(1), output(2)))
    await world.append(2, headers=kind("a"))
    await world.append(2, headers=kind("b"))
    epoch = await world.epoch()
    reader, delivery, _ = await world.subscribe("orders", since="earliest", filter=header_is("b"))
    await until(lambda: not delivery.busy)
    assert reader.ids() == ["3-1", "3-2", "4-1", "4-2"]
    assert reader.statuses()[-1] == {
        "type": "status", "status": "caught_up", "bucket_name": "orders", "id": f"{epoch}-4",
    }  # fmt: skip
    delivery.moved()
    await world.append(3, headers=kind("a"))
    await quiet()
    assert delivery.moved() == {"orders": f"{epoch}-7"}
    await world.append(1, headers=kind("b"))
    await quiet()
    assert reader.ids()[4:] == ["8-1", "8-2"]


@pytest.mark.gen_test
async def test_who_gets_something_else_leaves_the_pass_to_the_others() -> None:
    """Beside filtered, looking and max_body subscribers the others are served at once, from one frame an event."""
    world = World()
    await world.bucket(outputs=(output(1), output(2)))
    others = [await world.subscribe("orders") for _ in range(3)]
    apart = [
        await world.subscribe("orders", filter=header_is("b")),
        await world.subscribe("orders", outputs="none"),
        await world.subscribe("orders", max_body=3),
    ]
    await until(lambda: not any(delivery.busy for _, delivery, _ in [*others, *apart]))
    for _ in range(4):
        await world.append(headers=kind("a"), body=b"long")
        await quiet()
    for reader, _, _ in others:
        assert reader.ids() == [f"{seq}-{n}" for seq in range(1, 5) for n in (1, 2)]
        assert (reader.at_once, reader.writes) == (4, [])
    filtered, looking, short = (reader for reader, _, _ in apart)
    assert filtered.ids() == []
    assert looking.ids() == ["1", "2", "3", "4"]
    assert short.ids() == others[0][0].ids()
    assert all(message["truncated"] for message in short.events())
    assert not any(reader.at_once for reader, _, _ in apart)


@pytest.mark.gen_test
async def test_an_event_is_encoded_and_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many subscribers get its copies, and however many filters look at it."""
    judged: list[Any] = []
    parsed: list[Any] = []
    monkeypatch.setattr(Rules, "matches", lambda self, subject: judged.append(self) or True)
    monkeypatch.setattr(Subject, "__init__", lambda self, event: parsed.append(event) or None)
    world = World()
    await world.bucket(outputs=(output(1, rules=header_is("a")), output(2, rules=header_is("b"))))
    readers = [(await world.subscribe("orders"))[0] for _ in range(5)]
    filtered = [(await world.subscribe("orders", filter=header_is("a")))[0] for _ in range(3)]
    await quiet()
    await world.append()
    await until(lambda: all(reader.ids() == ["1-1", "1-2"] for reader in [*readers, *filtered]))
    assert len(judged) == 2 + 3
    assert len(parsed) == 1


def test_what_rules_have_read_is_bounded() -> None:
    """A few events are kept as they were read, and few bytes of them: those that were looked at last."""
    subjects = Subjects()

    def kept() -> list[int]:
        return [each.seq for each, _ in subjects._kept.values()]

    def event(seq: int, body: bytes = b"") -> Event:
        return Event(seq, "k3v9x1q7m2ab", 0, "in", "POST", b"", b"", b"", body, "192.0.2.1")

    first = event(1)
    assert subjects.of(first) is subjects.of(first)
    assert subjects.of(event(1)) is not subjects.of(first)
    large = [event(seq, bytes(1 << 20)) for seq in range(2, 9)]
    for each in large:
        subjects.of(each)
    assert (kept(), subjects._size) == ([5, 6, 7, 8], 4 << 20)
    huge = event(9, bytes((4 << 20) + 1))
    assert subjects.of(huge) is not subjects.of(huge)
    assert kept() == [5, 6, 7, 8]
    whole = event(10, bytes(4 << 20))
    assert subjects.of(whole) is subjects.of(whole)
    for seq in range(100):
        subjects.of(event(seq))
    assert kept() == list(range(84, 100))


@pytest.mark.gen_test
async def test_slow_rules_give_the_loop_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long rules and filters take, the loop goes round between a few events."""

    def matches(self: Rules, subject: Subject) -> bool:
        time.sleep(0.004)
        return True

    monkeypatch.setattr(Rules, "matches", matches)
    world = World()
    await world.bucket(outputs=(output(1, rules=header_is("a")),))
    await world.append(40)
    reader, delivery, _ = await world.subscribe("orders", since="earliest", filter=header_is("a"))
    live, _, _ = await world.subscribe("orders")
    await quiet(5)
    seen: set[int] = set()
    await until(lambda: seen.add(len(reader.ids())) or not delivery.busy)
    assert len(seen) > 20
    turns = itertools.count()
    await world.append(20)
    await until(lambda: next(turns) >= 0 and len(live.ids()) == 20)
    assert next(turns) > 10


@pytest.mark.gen_test
async def test_an_event_whose_rules_take_a_whole_slice_comes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not fail the pass."""
    monkeypatch.setattr(dispatch, "SLICE", -1.0)
    world = await stocked(0, outputs=(output(1, rules=header_is("a")),))
    reader, _, _ = await world.subscribe("orders")
    await quiet()
    with capture_logs() as logs:
        await world.append(3, headers=kind("a"))
        await quiet()
    assert reader.ids() == ["1-1", "2-1", "3-1"]
    assert logs == []


@pytest.mark.gen_test
async def test_rules_that_cannot_be_understood_let_everything_pass() -> None:
    """They were checked when they were given; an event is delivered rather than lost."""
    world = World()
    await world.bucket(outputs=(output(1, rules={"match": {"type": "later"}}),))
    reader, _, _ = await world.subscribe("orders")
    await world.append()
    await until(lambda: reader.ids() == ["1-1"])


@pytest.mark.gen_test
async def test_rules_of_an_earlier_version_may_cost_more_to_compile_than_new_ones() -> None:
    """They hold as before: nothing passes that they keep back."""
    world = World()
    header = {"source": "header", "name": "x-kind"}
    regexes = [f"kind{number}|[^a]{{1000}}x{number}" for number in range(8)]
    rules = {"or": [{"match": {"type": "regex", "parameter": header, "regex": regex}} for regex in regexes]}
    with pytest.raises(Invalid, match="all patterns together"):
        compile_rules(rules)
    await world.bucket(outputs=(output(1, rules=rules),))
    reader, _, _ = await world.subscribe("orders")
    await world.append(headers=kind("b"))
    await world.append(headers=kind("kind0"))
    await until(lambda: reader.ids() == ["2-1"])


@pytest.mark.gen_test
async def test_who_is_reached() -> None:
    """A copy reaches whoever is subscribed to its bucket, was before it came, and whose filter it passes."""
    world = World()
    await world.bucket(outputs=(output(1), output(2, rules=header_is("b"))))
    await world.bucket("other")

    async def reached() -> list[bool]:
        (event,) = await world.log.read("id-orders", head - 1, 1, 1)
        return [world.deliveries.reaches("id-orders", event, n) for n in (None, 1, 2, 3, 0)]

    await world.append(headers=kind("a"))
    head = 1
    nobody = [False] * 5
    assert await reached() == nobody
    await world.subscribe("other")
    await world.subscribe("orders", since="earliest", outputs="none")
    await world.subscribe("orders", since="earliest", filter=header_is("b"))
    assert await reached() == nobody
    # Who came later and asks for what is new does not get it; who asks for what was, does.
    _, late, _ = await world.subscribe("orders")
    assert await reached() == nobody
    _, early, _ = await world.subscribe("orders", since="earliest")
    assert await reached() == [True, True, False, False, False]
    early.end()
    assert await reached() == nobody
    await world.append(headers=kind("b"))
    head = 2
    assert await reached() == [True, True, True, False, False]
    await world.change(outputs=())
    assert await reached() == [True, False, False, False, True]
    await world.change(stream=False)
    assert await reached() == nobody
    late.end()
    await world.delete("id-orders")


@pytest.mark.gen_test
async def test_who_has_a_copy_has_the_event() -> None:
    """Where it asks for events without outputs from then on."""
    world = await stocked(2, outputs=(output(1), output(2)))
    epoch = await world.epoch()
    reader, first, _ = await world.subscribe("orders", since=f"{epoch}-1-1", start=False)
    _, _, (answer,) = await world.subscribe("orders", reader=reader, replaces=first, outputs="none")
    assert answer["start"] == 2
    await until(lambda: reader.ids() == ["2"])
