"""The limits of connections, of those that Tornado serves and of the relay's own."""

from __future__ import annotations

from typing import Final

from relay_tornado.settings import Settings
from relay_tornado.transport.refusals import last_answer

READ_SIZE: Final = 32 << 10

SMALL_BODY: Final = 64 << 10
"""After a refusal, a body of up to this many bytes is read to its end and the connection stays open; after a larger one
it is closed."""

DISCARD_TIME: Final = 10.0
"""Seconds for which what a client still sends is dropped, or one is kept that may have left."""
NEVER: Final = float("inf")

SLOWEST: Final = 1 << 10
"""Bytes per second: a client whose side acknowledges as many may read its answer to the end. Those that read little
acknowledge in steps, of up to a sixteenth of their kernel's buffer."""


class Limits:
    """The limits that the settings give: times in seconds, and sizes in bytes."""

    def __init__(self, settings: Settings) -> None:
        self.idle_timeout = settings.idle_timeout
        self.head_timeout = settings.head_timeout
        self.body_timeout = settings.body_timeout
        self.enough_read = SLOWEST * settings.idle_timeout
        """A client that has read this much of its answer within `idle_timeout` may go on, even if nothing left: the
        kernel takes more only once it has sent half of what it keeps (`handlers.listener.MOST_UNSENT`)."""
        self.max_header = settings.max_header
        self.buffer = 4 * max(settings.max_header, READ_SIZE)
        """What Tornado may read ahead."""
        self.discarded = 2 * settings.large_max_body
        """What is read and dropped of a body after a refusal."""
        text = f"The request line and headers are longer than the {settings.max_header} bytes that the relay reads."
        self.head_too_long = last_answer(431, text)
        """The answer to a longer head."""
