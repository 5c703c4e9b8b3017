"""What every endpoint has in common: who asks, errors in JSON, bodies that are read strictly, methods, sizes."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import zlib

import pytest

from relay_tornado.handlers import lingering
from relay_tornado.handlers.rest.base import RestHandler
from relay_tornado.handlers.rest.json_body import MAX_FIELDS
from relay_tornado.handlers.rest.logs import MAX_ANSWER
from relay_tornado.handlers.rest.service import BODY_BUDGET, Rest
from relay_tornado.transport.limits import SMALL_BODY
from tests.handlers.raw import Raw, request
from tests.handlers.rest.world import World
from tests.waiting import until


def basic(here: World) -> bytes:
    key, secret = here.tokens["administrator"]
    return b"Authorization: Basic " + base64.b64encode(f"{key}:{secret}".encode()) + b"\r\n"


@pytest.mark.gen_test
async def test_who_asks(here: World) -> None:
    """Basic with key and secret, the key "whr" of SDKs, and Bearer are let in; anything else is a 401 that says how."""
    key, secret = here.tokens["administrator"]

    def encoded(text: str) -> str:
        return "Basic " + base64.b64encode(text.encode()).decode()

    good = (encoded(f"{key}:{secret}"), encoded(f"whr:{secret}"), f"Bearer {secret}", f"bearer  {secret}")
    for value in good:
        assert (await here.call("GET", "/v1/buckets", token=None, Authorization=value)).status == 200, value
    bad = ("", "Basic", "Basic !!", encoded("nocolon"), encoded(f"x:{secret}"), encoded(f"{key}:x"), "Bearer")
    for value in (*bad, f"Bearer {key}", f"Token {secret}", "Basic /////w==", secret):
        answer = await here.call("GET", "/v1/buckets", token=None, Authorization=value)
        assert (answer.status, answer.document["code"]) == (401, "unauthorized"), value
        assert "Basic" in answer.headers["WWW-Authenticate"]
        assert secret not in str(answer.document)


@pytest.mark.gen_test
async def test_every_answer_has_a_request_id(here: World) -> None:
    """Also errors, and each another one; errors have code and message."""
    ids = set()
    for method, path, token in (
        ("GET", "/v1/buckets", "administrator"),
        ("GET", "/v1/buckets", None),
        ("GET", "/v1/buckets/none", "administrator"),
        ("PATCH", "/v1/buckets", "administrator"),
        ("POST", "/v1/buckets", "administrator"),
        ("GET", "/v1/nothing", "administrator"),
    ):
        answer = await here.call(method, path, token=token)
        ids.add(answer.headers["Request-Id"])
        assert answer.headers["Content-Type"] == "application/json"
        if answer.status != 200:
            assert set(answer.document) >= {"code", "message"}
    assert len(ids) == 6


@pytest.mark.gen_test
async def test_no_answer_is_kept_by_a_cache(here: World) -> None:
    """A page of events, a secret that is shown once, an error."""
    await here.bucket("orders")
    for method, path, body in (
        ("GET", "/v1/logs", None),
        ("POST", "/v1/tokens", {}),
        ("GET", "/v1/buckets/none", None),
    ):
        assert (await here.call(method, path, body)).headers["Cache-Control"] == "no-store", path


@pytest.mark.gen_test
async def test_a_method_that_is_not_there(here: World) -> None:
    """405 with the methods that are; HEAD is where GET is, and has no body."""
    await here.bucket("orders")
    for method in ("PATCH", "OPTIONS", "POST"):
        answer = await here.call(method, "/v1/buckets/orders", b"" if method != "OPTIONS" else None)
        assert (answer.status, answer.headers["Allow"]) == (405, "HEAD, GET, PUT, DELETE")
        said = f"this path does not take the method {method}; it takes HEAD, GET, PUT, DELETE"
        assert answer.document["message"] == said
    answer = await here.call("HEAD", "/v1/buckets/orders")
    assert (answer.status, answer.document) == (200, None)
    assert int(answer.headers["Content-Length"]) > 100


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b'{"name": "n"}', None, 201),
        (b'{"name": "n"}', "application/json; charset=utf-8", 201),
        (b'{"name": "n"}', "application/x-www-form-urlencoded", 201),
        (b'{"name": "n"}', "application/vnd.api+json", 201),
        (b'\xef\xbb\xbf{"name": "n"}', None, 201),
        (b"\xef\xbb\xbf", None, 400),
        (b'\xef\xbb\xbf\xef\xbb\xbf{"name": "n"}', None, 400),
        (b"name=n", "application/x-www-form-urlencoded", 415),
        (b"--x\r\nbroken", "multipart/form-data; boundary=x", 415),
        (b"name=n", None, 400),
        (b"name=n", "application/json", 400),
        (b"name=n", "application/vnd.api+json", 400),
        (b"", None, 400),
        (b"[]", None, 400),
        (b'"n"', None, 400),
        (b"null", None, 400),
        (b'{"name": "n"} x', None, 400),
        (b'{"name": "n"}{}', None, 400),
        (b'{"name": "n", "x": NaN}', None, 400),
        (b'{"name": "n", "x": Infinity}', None, 400),
        (b'{"name": "n", "x": 1e999}', None, 400),
        (b'{"name": "\xff"}', None, 400),
        (b'{"name": "\\ud800"}', None, 400),
        (b'{"name": "n", "x": ' + b"[" * 100 + b"]" * 100 + b"}", None, 400),
        (b'{"name": "n", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", None, 400),
        (b'{"name": "n", "x": ' + b"[" * 20 + b"]" * 20 + b"}", None, 201),
        (b'{"name": "n", "x": ' + b"9" * 60 + b"}", None, 201),
        (b'{"name": "n", "x": ' + b"9" * 5_000 + b"}", None, 400),
    ],
)
@pytest.mark.gen_test
async def test_bodies(here: World, body: bytes, content_type: str | None, status: int) -> None:
    """JSON with or without its Content-Type; what is none is a 400, or 415 where it says that it is something else."""
    async with Raw(here.relay.port) as raw:
        kind = b"" if content_type is None else b"Content-Type: " + content_type.encode() + b"\r\n"
        reply = await raw.ask(request(b"/v1/buckets", body, basic(here) + kind))
        assert reply.status == status, reply.body
        assert json.loads(reply.body)
        # The connection goes on, and what was stored can be read.
        assert (await raw.ask(request(b"/v1/buckets", b"", basic(here), b"GET"))).status == 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"name": a}', "invalid character (byte 9)"),
        (b" [1,]", "trailing comma in array (byte 4)"),
        (b'{"name": "n"', "it ends too early (byte 12)"),
        (b'{"name": "\\ud83d\\ude00 \\\\ud83d', "it ends too early (byte 30)"),
        (b'{"name": "\\ud83d\\ude0', "it ends too early (byte 21)"),
        (b'{"name": "\\ud83d\\ude00 \\ud83d!"}', "\\ud83d is half of a surrogate pair (byte 23)"),
        (b'{"name": "\\uD83D\\n"}', "\\uD83D is half of a surrogate pair (byte 10)"),
        (b'{"name": "\\ud83d"}', "\\ud83d is half of a surrogate pair (byte 10)"),
        (b'{"name": "\xff"}', "it is not UTF-8 (byte 10)"),
    ],
)
@pytest.mark.gen_test
async def test_a_typo_is_said_with_its_place(here: World, body: bytes, words: str) -> None:
    """Whatever the Content-Type: that of a plain `curl -d` is no form's where the body begins like JSON."""
    async with Raw(here.relay.port) as raw:
        for kind in (b"application/json", b"application/x-www-form-urlencoded"):
            headers = basic(here) + b"Content-Type: " + kind + b"\r\n"
            reply = await raw.ask(request(b"/v1/buckets", body, headers))
            assert reply.status == 400
            assert json.loads(reply.body)["message"] == f"the body is no JSON: {words}"


@pytest.mark.gen_test
async def test_a_compressed_body(here: World) -> None:
    """It is not read, and the answer says why; a body that names an encoding and has none is."""
    plain = b'{"name": "n"}'
    async with Raw(here.relay.port) as raw:
        for body, coding, status in (
            (gzip.compress(plain), b"gzip", 415),
            (zlib.compress(plain), b"Deflate", 415),
            (gzip.compress(plain), b"identity", 400),
            (b"n", b"utf-8", 415),
            (plain, b"utf-8", 201),
        ):
            reply = await raw.ask(request(b"/v1/buckets", body, basic(here) + b"Content-Encoding: %b\r\n" % coding))
            assert reply.status == status, reply.body
            said = f"the body has Content-Encoding: {coding.decode()}, which is not read here: send it uncompressed"
            assert (json.loads(reply.body).get("message") == said) == (status == 415)


@pytest.mark.gen_test
async def test_an_object_of_a_body_has_only_so_many_fields(here: World) -> None:
    """Those that a form does not know take their time from everybody. A client's answer may have more, as nobody looks
    at them."""
    log = await here.send(await here.bucket("orders"))
    full = {f"x{number}": 1 for number in range(MAX_FIELDS)}
    for body in (full | {"name": "n"}, {"name": "n", "throttle": full | {"one": 1}}):
        answer = await here.call("POST", "/v1/buckets/orders/outputs", body)
        assert (answer.status, answer.document["code"]) == (400, "invalid")
        assert "too many fields: at most 10000 are read" in answer.document["message"]
    answer = await here.call("PUT", f"/v1/logs/{log}", {"status_code": 200, **full})
    assert answer.status == 200


@pytest.mark.gen_test
async def test_a_large_bucket_is_sent_back(here: World) -> None:
    """As stock clients do that change one field of it: all of its inputs and outputs have many fields together."""
    await here.bucket("orders")
    bucket = (await here.call("GET", "/v1/buckets/orders")).document
    bucket["inputs"] *= MAX_FIELDS // len(bucket["inputs"][0]) + 1
    answer = await here.call("PUT", "/v1/buckets/orders", bucket | {"description": "changed"})
    assert (answer.status, answer.document["description"]) == (200, "changed")


@pytest.mark.gen_test
async def test_a_list_that_is_too_long_is_not_read(here: World) -> None:
    """Its entries, whatever they are, take their time from everybody."""
    bucket = await here.bucket("orders")
    for method, path, field, most in (
        ("POST", "outputs", "durability.custom_delays", 100),
        ("PUT", f"inputs/{bucket.inputs[0].id}", "verify.secrets", 10),
        ("POST", "consumers/w/dead/resend", "ids", 1000),
    ):
        whole, _, part = field.rpartition(".")
        body = {part: [None] * (most + 1)}
        answer = await here.call(method, f"/v1/buckets/orders/{path}", {whole: body} if whole else body)
        assert (answer.status, answer.document["field"]) == (400, field)
        assert f"{most} " in answer.document["message"]


@pytest.mark.gen_test
async def test_a_get_with_a_content_type(here: World) -> None:
    """Clients say application/json on every request; an empty body is none."""
    async with Raw(here.relay.port) as raw:
        headers = basic(here) + b"Content-Type: application/json\r\n"
        assert (await raw.ask(request(b"/v1/buckets", b"", headers, b"GET"))).status == 200
        headers += b"Content-Length: 0\r\n"
        assert (await raw.ask(request(b"/v1/buckets", b"", headers, b"GET"))).status == 200


@pytest.mark.gen_test
async def test_what_is_refused_is_not_read(here: World) -> None:
    """An unknown client's body is not kept; a short one is read to its end, so that the connection goes on."""
    async with Raw(here.relay.port) as raw:
        for _ in range(2):
            assert (await raw.ask(request(b"/v1/buckets", b"x" * SMALL_BODY))).status == 401
    async with Raw(here.relay.port) as raw:
        raw.send(request(b"/v1/buckets", b"x" * 3_000_000))
        assert (await raw.reply()).status == 401
        assert await raw.closed() == b""
    for length in (b"9000000000", b"9" * 5_000):
        async with Raw(here.relay.port) as raw:
            headers = basic(here) + b"Content-Length: %b\r\n" % length
            raw.send(b"POST /v1/buckets HTTP/1.1\r\nHost: relay.test\r\n" + headers + b"\r\n" + b"x" * 100_000)
            reply = await raw.reply()
            assert (reply.status, json.loads(reply.body)["code"]) == (413, "too_large")
    async with Raw(here.relay.port) as raw:
        head = b"POST /v1/buckets HTTP/1.1\r\nHost: relay.test\r\nTransfer-Encoding: chunked\r\n"
        raw.send(head + basic(here) + b"\r\n" + (b"100000\r\n" + b"x" * (1 << 20) + b"\r\n") * 3 + b"0\r\n\r\n")
        assert (await raw.reply()).status == 413


@pytest.mark.gen_test
async def test_an_answer_that_closes_says_so(here: World) -> None:
    """Where a request is refused by its head the connection ends, and the answer has `Connection: close`, so that no
    client sends another request on it; any other refusal leaves it open."""
    known, large = basic(here), b"x" * (SMALL_BODY + 1)
    for message, status in (
        (request(b"/v1/buckets", b"", known, b"PATCH"), 405),
        (request(b"/v1/buckets", b"{}", known, b"PATCH"), 405),
        (request(b"/v1/buckets/%ff", b"", known, b"GET"), 400),
        (request(b"/v1/buckets", large), 401),
        (request(b"/v1/logs/k3v9x1q7m2ab-1", large, known, b"PUT"), 404),
        (request(b"/v1/buckets", large * 40, known), 413),
    ):
        async with Raw(here.relay.port) as raw:
            reply = await raw.ask(message)
            assert (reply.status, reply.header("Connection")) == (status, "close"), message[:40]
            assert await raw.closed() == b""
    async with Raw(here.relay.port) as raw:
        for message, status in (
            (request(b"/v1/buckets", b"{}"), 401),
            (request(b"/v1/logs/k3v9x1q7m2ab-1", b"{}", known, b"PUT"), 404),
            (request(b"/v1/nothing", b"{}", known), 404),
            (request(b"/healthz", b"{}"), 405),
            (request(b"/v1/stream", b"{}"), 405),
            (request(b"/v1/stream?since=never", b"", known, b"GET"), 400),
            (request(b"/ui/session", b"x" * SMALL_BODY), 403),
        ):
            reply = await raw.ask(message)
            assert (reply.status, reply.header("Connection")) == (status, None), message[:40]


@pytest.mark.gen_test
async def test_a_large_body_is_refused_in_words(here: World) -> None:
    """Who reads the answer only when all of a body is sent gets it, and no reset, up to what REST takes at most."""
    answer = b"x" * MAX_ANSWER
    for message, status in (
        (request(b"/v1/logs/k3v9x1q7m2ab-1", answer, basic(here), b"PUT"), 404),
        (request(b"/v1/logs/k3v9x1q7m2ab-1", answer, method=b"PUT"), 401),
    ):
        async with Raw(here.relay.port) as raw, asyncio.timeout(60):
            raw.writer.transport.set_write_buffer_limits(0)
            raw.send(message)
            await raw.writer.drain()
            assert (await raw.reply()).status == status


@pytest.mark.gen_test
async def test_nobody_is_read_on_for_ever(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a refusal so much is read and dropped, and no more."""
    monkeypatch.setattr(lingering, "BYTES", 1 << 20)

    async with Raw(here.relay.port) as raw, asyncio.timeout(60):
        raw.send(request(b"/v1/buckets", b"x" * (64 << 20)))
        with pytest.raises(ConnectionError):
            await raw.writer.drain()


@pytest.mark.gen_test
async def test_bodies_on_their_way_are_bounded(here: World) -> None:
    """Where too much is held already the answer is a 503 that may be tried again, and what is held is given back."""
    rest = here.site.rest
    rest.take(BODY_BUDGET)
    answer = await here.call("POST", "/v1/buckets", {"name": "n"})
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    rest.give_back(BODY_BUDGET)
    assert (await here.call("POST", "/v1/buckets", {"name": "n"})).status == 201
    assert (await here.call("POST", "/v1/buckets", b"{")).status == 400
    assert rest.incoming == 0


@pytest.mark.gen_test
async def test_a_body_that_gets_too_large_is_held_no_longer(here: World) -> None:
    """In chunks it says no length before: once it is over the limit, what came of it is given back, once, although its
    end is still to come."""
    rest = here.site.rest
    chunk = b"80000\r\n" + b" " * (1 << 19) + b"\r\n"
    async with Raw(here.relay.port) as raw:
        head = b"POST /v1/buckets HTTP/1.1\r\nHost: relay.test\r\nTransfer-Encoding: chunked\r\n"
        raw.send(head + basic(here) + b"\r\n" + chunk)
        await until(lambda: rest.incoming == 1 << 19)
        for _ in range(RestHandler.MAX_BODY >> 19):
            raw.send(chunk)
        await until(lambda: rest.incoming == 0)
        assert executing()
        raw.send(b"0\r\n\r\n")
        assert (await raw.reply()).status == 413
        assert rest.incoming == 0


@pytest.mark.gen_test
async def test_a_body_that_can_not_be_kept_holds_nothing(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no memory for what came of it, its connection ends, and all of it is given back."""

    class Full(list[bytes]):
        def append(self, chunk: bytes) -> None:
            raise MemoryError

    initialize = RestHandler.initialize

    def begin(handler: RestHandler, rest: Rest) -> None:
        initialize(handler, rest)
        handler._chunks = Full()

    async with Raw(here.relay.port) as raw:
        rest = here.site.rest
        monkeypatch.setattr(RestHandler, "initialize", begin)
        raw.send(request(b"/v1/buckets", b"x" * 10_000, basic(here)))
        await raw.closed(reset=True)
        await until(lambda: not executing())
        assert rest.incoming == 0


@pytest.mark.gen_test
async def test_a_client_that_leaves_holds_nothing(here: World) -> None:
    """Where the connection closes in the middle of a body, what came is given back and nobody waits for the rest."""
    rest = here.site.rest
    async with Raw(here.relay.port) as raw:
        head = b"PUT /v1/buckets/orders HTTP/1.1\r\nHost: relay.test\r\nContent-Length: 100000\r\n"
        await here.bucket("orders")
        raw.send(head + basic(here) + b"\r\n" + b" " * 50_000)
        await until(lambda: rest.incoming == 50_000)
        assert executing()
    await until(lambda: rest.incoming == 0 and not executing())


def executing() -> bool:
    """Whether some request is being worked on."""
    return any("_execute" in repr(task) for task in asyncio.all_tasks())


@pytest.mark.gen_test
async def test_paths(here: World) -> None:
    """Names are percent-encoded UTF-8; what is none is a 400, and a slash in one a name like another."""
    await here.bucket("Zoë & co?")
    assert (await here.call("GET", "/v1/buckets/Zo%C3%AB%20%26%20co%3F")).document["name"] == "Zoë & co?"
    broken = await here.call("GET", "/v1/buckets/%FF")
    assert (broken.status, broken.document["code"], broken.document["field"]) == (400, "invalid", "bucket")
    assert "bucket: is not UTF-8" in broken.document["message"]
    assert (await here.call("GET", "/v1/buckets/a%2Fb")).status == 404
