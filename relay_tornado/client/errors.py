"""What can go wrong for a client, and whether coming back is of use.

RelayClientError
├── Refused            the relay closed the connection for good: `code` and `reason`
│   └── GapRefused     events are missing, and `on_gap` is "fail": `gaps`
├── Rejected           the relay did not do what it was asked for: `code` and `message`
├── Unreachable        the relay can't be reached, and trying again would not help
├── NotExtended        the service at the URL does not know this relay's additions
└── CheckpointError    the checkpoint can't be read or written

What passes by itself (a relay that is away, a cut connection) is no error: the client comes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relay_tornado.client.event import Gap


class RelayClientError(Exception):
    """The root. The message says what to do, and never holds a secret."""


class Refused(RelayClientError):
    """The relay closed the connection for good. `code` is its close code, 4001 or 4500 to 4999 (docs/protocol.md)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the relay refuses this client: {reason or 'it gave no reason'} ({code})")
        self.code = code
        self.reason = reason


class GapRefused(Refused):
    """Events are missing, and the subscriber asked to stop there (`on_gap="fail"`)."""

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
        """Whether the same may go well a moment later."""
        return self.code in ("unavailable", "overloaded", "unknown", "no_space")


class Unreachable(RelayClientError):
    """Nothing at the URL can become this relay by waiting: a wrong URL, a proxy's that can't be used, a proxy that
    refuses its login or the way there, a certificate that is not trusted."""


class NotExtended(RelayClientError):
    """The service at the URL speaks the stock protocol only: `extended=False` is for it."""

    def __init__(self) -> None:
        super().__init__(
            "the service at this URL speaks the stock protocol only, so nothing can be resumed: say extended=False"
        )


class CheckpointError(RelayClientError):
    """The checkpoint can't be read or written."""
