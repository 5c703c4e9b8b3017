"""Divides what is bounded for all, such as a buffer, so that one user of it keeps nobody out."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

User = TypeVar("User")

SHARE: Final = 3
"""One may hold so many times what is free then: three quarters of all, if nobody else holds anything."""


def exceeds(held: int, amount: int, free: int) -> bool:
    """Whether who holds something may not have this amount more; `free` is what is free then. Who holds nothing may
    have all, since a first thing may be larger than any share."""
    return held > 0 and held + amount > SHARE * free


class Shares(Generic[User]):
    """Amounts held by users, at most `capacity` in all; `held` is their sum.

    A user that holds something gets more only if it then holds at most `SHARE` times what is free, so there is always
    room for another.
    """

    __slots__ = ("_by_user", "capacity", "held")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held = 0
        self._by_user: dict[User, int] = {}

    def fits(self, user: User, amount: int, own: int = 0) -> bool:
        """Whether the user may take this amount. `own` is how much it holds already for the same thing."""
        free = self.capacity - self.held - amount
        others = self._by_user.get(user, 0) - own
        return free >= 0 and not exceeds(others, own + amount, free)

    def take(self, user: User, amount: int) -> None:
        """Takes an amount, whether it fits or not. Takes nothing if it raises MemoryError."""
        if amount:
            held = self.held + amount
            self._by_user[user] = self._by_user.get(user, 0) + amount
            self.held = held

    def give_back(self, user: User, amount: int) -> None:
        """Gives back an amount that the user holds."""
        if amount:
            held, left = self.held - amount, self._by_user[user] - amount
            if left:
                self._by_user[user] = left
            else:
                del self._by_user[user]
            self.held = held
