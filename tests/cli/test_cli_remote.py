"""`relay --url … --secret …`: over REST as locally."""

from __future__ import annotations

import http.client
import http.server
import inspect
import json
import re
import shlex
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trustme

from relay_tornado.admin.commands import COMMANDS
from relay_tornado.cli import answers
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
        varying = ("id", "key", "secret", "bucket_id", "created_at", "updated_at", "buckets")
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


def test_for_people(relay: Runner, tmp_path: Path) -> None:
    """Webhook URLs begin with the relay's own; the secret may come by a file or standard input."""
    with serving(tmp_path / "remote") as server:
        (tmp_path / "secret").write_text(server.secret + "\n")
        for extra, given in ((["--secret-file", tmp_path / "secret"], None), (["--secret", "-"], server.secret + "\n")):
            made = relay("--url", server.url + "/v1/", *extra, "bucket", "create", f"b{len(extra[0])}", input=given)
            assert made.exit_code == 0, made.output
            assert f"{server.url}/v1/webhooks/" in made.output


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


def test_a_port_that_speaks_no_https(relay: Runner, tmp_path: Path) -> None:
    """Whoever writes https:// for it is told so, and at once."""
    with serving(tmp_path / "remote") as server:
        url = server.url.replace("http:", "https:")
        said = relay.refused("--url", url, "--secret", "x", "bucket", "list")
        assert said == f"{url} does not speak HTTPS: try {server.url}"
        said = relay.refused("--url", url, "--secret", "x", "listen", "orders").splitlines()[-1]
        assert said == f"{url.replace('https:', 'wss:')}/v1/socket does not speak HTTPS: try {server.url}"


def test_a_certificate_that_is_not_trusted(relay: Runner, tmp_path: Path) -> None:
    """What is wrong with it is said, and how an authority is named; nothing was asked yet."""
    certificate = trustme.CA().issue_cert("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    with stranger(context) as url:
        said = relay.refused("bucket", "create", "orders", RELAY_URL=url, RELAY_SECRET="x")
    assert said.startswith(f"the certificate of {url} is not trusted: ")
    assert "SSL_CERT_FILE" in said


def test_a_proxy_is_named_where_it_may_be_the_cause(relay: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is asked, and only there: what it says, or that it can't be reached, looks like the relay's doing."""
    through = "(it was asked through the proxy that http_proxy names)"
    there = {"RELAY_URL": "http://127.0.0.1:1", "RELAY_SECRET": "x", "no_proxy": "relay.test"}
    with saying(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n") as proxy:
        said = relay.refused("bucket", "list", **there, http_proxy=proxy)
    assert "answers 407" in said
    assert through in said
    with saying(b"") as proxy:
        said = relay.refused("bucket", "list", **there, http_proxy=proxy)
    assert said == f"http://127.0.0.1:1 broke off its answer: try again {through}"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr("relay_tornado.cli.answers.ANSWER", 0.1)
        said = relay.refused("bucket", "list", **there, http_proxy=f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert said == f"http://127.0.0.1:1 gave no answer within 0.1 s: try again {through}"
    there["http_proxy"] = "http://127.0.0.1:2"
    assert f"refused {through}" in relay.refused("bucket", "list", **there)
    there["no_proxy"] = "127.0.0.1"
    assert "proxy" not in relay.refused("bucket", "list", **there)


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


class _Handler(http.server.BaseHTTPRequestHandler):
    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.seen.append(self.path)
        if self.path == "/v1/buckets":
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
        else:
            self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"<>")

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@contextmanager
def stranger(context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Something at a URL that is no relay, and redirects."""
    server = http.server.HTTPServer(("127.0.0.1", 0), _Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"{'http' if context is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join(60)
        server.server_close()


def test_a_stranger_gets_no_secret(relay: Runner) -> None:
    """A redirect is not followed, and an answer that is none of a relay's is said to be that."""
    _Handler.seen.clear()
    with stranger() as url:
        for arguments in (("bucket", "list"), ("bucket", "show", "x")):
            said = relay.refused(*arguments, RELAY_URL=url, RELAY_SECRET="hidden")
            assert "like a relay" in said
            assert "hidden" not in said
    assert _Handler.seen == ["/v1/buckets", "/v1/buckets/x"]


@contextmanager
def saying(answer: bytes, forever: bytes = b"", every: float = 0.0) -> Iterator[str]:
    """Something that answers each connection with these bytes, and then with others for as long as they are taken."""

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection, suppress(OSError):
                    # All of it: an end amid what is not read is a reset, which may overtake the answer.
                    with connection.makefile("rb") as request:
                        request.readline()
                        request.read(int(http.client.parse_headers(request).get("Content-Length", "0")))
                    connection.sendall(answer)
                    while forever:
                        connection.sendall(forever)
                        time.sleep(every)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(60)


@pytest.mark.parametrize("more", ["", ": the paths are described elsewhere"])
def test_a_path_that_a_relay_does_not_have(relay: Runner, more: str) -> None:
    """By the beginning of its message, which was all of it up to 0.5.20."""
    body = json.dumps({"code": "not_found", "message": f"there is nothing at this path{more}"}).encode()
    head = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    with saying(head + body) as url:
        said = relay.refused("bucket", "list", RELAY_URL=url, RELAY_SECRET="x")
    assert "older than this program" in said


def test_a_path_that_this_relay_does_not_have(tmp_path: Path) -> None:
    """The relay's own message begins like that, too."""
    with serving(tmp_path / "data") as server, pytest.raises(answers.Refused, match="older than this program"):
        Remote(server.url, server.secret).request("GET", "nothing")


TOO_LARGE = "broke off" if hasattr(http.client, "_MIN_READ_BUF_SIZE") else "does not answer like a relay"
"""A Python that reads what is announced piece by piece, as Debian 12's and newer ones do, meets the end first."""


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not answer like a relay"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[", "broke off"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 200_000, "does not answer like a relay"),
        (b"HTTP/1.1 503 Away\r\n\r\n" + b"[" * 200_000, "answers 503"),
        (b"HTTP/1.1 503 Away\r\nContent-Length: 100\r\n\r\n{", "answers 503"),
        (b"", "broke off"),
        (b"HTTP/1.1 301 Moved\r\nLocation: https://relay.test/v1\r\n\r\n", "redirects to https://relay.test/v1: is"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>", "whose relay is away or slow: try again"),
        (b"HTTP/1.1 413 Too Large\r\n\r\n<html>", "takes no request so large"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", TOO_LARGE),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n", TOO_LARGE),
        (b'HTTP/1.1 200 OK\r\n\r\n{"error": "no such page"}', "does not answer like a relay"),
    ],
)
def test_what_is_no_whole_answer(relay: Runner, answer: bytes, words: str) -> None:
    """Another program's port, and an answer that breaks off, are said in one line."""
    with saying(answer) as url:
        assert words in relay.refused("bucket", "list", RELAY_URL=url, RELAY_SECRET="x")


@pytest.mark.parametrize(
    ("answer", "forever"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 100),
        (b"HTTP/1.1 200 OK\r\n\r\n[", b" " * 65536),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10\r\n" + b" " * 16 + b"\r\n"),
        (b"HTTP/1.1 500 Error\r\n\r\n{", b" " * 65536),
    ],
)
def test_an_answer_without_end(relay: Runner, monkeypatch: pytest.MonkeyPatch, answer: bytes, forever: bytes) -> None:
    """It is given up before it takes the memory."""
    monkeypatch.setattr("relay_tornado.client.opener.LARGEST", 1 << 20)
    with saying(answer, forever) as url:
        assert "like a relay: is the URL right?" in relay.refused("bucket", "list", RELAY_URL=url, RELAY_SECRET="x")


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 500 Error\r\n\r\n"])
def test_an_answer_of_many_values(relay: Runner, monkeypatch: pytest.MonkeyPatch, head: bytes) -> None:
    """It takes little on its way, and would take forty times that as a document; what texts hold is no value."""
    monkeypatch.setattr("relay_tornado.cli.answers._MOST", 1000)
    with saying(head + b"[%s]" % b",".join([b"[]"] * 1000)) as url:
        assert "like a relay: is the URL right?" in relay.refused("bucket", "list", RELAY_URL=url, RELAY_SECRET="x")
    text = '"[{,' * 1000
    for document in ({"body": text}, [text, text], [1] * 999):
        assert answers.decode(json.dumps(document).encode()) == document
    for document in ([{}] * 1000, [text, *range(1000)]):
        with pytest.raises(ValueError, match="too many values"):
            answers.decode(json.dumps(document).encode())


PAGE = {
    "id": "b",
    "name": "orders",
    "inputs": [],
    "outputs": [{"id": "o", "name": "worker", "internal": True}],
    "data": [{"id": "abcdefghijkl-9"}],
    "ids": [],
    "next_cursor": "abcdefghijkl-0..abcdefghijkl-9",
    "scheduled": 0,
    "next": 1,
    "full": False,
    "anchor": None,
}


@pytest.mark.parametrize(
    "command",
    [
        "logs resend --bucket orders --last 9",
        "replay orders --from earliest --to-output worker",
        "replay orders --from earliest --to-consumer worker",
    ],
)
def test_pages_without_end(relay: Runner, command: str) -> None:
    """One that leaves all that it was to do is the last one that is asked for."""
    with saying(b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(PAGE).encode()) as url:
        said = relay.refused(*command.split(), RELAY_URL=url, RELAY_SECRET="x")
    assert said == "the relay stopped at seq 1 and gave no reason: its log may say why"


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]
)
def test_an_answer_a_byte_at_a_time(relay: Runner, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    """All of it has to come in time, not each byte."""
    monkeypatch.setattr("relay_tornado.cli.answers.ANSWER", 1.0)
    with saying(answer, b" ", 0.05) as url:
        assert "no answer within 1 s" in relay.refused("bucket", "list", RELAY_URL=url, RELAY_SECRET="x")


@pytest.mark.parametrize("document", [b"[{}]", b'[{"id": 1, "inputs": 2, "name": [], "key": {}}]'])
@pytest.mark.parametrize(
    "command", ["bucket list", "input list", "output delete x --yes", "token list", "consumer list", "apply {file}"]
)
def test_a_list_of_something_else(relay: Runner, tmp_path: Path, command: str, document: bytes) -> None:
    """Of another program, or of a relay of a version that is far from this one's."""
    (tmp_path / "f.toml").write_text("[buckets.orders]\n")
    with saying(b"HTTP/1.1 200 OK\r\n\r\n" + document) as url:
        arguments = command.format(file=tmp_path / "f.toml").split()
        said = relay.refused(*arguments, RELAY_URL=url, RELAY_SECRET="x")
    assert url in said or said.startswith("there is no output with the id 'x'")


@pytest.mark.parametrize(
    "command", ["bucket show x", "logs list", "logs show x", "replay x --from earliest --to-output y"]
)
@pytest.mark.parametrize(
    "document", [b"[]", b'{"data": 7, "name": 5, "id": [], "inputs": 5, "headers": 5, "created_at": {}}']
)
def test_a_document_of_something_else(relay: Runner, command: str, document: bytes) -> None:
    """What it names by a relay's words is no relay's."""
    with saying(b"HTTP/1.1 200 OK\r\n\r\n" + document) as url:
        assert url in relay.refused(*command.split(), RELAY_URL=url, RELAY_SECRET="x")


def test_a_change_whose_answer_does_not_come(relay: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been done: the connection ends, or nothing comes on it any more."""
    with saying(b"") as ends, socket.create_server(("127.0.0.1", 0)) as stays:
        for url, seconds, what in (
            (ends, 60.0, "broke off"),
            (f"http://127.0.0.1:{stays.getsockname()[1]}", 0.3, "no answer within 0.3 s"),
        ):
            monkeypatch.setattr("relay_tornado.cli.answers.ANSWER", seconds)
            said = relay.refused("bucket", "create", "orders", RELAY_URL=url, RELAY_SECRET="x")
            assert what in said
            assert "may have been done" in said


@pytest.mark.parametrize("url", ["", "http://relay:80a", "http://[::1", "http://a..b", "http://:80", "http://relay:0"])
def test_a_url_of_no_host(relay: Runner, url: str) -> None:
    """It is refused at once, wherever it is given."""
    for arguments in (("--url", url, "--secret", "x", "bucket", "list"), ("doctor", "--public-url", url)):
        assert "is not a URL like https://relay.example.org" in relay.misused(*arguments)


def test_a_line_end_is_no_part_of_a_secret(relay: Runner, tmp_path: Path) -> None:
    """As a variable has it that was made of a file."""
    with serving(tmp_path / "remote") as server:
        assert relay.json("bucket", "list", RELAY_URL=server.url, RELAY_SECRET=server.secret + "\n") == []
    assert "ASCII" in relay.misused("bucket", "list", RELAY_URL="http://127.0.0.1:1", RELAY_SECRET="a\nb")


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
