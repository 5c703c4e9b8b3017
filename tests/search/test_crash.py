"""The index after a kill -9: what it says that it has, it has, and what it lacks it takes in."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.acceptance.relay import Relay, wait_for


def call(relay: Relay, secret: str, path: str, **query: Any) -> Any:
    url = f"{relay.url}{path}?{urlencode(query)}"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {secret}"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read())


def send(relay: Relay, path: str, first: int, count: int) -> None:
    for number in range(first, first + count):
        body = f'{{"order": "number-{number:06d}"}}'.encode()
        urllib.request.urlopen(relay.url + path, body, timeout=60).close()


def test_nothing_is_lost_to_searches_by_kills(tmp_path: Path) -> None:
    """Killed wherever it is in building and following, again and again: in the end each event is found once, and the
    file is the same one."""
    with Relay(tmp_path / "data") as relay:
        path = relay.create_bucket("orders")
        _, secret = relay.create_token()
        sent = 0
        for pause in (0.0, 0.4, 0.7, 1.0):
            send(relay, path, sent, 40)
            sent += 40
            if pause:
                wait_for(lambda: call(relay, secret, "/v1/search", bucket="orders", q="order")["indexed_up_to"], "it")
            relay.kill()
            relay.start()
        send(relay, path, sent, 5)
        sent += 5

        def through() -> bool:
            page = call(relay, secret, "/v1/search", bucket="orders", q="number-000001")
            status = call(relay, secret, "/v1/status")["buckets"][0]
            return bool(page["complete"]) and page["indexed_up_to"] == status["position"]

        wait_for(through, "the index")
        found: list[int] = []
        cursor = ""
        while cursor is not None:
            page = call(relay, secret, "/v1/search", bucket="orders", q='"number-0000"', limit=50, cursor=cursor)
            found += [each["seq"] for each in page["data"]]
            cursor = page["next_cursor"]
        expected = [number + 1 for number in range(min(sent, 100))]
        assert found == expected[::-1]
        (one,) = call(relay, secret, "/v1/search", q="number-000164")["data"]
        assert one["seq"] == 165
