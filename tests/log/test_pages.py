"""relay_tornado/log/pages.py: reads that are shared."""

from __future__ import annotations

import asyncio
from typing import Any

from relay_tornado.log.pages import Block, Pages
from relay_tornado.log.state import LogState
from relay_tornado.model import Epoch, Event


def block(end: int) -> Block:
    events = [Event(seq, "e", 0.0, "i", "POST", b"", b"", b"", b"", "::1") for seq in range(1, end + 1)]
    return Block(1, [*events], [0] * end, 256)


def test_a_read_that_is_just_done_is_not_shared() -> None:
    """A reader of what came since would get it at once, again and again, and nothing else would ever run."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        reads: list[asyncio.Future[Block]] = []

        def read(job: Any) -> asyncio.Future[Block]:
            reads.append(loop.create_future())
            return reads[-1]

        pages = Pages(0, read)
        state = LogState(1, "b", [Epoch("e", 1)], True)
        state.head = 10
        waiting = loop.create_task(pages.load(state, 5))
        while not reads:  # noqa: ASYNC110 - a few turns of the loop
            await asyncio.sleep(0)
        state.head = 11
        came: list[bool] = []

        def come() -> None:
            reader = pages.load(state, 11)
            try:
                reader.send(None)
            except StopIteration:
                came.append(False)
            else:
                came.append(True)
            reader.close()

        reads[0].set_result(block(10))
        loop.call_soon(come)  # after the read's last step, and before anybody is told of its end
        assert (await waiting).end == 10
        assert came == [True]
        while len(reads) < 2:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        shared = loop.create_task(pages.load(state, 11))
        await asyncio.sleep(0)
        reads[1].set_result(block(11))
        assert (await shared).end == 11
        assert len(reads) == 2
        await pages.close()

    asyncio.run(asyncio.wait_for(run(), 30))
