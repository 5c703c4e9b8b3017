"""`relay logs`: the same through a running relay, over REST, and with none running."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from relay_tornado.cli import logs as commands
from relay_tornado.errors import Overloaded, RelayError, Unavailable
from tests.acceptance.relay import wait_for
from tests.cli.runner import Runner
from tests.cli.server import WAYS, Server, reaching, serving


@WAYS
def test_list_show_resend(relay: Runner, way: str) -> None:
    """Events are found, shown with their answer, and sent again one by one and by a range."""
    made = relay.json("bucket", "create", "orders")
    output = relay.json("output", "create", "orders", "--name", "worker")

    def prepare(server: Server) -> None:
        for n in range(3):
            server.send(made["inputs"][0]["id"], b"body %d" % n, **{"X-Kind": "order" if n else "other"})

    with reaching(relay.data, way, prepare) as variables:
        check(relay, output["id"], **variables)


def test_sizes_are_the_same_in_a_list_and_a_search(relay: Runner) -> None:
    """Also of an event whose body is no text."""
    made = relay.json("bucket", "create", "orders")
    with serving(relay.data) as server:
        server.send(made["inputs"][0]["id"], b"\xff" * 100)
        size = relay.json("logs", "list")["data"][0]["size"]
        for command in (("logs", "list"), ("search", "--bucket", "orders")):
            assert f"  {size}  " in relay(*command).stdout


@WAYS
def test_an_output_that_gets_nothing_is_said(relay: Runner, way: str) -> None:
    """No copy is made for a disabled output whose clients would never get it; a public one gets its copies later."""
    made = relay.json("bucket", "create", "orders")
    inner = relay.json("output", "create", "orders", "--name", "worker")
    outer = relay.json(
        *("output", "create", "orders", "--name", "shop", "--public", "--destination", "https://shop.example/"),
        "--disabled",
    )

    def prepare(server: Server) -> None:
        server.send(made["inputs"][0]["id"], b"x")

    with reaching(relay.data, way, prepare) as variables:
        (event,) = relay.json("logs", "list", **variables)["data"]
        (copy,) = relay.json("logs", "resend", event["id"], "--output", "worker", **variables)["ids"]
        relay.json("output", "set", inner["id"], "--disabled", **variables)
        for to in (
            ("logs", "resend", event["id"], "--output", "worker"),
            ("logs", "resend", event["id"], event["id"], "--output", inner["id"]),
            ("logs", "resend", f"{event['id']}-{inner['number']}"),
            ("logs", "resend", "--bucket", "orders", "--last", "1", "--output", "worker"),
            ("replay", "orders", "--from", "earliest", "--to-output", "worker"),
        ):
            said = relay.refused(*to, **variables)
            assert said == (
                "the output 'worker' is disabled, so nobody would get the copies: first "
                f"`relay output set {inner['id']} --enabled`"
            )
        assert [each["id"] for each in relay.json("logs", "list", **variables)["data"]] == [copy, event["id"]]
        enable = f"is disabled: it gets them after `relay output set {outer['id']} --enabled`\n"
        for to in (
            ("logs", "resend", event["id"], "--output", "shop"),
            ("logs", "resend", f"{event['id']}-{outer['number']}"),
            ("logs", "resend", "--bucket", "orders", "--last", "1", "--output", outer["id"]),
            ("replay", "orders", "--from", "earliest", "--to-output", "shop"),
        ):
            answer = relay(*to, **variables)
            assert (answer.exit_code, enable in answer.stderr) == (0, True), answer.output
        relay.json("output", "set", outer["id"], "--enabled", **variables)
        relay.json("output", "pause", outer["id"], **variables)
        answer = relay("logs", "resend", event["id"], "--output", "shop", **variables)
        assert f"is paused: it gets them after `relay output resume {outer['id']}`\n" in answer.stderr


@WAYS
def test_a_copy_that_rules_leave_out_is_sent_again(relay: Runner, way: str, tmp_path: Path) -> None:
    """It is no log any more, but with --force the output gets it all the same."""
    made = relay.json("bucket", "create", "orders")
    output = relay.json("output", "create", "orders", "--name", "worker")
    rules = tmp_path / "rules.json"
    rules.write_text('{"match": {"type": "value", "value": "y", "parameter": {"source": "header", "name": "X-Kind"}}}')
    relay.json("output", "rules", output["id"], "--file", rules)

    with reaching(relay.data, way, lambda server: server.send(made["inputs"][0]["id"], b"x")) as variables:
        (event,) = relay.json("logs", "list", **variables)["data"]
        copy = f"{event['id']}-{output['number']}"
        assert "no log" in relay.refused("logs", "show", copy, **variables)
        (sent,) = relay.json("logs", "resend", copy, "--force", **variables)["ids"]
        assert relay.json("logs", "show", sent, **variables)["target"] == output["number"]


def test_nothing_among_the_newest(relay: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none of those that one request looks at fits, it says that there are more, and how to go on."""
    made = relay.json("bucket", "create", "orders")
    with serving(relay.data) as server:
        for _ in range(3):
            server.send(made["inputs"][0]["id"], b"x")
    newest = relay.json("logs", "list", "--limit", "1")["data"][0]["id"]
    monkeypatch.setattr("relay_tornado.admin.listing.MOST_SCANNED", 1)
    found = relay("logs", "list", "--status", "failed")
    assert found.stderr == (f"relay: no event was found so far\nrelay: there is more: go on with --cursor {newest}\n")


def check(relay: Runner, output: str, **variables: str) -> None:
    page = relay.json("logs", "list", "--bucket", "orders", "--limit", "2", **variables)
    assert [each["body"] for each in page["data"]] == ["body 2", "body 1"]
    older = relay.json("logs", "list", "--bucket", "orders", "--cursor", page["next_cursor"], **variables)
    assert [each["body"] for each in older["data"]] == ["body 0"]
    assert relay.json("logs", "list", "--status", "failed", **variables)["data"] == []
    assert len(relay.json("logs", "list", "--since", "1h", **variables)["data"]) == 3
    assert relay.json("logs", "list", "--until", "1h", **variables)["data"] == []
    first = older["data"][0]["id"]
    assert relay.json("logs", "show", first, **variables)["body"] == "body 0"
    assert "header    X-Kind: other\n" in relay("logs", "show", first, **variables).stdout
    assert "no log" in relay.refused("logs", "show", "k3v9x1q7m2ab-9", **variables)
    (copy,) = relay.json("logs", "resend", first, "--output", "worker", "--force", **variables)["ids"]
    assert relay.json("logs", "show", copy, **variables)["resend_of"] == first
    arguments = ("--bucket", "orders", "--last", "3", "--filter", "header:X-Kind=order", "--output", output)
    assert "no output" in relay.refused("logs", "resend", first, "--output", "nobody", **variables)
    ids = relay.json("logs", "resend", *arguments, **variables)["ids"]
    assert [relay.json("logs", "show", each, **variables)["body"] for each in ids] == ["body 1", "body 2"]
    table = relay("logs", "list", **variables)
    assert table.exit_code == 0
    assert all(each in table.stdout for each in (first, copy, *ids, "orders", "POST"))


def test_why_a_delivery_failed(relay: Runner) -> None:
    """The relay's own words stand beside the status, not in base64, and so does the beginning of a refusal's answer."""
    made = relay.json("bucket", "create", "orders")
    with serving(relay.data) as server:
        public = ("output", "create", "orders", "--public", "--retries", "-1", "--destination", "http://127.0.0.1:9/")
        assert "will not send" in relay(*public).stderr
        remote = server.variables
        assert "unless it is set to: 127.0.0.1 is not a public" in relay(*public, "--name", "two", **remote).stderr
        server.send(made["inputs"][0]["id"], b"x")
        log = wait_for(lambda: relay.json("logs", "list", "--status", "failed")["data"], "the delivery to fail")[0]
        shown = relay("logs", "show", log["id"]).stdout
    assert re.search(r"^answer +No answer: 127\.0\.0\.1 is not a public address: --forward-allow", shown, re.MULTILINE)
    assert re.search(r"^try .+, output 2 \(two\)$", shown, re.MULTILINE)


def test_the_tries_of_a_delivery(relay: Runner) -> None:
    """An event shows a line for each try, also where there was one, and its retries if there were any.

    How long a try took is shown only where it was said.
    """
    made = relay.json("bucket", "create", "orders")
    with serving(relay.data) as server:
        server.send(made["inputs"][0]["id"], b"x")
        log = relay.json("logs", "list")["data"][0]["id"]

        def answered(status: str, code: int, retries: int, milliseconds: int = 7) -> str:
            delivery = {"status": status, "status_code": code, "retries": retries, "duration_ms": milliseconds}
            server.rest("PUT", f"/v1/logs/{log}", delivery)
            return relay("logs", "show", log).stdout

        once = answered("failed", 500, 0)
        assert re.search("^try .+failed 500  in 7 ms$", once, re.MULTILINE)
        assert "retries" not in once
        answered("failed", 500, 1)
        answered("failed", 502, 1, milliseconds=0)
        shown = answered("sent", 200, 2)
    assert re.search("^status +sent 200$", shown, re.MULTILINE)
    assert re.search("^retries +2$", shown, re.MULTILINE)
    tries = re.findall("^try +[0-9-]+ [0-9:]+ UTC  (.+)$", shown, re.MULTILINE)
    assert tries == ["failed 500  in 7 ms", "failed 500  in 7 ms", "failed 502", "sent 200  in 7 ms"]


def test_why_nothing_is_found(relay: Runner) -> None:
    """A time to come (of another zone, in milliseconds), a range that ends before it begins, an id that was cut."""
    relay.json("bucket", "create", "orders")
    for command in (("logs", "list"), ("search", "x")):
        assert "--since is in the future, as it is 20" in relay(*command, "--since", "2999-12-31T12:00").stderr
        assert "--until is not later than --since" in relay(*command, "--since", "2h", "--until", "3h").stderr
        assert relay(*command, "--since", "3h", "--until", "2h").stderr == "relay: no event was found\n"
    assert relay.refused("logs", "show", "k3v9x1q7m2ab").endswith("a whole id is like k3v9x1q7m2ab-42")
    assert relay.refused("logs", "show", "k3v9x1q7m2ab-42").endswith("it was removed, or never existed")


def test_a_resend_says_what_it_passed_over(relay: Runner) -> None:
    """Events whose content is gone are named; nobody takes the range for sent."""
    made = relay.json("bucket", "create", "orders", "--ephemeral")
    with serving(relay.data) as server:
        for _ in range(2):
            server.send(made["inputs"][0]["id"], b"x")
    assert "not sent: 1 to 2," in relay("logs", "resend", "--bucket", "orders").stderr


def test_all_of_a_bucket_is_asked_for(relay: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal, where the range that one thought of may have been left out; a script is not asked."""
    made = relay.json("bucket", "create", "orders")
    with serving(relay.data) as server:
        server.send(made["inputs"][0]["id"], b"x")
        terminal = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True))
        with monkeypatch.context() as patched:
            patched.setattr(commands, "sys", terminal)
            refused = relay("logs", "resend", "--bucket", "orders", input="n\n")
            assert (refused.exit_code, refused.stdout) == (1, "")
            assert "Send every event of orders again?" in refused.stderr
            assert "relay: nothing was sent" in refused.stderr
            assert "again?" not in relay("logs", "resend", "--bucket", "orders", "--last", "1").stderr
            assert "Sent 2 events again" in relay("logs", "resend", "--bucket", "orders", input="y\n").stdout
        assert len(relay.json("logs", "resend", "--bucket", "orders")["ids"]) == 4


def full_after(most: int, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay takes so many events more, and says then that it is too much."""
    append, left = server.relay.administration.logs.stored.log.append, [most]

    def full(bucket_id: str, event: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            refused = asyncio.get_running_loop().create_future()
            refused.set_exception(Overloaded("too much is coming in"))
            return refused
        return append(bucket_id, event)

    monkeypatch.setattr(server.relay.administration.logs.stored.log, "append", full)


def test_a_resend_that_stops_in_its_middle(relay: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sent is told, and how to go on: whoever repeats the whole command sends it twice."""
    made = relay.json("bucket", "create", "orders")
    with serving(relay.data) as server:
        for n in range(3):
            server.send(made["inputs"][0]["id"], b"%d" % n)
        first = relay.json("logs", "list")["data"][-1]["id"]
        run = relay("logs", "resend", first, "k3v9x1q7m2ab-9", first, "--json")
        printed = json.loads(run.stdout)
        assert (run.exit_code, len(printed["ids"])) == (1, 1)
        assert printed["problem"].startswith(
            "k3v9x1q7m2ab-9 was not sent, nor what is behind it (1 event): there is no log"
        )
        assert run.stderr == f"relay: {printed['problem']}\n"

        full_after(2, server, monkeypatch)
        run = relay("logs", "resend", "--bucket", "orders", "--last", "3")
        assert (run.exit_code, run.stdout.partition(":")[0]) == (1, "Sent 2 events again")
        goes_on = "the same command with --first 3 --last 3 goes on there"
        assert run.stderr == f"relay: broken off: too much is coming in; {goes_on}\n"


def test_a_replay_that_stops_in_its_middle(relay: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says how to go on, too."""
    made = relay.json("bucket", "create", "orders")
    relay.json("output", "create", "orders", "--name", "worker")
    with serving(relay.data) as server:
        for n in range(3):
            server.send(made["inputs"][0]["id"], b"%d" % n)
        full_after(2, server, monkeypatch)
        run = relay("replay", "orders", "--from", "earliest", "--to-output", "worker")
    assert (run.exit_code, run.stdout) == (1, "")
    goes_on = "stopped after 2 of 3: the same command with --from seq:3 --to seq:3 goes on there"
    assert run.stderr == f"relay: {goes_on}\nrelay: broken off: too much is coming in\n"


@pytest.mark.parametrize("error", [Unavailable("it is away"), None])
def test_a_resend_whose_later_request_fails(
    relay: Runner, monkeypatch: pytest.MonkeyPatch, error: RelayError | None
) -> None:
    """The first one's copies are told all the same."""
    answers: list[Any] = [
        {"data": [{"seq": 1500}]},
        {"ids": ["a-1", "a-2"], "next_cursor": "k3v9x1q7m2ab-1000..k3v9x1q7m2ab-1500"},
        error or {"ids": [], "next_cursor": "k3v9x1q7m2ab-1000..k3v9x1q7m2ab-1500", "problem": "it is away"},
    ]

    class Fake:
        def call(self, command: str, **arguments: Any) -> Any:
            answer = answers.pop(0)
            if isinstance(answer, RelayError):
                raise answer
            return answer

    monkeypatch.setattr("relay_tornado.cli.logs.open_relay", lambda data: contextlib.nullcontext(Fake()))
    run = relay("logs", "resend", "--bucket", "orders", "--json")
    assert (run.exit_code, json.loads(run.stdout)["ids"]) == (1, ["a-1", "a-2"])
    assert "--first 1001 --last 1500" in run.stderr


def test_misuse(relay: Runner) -> None:
    """What does not go together is said before anything is done."""
    relay.json("bucket", "create", "orders")
    assert "by their ids" in relay.misused("logs", "resend")
    assert "by their ids" in relay.misused("logs", "resend", "x-1", "--bucket", "orders")
    assert "--first" in relay.misused("logs", "resend", "x-1", "--first", "3")
    assert "JSON" in relay.misused("logs", "resend", "--bucket", "orders", "--filter", "{")
    assert "time" in relay.misused("logs", "list", "--since", "soon")


def test_a_terminal_is_not_steered(relay: Runner, tmp_path: Path) -> None:
    """What a sender wrote is shown with its escapes."""
    made = relay.json("bucket", "create", "orders")
    with serving(relay.data) as server:
        server.send(made["inputs"][0]["id"], b"\x1b[2Jgone", **{"X-Odd": "\x9b31m"})
        log = relay.json("logs", "list")["data"][0]["id"]
        shown = relay("logs", "show", log).stdout
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert "\\x1b[2Jgone" in shown
