"""`relay forward` against a real relay and a real target."""

from __future__ import annotations

import json
import re
import socket
import threading
from base64 import b64encode
from pathlib import Path
from typing import Any

from tests.acceptance.relay import Relay, wait_for
from tests.agent.target_server import BODY
from tests.agent.wiretap import Wiretap
from tests.agent.world import QUICK, Agent, Target, forward, kept, logs, send


def raw(relay: Relay, request: bytes) -> bytes:
    """Sends a request and returns how its answer begins."""
    with socket.create_connection(("127.0.0.1", relay.port), 30) as connection:
        connection.sendall(request)
        return connection.recv(65536)


def test_requests_arrive_as_they_came(relay: Relay, secret: str, target: Target, tmp_path: Path) -> None:
    """Method, path, query, headers and body byte for byte, but for what is about one hop."""
    path = relay.create_bucket("exact")
    body = bytes(range(256)) * 9
    head = (
        f"PROPFIND {path}/a//b/../%2F%zz/%C3%A9?x=%41&&y=[1]+2 HTTP/1.1\r\nHost: relay\r\nX-B: 1\r\nX-Number: 1\r\n"
        f'x-b: 2\r\nContent-Type: application/x-thing; a="b"\r\nAuthorization: Bearer t\r\nConnection: close, X-Hop\r\n'
        f"X-Hop: no\r\nX-Latin: caf\xc3\xa9\r\nAccept-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with forward(tmp_path, relay, secret, "exact", f"{target.url}/base?own=1", "--header", "X-Mine: yes"):
        assert raw(relay, head.encode("latin-1") + body).startswith(b"HTTP/1.1 200 ")
        [seen] = wait_for(target.seen, "the request")
    assert seen.line == "PROPFIND /base/a//b/../%2F%zz/%C3%A9?own=1&x=%41&&y=[1]+2 HTTP/1.1"
    assert seen.body == body
    assert seen.headers == [
        ("Host", f"127.0.0.1:{target.port}"),
        ("X-B", "1"),
        ("X-B", "2"),
        ("X-Number", "1"),
        ("Content-Type", 'application/x-thing; a="b"'),
        ("Authorization", "Bearer t"),
        ("X-Latin", "caf\xc3\xa9"),
        ("Accept-Encoding", "gzip"),
        ("X-Mine", "yes"),
        ("Content-Length", str(len(body))),
    ]


def test_nobody_climbs_out_of_the_target(relay: Relay, secret: str, target: Target, tmp_path: Path) -> None:
    """Whoever may send to an input reaches what is below the URL, and nothing else of its server."""
    path = relay.create_bucket("climbing")
    with forward(tmp_path, relay, secret, "climbing", f"{target.url}/base"):
        for below in ("/../inside", "/a/%2e%2e/%2E./inside", "/a/../b"):
            assert raw(relay, f"POST {path}{below} HTTP/1.1\r\nHost: r\r\n\r\n".encode()).startswith(b"HTTP/1.1 200 ")
        [seen] = wait_for(target.seen, "the request")
    assert seen.line == "POST /base/a/../b HTTP/1.1"


def exact_request(path: str) -> bytes:
    """A webhook whose bytes are no UTF-8, with a method in lower case and a "#"."""
    return (
        f"post {path}/\xe9/%2F?a?b=\xe9\xff# HTTP/1.1\r\nHost: relay\r\nX-L: caf\xe9\r\nX-U: caf\xc3\xa9\r\n"
        "X-M: \xc3\xa9\r\nX-M: \xe9\r\nContent-Length: 2\r\n\r\n\xff\x00"
    ).encode("latin-1")


def exact_head(target: Target, base: bytes) -> bytes:
    """What the target gets of it."""
    host = b"Host: 127.0.0.1:%d\r\n" % target.port
    fields = b"X-L: caf\xe9\r\nX-U: caf\xc3\xa9\r\nX-M: \xc3\xa9\r\nX-M: \xe9\r\nContent-Length: 2\r\n\r\n"
    return b"post " + base + b"/\xe9/%2F?a?b=\xe9\xff# HTTP/1.1\r\n" + host + fields


def test_bytes_that_are_no_text(relay: Relay, secret: str, target: Target, tmp_path: Path) -> None:
    """They arrive as they came, to a URL, to an output's destination, and in a replay."""
    path = relay.create_bucket("bytes")
    with forward(tmp_path, relay, secret, "bytes", f"{target.url}/url"):
        assert raw(relay, exact_request(path)).startswith(b"HTTP/1.1 200 ")
        wait_for(target.seen, "the request")
    relay.command("output", "create", "bytes", "--name", "o", "--destination", f"{target.url}/own")
    with forward(tmp_path, relay, secret, "bytes", "--since", "earliest"):
        wait_for(lambda: len(target.seen()) == 2, "the request")
    with Agent(tmp_path, relay.url, secret, "replay", "bytes", "--from", "earliest", "--to-url", target.url) as again:
        wait_for(lambda: len(target.seen()) == 3, "the request")
        assert again.wait() == 0
    assert [each.head for each in target.seen()] == [exact_head(target, base) for base in (b"/url", b"/own", b"")]
    assert {each.body for each in target.seen()} == {b"\xff\x00"}


def test_nowhere_to_go(relay: Relay, secret: str, target: Target, tmp_path: Path) -> None:
    """Without URL a bucket that says nowhere where its events go is an error at the start, which says what to give."""
    relay.create_bucket("nowhere")
    relay.command("output", "create", "nowhere", "--name", "far", "--public", "--destination", target.url)
    for arguments in ((), ("--output", "there"), ("--output", "blank")):
        with forward(tmp_path, relay, secret, "nowhere", *arguments) as agent:
            assert agent.wait() == 2
            for words in ("nowhere has no internal output", "name a URL", "relay output create nowhere"):
                assert words in agent.said()
        if not arguments:
            relay.command("output", "create", "nowhere", "--name", "blank")
            relay.command("output", "create", "nowhere", "--name", "other", "--destination", target.url)
    assert not [*tmp_path.glob("state/**/*.checkpoint")]


def test_an_event_waits_for_its_destination(relay: Relay, secret: str, target: Target, tmp_path: Path) -> None:
    """One whose output has none stays at its place, and goes out once there is one; nothing is passed over."""
    path = relay.create_bucket("waiting")
    for name, given in (("a", ("--destination", f"{target.url}/a")), ("b", ())):
        relay.command("output", "create", "waiting", "--name", name, *given)
    place = tmp_path / "place"
    with forward(tmp_path, relay, secret, "waiting", "--checkpoint", str(place), "--max-tries", "1") as agent:
        send(relay, path, 1)
        send(relay, path, 2)
        wait_for(lambda: len([each for each in agent.printed() if each["what"] == "retrying"]) >= 2, "two tries")
        assert "no destination" in agent.printed()[-1]["error"]
        assert kept(place).endswith("-1-1")
        assert agent.stop() == 0
        assert agent.printed()[-1]["failed"] == 0
        agent.start()
        relay.command("output", "set", "--bucket", "waiting", "b", "--destination", f"{target.url}/b")
        wait_for(lambda: len(target.seen()) == 4, "every copy")
        assert agent.stop() == 0
    assert [each.line.split()[1] for each in target.seen()] == ["/a", "/b", "/a", "/b"]
    assert agent.printed()[-1]["failed"] == 0


def test_an_event_with_no_destination_under_the_original_protocol(
    relay: Relay, secret: str, target: Target, tmp_path: Path
) -> None:
    """It would not come again, so nothing waits for it: it is told as failed, and the others go out."""
    path = relay.create_bucket("unplaced")
    for name, given in (("a", ()), ("b", ("--destination", f"{target.url}/b"))):
        relay.command("output", "create", "unplaced", "--name", name, *given)
    with forward(tmp_path, relay, secret, "unplaced", "--stock") as agent:
        for number in (1, 2):
            send(relay, path, number)
        wait_for(lambda: target.numbers() == [1, 2], "every event that has somewhere to go")
        assert agent.stop() == 0
    assert [each["output"] for each in agent.printed() if each["what"] == "failed"] == ["a", "a"]


def test_a_token_that_may_not_ask(relay: Relay, target: Target, tmp_path: Path) -> None:
    """Whether the output is there can't be looked up: what comes for it goes out all the same."""
    path = relay.create_bucket("unasked")
    relay.command("output", "create", "unasked", "--name", "worker")
    _, secret = relay.create_token("--bucket", "unasked", "--api-access", "disabled")
    with forward(tmp_path, relay, secret, "unasked", target.url, "--output", "worker") as agent:
        send(relay, path, 1)
        wait_for(target.seen, "the request")
        assert agent.stop() == 0


def test_what_people_see(relay: Relay, secret: str, target: Target, tmp_path: Path) -> None:
    """A line for each event: its answer, how long it took, how many tries; what is missing; totals at the end."""
    path = relay.create_bucket("seen", "--retention-events", "3")
    for number, answer in enumerate(("200", "200", "404", "503", "503 201"), 1):
        send(relay, f"{path}/{number}?secret=1", number, X_Answer=answer)
    wait_for(lambda: min(logs(relay, "seen")) == 3, "retention", timeout=60)
    first = logs(relay, "seen")[3]["id"].partition("-")[0]
    arguments = ("seen", target.url, "--since", f"{first}-0", "--max-tries", "2", "--max-delay", "0.05")
    agent = Agent(tmp_path, relay.url, secret, "forward", *arguments)
    agent.start(until=lambda: "201" in (agent.output.read_text() if agent.output.exists() else ""))
    with agent:
        assert agent.stop() == 0
    lines = [re.sub(r"\d\d:\d\d:\d\d|[\d.]+ m?s\b", "T", line) for line in agent.output.read_text().splitlines()]
    assert lines == [
        "T  POST   /3  404  T",
        "T  POST   /4  503; try 2 in T",
        "T  POST   /4  503  T  2 tries",
        "T  POST   /5  503; try 2 in T",
        "T  POST   /5  201  T  2 tries",
    ]
    said = agent.said().splitlines()
    assert "retention" in next(line for line in said if "2 events" in line)
    assert re.fullmatch(r"relay: 1 delivered, 1 refused, 1 failed, 2 missing in \d+ s", said[-1])


def test_answers_go_back(relay: Relay, secret: str, target: Target, tmp_path: Path) -> None:
    """The log keeps them, and a sender that waits gets them."""
    path = relay.create_bucket("answers")
    relay.command("input", "set", "answers", "--response-from-output", "anyOutput")
    with forward(tmp_path, relay, secret, "answers", target.url) as agent:
        assert send(relay, path, 1, X_Answer="202") == BODY
        wait_for(agent.printed, "the line")
    [log] = logs(relay, "answers").values()
    assert (log["status"], log["status_code"]) == ("sent", 202)
    assert log["response_headers"]["X-Of-Target"] == ["one", "two"]
    assert log["response_body"] == b64encode(BODY).decode()


def test_answers_stay_here(relay: Relay, secret: str, target: Target, tmp_path: Path) -> None:
    """With --no-respond the relay hears nothing."""
    path = relay.create_bucket("silent")
    with forward(tmp_path, relay, secret, "silent", target.url, "--no-respond") as agent:
        send(relay, path, 1)
        wait_for(agent.printed, "the line")
        assert agent.stop() == 0
    assert [log["status"] for log in logs(relay, "silent").values()] == ["received"]


def test_transient_answers_hold_the_order(relay: Relay, secret: str, target: Target, tmp_path: Path) -> None:
    """What may be answered better later is tried again, and the events behind it wait. What a server says of a
    connection that was quiet (408) is no try."""
    path = relay.create_bucket("order")
    with forward(tmp_path, relay, secret, "order", target.url) as agent:
        send(relay, path, 1, X_Answer="503 429 500 408 425 200")
        send(relay, path, 2, X_Answer="404")
        send(relay, path, 3, X_Answer="302")
        wait_for(lambda: len(target.numbers()) == 8, "three events")
        wait_for(
            lambda: 3 in [log["seq"] for log in logs(relay, "order").values() if log["status"] == "sent"], "answers"
        )
        assert agent.stop() == 0
    assert target.numbers() == [1, 1, 1, 1, 1, 1, 2, 3]
    ended = [each for each in agent.printed() if each["what"] not in ("retrying", "totals")]
    assert [(each["what"], each["status"], each["tries"]) for each in ended] == [
        ("delivered", 200, 5),
        ("refused", 404, 1),
        ("delivered", 302, 1),
    ]
    totals = agent.printed()[-1]
    assert (totals["delivered"], totals["refused"], totals["failed"], totals["unfinished"]) == (2, 1, 0, 0)
    assert [log["status_code"] for _, log in sorted(logs(relay, "order").items())] == [200, 404, 302]


def test_an_event_is_given_up(relay: Relay, secret: str, target: Target, tmp_path: Path) -> None:
    """After --max-tries it has failed, the relay is told what was answered last, and the next one follows."""
    path = relay.create_bucket("failing")
    with forward(tmp_path, relay, secret, "failing", target.url, "--max-tries", "3") as agent:
        send(relay, path, 1, X_Answer="503")
        send(relay, path, 2, X_Answer="200", X_Retry_After="1")
        wait_for(lambda: logs(relay, "failing")[2]["status"] == "sent", "the second event")
        assert agent.stop() == 0
    assert target.numbers() == [1, 1, 1, 2]
    assert agent.printed()[-1]["failed"] == 1
    assert logs(relay, "failing")[1]["status_code"] == 503


def test_a_target_that_is_away(relay: Relay, secret: str, target: Target, tmp_path: Path) -> None:
    """Events wait for it, and come in their order."""
    path = relay.create_bucket("away")
    target.kill()
    with forward(tmp_path, relay, secret, "away", target.url) as agent:
        for number in range(1, 6):
            send(relay, path, number)
        wait_for(
            lambda: [each for each in agent.printed() if each["error"].endswith("Connection refused")], "a failed try"
        )
        target.start()
        wait_for(lambda: len(target.numbers()) == 5, "five events")
    assert target.numbers() == [1, 2, 3, 4, 5]


def test_events_go_to_their_outputs(relay: Relay, secret: str, target: Target, tmp_path: Path) -> None:
    """Without URL each copy goes to its output's destination; --output passes the others over, for good."""
    path = relay.create_bucket("outputs")
    for name, flag in (("a", "--no-lock-path"), ("b", "--lock-path")):
        relay.command("output", "create", "outputs", "--name", name, "--destination", f"{target.url}/{name}?k=1", flag)
    with forward(tmp_path, relay, secret, "outputs") as agent:
        send(relay, path + "/x?q=2", 1)
        wait_for(lambda: len(target.seen()) == 2, "both copies")
        assert agent.stop() == 0
    assert [each.line.split()[1] for each in target.seen()] == ["/a/x?k=1&q=2", "/b?k=1&q=2"]
    place = tmp_path / "b.checkpoint"
    with forward(tmp_path, relay, secret, "outputs", "--output", "b", "--checkpoint", str(place)) as agent:
        send(relay, path + "/x", 2)
        send(relay, path + "/x", 3)
        wait_for(lambda: len(target.seen()) == 4, "two copies")
        wait_for(lambda: kept(place).endswith("-3-2"), "the checkpoint")
    assert [each.line.split()[1] for each in target.seen()[2:]] == ["/b?k=1", "/b?k=1"]


def test_a_slow_target_is_tried_again(relay: Relay, secret: str, target: Target, tmp_path: Path) -> None:
    """An answer that does not come in --timeout is none."""
    path = relay.create_bucket("slow")
    with forward(tmp_path, relay, secret, "slow", target.url, "--timeout", "2", "--max-tries", "2") as agent:
        send(relay, path, 1, X_Wait="1000")
        wait_for(lambda: [each for each in agent.printed() if each["what"] == "failed"], "the end")
        wait_for(lambda: logs(relay, "slow")[1]["status"] == "failed", "the answer")
    assert target.numbers() == [1, 1]
    assert "within 2 s" in agent.printed()[0]["error"]


def test_the_relay_of_this_machine(relay: Relay, target: Target, tmp_path: Path) -> None:
    """With --data it makes a token for itself, and revokes it."""
    path = relay.create_bucket("local")
    agent = Agent(tmp_path, relay.url, "", "forward", "local", target.url, "--data", str(relay.data), *QUICK)
    del agent.command[3:5]
    before = relay.command("token", "list")
    with agent:
        assert len(relay.command("token", "list")) == len(before) + 1
        send(relay, path, 1)
        wait_for(target.seen, "the event")
        assert agent.stop() == 0
    assert relay.command("token", "list") == before


def test_a_relay_that_comes_later(secret: str, relay: Relay, target: Target, tmp_path: Path) -> None:
    """An agent that starts before its relay waits for it."""
    with Relay(tmp_path / "later") as later:
        path = later.create_bucket("later")
        _, its_secret = later.create_token()
        later.kill()
        agent = forward(tmp_path, later, its_secret, "later", target.url)
        runner = threading.Thread(target=agent.start)
        runner.start()
        try:
            wait_for(lambda: agent.errors.exists() and "reconnecting" in agent.said(), "the first try")
            later.start()
            runner.join()
            send(later, path, 1)
            wait_for(target.seen, "the event")
        finally:
            runner.join()
            agent.kill()


STOCK: dict[str, set[str]] = {
    "auth": {"action", "key", "secret"},
    "subscribe": {"action", "buckets"},
    "pong": {"action"},
}


def test_the_stock_protocol_alone(relay: Relay, target: Target, tmp_path: Path) -> None:
    """With --stock not one field goes out that the original's clients do not send, and answers are put as they do."""
    path = relay.create_bucket("stock")
    relay.command("input", "set", "stock", "--response-from-output", "anyOutput")
    key, its_secret = relay.create_token()
    arguments = ("forward", "stock", target.url, "--stock", "--key", key, "--max-tries", "1", *QUICK)
    with Wiretap(relay.port) as tap, Agent(tmp_path, tap.url, its_secret, *arguments) as agent:
        assert send(relay, path + "/x", 1, b"\xff\x00") == BODY
        target.kill()
        relay.command("input", "set", "stock", "--response-from-output", "")
        send(relay, path, 2)
        wait_for(lambda: logs(relay, "stock").get(2, {}).get("status") == "failed", "the failure")
        assert agent.stop() == 0
        messages, requests = tap.messages(), tap.requests()
    assert [each["action"] for each in messages if each["action"] != "pong"] == ["auth", "subscribe"]
    for message in messages:
        assert set(message) == STOCK[message["action"]]
    assert messages[0] == {"action": "auth", "key": key, "secret": its_secret}
    assert messages[1] == {"action": "subscribe", "buckets": ["stock"]}
    [sent, failed] = [json.loads(body) for _, body in requests]
    ids = [log["id"] for _, log in sorted(logs(relay, "stock").items())]
    assert [head.split(b" ")[:2] for head, _ in requests] == [[b"PUT", f"/v1/logs/{each}".encode()] for each in ids]
    headers: Any = sent.pop("response_headers")
    assert headers["X-Of-Target"] == ["one", "two"]
    answered = {
        "id": ids[0],
        "response_body": b64encode(BODY).decode(),
        "status_code": 201,
        "status": "sent",
        "retries": 0,
    }
    assert sent == answered
    nothing = {"response_body": "", "status_code": 0, "response_headers": None, "status": "failed", "retries": 0}
    assert failed == {"id": ids[1], **nothing}
    [seen] = target.seen()
    assert (seen.line, seen.body) == ("POST /x HTTP/1.1", b"\xff\x00")


def test_a_revoked_token(relay: Relay, target: Target, tmp_path: Path) -> None:
    """It ends the agent, which says why."""
    relay.create_bucket("revoked")
    key, its_secret = relay.create_token()
    with forward(tmp_path, relay, its_secret, "revoked", target.url) as agent:
        relay.command("token", "revoke", key)
        assert agent.wait() == 1
    assert "revoked" in agent.said()


def test_events_that_have_left(relay: Relay, secret: str, target: Target, tmp_path: Path) -> None:
    """Where retention took what came while the agent was away, it says so and goes on behind it."""
    path = relay.create_bucket("left", "--retention-events", "3")
    agent = forward(tmp_path, relay, secret, "left", target.url)
    with agent:
        send(relay, path, 1)
        wait_for(lambda: logs(relay, "left")[1]["status"] == "sent", "the first event")
        assert agent.stop() == 0
    for number in range(2, 8):
        send(relay, path, number)
    wait_for(lambda: min(logs(relay, "left")) == 5, "retention")
    with agent:
        wait_for(lambda: len(target.seen()) == 4, "what is left")
        assert agent.stop() == 0
    assert target.numbers() == [1, 5, 6, 7]
    assert agent.printed()[-1]["missing"] == 3
    assert "3 events (2 to 4) of left are missing (retention)" in agent.said()
