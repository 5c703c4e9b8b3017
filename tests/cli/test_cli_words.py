"""What commands say: in the words of the command line, with the right number and unit, and what to write instead."""

from __future__ import annotations

import os
import re
import shlex
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import click
import pytest
from marshmallow import Schema, fields

from relay_tornado.cli.bucket import bucket
from relay_tornado.cli.consumer import consumer
from relay_tornado.cli.flags import FLAGS, in_flags
from relay_tornado.cli.input import inputs
from relay_tornado.cli.logs import logs
from relay_tornado.cli.output import output
from relay_tornado.cli.printing import counted, exact_size, print_table, retention_words
from relay_tornado.cli.search import search
from relay_tornado.cli.showing import LINES, WIDTH, ForPeople
from relay_tornado.cli.stats import lasts
from relay_tornado.cli.token import token
from relay_tornado.cli.ui import link
from relay_tornado.wire.rest import BucketFields, InputFields, OutputFields, TokenFields
from tests.cli.runner import Runner
from tests.cli.server import serving
from tests.client.events import event_of

COMMANDS: dict[str, click.Command] = {
    "bucket": bucket,
    "input": inputs,
    "output": output,
    "logs": logs,
    "search": search,
    "token": token,
    "consumer": consumer,
}
SCHEMAS: dict[str, Schema] = {
    "bucket": BucketFields(),
    "input": InputFields(),
    "output": OutputFields(),
    "token": TokenFields(),
}


def flags_of(command: click.Command) -> set[str]:
    each = list(command.commands.values()) if isinstance(command, click.Group) else [command]
    return {flag for one in each for option in one.params for flag in option.opts}


def is_field(schema: Schema, path: str) -> bool:
    field: Any = None
    for name in path.split("."):
        if name not in schema.fields:
            return False
        field = schema.fields[name]
        schema = field.schema if isinstance(field, fields.Nested) else schema
    return field is not None


@pytest.mark.parametrize("name", FLAGS)
def test_every_flag_and_field_is_there(name: str) -> None:
    """No error sends anybody to an option that its command does not have, or waits for a field that REST does not."""
    assert set(FLAGS[name].values()) <= flags_of(COMMANDS[name])
    if name in SCHEMAS:
        unknown = {path for path in FLAGS[name] if not is_field(SCHEMAS[name], path)}
        assert unknown == ({"grace", "scopes.buckets"} if name == "token" else set())


def test_fields_become_flags() -> None:
    """But not what stands in quotes, a word that is one of English, or a setting of a longer name."""
    said = in_flags("bucket", "auth.username: is missing; auth.type basic needs it")
    assert said == "--username: is missing; --auth basic needs it"
    assert in_flags("input", "verify.secrets[1]: is no base64") == "--verify-secret: is no base64"
    said = in_flags("bucket", "retention.hard_max_bytes: is less than max_bytes (7), up to which events stay anyway")
    assert said == "--hard-max-bytes: is less than --retention-bytes (7), up to which events stay anyway"
    for kept in ("there is no bucket 'max_body'", "the body is empty: a description helps", "large_max_body is less"):
        assert in_flags("bucket", kept) == in_flags("input", kept) == in_flags(None, kept) == kept


def test_errors_name_flags(relay: Runner) -> None:
    """Whichever way the relay is reached."""

    def check(**variables: str) -> None:
        said = relay.refused("bucket", "set", "orders", "--auth", "basic", **variables)
        assert said == "--username: is missing; --auth basic needs it"
        said = relay.refused("input", "set", "orders", "--verify", "github", **variables)
        assert said == "--verify-secret: is missing: give the secret that the provider shows"
        said = relay.refused("output", "create", "orders", "--public", **variables)
        assert "or choose --internal if a connected client" in said
        said = relay.refused("logs", "list", "--output", "x", **variables)
        assert said == "--output: there is no output with this id; to find it by its name, name its --bucket, too"
        said = relay.refused("token", "create", "--bucket", "x", **variables)
        assert said == "--bucket: there is no bucket 'x': make it first, or correct its name"

    for name in ("orders", "billing"):
        relay.json("bucket", "create", name)
    check()
    with serving(relay.data) as server:
        check(**server.variables)
        for command in (("logs", "list"), ("search", "x")):
            for flag in ("--since", "--until"):
                said = relay.refused(*command, flag, "9" * 19, **server.variables)
                assert said.startswith(f"{flag}: must be a unix time from 0 to ")
        for command in (("listen", "Orders"), ("forward", "Orders", "http://127.0.0.1:9")):
            said = relay(*command)
            assert (said.exit_code, said.stderr.splitlines()[-1]) == (
                1,
                "relay: there is no bucket 'Orders': `relay bucket list` shows which there are",
            )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("input", "set", "x", "--status", "abc"), "'abc' is not a whole number from 200 to 599"),
        (("listen", "--max", "0"), "'0' is not a whole number of at least 1"),
        (("token", "set", "KEY"), "--durable keeps the token's position, --no-durable forgets it"),
        (("--data", "x", "bucket", "list"), "--data stands behind the command, as in `relay bucket list --data PATH`"),
        (("bucket", "--json", "list"), "--json stands behind the command"),
        (
            ("bucket", "list", "--url", "http://x", "--secret", "y"),
            "--url stands before the command, as in `relay --url URL --secret-file FILE bucket …`",
        ),
        (("listen", "orders", "--secret-file", "x"), "--secret-file stands before the command"),
        (("logs", "list", "orders"), "Got unexpected extra argument (orders): a bucket is named with --bucket"),
        (("search", "paid", "orders"), "Got unexpected extra argument (orders): a bucket is named with --bucket"),
        (("backup", "x.db", "--url", "http://x"), "backup works on the relay's own machine only; with --url: bucket"),
        (("--colour", "bucket", "list"), "No such option '--colour'"),
        (("buckets", "list"), "No such command 'buckets'. Did you mean 'bucket'?"),
        (("frobnicate",), "No such command 'frobnicate'."),
        (("bucket", "set", "x", "--dedupe", "on"), "--dedupe on names a header: auto knows the usual ones"),
        (("bucket", "create", "x", "--dedupe", "Off"), "none switches it off"),
        (("consumer", "seek", "b", "c", "--to", "2999-12-31T12:00"), "is in the future, as it is 20"),
        (("consumer", "seek", "b", "c", "--to", "1790000000000"), "'1790000000000' is in the future"),
        (("listen", "--filter", "payload=x"), "payload.PATH=VALUE, body=VALUE, rules as JSON"),
    ],
)
def test_wrong_command_lines(relay: Runner, arguments: tuple[str, ...], words: str) -> None:
    """Each says what to write instead."""
    assert words in " ".join(relay.misused(*arguments).split())


@pytest.mark.parametrize("group", ["bucket", "input", "output", "logs", "consumer", "token"])
def test_a_list_of_commands_says_what_each_does(relay: Runner, group: str) -> None:
    """Its whole first sentence, also where that takes a second line."""
    said = relay(group, "--help").stdout.partition("Commands:\n")[2]
    assert said
    assert "..." not in said


def test_a_consumer_that_is_not_there(relay: Runner) -> None:
    """Whatever is to be done with it, the same line says how one comes to be."""
    relay.json("bucket", "create", "orders")
    lines = {
        relay.refused("consumer", command[0], "orders", "worker", *command[1:])
        for command in (
            ("show",),
            ("seek", "--to", "latest"),
            ("seek", "--to", "latest", "--preview"),
            ("give-up", "x-1"),
            ("resend", "--all"),
            ("forget", "--all", "--yes"),
            ("delete", "--yes"),
            ("dead",),
        )
    }
    assert len(lines) == 1
    assert "has no consumer 'worker': a client makes one when it subscribes with it" in lines.pop()


@pytest.mark.parametrize(
    "arguments",
    [
        ("listen", "orders", "--since"),
        ("forward", "orders", "http://localhost:3000", "--since"),
        ("consumer", "seek", "orders", "worker", "--to"),
    ],
)
def test_a_position_that_is_not_taken_is_not_offered(relay: Runner, arguments: tuple[str, ...]) -> None:
    """A seq alone is a position for `replay` only."""
    said = " ".join(relay.misused(*arguments, "foo").split())
    assert "'foo' is not an id," in said
    assert "seq:" not in said
    assert "a number alone is not enough here" in " ".join(relay.misused(*arguments, "seq:42").split())
    assert "seq:42" in relay.misused("replay", "orders", "--to-url", "http://localhost:3000", "--from", "foo")


@pytest.mark.parametrize("digits", [19, 400, 5_000])
def test_a_number_of_too_many_digits(relay: Runner, digits: int) -> None:
    """It is refused as any other that is none, wherever a number is looked for in a text."""
    number = "9" * digits
    relay.json("bucket", "create", "orders")
    assert "is not an id," in relay.misused("consumer", "seek", "orders", "worker", "--to", f"last:{number}")
    assert "is not an id," in relay.misused(
        "replay", "orders", "--to-url", "http://localhost", "--from", f"seq:{number}"
    )
    if digits > 19:  # as a log's largest number has
        assert "no event id" in relay.refused("export", "orders", "--after", number)


@pytest.mark.parametrize("text", ["9" * 400, "9" * 400 + "d"])
def test_a_time_without_an_end(relay: Runner, text: str) -> None:
    """The same."""
    for command in (("logs", "list"), ("search", "x")):
        assert "is not a time like" in relay.misused(
            *command, "--since", text, RELAY_URL="http://localhost:1", RELAY_SECRET="x"
        )
    assert "is not a time like" in relay.misused("bucket", "create", "a", "--retention-age", text)


def test_a_line_to_paste_brings_what_the_bucket_wants(relay: Runner) -> None:
    """And no secret: curl asks for a password, and a token is put in by hand."""
    made = relay("bucket", "create", "a", "--auth", "basic", "--username", "a b", "--password", "hidden-1").stdout
    assert re.search(r" curl http://\S+ -d hello -u 'a b'$", made, re.MULTILINE)
    other = relay("bucket", "create", "b", "--auth", "token", "--token", "hidden-2").stdout
    (line,) = re.findall(r" (curl .+)$", other, re.MULTILINE)
    assert shlex.split(line)[2:] == ["-d", "hello", "-H", "Authorization: Bearer TOKEN"]
    assert "hidden" not in made + other
    assert relay("bucket", "create", "c").stdout.count(" -d hello\n") == 1


def test_an_administrators_token_is_called_one(relay: Runner) -> None:
    """What a new bucket offers is a client's token; one for every bucket with API access says what it may do."""
    made = relay("bucket", "create", "a b").stdout
    (line,) = re.findall(r"^Give clients access: .* token (create .+)$", made, re.MULTILINE)
    client = relay("token", *shlex.split(line)).stdout
    assert re.search(r"^reads +a b$", client, re.MULTILINE)
    assert "administrator" not in client
    assert re.search(
        r"^administrator +yes: it changes and deletes every", relay("token", "create").stdout, re.MULTILINE
    )
    assert "administrator" not in relay("token", "create", "--api-access", "disabled").stdout
    assert set(relay.json("token", "create")) == {"key", "secret"}


def test_numbers_and_units() -> None:
    """One is one, and a size is told from a number."""
    assert (counted(0, "event"), counted(1, "event"), counted(2, "event")) == ("0 events", "1 event", "2 events")
    assert (exact_size(1), exact_size(1500), exact_size(10 << 30)) == ("1 byte", "1500 bytes", "10GiB")
    keep = {"max_age": 604_800, "max_events": 1, "max_bytes": 5}
    assert retention_words(keep) == "7d, 1 event, 5 bytes"


def test_events_have_their_second(relay: Runner) -> None:
    """In lists, alone, and where they are searched; and one event is one."""
    made = relay.json("bucket", "create", "orders")
    with serving(relay.data) as server:
        server.send(made["inputs"][0]["id"], b"hello")
        found = relay("search", "hello").stdout
    (event,) = relay.json("logs", "list")["data"]
    second = r" \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    for shown in (found, relay("logs", "list").stdout, relay("logs", "show", event["id"]).stdout):
        assert re.search(second, shown)
    assert relay("logs", "resend", event["id"]).stdout.startswith("Sent 1 event again: ")


def test_how_long_the_disk_lasts() -> None:
    """A number of days that nobody lives to see is none."""
    assert lasts(None) == "it does not grow"
    assert lasts(2.25) == "2.2 days until the reserve is met"
    assert lasts(27_262.8) == "over a year until the reserve is met"


@pytest.mark.parametrize("columns", [20, 80, 120, 200])
def test_what_is_copied_from_a_terminal_is_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    """No id and no URL is broken; words of the last column go on in the next line where there is room for it."""
    key, url, prose = (
        "4425deb9-db47-4159-996f-b1f2283c112c",
        f"https://relay.example/v1/webhooks/{'x' * 36}",
        "word " * 40,
    )
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table([{"KEY": key, "CREATED": "2026-11-26 10:41 UTC", "DESCRIPTION": prose}])
    print_table([{"NAME": "orders", "URL": url, "KEY": key}])
    out = capsys.readouterr().out
    assert out.count(key) == 2
    assert out.count(url) == 1
    assert out.count("2026-11-26 10:41 UTC") == 1
    assert out.count("word") == 40
    widths = [len(line) for line in out.splitlines() if "word" in line]
    if columns < 90:
        assert len(widths) == 1
    else:
        assert len(widths) > 1
        assert max(widths) <= columns


def test_a_table_without_rows_and_with_empty_cells(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([])
    print_table([{"": "x", "B": ""}])
    assert capsys.readouterr().out == "   B\nx\n"


@pytest.mark.parametrize(
    ("terminal", "head"),
    [(False, ["NAME  ID"]), (True, ["\x1b[1mNAME  ID\x1b[0m", "─" * 10])],
    ids=["pipe", "terminal"],
)
def test_many_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool, head: list[str]
) -> None:
    """Each is an aligned line of its own, wide letters included, on a terminal as elsewhere; only a cell that is too
    long for that is broken by rich, which takes long for thousands."""
    wraps = []
    monkeypatch.setattr("rich.text.Text.wrap", lambda text, *given, **named: wraps.append(text) or [text])
    monkeypatch.setattr("rich.table.Table", None)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    print_table([{"NAME": "日本" * (number % 2), "ID": str(number)} for number in range(5000)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[: len(head)] == head
    assert lines[len(head) :][:2] == ["      0", "日本  1"]
    assert len(lines) == 5000 + len(head)
    assert len(wraps) <= 1  # of the head


def test_a_checkpoint_that_is_no_file(relay: Runner, tmp_path: Path) -> None:
    """It is said before anything is read from it, or laid beside it."""
    relay("bucket", "create", "orders")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for arguments in (("listen", "orders"), ("forward", "orders", "http://127.0.0.1:1")):
        said = relay.refused(*arguments, "--checkpoint", pipe)
        assert said.startswith(f"the checkpoint can't be kept: {pipe} is no regular file: ")
    assert not pipe.with_name("pipe.lock").exists()


@pytest.mark.parametrize(
    ("base", "page"),
    [
        ("http://0.0.0.0:8080", "http://127.0.0.1:8080/ui/"),
        ("http://0.0.0.0", "http://127.0.0.1/ui/"),
        ("http://[::]:8080", "http://[::1]:8080/ui/"),
        ("https://relay.example.org/hooks/", "https://relay.example.org/hooks/ui/"),
    ],
)
def test_where_the_page_is(base: str, page: str) -> None:
    """A relay that listens on every address is reached at the one of this machine, by IPv4 or IPv6 as it listens."""
    assert link(base, "x") == f"{page}#code=x"


@pytest.mark.parametrize("at", [1e300, -1e300, 1e12])
def test_an_event_with_a_time_that_is_in_no_calendar(capsys: pytest.CaptureFixture[str], at: float) -> None:
    """A flipped bit makes one of a time: the event is shown."""
    ForPeople()(event_of(received_at=at))
    assert capsys.readouterr().out.startswith("no date orders POST /")


def test_a_body_whose_lines_would_be_long(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON that is nested deep costs no more than its text: its lines are counted, and the first of them shown."""
    wide = b"[" * 300 + b"1,\n" * 100_000 + b"2" + b"]" * 300
    tracemalloc.start()
    ForPeople()(event_of(body=wide))
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:4] == ["    [", "      ["]
    assert lines[-2] == f"  … {2 * 300 + 100_001 - LINES} more lines"


@pytest.mark.parametrize("depth", [5_000, 100_000])
def test_a_body_that_is_nested_too_deep(capsys: pytest.CaptureFixture[str], depth: int) -> None:
    """It is shown as it came."""
    ForPeople()(event_of(body=b"[" * depth + b"]" * depth))
    assert capsys.readouterr().out.splitlines()[1:] == ["  " + "[" * WIDTH + "…", ""]
