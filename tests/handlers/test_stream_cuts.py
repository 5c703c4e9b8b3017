"""/v1/stream: what a client has that is cut off anywhere, between the copies of an event too, and always comes back."""

import random

import pytest

from relay_tornado.model import Output, Retention
from tests.handlers.edge import BUCKET
from tests.handlers.streams import here

COPIES = (1, 2, 3)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.gen_test
async def test_every_copy_comes_once_or_lies_in_a_gap_that_was_told(seed: int) -> None:
    """While events come in, and leave by retention, between any two connections."""
    dice = random.Random(seed)
    async with here() as site:
        await site.edge.change(
            outputs=tuple(Output(f"o{n}", n, f"to {n}", 0, 0, internal=True) for n in COPIES), next_output=4
        )
        got: list[tuple[int, int]] = []
        told: set[int] = set()
        last = ""
        for number in range(40):
            await site.append(dice.randrange(6))
            if number and dice.random() < 0.4:
                await site.edge.log.trim(BUCKET.id, Retention(max_events=dice.randrange(5)), None)
            async with site.source("bucket=orders&since=earliest", last=last) as source:
                for _ in range(1 + dice.randrange(12) if number < 39 else 1_000):
                    message = await source.next()
                    assert message is not None
                    if message.kind == "webhook":
                        _, seq, copy = message.document["meta"]["id"].split("-")
                        got.append((int(seq), int(copy)))
                    gaps = [each["gap"] for each in message.document.get("buckets", ())] + [message.document.get("gap")]
                    for gap in filter(None, gaps):
                        told.update(range(gap["from"], gap["to"] + 1))
                    if message.kind == "caught_up":
                        break
                last = source.id
        head = (await site.edge.log.bounds(BUCKET.id)).head
        assert got == sorted(set(got))
        lacking = {(seq, copy) for seq in range(1, head + 1) for copy in COPIES} - set(got)
        assert {seq for seq, _ in lacking} == told
