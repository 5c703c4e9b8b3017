"""Disables an output whose destination answers 410 Gone, and tries that again until it is stored."""

from __future__ import annotations

from typing import Final

import structlog

from relay_tornado.errors import RelayError
from relay_tornado.forwarding.shared import Shared
from relay_tornado.model import Bucket, Output

GONE: Final = "410 Gone"
"""The reason for which the output is disabled."""

_AGAIN: Final = 10.0
"""Seconds until an output that could not be disabled is disabled again."""

_log = structlog.get_logger(__name__)


class Disabling:
    """Of one output. `at` is when it is to be disabled (again), in monotonic seconds; None if it need not be."""

    def __init__(self, shared: Shared) -> None:
        self.at: float | None = None
        self._shared = shared

    async def disable(self, bucket: Bucket, output: Output) -> bool:
        """Disables the output. Returns False if that can't be stored: the first time, it is logged."""
        again = self.at is not None
        self.at = self._shared.monotonic() + _AGAIN
        try:
            await self._shared.disable(bucket, output, GONE)
        except RelayError as error:
            if not again:
                _log.warning(
                    "output_not_disabled",
                    output=output.id,
                    name=output.name,
                    bucket=bucket.name,
                    reason=str(error),
                    consequence="it sends nothing, and is disabled once that can be stored",
                )
            return False
        self.at = None
        return True
