"""Divides what is bounded for all, such as a buffer, so that one user of it keeps nobody out."""

from __future__ import annotations

from typing import Generic, TypeVar

User = TypeVar("User")


class Shares(Generic[User]):
    """Amounts held by users, at most `capacity` in all; `held` is their sum.

    A user that holds something gets more only if what is free then is at least what the user holds then. So one user
    alone gets at most half, each of two a third, each of n one in n + 1, and there is always room for another. A first
    thing may take all that is free, since it may be larger than half of the capacity.
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
        return free >= (others + own + amount if others else 0)

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
