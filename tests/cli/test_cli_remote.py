"""`relay --url … --secret …`: over REST as locally."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from relay_tornado.admin.commands import COMMANDS
from relay_tornado.cli.remote import Remote
from tests.cli.runner import Runner
from tests.cli.server import serving


def test_its_commands_are_the_relays() -> None:
    """Whatever REST has a command for is a command of the relay's own, with nothing that this one does not take."""
    methods = inspect.getmembers(Remote, inspect.isfunction)
    found = {name.replace("_", ".", 1): run for name, run in methods if "_" in name.strip("_")}
    assert "bucket.show" in found
    for name, run in found.items():
        taken = inspect.signature(run).parameters.values()
        named = {each.name for each in taken if each.kind is not each.VAR_KEYWORD}
        assert named <= inspect.signature(COMMANDS[name]).parameters.keys()


def scenario(relay: Runner, **variables: str) -> dict[str, Any]:
    """One of every command; returns what --json printed, without what is made anew each time."""

    def run(*arguments: object) -> Any:
        return relay.json(*arguments, **variables)

    seen: dict[str, Any] = {}
    seen["create"] = run("bucket", "create", "orders", "--description", "d", "--dedupe", "auto")
    seen["taken"] = relay.refused("bucket", "create", "orders", **variables)
    seen["list"] = run("bucket", "list")
    seen["show"] = run("bucket", "show", "orders")
    seen["set"] = run("bucket", "set", "orders", "--retention-age", "7d", "--name", "shop")
    seen["input create"] = run("input", "create", "shop", "--name", "second", "--status", "202")
    seen["input set"] = run("input", "set", seen["input create"]["id"], "--body", "thanks")
    seen["output create"] = run(
        "output", "create", "shop", "--name", "worker", "--destination", "https://shop.example.org/hook"
    )
    seen["output set"] = run("output", "set", seen["output create"]["id"], "--disabled")
    seen["output list"] = run("output", "list", "shop")
    seen["token create"] = run("token", "create", "--bucket", "shop", "--description", "w", "--api-access", "disabled")
    run("output", "create", "shop", "--public", "--destination", "https://shop.example.org/hook")
    seen["consumers"] = run("consumer", "list")
    seen["its consumers"] = run("consumer", "list", "shop")
    seen["tokens"] = [each for each in run("token", "list") if each["description"]]
    seen["rotate"] = run("token", "rotate", seen["token create"]["key"], "--grace", "1h")
    seen["revoke"] = run("token", "revoke", seen["token create"]["key"])
    seen["logs"] = run("logs", "list", "--bucket", "shop")
    seen["input delete"] = run("input", "delete", seen["input create"]["id"], "--yes")
    seen["output delete"] = run("output", "delete", seen["output create"]["id"], "--yes")
    seen["delete"] = run("bucket", "delete", "shop", "--yes")
    seen["left"] = run("bucket", "list")
    return seen


@pytest.mark.parametrize("module", ["remote", "listen", "forward", "replay"])
def test_what_speaks_to_a_relay_elsewhere_starts_fast(module: str) -> None:
    """It imports nothing of what the relay judges requests by."""
    code = f"import sys, relay_tornado.cli.{module}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not {"marshmallow", "sqlite3", "tornado"} & set(run.stdout.split())


def shape(value: Any) -> Any:
    """The value with everything that differs between two runs taken out."""
    if isinstance(value, dict):
        varying = ("id", "key", "floor", "head", "secret", "bucket_id", "created_at", "updated_at", "buckets")
        return {name: type(each) if name in varying else shape(each) for name, each in value.items()}
    return [shape(each) for each in value] if isinstance(value, list) else value


def test_the_same_every_way(relay: Runner, tmp_path: Path) -> None:
    """Every command prints through a running relay, and over REST, what it prints on the data directory itself."""
    alone = scenario(relay)
    with serving(tmp_path / "near") as server:
        through = scenario(Runner(server.data))
        remote = scenario(Runner(tmp_path / "none"), **server.variables)
    assert set(alone) == set(through) == set(remote)
    for name in alone:
        assert shape(alone[name]) == shape(through[name]) == shape(remote[name]), name
    assert not (tmp_path / "none").exists()


def test_a_relay_that_does_not_list_all_consumers(
    relay: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of each bucket are asked for: before 0.5.27."""
    request, asked = Remote.request, list[tuple[str, ...]]()

    def older(self: Remote, method: str, *path: str, **options: Any) -> Any:
        asked.append(path)
        return request(self, method, *(("nothing",) if path == ("consumers",) else path), **options)

    monkeypatch.setattr(Remote, "request", older)
    with serving(tmp_path / "remote") as server:
        for name in ("orders", "billing"):
            relay.json("bucket", "create", name, **server.variables)
            relay.json("token", "create", "--bucket", name, "--durable", **server.variables)
        found = relay.json("consumer", "list", **server.variables)
    assert [each["bucket_name"] for each in found] == ["orders", "billing"]
    assert ("consumers",) in asked


def test_for_people(relay: Runner, tmp_path: Path) -> None:
    """Webhook URLs begin with the relay's own; the secret may come by a file or standard input."""
    with serving(tmp_path / "remote") as server:
        (tmp_path / "secret").write_text(server.secret + "\n")
        (tmp_path / "json").write_text(relay("token", "create", "--json", **server.variables).stdout)
        for extra, given in ((["--secret-file", tmp_path / "secret"], None), (["--secret", "-"], server.secret + "\n")):
            made = relay("--url", server.url + "/v1/", *extra, "bucket", "create", f"b{len(extra[0])}", input=given)
            assert made.exit_code == 0, made.output
            assert f"{server.url}/v1/webhooks/" in made.output
        assert relay("--url", server.url, "--secret-file", tmp_path / "json", "bucket", "list").exit_code == 0
        (tmp_path / "json").write_text("{}")
        said = relay.refused("--url", server.url, "--secret-file", tmp_path / "json", "bucket", "list")
        assert "the key or secret is wrong" in said


def test_a_line_to_paste_reaches_the_same_relay(relay: Runner, tmp_path: Path) -> None:
    """As the bucket's command line did, with its secret's file, but without its secret; variables do the rest."""
    with serving(tmp_path / "remote") as server:
        url = ["--url", server.url]
        (tmp_path / "a secret").write_text(server.secret + "\n")
        from_file = ["--secret-file", str(tmp_path / "a secret")]
        prompted = ["--secret", "-"]
        for number, (given, repeated, variables) in enumerate(
            (
                ([*url, *from_file], [*url, *from_file], {}),
                ([*url, "--secret", server.secret], [*url, *prompted], {}),
                (url, url, {"RELAY_SECRET": server.secret}),
                ([], [], server.variables),
            )
        ):
            made = relay(*given, "bucket", "create", f"b{number}", **variables)
            assert made.exit_code == 0, made.output
            (line,) = re.findall(r"^Give clients access: .*", made.stdout, re.MULTILINE)
            wanted = [*repeated, "token", "create", "--bucket", f"b{number}"]
            assert shlex.split(line)[-len(wanted) - 1 :][1:] == wanted
            assert not shlex.split(line)[-len(wanted) - 1].startswith("-")
            created = relay(*wanted, input=server.secret + "\n", **variables)
            assert re.search(rf"^reads +b{number}$", created.stdout, re.MULTILINE), created.output


def test_errors(relay: Runner, tmp_path: Path) -> None:
    """What the relay refuses comes out in its words, with exit code 1."""
    with serving(tmp_path / "remote") as server:
        relay.json("bucket", "create", "orders", **server.variables)
        assert "already" in relay.refused("bucket", "create", "orders", **server.variables)
        assert "no bucket 'x'" in relay.refused("bucket", "show", "x", **server.variables)
        for command in (("bucket", "show", "x"), ("logs", "list", "--bucket", "x"), ("input", "create", "x")):
            for way in (server.variables, {"RELAY_DATA": str(tmp_path / "remote")}):
                said = relay.refused(*command, **way)
                assert "relay bucket list" in said
                assert "/v1" not in said
        assert "no input" in relay.refused("input", "set", "x", "--name", "n", **server.variables)
        wrong = {**server.variables, "RELAY_SECRET": "sk-rly_wrong"}
        assert "wrong, revoked or expired" in relay.refused("bucket", "list", **wrong)
        (token,) = relay.json("token", "list", **server.variables)
        said = relay("bucket", "list", **{**server.variables, "RELAY_SECRET": token["key"]}).stderr.splitlines()
        assert ["looks like a token's key" in said[0], "wrong, revoked or expired" in said[1]] == [True, True]
        scoped = relay.json("token", "create", "--bucket", "orders", **server.variables)
        limited = {**server.variables, "RELAY_SECRET": scoped["secret"]}
        assert [each["name"] for each in relay.json("bucket", "list", **limited)] == ["orders"]
        assert "administrator" in relay.refused("token", "list", **limited)


@pytest.mark.parametrize(
    "command",
    [
        ("bucket", "show", ""),
        ("bucket", "show", "", "--json"),
        ("bucket", "set", "", "--description", "x"),
        ("bucket", "delete", "", "--yes"),
        ("input", "create", ""),
        ("logs", "show", ""),
        ("logs", "resend", ""),
        ("token", "revoke", ""),
        ("consumer", "list", ""),
        ("consumer", "show", "orders", ""),
        ("consumer", "dead", "orders", ""),
        ("consumer", "delete", "orders", "", "--yes"),
    ],
)
def test_an_empty_name(relay: Runner, command: tuple[str, ...]) -> None:
    """As an unset variable of the shell leaves it: it is never the path of all of them."""
    said = relay.refused(*command, RELAY_URL="http://127.0.0.1:1", RELAY_SECRET="x")
    assert said == "a name or an id is empty: is the variable set that it is taken from?"


@pytest.mark.parametrize(
    "command", [("bucket", "delete", "..", "--yes"), ("consumer", "delete", "orders", "..", "--yes")]
)
def test_a_name_that_is_removed_from_a_url(relay: Runner, command: tuple[str, ...]) -> None:
    """By a proxy on the way: then the path would be that of something else, as of the consumer's bucket."""
    said = relay.refused(*command, RELAY_URL="http://127.0.0.1:1", RELAY_SECRET="x")
    assert said == "there is nothing with the name or id '..'; a consumer of that name is client:.."


def test_a_port_that_speaks_no_https(relay: Runner, tmp_path: Path) -> None:
    """Whoever writes https:// for it is told so, and at once."""
    with serving(tmp_path / "remote") as server:
        url = server.url.replace("http:", "https:")
        said = relay.refused("--url", url, "--secret", "x", "bucket", "list")
        assert said == f"{url} does not speak HTTPS: try {server.url}"
        said = relay.refused("--url", url, "--secret", "x", "listen", "orders").splitlines()[-1]
        assert said == f"{url.replace('https:', 'wss:')}/v1/socket does not speak HTTPS: try {server.url}"


def test_which_relay_is_meant(relay: Runner, tmp_path: Path) -> None:
    """A flag wins over a variable, two flags contradict each other, and local commands say that they are."""
    url = {"RELAY_URL": "http://127.0.0.1:1", "RELAY_SECRET": "x"}
    data = tmp_path / "here"
    assert relay.json("bucket", "create", "orders", "--data", data, **url)["name"] == "orders"
    assert "can't be reached" in relay.refused("bucket", "list", **url)
    wrong = ["--url", "http://127.0.0.1:1", "--secret", "x"]
    assert "--data" in relay.misused(*wrong, "bucket", "list", "--data", data)
    assert "own machine" in relay.misused(*wrong, "migrate")
    assert relay("migrate", "--data", data, **url).exit_code == 0
    for command in ("stats", "ui", "backup", "check", "migrate", "doctor"):
        said = " ".join(relay.misused(command, *(["x"] if command == "backup" else []), **url).split())
        assert f"{command} works on the relay's own machine only; with RELAY_URL: bucket," in said
        assert said.endswith("unset it, or name --data")
    assert "Usage" in relay("stats", "--help", **url).stdout
    assert relay("stats", "--data", data, RELAY_URL="").exit_code == 0
    assert "secret" in relay.misused("--url", "http://127.0.0.1:1", "bucket", "list")
    assert "URL" in relay.misused("--url", "ftp://x", "--secret", "x", "bucket", "list")


@pytest.mark.parametrize("url", ["", "http://relay:80a", "http://[::1", "http://a..b", "http://:80", "http://relay:0"])
def test_a_url_of_no_host(relay: Runner, url: str) -> None:
    """It is refused at once, wherever it is given."""
    for arguments in (("--url", url, "--secret", "x", "bucket", "list"), ("doctor", "--public-url", url)):
        assert "is not a URL like https://relay.example.org" in relay.misused(*arguments)


@pytest.mark.parametrize("url", ["https://relay.example.org/ui/#/buckets", "https://relay.example.org/?token=geheim"])
def test_a_public_url_behind_which_no_path_can_follow(relay: Runner, url: str) -> None:
    """It is refused, without being shown: the URLs made of it would lead senders elsewhere."""
    for command in ("bucket create orders", "ui", "serve"):
        said = relay.misused(*command.split(), "--public-url", url)
        assert 'it holds a "?" or a "#"' in said
        assert "geheim" not in said


def test_a_line_end_is_no_part_of_a_secret(relay: Runner, tmp_path: Path) -> None:
    """As a variable has it that was made of a file."""
    with serving(tmp_path / "remote") as server:
        assert relay.json("bucket", "list", RELAY_URL=server.url, RELAY_SECRET=server.secret + "\n") == []
    assert "ASCII" in relay.misused("bucket", "list", RELAY_URL="http://127.0.0.1:1", RELAY_SECRET="a\nb")


def test_all_that_was_printed_of_a_token_is_no_secret(relay: Runner, tmp_path: Path) -> None:
    """Whoever kept it in a file hears what may be in one, and nothing of the secret is shown."""
    printed = relay("token", "create").stdout
    (tmp_path / "secret").write_text(printed)
    said = relay.misused("--url", "http://127.0.0.1:1", "--secret-file", tmp_path / "secret", "bucket", "list")
    assert "give the secret alone, or what `relay token create --json` printed" in " ".join(said.split())
    assert "sk-rly_" not in said


def test_plain_http_to_elsewhere_is_said(relay: Runner, tmp_path: Path) -> None:
    """The secret would be readable on its way, whatever reads it."""
    with serving(tmp_path / "remote") as server:
        url = server.url.replace("127.0.0.1", "127.1")
        for command in ("bucket list", "listen orders", "forward orders http://127.0.0.1:9"):
            said = relay("--url", url, "--secret", "x", *command.split())
            assert said.exit_code == 1
            assert said.stderr.count("the secret goes to 127.1 without TLS") == 1, command


def test_a_secret_is_read_once(relay: Runner, tmp_path: Path) -> None:
    """However often a command asks the relay: standard input has it once, and nobody is asked for it again."""
    (tmp_path / "relay.toml").write_text("[buckets.orders]\n")
    with serving(tmp_path / "remote") as server:
        url = server.url.replace("127.0.0.1", "127.1")
        for command in (f"apply {tmp_path / 'relay.toml'}", "input delete orders --yes", "bucket delete orders --yes"):
            done = relay("--url", url, "--secret", "-", *command.split(), input=server.secret + "\n")
            assert done.exit_code == 0, done.output
            assert done.stderr.count("without TLS") == 1, command


@pytest.mark.parametrize("command", ["bucket list", "listen orders", "forward orders http://127.0.0.1:9"])
def test_a_url_with_more_than_a_place(relay: Runner, command: str) -> None:
    """The secret goes by itself."""
    for url in ("http://user:password@127.0.0.1:1", "http://127.0.0.1:1?token=x"):
        said = relay.misused("--url", url, "--secret", "x", *command.split())
        assert "--url: the relay's URL has no user, password, query or fragment" in said


def test_times_keep_their_fraction_where_every_relay_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a body; relays before 0.5.25 take none in a query."""
    asked: list[Any] = []
    monkeypatch.setattr(Remote, "request", lambda self, *path, **given: asked.append(given))
    remote = Remote("http://127.0.0.1:9", "secret")
    remote.logs_resend_range("orders", since=1.25, until=2.5, first=3)
    remote.logs_list(bucket="orders", since=1.25, until=2.5)
    assert asked == [
        {"body": {"from": 1.25, "to": 2.5, "first": 3}},
        {"query": {"bucket": "orders", "from": 1, "to": 2}},
    ]
