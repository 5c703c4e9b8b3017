"""When a server wants a request to come again."""

from __future__ import annotations

import pytest

from relay_tornado.outgoing.retry_after import retry_after


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("99999999", 3600.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 60.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Sun, 01 Jan 9999 00:00:00 GMT", 3600.0),
        *((nothing, None) for nothing in (None, "", "soon", "-5", "1.5", "٣", "Thu, 99 Jan 1970 00:01:40 GMT")),
        (f"Thu, 01 Jan 1970 00:01:40 +{'9' * 20}", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    """Seconds or a date, an hour at most; what is neither is nothing."""
    assert retry_after(value, None, now=40.0) == seconds
    assert retry_after(value, "yesterday", now=40.0) == seconds


def test_by_the_servers_clock() -> None:
    """A date is one of its own clock's, whatever ours says."""
    later, date = "Thu, 01 Jan 1970 00:01:40 GMT", "Thu, 01 Jan 1970 00:01:30 GMT"
    assert [retry_after(later, date, now) for now in (0.0, 40.0, 1e9)] == [10.0, 10.0, 10.0]
