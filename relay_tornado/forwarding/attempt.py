"""One attempt to send an event to an output's destination, and its result.

An event of which no request can be made is not attempted: nothing is dialled, and that says nothing of the destination.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import structlog

from relay_tornado.counters import Outcome
from relay_tornado.errors import Invalid
from relay_tornado.forwarding.guard import Refused
from relay_tornado.forwarding.request import encode
from relay_tornado.forwarding.shared import Shared
from relay_tornado.model import Bucket, Event, Output
from relay_tornado.outgoing.transport import Answer, NoMeans, Unanswered
from relay_tornado.wire.destination import Destination, parse
from relay_tornado.wire.headers import by_name

TIMEOUT: Final = 10.0
"""Seconds for an answer if the output's setting is 0."""

CUT: Final = "X-Relay-Truncated"
"""Added to the headers of an answer whose body is incomplete."""

_FAILED: Final = "the relay failed on it, see its log"

_parse = lru_cache(maxsize=256)(parse)
"""Cached, since event after event goes to the same URL."""

_log = structlog.get_logger(__name__)


class Request(NamedTuple):
    """An encoded request, valid for this moment and this destination."""

    head: bytes
    body: bytes
    destination: Destination
    method: str


class AttemptResult(NamedTuple):
    """The result of an attempt. `status` is 0 if nobody answered; then `body` says why. `reason` says for the log why
    the attempt failed, without what the destination sent, which may be the request. `retry_after` is in seconds."""

    outcome: Outcome
    status: int
    headers: Mapping[str, Sequence[str]]
    body: bytes
    seconds: float
    retry_after: float | None
    reason: str = ""


class Delayed(NamedTuple):
    """There was no attempt, for a reason that has to do with neither the event nor its destination."""

    reason: str


class Unsent(NamedTuple):
    """Why an event is given up without an attempt: the reason for its dead letter, and the same in a sentence."""

    reason: str
    words: str


def prepare(shared: Shared, bucket: Bucket, output: Output, event: Event) -> Request:
    """Encodes the request. Raises Invalid, and counts it, if the event can't be sent as it and the output are; and
    MemoryError, which says nothing of the event."""
    try:
        destination = _parse(output.destination)
        if shared.own(destination, b"" if output.lock_path else event.path):
            raise Invalid("it is this relay's own public URL: it would send events to itself without end")
        return Request(*encode(event, output, destination, shared.clock()), destination, event.method)
    except Invalid:
        shared.counters.forward_attempts["invalid"] += 1
        raise
    except MemoryError:
        raise
    except Exception:
        # The failure came from this event, which must not cause it again and again.
        shared.counters.forward_attempts["invalid"] += 1
        _log.exception("event_not_encoded", output=output.id, bucket=bucket.name)
        raise Invalid(_FAILED) from None


async def attempt(shared: Shared, output: Output, request: Request) -> AttemptResult | Delayed:
    """Sends an event once, and counts it. Raises nothing unless it is cancelled."""
    started = shared.monotonic()
    outcome: Outcome
    try:
        answer = await shared.transport.send(
            request.head,
            request.body,
            request.destination,
            method=request.method,
            verify=output.tls_verification,
            timeout=output.timeout or TIMEOUT,
        )
    except NoMeans as error:
        return Delayed(str(error))
    except Unanswered as error:
        outcome, words, reason = error.kind, str(error), error.reason
    except Refused as error:
        outcome, words, reason = "refused", str(error), str(error)
    except Exception:
        _log.exception("try_failed", output=output.id)
        outcome, words, reason = "broken", _FAILED, _FAILED
    else:
        return _answered(shared, answer, shared.monotonic() - started)
    seconds = shared.monotonic() - started
    _count(shared, outcome, seconds)
    return AttemptResult(outcome, 0, {}, _unanswered(words).encode(), seconds, None, _unanswered(reason))


def _unanswered(why: str) -> str:
    return f"No answer: {why}."


def _answered(shared: Shared, answer: Answer, seconds: float) -> AttemptResult:
    outcome: Outcome = "sent" if 200 <= answer.status < 300 else "rejected"
    _count(shared, outcome, seconds)
    headers = by_name(answer.headers)
    if answer.cut:
        headers[CUT] = [f"after {len(answer.body)} bytes"]
    wait, reason = None, ""
    if outcome == "rejected":
        wait, reason = answer.retry_after(shared.clock()), f"it answers {answer.status}"
    return AttemptResult(outcome, answer.status, headers, answer.body, seconds, wait, reason)


def _count(shared: Shared, outcome: Outcome, seconds: float) -> None:
    shared.counters.forward_attempts[outcome] += 1
    shared.counters.forward_seconds.add(seconds)
