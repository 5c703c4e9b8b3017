"""/v1/stream: who gets no stream, and what they are told."""

from __future__ import annotations

import asyncio
import json
import time
from unittest.mock import Mock
from urllib.parse import quote

import pytest

from relay_tornado.delivery import filter_time
from relay_tornado.delivery.filter_time import FilterTime
from relay_tornado.ids import hash_secret
from relay_tornado.model import Token
from tests.handlers.edge import BUCKET
from tests.handlers.raw import HEALTH, Raw, bearer, request
from tests.handlers.streams import here
from tests.waiting import until


@pytest.mark.parametrize("name", ["secret", "token", "access_token", "Key", "api_key", "authorization"])
@pytest.mark.gen_test
async def test_a_secret_in_a_url_is_refused(name: str) -> None:
    """By the name alone, in words that say where it belongs, and even with good credentials beside it; the answer does
    not repeat it."""
    async with here() as site, site.source(f"bucket=orders&{name}=hunter2") as source:
        assert source.status == 400
        assert "does not belong in a URL" in source.error["message"]
        assert b"hunter2" not in source.body


@pytest.mark.parametrize(
    "query",
    ["bucket={0}", "bucket=orders,{0}", "bucket=orders&bucket={0}", "since={0}", "since=%7B%22{0}%22%3A%22latest%22%7D",
     "filter={0}", "max_body={0}", "on_gap={0}", "outputs={0}", "{0}", "{0}=1", "x={0}", "bucket={1}"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["new", "mistyped", "other"])
@pytest.mark.gen_test
async def test_a_secret_anywhere_in_a_url_is_refused(query: str, kind: str) -> None:
    """What is a token's secret or looks like one, as any value or name; no answer repeats it."""
    async with here() as site:
        secret = {"new": site.secret, "mistyped": site.secret[:-9], "other": "hand-made"}[kind]
        hashed = hash_secret("hand-made")
        await site.edge.registry.put("token", hashed, Token(hashed, hashed, time.time()))
        encoded = "".join(f"%{byte:02x}" for byte in secret.encode())
        async with site.source(query.format(secret, encoded)) as source:
            assert source.status == 400
            assert "does not belong in a URL" in source.error["message"]
            assert secret.encode() not in source.body


@pytest.mark.gen_test
async def test_names_that_are_not_known_are_not_repeated() -> None:
    """They are told by their place, in a stream and in a refusal."""
    async with here() as site:
        await site.append(3)
        async with site.source("bucket=Pass-1,orders,Pass-2&since=latest") as source:
            document = (await source.hear("subscribed")).document
            assert document["message"] == "subscribed to buckets: bucket 1, orders, bucket 3"
            assert [each["bucket_name"] for each in document["buckets"]] == ["bucket 1", "orders", "bucket 3"]
            assert document["buckets"][2] == {"bucket_name": "bucket 3", "error": "not_found"}
        async with site.source('bucket=orders&since={"Pass-1":"earliest","orders":"latest"}') as source:
            document = (await source.hear("subscribed")).document
            assert document["buckets"][1:] == [{"bucket_name": "since", "error": "not_found"}]
        for query, last in (("Pass-1=x", ""), ("bucket=Pass-1", ""), ("since=Pass-1", ""), ("bucket=orders", "Pass-1")):
            async with site.source(query, last=last) as source:
                assert source.status in (400, 404)
                assert b"Pass-1" not in source.body


@pytest.mark.parametrize(
    ("query", "status", "field", "words"),
    [
        ("buckets=orders", 400, None, "no such parameter"),
        ("consumer=w", 400, None, "no such parameter"),
        ("since=yesterday", 400, "since", "since: there is no such position: write latest"),
        ("since=%7B%22o%22%3A%22yesterday%22%7D", 400, "since", "since: there is no such position: write latest"),
        ("since=%7B%22last%22%3A-1%7D", 400, "since", "since.last: write a whole number"),
        ("bucket=" + "x," * 101, 400, "bucket", "at most 100 buckets"),
        ("&bucket=orders" * 101, 400, "bucket", "at most 100 buckets"),
        ("since=%7B", 400, "since", "since: is no JSON"),
        ("since=latest&since=latest", 400, "since", "since: write it once"),
        ("filter=x", 400, "filter", "filter: is no JSON"),
        ("filter=%7B%22match%22%3A%7B%7D%7D", 400, "filter.match", "filter"),
        ("max_body=many", 400, "max_body", "max_body: write a whole number"),
        ("outputs=some", 400, "outputs", 'outputs: write "none"'),
        ("on_gap=stop", 400, "on_gap", 'on_gap: write "resume" or "fail"'),
        ("bucket=%FF", 400, "bucket", "bucket: is not UTF-8"),
        ("since=%7B%22%5Cud800%22%3A%22latest%22%7D", 400, None, "is no JSON"),
        ("bucket=nope", 404, None, "bucket 1: this token reads no bucket of this name"),
        ("bucket=nope,other", 404, None, "bucket 1, bucket 2: this token reads no bucket of this name"),
    ],
)
@pytest.mark.gen_test
async def test_what_can_not_be_followed_is_told(query: str, status: int, field: str | None, words: str) -> None:
    """Before a stream begins, as JSON that names the parameter that it is about, unless that is none or all of them; a
    bucket out of scope is as one that is not there."""
    async with here() as site:
        await site.bucket("other")
        secret = await site.token([BUCKET.id])
        async with site.source(query, secret=secret) as source:
            assert (source.status, source.headers["content-type"]) == (status, "application/json")
            assert source.error.get("field") == field
            assert words in source.error["message"]
        assert not site.edge.site.clients.count


@pytest.mark.parametrize(("nodes", "status"), [(1, 404), (2, 400)])
@pytest.mark.gen_test
async def test_a_filter_waits_for_one_that_took_long_to_compile(
    monkeypatch: pytest.MonkeyPatch, nodes: int, status: int
) -> None:
    """Whether that or another part was refused: a client can't fill the event loop with filters. What has none does not
    wait."""
    now = 0.0
    sleep = asyncio.sleep

    async def slept(seconds: float) -> None:
        nonlocal now
        now += seconds if seconds > 50 else 0.0
        await sleep(min(seconds, 0.01))

    regex = "(?i)[" + "\\PL" * 90 + f"]stream{nodes}"  # which no other test has compiled
    match = {"match": {"type": "regex", "regex": regex, "parameter": {"source": "payload"}}}
    query = f"bucket=nope&filter={quote(json.dumps({'or': [match] * nodes}))}"
    async with here() as site:
        site.edge.site.clients.compiling = FilterTime(lambda: now)
        asked = query
        # A busy machine may take as long for what has no filter.
        monkeypatch.setattr(filter_time, "rest", lambda seconds: 100.0 * (asked == query and seconds > 0.001))
        monkeypatch.setattr(asyncio, "sleep", slept)
        for asked, waited in ((query, 0.0), ("bucket=nope", 0.0), (query, 100.0)):
            async with site.source(asked) as source:
                assert source.status == (status if asked == query else 404)
            assert now == waited


@pytest.mark.gen_test
async def test_a_token_that_is_revoked_while_its_filter_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is let in no more."""
    query = (
        f"filter={quote(json.dumps({'match': {'type': 'value', 'value': 'x', 'parameter': {'source': 'payload'}}}))}"
    )
    async with here() as site:
        secret = await site.token()
        turn = FilterTime.turn

        async def late(self: FilterTime, token: str) -> bool:
            await site.edge.registry.delete("token", hash_secret(secret))
            await turn(self, token)
            return True

        monkeypatch.setattr(FilterTime, "turn", late)
        async with site.source(query, secret=secret) as source:
            assert source.status == 401


@pytest.mark.parametrize("depth", [500, 40_000, 100_000])
@pytest.mark.gen_test
async def test_what_is_nested_deep_is_refused(depth: int) -> None:
    """Where it can be read, and where it can't be."""
    async with here(max_header=1 << 20) as site:
        for query in ("filter=" + '{"and":[' * depth + "]}" * depth, "since=" + '{"a":' * depth + "1" + "}" * depth):
            async with site.source(query) as source:
                assert source.status == 400
                assert source.error["message"].startswith(("filter", "since"))


@pytest.mark.gen_test
async def test_who_has_no_token_gets_nothing() -> None:
    """401; a token without API access reads, as ever."""
    async with here() as site:
        for secret in ("nobody's", await site.token(expires_at=time.time() - 1)):
            async with site.source(secret=secret) as source:
                assert source.status == 401
        async with site.source(secret="x", Authorization="") as source:
            assert source.status == 401
        plain = await site.token([BUCKET.id], api_access=False)
        async with site.source(secret=plain) as source:
            await source.hear("subscribed")


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("bucket=orders&since=earliest", 200),
        ("bucket=nope", 404),
        ("since=yesterday", 400),
        ("bucket=orders&since=aaaaaaaaaaaa-1&on_gap=fail", 410),
    ],
)
@pytest.mark.gen_test
async def test_head_is_answered_as_get_would_be(query: str, status: int) -> None:
    """With the same head, no stream, and a connection that goes on."""
    async with here() as site, Raw(site.edge.port) as raw:
        await site.append(1)
        path = f"/v1/stream?{query}".encode()
        async with site.source(query) as source:
            assert source.status == status
            of_get = source.headers
        for credentials, expected in ((b"", 401), (bearer(site.secret), status)):
            reply = await raw.ask(request(path, b"", credentials, b"HEAD"), head=True)
            assert reply.status == expected
        of_head = {name.lower(): value for name, value in reply.headers}
        for changing in ("request-id", "date", "connection", "transfer-encoding"):
            of_get.pop(changing, None)
            of_head.pop(changing, None)
        assert of_head == of_get
        await until(lambda: not site.edge.site.clients.count)
        assert (await raw.ask(HEALTH)).status == 200


@pytest.mark.parametrize(
    ("agent", "schemes"), [(b"Java-http-client/17", ["Basic", "Bearer"]), (b"Mozilla/5.0 (X11) Chrome/150", ["Bearer"])]
)
@pytest.mark.gen_test
async def test_a_401_says_what_may_be_sent(agent: bytes, schemes: list[str]) -> None:
    """Some clients send no password before they are asked for one. A page is not asked for Basic: the browser would
    open a window."""
    async with here() as site, Raw(site.edge.port) as raw:
        headers = b"User-Agent: %b\r\nAccept: text/event-stream\r\n" % agent
        reply = await raw.ask(request(b"/v1/stream", b"", headers, b"GET"))
        asked = [value.split()[0] for name, value in reply.headers if name.lower() == "www-authenticate"]
        assert (reply.status, asked) == (401, schemes)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://elsewhere.example"}, 403),
        ({"Origin": "https://elsewhere.example", "Authorization": ""}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Origin": "https://relay.example"}, 200),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
        ({"Sec_Fetch_Site": "none"}, 200),
        ({}, 200),
    ],
)
@pytest.mark.gen_test
async def test_a_page_of_another_site_is_refused(headers: dict[str, str], status: int) -> None:
    """The relay's own pages and programs without a page are not."""
    async with here(public_url="https://relay.example") as site:
        given = {name: value.format(port=site.edge.port) for name, value in headers.items()}
        async with site.source(**given) as source:
            assert source.status == status


@pytest.mark.gen_test
async def test_streams_count_among_sockets() -> None:
    """In all; and one that has left makes room for the next."""
    async with here(max_sockets=2) as site:
        async with site.source() as one, site.source() as two:
            for each in (one, two):
                await each.hear("subscribed")
            async with site.source() as three:
                assert (three.status, three.error["code"]) == (503, "overloaded")
                assert three.headers["retry-after"] == "1"
            assert [each.user_agent for each in site.edge.site.clients.subscribed] == ["", ""]
            assert site.edge.site.clients.subscribed[0].positions.keys() == {BUCKET.id}
        await until(lambda: not site.edge.site.clients.count)
        async with site.source() as source:
            await source.hear("subscribed")


@pytest.mark.gen_test
async def test_a_stream_of_too_many_buckets_is_refused() -> None:
    """Its ids would not fit into the head of the request that goes on; named ones do."""
    async with here() as site:
        for number in range(100):
            await site.bucket(f"b{number}")
        async with site.source() as source:
            assert source.status == 400
            assert "at most 100" in source.error["message"]
        names = ",".join(f"b{number}" for number in range(100))
        async with site.source(f"bucket={names}") as source:
            last = (await source.hear("subscribed")).id
        await site.append(1, "id-b99")
        async with site.source(f"bucket={names}", last=last) as source:
            assert len(last) > 1_400
            await source.hear("subscribed")
            message = await source.until("webhook")
            assert message.document["meta"]["bucket_name"] == "b99"


@pytest.mark.gen_test
async def test_a_bucket_that_is_named_is_found_as_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its id first, and without a look at all the others."""
    async with here() as site:
        own, other = await site.bucket("id-b"), await site.bucket("b")
        with monkeypatch.context() as patch:
            patch.setattr(site.edge.registry, "list", Mock(side_effect=AssertionError("all were looked at")))
            async with site.source("bucket=id-b,b") as source:
                assert source.status == 200
                found = (await source.hear("subscribed")).document["buckets"]
        assert [each["bucket_id"] for each in found] == [other.id]
        async with site.source("bucket=id-b", secret=await site.token([own.id])) as source:
            assert source.status == 404
