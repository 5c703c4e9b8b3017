"""`relay --url …`: what answers there is no relay, breaks off, or has no end."""

from __future__ import annotations

import http.client
import http.server
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import trustme

from relay_tornado.cli import answers, common
from relay_tornado.cli.remote import Remote
from tests.cli.runner import Runner
from tests.cli.server import serving


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


def test_a_certificate_that_is_not_trusted(relay: Runner, tmp_path: Path) -> None:
    """What is wrong with it is said, and how an authority is named; nothing was asked yet."""
    certificate = trustme.CA().issue_cert("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    with stranger(context) as url:
        said = relay.refused("bucket", "create", "orders", RELAY_URL=url, RELAY_SECRET="x")
    assert said.startswith(f"the certificate of {url} is not trusted: ")
    assert "SSL_CERT_FILE" in said


def test_no_tls_where_it_is_expected(relay: Runner) -> None:
    """A port with TLS answers 400 to plain HTTP, in words of its own that are not shown."""
    with saying(b"HTTP/1.1 400 Bad Request\r\n\r\nThis port speaks HTTPS") as url:
        said = relay.refused("bucket", "list", RELAY_URL=url, RELAY_SECRET="x")
    assert said == f"{url} answers 400, and not like a relay: if it speaks HTTPS, try {url.replace('http', 'https')}"


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


STEERING = "\x1b]0;x\x07"  # not one that click leaves out where there is no terminal
MADE = {
    "id": STEERING,
    "name": STEERING,
    "ids": [STEERING],
    "inputs": [{"id": STEERING, "name": STEERING}],
    "outputs": [],
    "auth": {"type": "basic", "username": STEERING},
    "retention": {},
}


@pytest.mark.parametrize(
    "command",
    ["bucket create b", "bucket delete b --yes", "token revoke k", "consumer delete b c --yes", "logs resend x"],
)
def test_what_it_answers_steers_no_terminal(relay: Runner, command: str) -> None:
    """Names and ids are shown with escapes, in a sentence and in a line to paste as in a list."""
    with saying(b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(MADE).encode()) as url:
        done = relay(*command.split(), RELAY_URL=url, RELAY_SECRET="x")
    assert (done.exit_code, r"\x1b]0;x\x07" in done.stdout) == (0, True), done.output
    assert "\x1b" not in done.output


def test_a_question_about_it_steers_no_terminal(relay: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a deletion, too."""
    monkeypatch.setattr(common, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    found = {"kind": "client", "name": STEERING, "bucket_name": STEERING, "bucket_id": "b", "pending": 0, "dead": 0}
    with saying(b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(found).encode()) as url:
        asked = relay("consumer", "delete", "b", "c", input="n\n", RELAY_URL=url, RELAY_SECRET="x")
    assert r"Delete the consumer \x1b]0;x\x07 of \x1b]0;x\x07, " in asked.stderr
    assert "\x1b" not in asked.output


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
