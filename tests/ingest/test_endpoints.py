"""Which input a request is for: by its ingest URL, or by an input's own host and path."""

from __future__ import annotations

import dataclasses

import pytest

from relay_tornado.ingest.endpoints import split_target
from relay_tornado.ingest.ingest import Head
from relay_tornado.wire.answers import Answer
from tests.ingest.world import BUCKET, HEADERS, Bench, finish, replace_input


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        (b"/v1/webhooks/in-1", ("in-1", b"", b"")),
        (b"/v1/webhooks/in-1/", ("in-1", b"/", b"")),
        (b"/v1/webhooks/in-1?a=1", ("in-1", b"", b"a=1")),
        (b"/v1/webhooks/in-1/a/b%2Fc?x=%20?y#z", ("in-1", b"/a/b%2Fc", b"x=%20?y#z")),
        (b"/v1/webhooks/in-1//a/../b", ("in-1", b"//a/../b", b"")),
        (b"/v1/webhooks/in-1?/a", ("in-1", b"", b"/a")),
        (b"http://h:1/v1/webhooks/in-1/p?q", ("in-1", b"/p", b"q")),
        (b"HTTPS://h/v1/webhooks/in-1", ("in-1", b"", b"")),
        (b"/v1/webhooks/in-1/caf\xc3\xa9", ("in-1", b"/caf\xc3\xa9", b"")),
        (b"/v1/webhooks/in-1?", ("in-1", b"", b"")),
        (b"/v1/webhooks/in-1#orders", ("in-1", b"", b"")),
        (b"/v1/webhooks/in-1%23orders%0a?a=1", ("in-1", b"", b"a=1")),
        (b"/v1/webhooks/in-1%0D%0A", ("in-1", b"", b"")),
        (b"/v1/webhooks/in-1%20%09/a%20", ("in-1", b"/a%20", b"")),
        (b"/v1/webhooks/in%20-1", ("in%20-1", b"", b"")),
        (b"/v1/webhooks/" + b"%20" * 20_000 + b"x", ("%20" * 20_000 + "x", b"", b"")),
        (b"//v1/webhooks/in-1", ("in-1", b"", b"")),
        (b"/v1//webhooks//in-1//", ("in-1", b"//", b"")),
        (b"http://h//v1/webhooks/in-1", ("in-1", b"", b"")),
        (b"/v1/webhooks/", ("", b"", b"")),
        (b"/v1/webhooks", None),
        (b"/v2/webhooks/in-1", None),
        (b"http://h", None),
        (b"http://h?/v1/webhooks/in-1", None),
        (b"*", None),
        (b"h:443", None),
    ],
)
def test_targets(target: bytes, parts: tuple[str, bytes, bytes] | None) -> None:
    """A target is split on its raw bytes, in origin form and in absolute form."""
    assert split_target(target) == parts


@pytest.mark.gen_test
async def test_inputs_by_their_own_host_and_path() -> None:
    """The path goes on as the input says, the query as ever; an absolute-form target overrules the Host header."""
    bucket = replace_input(custom_domain="hooks.example", path_prefix="/in", strip_path_prefix=True)
    bench = await Bench(bucket).open()

    async def send(target: bytes, host: str) -> int:
        upload = bench.ingest.begin(Head("POST", target, HEADERS, 0, "192.0.2.7", host))
        return upload.status if isinstance(upload, Answer) else (await finish(upload)).status

    assert await send(b"/in/a?b=/c", "Hooks.example:80") == 200
    assert await send(b"http://user@hooks.example/in", "other.example") == 200
    assert await send(b"http://other.example/in", "hooks.example") == 404
    assert await send(b"/inn", "hooks.example") == 404
    assert await send(b"/in", "") == 404
    assert [(event.path, event.query) for event in await bench.events()] == [(b"/a", b"b=/c"), (b"", b"")]


@pytest.mark.gen_test
async def test_where_a_target_leads_is_looked_up_anew_after_a_change() -> None:
    """What is kept of targets never outlives the record that it came from, and is bounded."""
    bench = await Bench().open()
    endpoints = bench.ingest.endpoints
    target = b"/v1/webhooks/in-1/a?b"
    place = endpoints.find(target, "")
    assert place is not None
    assert (place.path, place.query) == (b"/a", b"b")
    assert endpoints.find(target, "") is place
    await bench.registry.put("bucket", BUCKET.id, dataclasses.replace(BUCKET, max_body=3))
    again = endpoints.find(target, "")
    assert again is not None
    assert again.endpoint.max_body == 3
    assert endpoints.find(target, "") is again
    for number in range(5000):
        assert endpoints.find(b"/v1/webhooks/in-1/%d" % number, "") is not None
    assert len(endpoints._places) <= 4096
    long = b"/v1/webhooks/in-1/" + b"x" * 300
    assert endpoints.find(long, "") is not None
    assert long not in endpoints._places
    await bench.registry.delete("bucket", BUCKET.id)
    assert endpoints.find(target, "") is None
