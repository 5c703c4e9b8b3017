"""Returns the target's answers to the relay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from relay_tornado.agent.agent import Outcome
from relay_tornado.agent.target import MOST_BODY, Answer
from relay_tornado.client.backoff import Backoff
from relay_tornado.client.errors import Rejected, RelayClientError
from relay_tornado.client.event import Event

PATIENCE: Final = 120.0
"""Seconds for which an answer waits while the relay is unreachable."""
TRIES: Final = 5
_BACKOFF: Final = Backoff(longest=5.0)


def answer_of(outcome: Outcome) -> tuple[int, Mapping[str, list[str]], bytes]:
    """Status (0 if nobody answered, or with a status that can't be passed on), headers and body."""
    result = outcome.result
    if not isinstance(result, Answer) or not 200 <= result.status <= 599:
        return 0, {}, b""
    return result.status, result.headers, result.body


async def respond(problem: Callable[[str], None], event: Event, outcome: Outcome) -> None:
    """Returns when the answer is stored in the relay, or given up, which is reported to `problem`."""
    if isinstance(outcome.result, Answer) and not outcome.result.whole:
        problem(f"the answer to {event.id} goes back without its body, which is over {MOST_BODY // 1024} KiB")
    status, headers, body = answer_of(outcome)
    for tries in range(1, TRIES + 1):
        try:
            await event.respond(status, body, headers, timeout=PATIENCE)
            return
        except Rejected as error:
            reason = error.message
            if error.passing and tries < TRIES:
                await asyncio.sleep(_BACKOFF.delay(tries))
                continue
        except TimeoutError:
            reason = "the relay was away for too long"
        except RelayClientError as error:
            reason = str(error)
        problem(f"the answer to {event.id} was not stored: {reason}")
        return
