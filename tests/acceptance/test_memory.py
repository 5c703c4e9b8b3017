"""A relay that memory is short for: what it can't take is refused, none of that is held, and then all is as before."""

from __future__ import annotations

import re
import resource
import urllib.error
import urllib.request
from pathlib import Path

from tests.acceptance.relay import TIMEOUT, Relay, wait_for

BODY = bytes(2_900_000)


def post(relay: Relay, path: str, body: bytes) -> tuple[int, str | None]:
    """The status, and Retry-After."""
    try:
        with urllib.request.urlopen(
            urllib.request.Request(relay.url + path, body, method="POST"), timeout=TIMEOUT
        ) as answer:
            return answer.status, answer.headers["Retry-After"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Retry-After"]


def test_a_body_for_which_there_is_no_memory(relay: Relay) -> None:
    """Its sender is told to send it again, and its bytes count for nothing any more."""
    path = relay.create_bucket("orders")
    _, secret = relay.create_token()
    assert post(relay, path, b"before") == (200, None)
    wait_for(lambda: "search_index_ready" in relay.said(), "what is opened after the start, and takes memory too")
    status = Path(f"/proc/{relay.pid}/status").read_text()
    size = int(next(line for line in status.splitlines() if line.startswith("VmData:")).split()[1]) << 10
    # Not of all addresses, of which the C library has some in reserve for each thread.
    resource.prlimit(relay.pid, resource.RLIMIT_DATA, (size + (1 << 20), resource.RLIM_INFINITY))
    answers = [post(relay, path, BODY) for _ in range(8)]
    assert (503, "1") in answers
    assert set(answers) <= {(200, None), (503, "1")}
    resource.prlimit(relay.pid, resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert post(relay, path, BODY) == (200, None)
    assert "\nrelay_ingest_buffer_bytes 0.0\n" in relay.rest(secret, "GET", "/metrics")
    assert relay.stop() == 0
    # Python itself tells of a thread that finds no memory as it begins, after which it is begun once more.
    said = re.sub(r"Exception ignored in thread started by: .*?\nKeyError: \d+\n", "", relay.said(), flags=re.DOTALL)
    assert "Traceback" not in said
    assert relay.command("check")["events"] == 2 + answers.count((200, None))
