"""Stores the results of an output's attempts, as answers to its copies of events."""

from __future__ import annotations

from typing import Final

import structlog

from relay_tornado.consumer_progress import Taken
from relay_tornado.errors import NotFound, RelayError
from relay_tornado.forwarding.attempt import CUT, AttemptResult
from relay_tornado.forwarding.shared import Shared
from relay_tornado.model import KIB, BucketId, Cursor, Output, Result
from relay_tornado.rate_limits import RepeatLimit

_EXCERPT: Final = 4 * KIB
"""Bytes kept of an answer to an event that will be tried again and had an answer before: senders get the first one."""

_log = structlog.get_logger(__name__)


class Records:
    """The results of one output."""

    def __init__(self, shared: Shared, bucket_id: BucketId, output: Output) -> None:
        self._shared = shared
        self._bucket_id = bucket_id
        self._output = output.id
        self._number = output.n
        self._unstored = RepeatLimit(shared.monotonic)

    async def store(self, taken: Taken, epoch: str, result: AttemptResult, status: str) -> None:
        """Stores an attempt's result with this status. `epoch` is that of the event that was sent: another event may
        have its seq by now. If it can't be stored, that is logged, and the attempt counts even so."""
        copy = Cursor(epoch, taken.seq, self._number)
        headers, body = result.headers, result.body
        code = result.status if 200 <= result.status <= 599 else 0
        milliseconds = round(result.seconds * 1000)
        at = self._shared.clock()
        try:
            if (
                status == "stalled"
                and len(body) > _EXCERPT
                and await self._shared.answers.has_answer(self._bucket_id, copy)
            ):
                headers, body = {**headers, CUT: [f"after {_EXCERPT} bytes"]}, body[:_EXCERPT]
            stored = Result(status, code, headers, body, milliseconds, taken.attempt - 1, at)
            await self._shared.answers.answered(self._bucket_id, copy, stored)
        except NotFound:
            pass  # the event was removed meanwhile
        except RelayError as error:
            why = str(error)
            if self._unstored.due(why):  # on a full disk each one fails
                _log.warning("result_not_stored", output=self._output, reason=why)
        except Exception:
            _log.exception("result_not_stored", output=self._output)
