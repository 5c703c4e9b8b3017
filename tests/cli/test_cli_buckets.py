"""`relay bucket`, run in this process on a fresh directory."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.admin.forms import BUCKET, INPUT
from tests.cli.runner import Runner


def test_a_first_bucket(relay: Runner) -> None:
    """It makes the data directory, and prints the bucket, its URL's path and what to do next."""
    result = relay("bucket", "create", "orders", "--description", "from the shop")
    assert result.exit_code == 0
    assert re.search(r"^bucket +orders$", result.stdout, re.MULTILINE)
    assert re.search(r"^description +from the shop$", result.stdout, re.MULTILINE)
    assert re.search(r"^webhook URL +/v1/webhooks/[0-9a-f-]{36}$", result.stdout, re.MULTILINE)
    data = shlex.quote(str(relay.data))
    assert f" serve --data {data}" in result.stdout
    assert f" token create --bucket orders --data {data}" in result.stdout
    assert (relay.data / "relay.db").exists()


@pytest.mark.parametrize("command", ["bucket create orders", "token create", "apply FILE", "import orders FILE"])
def test_a_data_directory_that_was_made_is_told(relay: Runner, tmp_path: Path, command: str) -> None:
    """What these make is nothing to a relay on another directory, so they say on stderr where it is, once."""
    source = Runner(tmp_path / "source")
    source.json("bucket", "create", "orders")
    source.json("export", "orders", tmp_path / "import.ndjson")
    (tmp_path / "apply.toml").write_text("[buckets.orders]\n")
    file = {"apply": "apply.toml", "import": "import.ndjson"}.get(command.split()[0], "")
    arguments = [str(tmp_path / file) if word == "FILE" else word for word in command.split()]
    result = relay(*arguments, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)
    assert result.stderr.startswith(f"relay: made a new data directory {relay.data}; ")
    assert result.stderr.count("\n") == 1
    again = ["bucket", "create", "second"] if command.startswith("bucket") else arguments
    assert "made a new" not in relay(*again).stderr


def test_json_is_the_stock_bucket(relay: Runner) -> None:
    """`create`, `show`, `set` and `list` print the same document."""
    made = relay.json("bucket", "create", "orders")
    assert list(made) == BUCKET
    assert list(made["inputs"][0]) == INPUT
    assert relay.json("bucket", "show", "orders") == made
    assert relay.json("bucket", "show", made["id"]) == made
    assert relay.json("bucket", "set", "orders", "--description", "") == made
    assert relay.json("bucket", "list") == [made]
    assert json.loads(relay("bucket", "list", RELAY_JSON="1").stdout) == [made]


def test_every_option_of_a_bucket(relay: Runner) -> None:
    """By flags when it is made, by variables when it is changed: both arrive."""
    made = relay.json(
        *("bucket", "create", "orders", "--description", "d", "--retention-age", "7d", "--retention-events", "1000"),
        *("--retention-bytes", "1GiB", "--dedupe", "X-Id", "--dedupe-window", "90s", "--auth", "basic"),
        *("--username", "u", "--password", "p", "--large-webhooks", "--max-body", "5MiB"),
        *("--wait-for-consumers", "--hard-max-bytes", "2GiB", "--expires", "2100-01-01"),
    )
    assert made["retention"] == {
        "max_age": 604_800,
        "max_events": 1000,
        "max_bytes": 1 << 30,
        "wait_for_consumers": True,
        "hard_max_bytes": 2 << 30,
    }
    assert made["dedupe"] == {"header": "X-Id", "window": 90}
    assert made["auth"] == {"type": "basic", "username": "u", "password": "p", "token": ""}
    assert (made["description"], made["large_webhooks"], made["max_body"]) == ("d", True, 5 << 20)
    assert made["expires_at"] == 4_102_444_800
    assert "deleted at    2100-01-01" in relay("bucket", "show", "orders").stdout
    changed = relay.json(
        *("bucket", "set", "orders"),
        RELAY_BUCKET_NAME="sales",
        RELAY_BUCKET_DESCRIPTION="none",
        RELAY_BUCKET_RETENTION_AGE="none",
        RELAY_BUCKET_RETENTION_EVENTS="none",
        RELAY_BUCKET_RETENTION_BYTES="5MB",
        RELAY_BUCKET_WAIT_FOR_CONSUMERS="0",
        RELAY_BUCKET_HARD_MAX_BYTES="none",
        RELAY_BUCKET_EXPIRES="none",
        RELAY_BUCKET_DEDUPE="auto",
        RELAY_BUCKET_DEDUPE_WINDOW="1h",
        RELAY_BUCKET_AUTH="token",
        RELAY_BUCKET_TOKEN="none",
        RELAY_BUCKET_LARGE_WEBHOOKS="0",
        RELAY_BUCKET_MAX_BODY="none",
    )
    assert changed["retention"] == {
        "max_age": None,
        "max_events": None,
        "max_bytes": 5_000_000,
        "wait_for_consumers": False,
        "hard_max_bytes": None,
    }
    assert changed["dedupe"] == {"header": "auto", "window": 3600}
    assert changed["auth"] == {"type": "token", "username": "", "password": "", "token": "none"}
    assert (changed["name"], changed["description"], changed["expires_at"]) == ("sales", "none", None)
    assert (changed["large_webhooks"], changed["max_body"]) == (False, None)
    off = relay.json("bucket", "set", "sales", "--dedupe", "none", "--auth", "none", "--no-large-webhooks")
    assert (off["dedupe"], off["auth"]["type"], off["retention"]) == (None, "none", changed["retention"])


def test_retention_of_a_new_bucket_is_the_servers(relay: Runner) -> None:
    """The variables of `relay serve` count without a server, too."""
    made = relay.json("bucket", "create", "orders", RELAY_RETENTION_AGE="1d", RELAY_RETENTION_BYTES="none")
    keep = made["retention"]
    assert (keep["max_age"], keep["max_events"], keep["max_bytes"]) == (86_400, None, None)


@pytest.mark.parametrize("what", ["password", "token"])
def test_secrets_come_from_where_nobody_sees_them(relay: Runner, tmp_path: Path, what: str) -> None:
    """A file, standard input or the variable gives a bucket's secret, spaces and all; people are not shown it."""
    options = ["--auth", "basic", "--username", "u"] if what == "password" else ["--auth", "token"]
    file = tmp_path / "secret"
    file.write_text("s3cret-of-a-file\n")
    relay("bucket", "create", "orders")
    ways = (
        ((f"--{what}-file", str(file)), "", {}, "s3cret-of-a-file"),
        ((f"--{what}", "-"), "s3cret-of-stdin\r\nmore\n", {}, "s3cret-of-stdin"),
        ((), "s3cret", {f"RELAY_BUCKET_{what.upper()}": "-"}, "s3cret"),
        ((), "", {f"RELAY_BUCKET_{what.upper()}": "s3cret-of-a-variable"}, "s3cret-of-a-variable"),
        ((), "", {f"RELAY_BUCKET_{what.upper()}_FILE": str(file)}, "s3cret-of-a-file"),
    )
    for arguments, stdin, variables, expected in ways:
        result = relay("bucket", "set", "orders", *options, *arguments, input=stdin, **variables)
        assert result.exit_code == 0, result.output
        assert "s3cret" not in result.output
        assert relay.json("bucket", "show", "orders")["auth"][what] == expected
    assert "s3cret" not in relay("bucket", "show", "orders").output + relay("bucket", "list").output
    assert "s3cret" not in relay.refused("bucket", "set", "orders", f"--{what}", "s3cret\x01")
    assert "leave one of them out" in relay.misused(
        "bucket", "set", "orders", f"--{what}", "s3cret", f"--{what}-file", file
    )
    assert "can't be read" in relay.misused("bucket", "set", "orders", f"--{what}-file", tmp_path / "nothing")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create", "a/b"), 'holds a "/"'),
        (("create", ""), "is empty"),
        (("create", "orders"), "already"),
        (("create", "new", "--auth", "basic"), "--username: is missing; --auth basic needs it"),
        (("create", "new", "--username", "u"), "--username: does nothing with --auth none: set --auth to basic"),
        (("create", "new", "--dedupe-window", "1h"), "--dedupe: is missing"),
        (("set", "nothing", "--max-body", "1"), "there is no bucket 'nothing'"),
        (("show", "nothing"), "relay bucket list"),
        (("delete", "nothing", "--yes"), "there is no bucket 'nothing'"),
    ],
)
def test_what_the_relay_refuses(relay: Runner, arguments: tuple[str, ...], words: str) -> None:
    """One line on stderr says what is wrong; exit code 1."""
    relay("bucket", "create", "orders")
    assert words in relay.refused("bucket", *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Usage: "),
        (("create",), "Missing argument 'NAME'"),
        (("create", "a", "--retention-age", "soon"), "is not a time like"),
        (("create", "a", "--retention-bytes", "much"), "is not a size like"),
        (("create", "a", "--retention-events", "0"), "--retention-events"),
        (("create", "a", "--auth", "digest"), "--auth"),
        (("create", "a", "--public-url", "here"), "is not a URL like"),
        (("create", "a", "--colour", "red"), "No such option"),
        (("set", "a"), "nothing to change"),
        (("set", "a", "--dedupe", "none", "--dedupe-window", "1h"), "leave one of them out"),
        (("destroy", "a"), "No such command"),
    ],
)
def test_wrong_command_lines(relay: Runner, arguments: tuple[str, ...], words: str) -> None:
    """Exit code 2, and nothing is touched."""
    assert words in relay.misused("bucket", *arguments)
    assert not relay.data.exists()


def test_a_lower_limit_is_told(relay: Runner) -> None:
    """Who writes 30 for 30 days hears what leaves while it is still there; a higher limit is nothing to tell."""
    relay("bucket", "create", "orders")
    said = relay("bucket", "set", "orders", "--retention-age", "30").stderr
    assert "(30s, 10GiB)" in said
    assert "and do not come back" in said
    assert "and do not come back" in relay("bucket", "set", "orders", "--retention-events", "5").stderr
    for higher in (("--retention-age", "none"), ("--retention-events", "6"), ("--description", "x")):
        assert relay("bucket", "set", "orders", *higher).stderr == ""


@pytest.mark.parametrize(("word", "header"), [("AUTO", "auto"), ("Auto", "auto"), ("X-On", "X-On")])
def test_dedupe_by_a_word_in_any_case(relay: Runner, word: str, header: str) -> None:
    """`auto` and `none` are no headers, however they are written."""
    assert relay.json("bucket", "create", "orders", "--dedupe", word)["dedupe"]["header"] == header
    assert relay.json("bucket", "set", "orders", "--dedupe", "None")["dedupe"] is None


def test_deleting_asks_first(relay: Runner) -> None:
    """Where nobody can be asked it refuses, and says what to write; with --yes, --force or the variable it deletes."""
    for name, *way in (("a", "--yes"), ("b", "--force"), ("c",)):
        made = relay.json("bucket", "create", name)
        assert "--yes" in relay.misused("bucket", "delete", name, input="y\n")
        assert relay.json("bucket", "show", name) == made
        variables = {} if way else {"RELAY_BUCKET_YES": "true"}
        assert relay.json("bucket", "delete", name, *way, **variables) == {"id": made["id"], "status": "deleted"}
        assert "there is no bucket" in relay.refused("bucket", "show", name)
    relay("bucket", "create", "d")
    assert relay("bucket", "delete", "d", "--yes").stdout.startswith("Deleted the bucket d (")


def test_lists_of_nothing(relay: Runner) -> None:
    """An empty list is empty on stdout, and a note says what to do; in JSON it is []."""
    relay("bucket", "create", "orders")
    relay("bucket", "delete", "orders", "--yes")
    for noun in ("bucket", "token"):
        result = relay(noun, "list")
        assert (result.exit_code, result.stdout) == (0, "")
        assert f"relay {noun} create" in result.stderr
        assert relay.json(noun, "list") == []


def test_tables_show_what_users_wrote_and_obey_none_of_it(relay: Runner) -> None:
    """Markup in a name or a description is shown as it is, a line end as an escape; one line a bucket, none cut."""
    relay("bucket", "create", "[red]orders", "--description", "a\nb [bold]" + "x" * 300)
    relay("bucket", "create", "billing")
    head, first, second = relay("bucket", "list").stdout.splitlines()
    assert head.startswith("NAME ")
    assert first.startswith("[red]orders  ")
    assert first.endswith("a\\nb [bold]" + "x" * 300)
    assert second.startswith("billing ")
    assert "\x1b" not in first


@pytest.mark.parametrize("given", ["flag", "variable"])
def test_whole_urls(relay: Runner, given: str) -> None:
    """Where the public URL is known, URLs are printed whole."""
    url = "https://relay.example.org/hooks/"
    flags, variables = (["--public-url", url], {}) if given == "flag" else ([], {"RELAY_PUBLIC_URL": url})
    whole = r"https://relay\.example\.org/hooks/v1/webhooks/[0-9a-f-]{36}(?![/0-9a-f-])"
    for arguments in (
        ("bucket", "create", "orders"),
        ("bucket", "show", "orders"),
        ("bucket", "list"),
        ("bucket", "set", "orders", "--max-body", "5"),
        ("input", "set", "orders", "--status", "202"),
    ):
        assert re.search(whole, relay(*arguments, *flags, **variables).stdout)
    assert " /v1/webhooks/" in relay("bucket", "show", "orders", RELAY_PUBLIC_URL="none").stdout
    assert "wss://relay.example.org/hooks/v1/socket" in relay("token", "create", *flags, **variables).stdout
