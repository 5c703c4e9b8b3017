"""relay_tornado/shares.py: whoever takes all that it gets leaves room for others."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from relay_tornado.shares import Shares
from tests.starving import each_failing


def greedy(shares: Shares[str], user: str) -> int:
    """How much a user gets that takes one by one until there is no more."""
    got = 0
    while shares.fits(user, 1):
        shares.take(user, 1)
        got += 1
    return got


def test_one_user_gets_three_quarters_and_others_a_part_of_the_rest() -> None:
    """However many take all that they get, the next one gets something."""
    shares: Shares[str] = Shares(256)
    assert [greedy(shares, user) for user in "abcd"] == [192, 48, 12, 3]
    assert shares.held == 255


def test_a_first_thing_may_take_everything() -> None:
    """It may be larger than any share; nothing else of its user fits beside it, and nobody's if it leaves nothing."""
    shares: Shares[str] = Shares(100)
    assert not shares.fits("a", 101)
    assert shares.fits("a", 100)
    shares.take("a", 80)
    assert shares.fits("a", 20, own=80)
    assert not shares.fits("a", 1)
    assert shares.fits("b", 20)
    assert not shares.fits("b", 21)
    shares.give_back("a", 80)
    assert shares.held == 0
    assert shares.fits("a", 100)


def test_nothing_is_taken_where_memory_for_it_is_short() -> None:
    """Then nothing is; and what was there is still whole."""
    made: list[Shares[str]] = []

    def make() -> Callable[[], None]:
        made.append(shares := Shares(1000))
        shares.take("a", 400)
        return lambda: shares.take("b", 500)

    for _ in each_failing(make):
        assert (made[-1].held, made[-1].fits("b", 600)) == (400, True)
    assert len(made) > 1
    assert made[-1].held == 900


def test_a_part_of_a_thing_beside_others() -> None:
    """What a user holds counts whole, so a thing does not grow over the share because it was there first."""
    shares: Shares[str] = Shares(100)
    shares.take("a", 30)
    shares.take("a", 10)
    assert shares.fits("a", 35, own=30)
    assert not shares.fits("a", 36, own=30)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 40), st.booleans())))
def test_what_is_held_is_what_was_taken(steps: list[tuple[str, int, bool]]) -> None:
    """No order of steps exceeds the capacity, or leaves something held. A user that holds several things had at most
    three times what was free, when it took the last."""
    shares: Shares[str] = Shares(100)
    held: dict[str, list[int]] = {user: [] for user in "abc"}
    for user, amount, takes in steps:
        if takes and shares.fits(user, amount):
            shares.take(user, amount)
            held[user].append(amount)
            assert len(held[user]) == 1 or sum(held[user]) <= 3 * (100 - shares.held)
        elif not takes and held[user]:
            shares.give_back(user, held[user].pop())
        assert shares.held == sum(map(sum, held.values())) <= 100
    for user, amounts in held.items():
        while amounts:
            shares.give_back(user, amounts.pop())
    assert shares.held == len(shares._by_user) == 0
    assert shares.fits("a", 100)
