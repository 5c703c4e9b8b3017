"""Events that somebody makes: as they are given, in the input's ways; samples that pass their checks; one to a URL."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

from relay_tornado.admin.samples import SAMPLES
from tests.handlers.rest.world import World, world

STANDARD = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()


async def log_of(here: World, log: str) -> Any:
    return (await here.call("GET", f"/v1/logs/{log}")).document


@pytest.mark.gen_test
async def test_a_made_event_is_what_was_given(here: World) -> None:
    """Exact bytes, headers in their order, the right length, and the marks of an edited copy; it survives a restart."""
    bucket = await here.bucket("orders")
    await here.relay.administration.create_output(bucket.id, name="o")
    first = await here.send(bucket, b"x")
    body = {
        "method": "PUT",
        "path": "/a/b",
        "query": "x=1&y",
        "headers": [["X-B", "2"], ["X-A", "é"], ["x-b", "3"], ["Content-Length", "999"], ["Host", "h"]],
        "body_base64": base64.b64encode(b"\x00\xff").decode(),
        "edited_from": first,
        "output": "o",
    }
    made = await here.call("POST", "/v1/buckets/orders/events", body)
    assert made.status == 201
    log = await log_of(here, made.document["id"])
    assert (log["method"], log["extra_path"], log["raw_query"]) == ("PUT", "/a/b", "x=1&y")
    assert base64.b64decode(log["headers_base64"]) == "X-B: 2\r\nX-A: é\r\nx-b: 3\r\nContent-Length: 2\r\n".encode()
    assert base64.b64decode(log["body_base64"]) == b"\x00\xff"
    assert (log["resend_of"], log["edited"], log["target"], log["size"]) == (first, True, 1, 55)
    assert (await log_of(here, first))["edited"] is False
    headers = [["content-length", "7"], ["TRANSFER-ENCODING", "chunked"], ["host", "h"], ["A", "x"]]
    made = await here.call("POST", "/v1/buckets/orders/events", {"headers": headers})
    assert (await log_of(here, made.document["id"]))["headers"] == {"A": ["x"], "Content-Length": ["0"]}
    plain = await here.call("POST", "/v1/buckets/orders/events", {})
    log = await log_of(here, plain.document["id"])
    assert (log["method"], log["body"], log["edited"], log["resend_of"]) == ("POST", "", False, None)


@pytest.mark.gen_test
@pytest.mark.parametrize("copy", ["", "-1", "-77"])
async def test_an_event_that_is_edited_from_a_copy_is_one_of_the_event(here: World, copy: str) -> None:
    """Whether the copy's output is there or not: `resend_of` names what can be read."""
    bucket = await here.bucket("orders")
    await here.relay.administration.create_output(bucket.id, name="o")
    first = await here.send(bucket, b"x")
    made = await here.call("POST", "/v1/buckets/orders/events", {"edited_from": first + copy})
    assert (made.status, (await log_of(here, made.document["id"]))["resend_of"]) == (201, first)


@pytest.mark.gen_test
async def test_what_can_not_be_made(here: World) -> None:
    """Each names its field; another bucket's event, output or input is refused, and a body over the bucket's limit."""
    bucket, other = await here.bucket("orders", max_body=10), await here.bucket("other")
    strange = await here.send(other, b"x")
    for body, field in (
        ({"method": "A B"}, "method"),
        ({"path": "no/slash"}, "path"),
        ({"path": "/a b"}, "path"),
        ({"path": "/a\r\nb"}, "path"),
        ({"query": "a#b"}, "query"),
        ({"headers": [["A"]]}, "headers"),
        ({"headers": [["A B", "x"]]}, "headers"),
        ({"headers": [["A", "x\r\nB: y"]]}, "headers"),
        ({"headers": {"A": "x"}}, "headers"),
        ({"headers": [["A", "x"]] * 201}, "headers"),
        ({"body_base64": "***"}, "body_base64"),
        ({"input": other.inputs[0].id}, "input"),
        ({"output": "nobody"}, "output"),
        ({"edited_from": strange}, "edited_from"),
    ):
        await here.refused(field, "POST", "/v1/buckets/orders/events", body)
    gone = await here.call("POST", "/v1/buckets/orders/events", {"edited_from": "k3v9x1q7m2ab-1"})
    assert gone.status == 404
    large = await here.call("POST", f"/v1/buckets/{bucket.id}/events", {"body_base64": "eHh4eHh4eHh4eHh4"})
    assert large.status == 413


@pytest.mark.gen_test
async def test_signatures_and_repeats(here: World) -> None:
    """A wrong signature is told and not refused; a repeat is the first one, and an edited copy never a repeat."""
    bucket = await here.bucket("orders", dedupe={"header": "auto"})
    verify = {"verify": {"provider": "github", "secrets": ["hush"], "on_failure": "reject"}}
    assert (await here.call("PUT", f"/v1/buckets/orders/inputs/{bucket.inputs[0].id}", verify)).status == 200
    body = {"headers": [["X-GitHub-Delivery", "1"]], "body_base64": "e30="}
    first, again = [(await here.call("POST", "/v1/buckets/orders/events", body)).document["id"] for _ in range(2)]
    assert first == again
    log = await log_of(here, first)
    assert (log["verified"], log["verdict"]) == (False, "no X-Hub-Signature-256 header")
    edited = await here.call("POST", "/v1/buckets/orders/events", {**body, "edited_from": first})
    assert edited.document["id"] != first


@pytest.mark.parametrize("provider", sorted({each.provider for each in SAMPLES}))
@pytest.mark.gen_test
async def test_samples_pass_the_check_of_their_input(here: World, provider: str) -> None:
    """Signed with the input's secret where it checks that provider, and else not."""
    await here.bucket("orders")
    secret = STANDARD if provider == "standard-webhooks" else "hush"
    verify = {"name": "checked", "verify": {"provider": provider, "secrets": [secret], "on_failure": "reject"}}
    assert (await here.call("POST", "/v1/buckets/orders/inputs", verify)).status == 201
    await here.token("scoped", buckets=["orders"])
    for sample in SAMPLES:
        body = {"provider": sample.provider, "event": sample.event}
        made = await here.call("POST", "/v1/buckets/orders/samples", body)
        assert made.status == 201, made.document
        log = await log_of(here, made.document["id"])
        assert made.document["signed"] == (sample.provider == provider)
        assert log["verified"] == (True if sample.provider == provider else None)
        assert log["headers"]["User-Agent"]
        scoped = await here.call("POST", "/v1/buckets/orders/samples", body, "scoped")
        assert scoped.document["signed"] == (sample.provider == provider != "gitlab")
    for body, field in (
        ({"provider": "x", "event": "push"}, "provider"),
        ({"provider": provider, "event": "x"}, "event"),
    ):
        await here.refused(field, "POST", "/v1/buckets/orders/samples", body)


@pytest.mark.gen_test
async def test_an_event_is_sent_to_a_url(tmp_path: Path) -> None:
    """As a public output would send it, and the answer comes back; what may not be called, and who does not answer."""
    seen: list[tuple[str, str, bytes, str]] = []

    class Target(RequestHandler):
        def post(self) -> None:
            request = self.request
            seen.append((request.method or "", request.uri or "", request.body, request.headers["X-Kind"]))
            self.set_status(418)
            self.set_header("X-Answer", "tea")
            self.write(b"short and stout")

    async with world(tmp_path, forward_allow="127.0.0.0/8") as here:
        server = HTTPServer(Application([(".*", Target)]))
        server.listen(0, "127.0.0.1")
        (port,) = {each.getsockname()[1] for each in server._sockets.values()}
        bucket = await here.bucket("orders")
        log = await here.send(bucket, b"body", "/p?a=1", **{"X-Kind": "order"})
        answer = await here.call("POST", f"/v1/logs/{log}/send", {"url": f"http://127.0.0.1:{port}/base?b=2"})
        assert answer.status == 200, answer.document
        assert (answer.document["status_code"], answer.document["response_headers"]["X-Answer"]) == (418, ["tea"])
        assert base64.b64decode(answer.document["response_body"]) == b"short and stout"
        assert seen == [("POST", "/base/p?b=2&a=1", b"body", "order")]
        assert (await log_of(here, log))["deliveries"] == []
        server.stop()
        await server.close_all_connections()
        for url, status in (
            (f"http://127.0.0.1:{port}/", 502),
            (here.url, 403),
            ("ftp://x/", 400),
            ("http://10.0.0.1/", 403),
        ):
            answer = await here.call("POST", f"/v1/logs/{log}/send", {"url": url})
            assert answer.status == status, (url, answer.document)
