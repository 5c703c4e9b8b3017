"""`relay input …` and `relay output …` on a data directory that no relay serves."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from relay_tornado.cli import common
from tests.admin.forms import INPUT, OUTPUT
from tests.cli.runner import Runner
from tests.cli.server import serving


@pytest.fixture
def made(relay: Runner) -> dict[str, Any]:
    """A bucket `orders`."""
    bucket: dict[str, Any] = relay.json("bucket", "create", "orders")
    return bucket


# relay input


@pytest.mark.usefixtures("made")
def test_an_input_by_all_its_options(relay: Runner, tmp_path: Path) -> None:
    """By flags when it is made, by variables when it is changed: all arrive, and secrets come from files, too."""
    (tmp_path / "secret").write_text("from-a-file\n")
    found = relay.json(
        *("input", "create", "orders", "--id", "static-1", "--name", "shop", "--description", "d", "--status", 202),
        *("--body", "ok", "--header", "X-A: 1", "--header", "X-A: 2", "--custom-domain", "hooks.example.org"),
        *("--path-prefix", "/shop", "--strip-path-prefix", "--response-from-output", "anyOutput"),
        *("--verify", "github", "--verify-secret", "one", "--verify-secret-file", tmp_path / "secret"),
        *("--on-failure", "mark", "--rate-limit", 5, "--rate-interval", "1m"),
    )
    assert list(found) == INPUT
    assert (found["id"], found["name"], found["description"], found["status_code"]) == ("static-1", "shop", "d", 202)
    assert (found["body"], found["headers"]) == ("ok", {"X-A": ["1", "2"]})
    assert (found["custom_domain"], found["path_prefix"], found["strip_path_prefix"]) == (
        *("hooks.example.org", "/shop"),
        True,
    )
    assert found["response_from_output"] == "anyOutput"
    assert found["verify"] == {"provider": "github", "secrets": ["one", "from-a-file"], "on_failure": "mark"}
    assert found["rate_limit"] == {"events": 5, "interval": 60}
    changed = relay.json(
        *("input", "set", "static-1"),
        RELAY_INPUT_VERIFY="none",
        RELAY_INPUT_RATE_LIMIT="none",
        RELAY_INPUT_STRIP_PATH_PREFIX="0",
        RELAY_INPUT_CUSTOM_DOMAIN="",
        RELAY_INPUT_BUCKET="orders",
    )
    assert (changed["verify"], changed["rate_limit"], changed["strip_path_prefix"]) == (None, None, False)
    assert '"" for none' in relay.refused("input", "set", "static-1", "--response-from-output", "none")
    changed = relay.json("input", "set", "static-1", "--custom-domain", "", "--response-from-output", "")
    assert (changed["custom_domain"], changed["response_from_output"], changed["path_prefix"]) == ("", "", "/shop")
    assert relay.json("input", "show", "shop", "--bucket", "orders") == changed


def test_an_input_is_changed(relay: Runner, made: dict[str, Any], tmp_path: Path) -> None:
    """By flags and by variables, by its id and by its bucket's name."""
    changed = relay.json(
        *("input", "set", made["inputs"][0]["id"], "--name", "shop", "--description", "d", "--status", "202"),
        *("--body", '{"ok":true}', "--header", "Content-Type: application/json"),
        *("--header", "X-Many:a", "--header", "X-Many: b:c"),
    )
    assert list(changed) == INPUT
    assert (changed["name"], changed["description"], changed["status_code"]) == ("shop", "d", 202)
    assert changed["body"] == '{"ok":true}'
    assert changed["headers"] == {"Content-Type": ["application/json"], "X-Many": ["a", "b:c"]}
    file = tmp_path / "body"
    file.write_bytes("grüezi\r\n".encode())
    again = relay.json(
        *("input", "set", "orders"),
        RELAY_INPUT_NAME="till",
        RELAY_INPUT_DESCRIPTION="e",
        RELAY_INPUT_STATUS="201",
        RELAY_INPUT_BODY_FILE=str(file),
        RELAY_INPUT_HEADER="X-One: 1, 2\nX-Two: 3\n",
    )
    assert (again["name"], again["description"], again["status_code"]) == ("till", "e", 201)
    assert (again["body"], again["headers"]) == ("grüezi\r\n", {"X-One": ["1, 2"], "X-Two": ["3"]})
    assert relay.json("input", "set", "orders", "--body-file", "-", input="from stdin\n")["body"] == "from stdin\n"
    cleared = relay.json("input", "set", "orders", "--body", "", "--no-headers", "--status", "204")
    assert (cleared["body"], cleared["headers"], cleared["status_code"]) == ("", {}, 204)
    shown = relay("input", "set", "orders", "--header", "X-A: b", RELAY_INPUT_BODY="x", RELAY_INPUT_STATUS="200").stdout
    assert re.search(r"^answers +200, 1 byte$", shown, re.MULTILINE)
    assert re.search(r"^header +X-A: b$", shown, re.MULTILINE)
    assert relay.json("input", "set", "orders", RELAY_INPUT_NO_HEADERS="1")["headers"] == {}


def test_inputs_are_listed_and_found(relay: Runner, made: dict[str, Any]) -> None:
    """By id, by name within a bucket, or as the only one of a bucket; and the form for people shows no secret."""
    relay.json("bucket", "create", "billing")
    first = made["inputs"][0]
    assert relay.json("input", "show", "orders") == relay.json("input", "show", first["id"]) == first
    second = relay.json("input", "create", "orders", "--name", "x", "--verify", "gitlab", "--verify-secret", "hidden-1")
    assert relay.json("input", "list", "orders") == [first, second]
    assert len(relay.json("input", "list")) == 3
    assert "there is no input with the id 'nothing'" in relay.refused("input", "show", "nothing")
    assert "a name needs its bucket, too (--bucket)" in relay.refused("input", "show", "x")
    assert "a name needs its bucket, too (--bucket)" in relay.refused("input", "set", "x", "--status", 201)
    assert "no bucket 'nothing'" in relay.refused("input", "list", "nothing")
    shown = relay("input", "show", second["id"]).stdout
    assert re.search(r"^verifies +gitlab, reject$", shown, re.MULTILINE)
    assert "hidden-1" not in shown + relay("input", "list").stdout


def test_a_bucket_with_several_names_none_of_them(relay: Runner, made: dict[str, Any], tmp_path: Path) -> None:
    """Where it is not said which is meant, that is refused with the ids and the way to say it, here and at a URL."""
    ids = [made["inputs"][0]["id"], relay.json("input", "create", "orders", "--name", "x")["id"]]
    expected = (
        f"the bucket 'orders' has 2 inputs: name the one you mean by its id ({', '.join(ids)}), "
        "or by its name with --bucket"
    )
    empty = "the bucket 'orders' has no output: make one with `relay output create`"

    def check(**variables: str) -> None:
        assert relay.refused("input", "show", "orders", **variables) == expected
        assert relay.refused("input", "set", "orders", "--status", 202, **variables) == expected
        assert relay.refused("input", "delete", "orders", "--yes", **variables) == expected
        assert relay.refused("output", "show", "orders", **variables) == empty
        assert relay.refused("output", "set", "orders", "--disabled", **variables) == empty

    check()
    with serving(relay.data) as server:
        check(**server.variables)


def namesakes(relay: Runner) -> list[str]:
    """Two outputs `a` and two inputs `a` of the bucket `orders`, as an older file may hold them; the outputs' ids."""
    for name in ("a", "b"):
        relay.json("output", "create", "orders", "--name", name, "--destination", "http://localhost:9000/")
        relay.json("input", "create", "orders", "--name", "a")
    with contextlib.closing(sqlite3.connect(relay.data / "relay.db")) as raw, raw:
        (text,) = raw.execute("SELECT document FROM bucket").fetchone()
        document = json.loads(text)
        document["outputs"][1]["name"] = "a"
        raw.execute("UPDATE bucket SET document = ?, revision = revision + 1", (json.dumps(document),))
    return [each["id"] for each in document["outputs"]]


@pytest.mark.usefixtures("made")
def test_a_name_that_several_have_names_none_of_them(relay: Runner) -> None:
    """No command takes the first of them: each tells the ids, and takes one; here and at a URL."""
    ids = namesakes(relay)
    said = f"the bucket 'orders' has 2 outputs 'a': name the one you mean by its id ({', '.join(ids)})"

    def check(**variables: str) -> None:
        assert "has 2 inputs 'a'" in relay.refused(
            "input", "set", "a", "--bucket", "orders", "--body", "x", **variables
        )
        assert "has 2 inputs 'a'" in relay.refused("input", "show", "a", "--bucket", "orders", **variables)
        for command in (("show",), ("set", "--disabled"), ("delete", "--yes"), ("pause",), ("rules", "--none")):
            assert relay.refused("output", *command, "a", "--bucket", "orders", **variables) == said
        assert said in relay.refused("logs", "list", "--bucket", "orders", "--output", "a", **variables)
        assert relay.json("output", "set", ids[1], "--bucket", "orders", "--description", "second", **variables)
        outputs = relay.json("output", "list", "orders", **variables)
        assert [each["description"] for each in outputs] == ["", "second"]
        relay.json("output", "set", ids[1], "--description", "", **variables)

    check()
    with serving(relay.data) as server:
        check(**server.variables)
        server.send(relay.json("input", "list", "orders")[0]["id"], b"x")
        assert said in relay.refused("replay", "orders", "--from", "earliest", "--to-output", "a")


@pytest.mark.usefixtures("made")
def test_a_list_of_inputs_has_their_ids(relay: Runner) -> None:
    """As `input set` wants them."""
    header, line = relay("input", "list").stdout.splitlines()[:2]
    assert line[header.index("ID ") :].startswith(relay.json("input", "list")[0]["id"] + "  ")


def test_an_input_is_deleted(relay: Runner, made: dict[str, Any]) -> None:
    """Where nobody can be asked it refuses, and says what to write."""
    input_id = relay.json("input", "create", "orders", "--name", "x")["id"]
    assert "--yes" in relay.misused("input", "delete", input_id, input="y\n")
    answer = relay.json("input", "delete", "x", "--bucket", "orders", "--yes")
    assert answer == {"id": input_id, "status": "deleted"}
    assert "there is no input" in relay.refused("input", "delete", input_id, "--yes")
    assert relay.json("input", "list") == made["inputs"]


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--verify", "none", "--verify-secret", "x"), "--verify none"),
        (("--rate-limit", "none", "--rate-interval", "1s"), "--rate-limit none"),
        (("--header", "X: 1", "--no-headers"), "--no-headers removes them: leave one of them out"),
        (("--body", "x", "--body-file", "-"), "--body-file both give the body: leave one of them out"),
        (("--on-failure", "ignore"), "--on-failure"),
        (("--status", "100"), "--status"),
        (("--header", "X-A"), "no colon"),
        ((), "nothing to change"),
    ],
)
def test_wrong_command_lines(relay: Runner, options: tuple[str, ...], said: str) -> None:
    """They are refused before anything is changed."""
    assert said in relay.misused("input", "set", "orders", *options)


@pytest.mark.usefixtures("made")
def test_what_an_input_can_not_answer(relay: Runner, tmp_path: Path) -> None:
    """A header that the relay sets itself, and a body that is no text."""
    assert "Set-Cookie" in relay.refused("input", "set", "orders", "--header", "Set-Cookie: a=b")
    (tmp_path / "latin").write_bytes(b"\xe9")
    assert "UTF-8" in relay.misused("input", "set", "orders", "--body-file", tmp_path / "latin")


# relay output


def test_an_output_by_all_its_options(relay: Runner, made: dict[str, Any]) -> None:
    """By flags when it is made, by variables when it is changed: all arrive."""
    found = relay.json(
        *("output", "create", "orders", "--name", "worker", "--description", "d", "--public", "--disabled"),
        *("--destination", "https://example.org/hook", "--lock-path", "--timeout", "30s", "--retries", -1),
        *("--no-tls-verification", "--header", "X-A: 1"),
    )
    assert list(found) == OUTPUT
    assert {name: found[name] for name in ("name", "description", "internal", "disabled", "lock_path", "timeout")} == {
        "name": "worker",
        "description": "d",
        "internal": False,
        "disabled": True,
        "lock_path": True,
        "timeout": 30,
    }
    assert (found["destination"], found["retries"], found["tls_verification"]) == (
        "https://example.org/hook",
        -1,
        False,
    )
    assert (found["headers"], found["bucket_id"], found["number"]) == ({"X-A": ["1"]}, made["id"], 1)
    changed = relay.json(
        *("output", "set", "orders"),
        RELAY_OUTPUT_INTERNAL="1",
        RELAY_OUTPUT_DISABLED="0",
        RELAY_OUTPUT_TIMEOUT="0",
        RELAY_OUTPUT_NO_HEADERS="1",
    )
    assert (changed["internal"], changed["disabled"], changed["timeout"], changed["headers"]) == (True, False, 0, {})
    assert relay.json("output", "show", "worker", "--bucket", "orders") == changed
    assert relay.json("output", "list") == relay.json("output", "list", "orders") == [changed]
    assert relay.json("bucket", "show", "orders")["outputs"] == [changed]
    assert re.search(r"worker .*internal", relay("output", "list").stdout)
    assert re.search(r"^kind +internal$", relay("output", "show", "orders").stdout, re.MULTILINE)
    assert "worker" in relay("bucket", "show", "orders").stdout


@pytest.mark.usefixtures("made")
def test_a_public_output(relay: Runner) -> None:
    """A secret is made and shown once, given, read from standard input or taken away; outputs pause and resume."""
    made = relay(
        *("output", "create", "orders", "--name", "w", "--public", "--destination", "https://example.org/"),
        *("--secret", "generate", "--strict-order"),
    ).stdout
    found = relay.json("output", "show", "w", "--bucket", "orders")
    assert found["strict_order"] is True
    assert re.search(rf"^signed with +{re.escape(found['secret'])}$", made, re.MULTILINE)
    shown = relay("output", "show", "w", "--bucket", "orders").stdout
    assert found["secret"] not in shown
    assert re.search("^tries +3\norder +strict$", shown, re.MULTILINE)
    once = relay("output", "set", "orders", "--retries", "-1", "--no-strict-order").stdout
    assert re.search("^tries +1\n(?!order)", once, re.MULTILINE)
    assert relay.json("output", "pause", "w", "--bucket", "orders")["paused"] is True
    assert "public, paused" in relay("output", "list").stdout
    assert relay.json("output", "resume", "orders")["paused"] is False
    for given, secret in (("whsec_AAAA", "whsec_AAAA"), ("none", "")):
        assert relay.json("output", "set", "orders", "--secret", given)["secret"] == secret
    assert relay.json("output", "set", "orders", "--secret", "-", input="whsec_BBBB\n")["secret"] == "whsec_BBBB"
    assert "secret: must be whsec_ and base64" in relay.refused("output", "set", "orders", "--secret", "?")


@pytest.mark.usefixtures("made")
def test_a_destination_that_nobody_can_call(relay: Runner) -> None:
    """An internal output is made with whatever destination, and a note says that `relay forward` can't use it."""
    said = relay("output", "create", "orders", "--destination", "http://a..b/hooks").stderr
    assert "'a..b' is no host that can be looked up" in said
    assert relay("output", "set", "orders", "--destination", "http://localhost:1/").stderr == ""


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1:3000", "localhost", "localhost.", "api.localhost", "2130706433", "10.1.2.3"),
        *("[fd00::1]", "[::1]:80"),
    ],
)
def test_a_destination_that_is_refused(relay: Runner, host: str) -> None:
    """A public output to a private address is made, and a note says that the relay does not call that."""
    public = ("output", "create", "orders", "--public", "--destination", f"http://{host}/hooks")
    result = relay(*public, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["internal"] is False
    assert result.stderr.startswith("relay: the relay will not send to this destination: ")
    assert "--forward-allow" in result.stderr
    assert result.stderr.count("\n") == 1
    (made,) = relay.json("output", "list")
    assert ("can't send" in relay("output", "set", made["id"], "--internal").stderr) == host.isdigit()
    assert relay("output", "set", made["id"], "--timeout", "5s").stderr == ""
    assert "will not send" in relay("output", "set", made["id"], "--public").stderr
    allowed = "127.0.0.0/8, 10.0.0.0/8, fd00::/8, ::1"
    assert relay("output", "set", made["id"], "--public", RELAY_FORWARD_ALLOW=allowed).stderr == ""
    for options in (("--destination", "https://example.org"), ("--destination", "https://203.1.2.3/")):
        assert relay("output", "set", made["id"], *options).stderr == ""


@pytest.mark.usefixtures("made")
def test_an_internal_output_is_not_paused(relay: Runner) -> None:
    """It would go on: clients take its events. Resuming it changes nothing."""
    relay.json("output", "create", "orders", "--name", "a")
    said = relay.refused("output", "pause", "a", "--bucket", "orders")
    assert said.startswith("paused: an internal output can't be paused")
    assert relay.json("output", "resume", "a", "--bucket", "orders")["paused"] is False


@pytest.mark.usefixtures("made")
def test_an_output_that_is_disabled_and_paused(relay: Runner) -> None:
    """Whoever takes one of them away is told that the other still holds it, and how that ends."""
    public = ("output", "create", "orders", "--public", "--destination", "https://example.org/", "--disabled")
    made = json.loads(relay(*public, "--json").stdout)
    relay("output", "pause", "orders")
    resumed = relay("output", "resume", "orders", "--json")
    assert json.loads(resumed.stdout)["paused"] is False
    assert resumed.stderr.endswith(f"gets no event: enable it by `relay output set {made['id']} --enabled`\n")
    assert relay("output", "pause", "orders").stderr == ""
    enabled = relay("output", "set", "orders", "--enabled").stderr
    assert (
        enabled
        == f"relay: the output is paused, too, and gets no event: resume it by `relay output resume {made['id']}`\n"
    )
    assert relay("output", "resume", "orders").stderr == ""


@pytest.mark.usefixtures("made")
def test_rules_of_an_output(relay: Runner, tmp_path: Path) -> None:
    """They are set from a file or standard input, shown, and removed; what is wrong is named."""
    relay.json("output", "create", "orders", "--name", "worker")
    rules = {"match": {"type": "value", "value": "push", "parameter": {"source": "header", "name": "X-Event"}}}
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    assert relay.json("output", "rules", "orders") is None
    assert "every event" in relay("output", "rules", "orders").stderr
    assert relay.json("output", "rules", "orders", "--file", tmp_path / "rules.json") == rules
    assert json.loads(relay("output", "rules", "worker", "--bucket", "orders").stdout) == rules
    assert "rules.match.type" in relay.refused(
        "output", "rules", "orders", "--file", "-", input='{"match": {"type": 1}}'
    )
    assert "no JSON" in relay.misused("output", "rules", "orders", "--file", "-", input="{")
    assert "--none" in relay.misused("output", "rules", "orders", "--file", "-", "--none")
    assert relay.json("output", "rules", "orders", "--none") is None


@pytest.mark.usefixtures("made")
def test_an_output_is_deleted(relay: Runner) -> None:
    """And its number is not given again; a bucket with outputs is deleted after the one question."""
    output_id = relay.json("output", "create", "orders", "--name", "a")["id"]
    assert "--yes" in relay.misused("output", "delete", "orders")
    assert relay("output", "delete", "orders", "--yes").stdout == f"Deleted the output a ({output_id}).\n"
    assert relay.json("output", "list") == []
    assert relay.json("output", "create", "orders")["number"] == 2
    assert relay.json("bucket", "delete", "orders", "--yes")["status"] == "deleted"


@pytest.mark.usefixtures("made")
def test_the_question_says_who_gets_answers_from_an_output(relay: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is deleted; those inputs answer by themselves then."""
    monkeypatch.setattr(common, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    output_id = relay.json("output", "create", "orders", "--name", "a")["id"]
    asked = relay("output", "delete", "orders", input="n\n").stderr
    assert "Delete the output 'a' of the bucket 'orders'? [y/N]" in asked
    relay.json("input", "create", "orders", "--name", "shop", "--response-from-output", output_id)
    asked = relay("output", "delete", "orders", input="y\n").stderr
    assert "'orders'? The senders of 'shop' get the input's own answer then. [y/N]" in asked
    assert relay.json("input", "show", "shop", "--bucket", "orders")["response_from_output"] == ""


def test_what_an_ephemeral_bucket_says(relay: Runner) -> None:
    """Its options arrive, and the form for people names them."""
    made = relay.json("bucket", "create", "live", "--ephemeral", "--rate-limit", 100, "--rate-interval", "10s")
    assert (made["ephemeral"], made["rate_limit"]) == (True, {"events": 100, "interval": 10})
    shown = relay("bucket", "show", "live").stdout
    assert re.search(r"^ephemeral +yes", shown, re.MULTILINE)
    assert re.search(r"^at most +100 events in 10s$", shown, re.MULTILINE)
    changed = relay.json("bucket", "set", "live", "--no-ephemeral", "--rate-limit", "none")
    assert (changed["ephemeral"], changed["rate_limit"]) == (False, None)
