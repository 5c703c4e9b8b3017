"""How far a consumer is, where memory is short for any step of what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from relay_tornado.consumer_progress import AT_ONCE, Progress
from relay_tornado.ranges import Ranges
from tests.progress import seqs
from tests.starving import each_failing

HEAD = 3010
NOW = 1000.0


def consumer() -> Progress:
    """One at 3,000, beyond what Python has as small numbers: 3,001 and 3,004 are out for the first time, 3,002 again,
    3,003 is done, 3,005 waits to be tried again."""
    progress = Progress(3000, at=NOW)
    for one in progress.take(HEAD, 5, NOW):
        progress.begin(one)
        if one.seq == 3002:
            progress.fail(one, AT_ONCE, NOW)
        elif one.seq == 3003:
            progress.done(one)
        elif one.seq == 3005:
            progress.fail(one, NOW + 60, NOW)
    assert seqs(progress.take(HEAD, 1, NOW)) == [3002]
    return progress


def state(progress: Progress) -> dict[str, Any]:
    """All that it knows. What is due may be noted twice."""
    found = {name: sorted(value) if isinstance(value, Ranges) else value for name, value in vars(progress).items()}
    return found | {"_due": (sorted(set(progress._due._heap)), progress._due._beyond)}


def said(name: str, seq: int, *arguments: Any, **options: Any) -> Callable[[Progress], Any]:
    def say(progress: Progress) -> Any:
        return getattr(progress, name)(progress._out.get(seq), *arguments, **options)

    return say


@pytest.mark.parametrize(
    "say",
    [
        pytest.param(said(name, seq, *arguments, **options), id=f"{name} {seq}")
        for seq in (3001, 3002, 3004)
        for name, arguments, options in (
            ("begin", (), {}),
            ("done", (), {}),
            ("fail", (NOW + 5, NOW), {}),
            ("bury", (NOW, "max_deliver"), {}),
            ("release", (), {}),
        )
    ]
    + [
        pytest.param(lambda progress: progress.changes(), id="changes"),
        pytest.param(lambda progress: progress.advance(3003), id="advance"),
        pytest.param(lambda progress: progress.trim(3003, NOW)[1:], id="trim"),
    ]
    + [
        pytest.param(lambda progress, seq=seq: progress.give_up(seq, HEAD, NOW) and None, id=f"give up {seq}")
        for seq in (3001, 3002, 3005, 3006)
    ],
)
def test_what_fails_half_way_may_be_said_again(say: Callable[[Progress], Any]) -> None:
    """Then all is as if it had gone well at once, and what is out before has not been lost."""
    whole = consumer()
    expected = say(whole)
    broken = consumer()

    def step() -> Callable[[], Any]:
        nonlocal broken
        broken = deepcopy(before)
        return lambda: say(broken)

    before = consumer()
    failures = 0
    for n in each_failing(step):
        failures += 1
        assert say(broken) == expected, n
        assert state(broken) == state(whole), n
    assert failures


def test_what_is_taken_half_way_may_be_given_back() -> None:
    """What was taken by then is known to whoever takes; when it has given that back, all can be taken."""
    taken: list[Any] = []
    progress = consumer()

    def step() -> Callable[[], Any]:
        nonlocal progress
        progress, taken[:] = consumer(), []
        return lambda: progress.take(HEAD, 10, NOW + 60, into=taken)

    for n in each_failing(step):
        for one in taken:
            progress.release(one)
        assert seqs(progress.take(HEAD, 10, NOW + 60)) == [3005, 3006, 3007, 3008, 3009, 3010], n
        assert progress._fresh == {3001, 3004, *range(3006, 3011)}, n
    assert progress.reached == HEAD
