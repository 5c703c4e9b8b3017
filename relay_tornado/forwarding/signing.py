"""Signatures of what the relay sends, by Standard Webhooks, with the output's own secret.

The id is that of the event's copy, so it is the same however often the copy is tried; the time is that of the try.
"""

from __future__ import annotations

from relay_tornado.signatures import sign


def signature(secret: str, message_id: str, body: bytes, now: float) -> list[tuple[bytes, bytes]]:
    """The headers of a try at `now` (unix seconds). Raises Invalid where the secret can't be one."""
    made = sign("standard-webhooks", secret, body, now, message_id)
    return [(name.encode(), value.encode()) for name, value in made]
