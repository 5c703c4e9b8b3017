"""The client's errors, and whether reconnecting is of use.

RelayClientError
├── Refused            the relay closed the connection for good: `code` and `reason`
│   └── GapRefused     events are missing, and `on_gap` is "fail": `gaps`
├── Rejected           the relay rejected a request: `code` and `message`
├── Unreachable        the relay can't be reached, and trying again would not help
├── NotExtended        the service at the URL does not know this relay's extensions
└── CheckpointError    the checkpoint can't be read or written

A temporary failure (the relay is away, a connection is cut) is no error: the client reconnects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relay_tornado.client.event import Gap


class RelayClientError(Exception):
    """The base class. The message says what to do, and never holds a secret."""


class Refused(RelayClientError):
    """The relay closed the connection for good. `code` is its close code, 4001 or 4500 to 4999 (docs/protocol.md)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the relay refuses this client: {reason or 'it gave no reason'} ({code})")
        self.code = code
        self.reason = reason


class GapRefused(Refused):
    """Events are missing, and the subscriber asked to stop in that case (`on_gap="fail"`)."""

    def __init__(self, code: int, reason: str, gaps: Sequence[Gap]) -> None:
        super().__init__(code, reason or "events are missing")
        self.gaps = tuple(gaps)


class Rejected(RelayClientError):
    """The relay answered a request with an error. `code` is stable (docs/protocol.md), `message` is for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"the relay rejects this: {message} ({code})")
        self.code = code
        self.message = message

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed a moment later."""
        return self.code in ("unavailable", "overloaded", "unknown", "no_space")


class Unreachable(RelayClientError):
    """Waiting won't help: a wrong URL, an unusable proxy URL, a proxy that refuses the login or the connection, or a
    certificate that is not trusted."""


class NotExtended(RelayClientError):
    """The service at the URL speaks only the stock protocol: use `extended=False` for it."""

    def __init__(self) -> None:
        super().__init__(
            "the service at this URL speaks the stock protocol only, so nothing can be resumed: say extended=False"
        )


class CheckpointError(RelayClientError):
    """The checkpoint can't be read or written."""
