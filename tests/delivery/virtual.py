"""An event loop whose clock jumps to the next timer whenever nothing else is to be done: hours pass at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

START = 1_700_000_000.0
"""What the clock of day shows when the loop's shows 0."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Fails where it would have to wait for something that is no timer."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0
        selector: Any = self._selector  # type: ignore[attr-defined]
        select = selector.select

        def jump(timeout: float | None = None) -> Any:
            assert timeout is not None, "nothing is left that could happen"
            self.passed += max(timeout, 0.0)
            return select(0)

        selector.select = jump

    def time(self) -> float:
        return self.passed


def day() -> float:
    """The clock of day, in unix seconds, of the running loop."""
    return START + asyncio.get_running_loop().time()


virtual_test = pytest.mark.gen_test(timeout=7 * 86_400)
"""A test on such a loop, in a module that has `event_loop` from here."""


@pytest.fixture
def event_loop() -> Iterator[VirtualLoop]:
    """Its last words are tasks that failed."""
    problems: list[dict[str, Any]] = []
    loop = VirtualLoop()
    loop.set_exception_handler(lambda _, context: problems.append(context))
    yield loop
    assert not problems, problems


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Runs a test on a loop of its own; its last words are tasks that failed."""
    problems: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: problems.append(context))

        async def bounded() -> None:
            async with asyncio.timeout(7 * 86_400):
                await test()

        runner.run(bounded())
    assert not problems, problems
