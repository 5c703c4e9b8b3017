"""A connection to a relay that a test may leave alone for as long as it likes."""

from __future__ import annotations

import http.client
import time
from collections.abc import Mapping

from tests.acceptance.relay import TIMEOUT, Relay

IDLE = 30.0
"""Seconds after which a connection is not used again: the relay closes one that is idle for longer."""


class Connection:
    """One that is kept between requests; after a rest there is a new one."""

    def __init__(self, relay: Relay) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", relay.port, timeout=TIMEOUT)
        self._used = 0.0

    def request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Status and body of the answer."""
        if time.monotonic() - self._used > IDLE:
            self.close()  # the relay has closed it, or is about to
        self._used = time.monotonic()
        self._connection.request(method, path, body, dict(headers))
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def close(self) -> None:
        """It may be used once more: that opens a new one."""
        self._connection.close()
