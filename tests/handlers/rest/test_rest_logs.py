"""Logs and events over REST: clients' answers in every form that they are sent, reading, sending again, polling."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from relay_tornado.admin.sessions import OWNER
from relay_tornado.handlers.rest.json_body import MAX_VALUES
from relay_tornado.log.results import READ_BYTES
from tests.handlers.rest.world import World

BODY = b"\x00\xff made"
ENCODED = base64.b64encode(BODY).decode()

# As the clients' sources have them, and what the log shows then: status, status_code, response_body, response_headers.
FORMS: list[tuple[str, dict[str, Any], tuple[str, int, bytes, dict[str, list[str]]]]] = [
    (
        "without a Content-Type",
        {"id": "ID", "response_body": ENCODED, "status_code": 201, "response_headers": {"X-Key": ["v"]}},
        ("sent", 201, BODY, {"X-Key": ["v"]}),
    ),
    (
        "the Go agent",
        {
            "id": "ID",
            "response_body": ENCODED,
            "status_code": 200,
            "response_headers": {"X-Key": ["v", "w"]},
            "status": "sent",
            "retries": 0,
        },
        ("sent", 200, BODY, {"X-Key": ["v", "w"]}),
    ),
    (
        "the Go agent, on a failure",
        {
            "id": "ID",
            "response_body": None,
            "status_code": 0,
            "response_headers": None,
            "status": "failed",
            "retries": 3,
        },
        ("failed", 0, b"", {}),
    ),
    (
        "header values as strings, a bucket_id and a duration",
        {
            "bucket_id": "B",
            "status_code": 200,
            "response_body": "",
            "response_headers": {"Content-Type": "text/plain"},
            "duration_ms": 12,
        },
        ("sent", 200, b"", {"Content-Type": ["text/plain"]}),
    ),
    (
        "the official SDK, whose body is not encoded",
        {"response_body": '{"ok": true}', "status_code": 200, "response_headers": None},
        ("sent", 200, b'{"ok": true}', {}),
    ),
    (
        "a duration with a fraction, and fields that nobody knows",
        {"status_code": 200, "duration_ms": 12.4, "retries": None, "another": {"a": [1]}},
        ("sent", 200, b"", {}),
    ),
    (
        "a status code as a text, and header values that are none",
        {"status_code": "200", "response_headers": {"A": 7, "B": True, "C": ["x", 1.5, False]}},
        ("sent", 200, b"", {"A": ["7"], "B": ["true"], "C": ["x", "1.5", "false"]}),
    ),
    (
        "other numbers as texts, and no headers as a list, as PHP writes them",
        {"status_code": "201", "duration_ms": "12", "retries": "2", "response_headers": []},
        ("sent", 201, b"", {}),
    ),
    ("a status, and null for the code", {"status": "sent", "status_code": None}, ("sent", 200, b"", {})),
    ("a status alone", {"status": "failed", "duration_ms": 5}, ("failed", 0, b"", {})),
    ("a status that the code does not suggest", {"status": "sent", "status_code": 500}, ("sent", 500, b"", {})),
    *(
        (f"{number!r} for the status", {"status": number, "status_code": code}, (status, code, b"", {}))
        for number, code, status in (
            (1, 201, "sent"),
            (2, 500, "failed"),
            (0, 404, "failed"),
            ("preparing", 200, "sent"),
        )
    ),
    (
        "a list of bytes, from a client that has only one kind of number",
        {"status_code": 200, "response_body": [104.0, 105, 10.0]},
        ("sent", 200, b"hi\n", {}),
    ),
    *(
        (f"a body as {how}", {"status_code": 200, "response_body": given}, ("sent", 200, body, {}))
        for how, given, body in (
            ("a list of bytes", [104, 105], b"hi"),
            ("a list of bytes from Java", [104, -61, -87.0], "h\xe9".encode()),
            ("a list of none", [], b""),
            ("base64 in lines", base64.encodebytes(bytes(256)).decode(), bytes(256)),
            ("base64 in one line", "aGVsbG8=\r\n", b"hello"),
            ("text in lines", "two\nlines\n", b"two\nlines\n"),
            ("text that was cut within a character", "\U0001f600 \ud83d", "\U0001f600 \ufffd".encode()),
            ("text that begins within one", "\ude00\ud83d\\ud83d", "\ufffd\ufffd\\ud83d".encode()),
        )
    ),
    *(
        (
            f"a status code that no answer has: {code}, as {status}",
            {"status_code": code, **({"status": status} if status else {})},
            (status or "failed", 0, b"", {}),
        )
        for code, status in ((100, ""), (199, "sent"), (600, "sent"), (999, ""), (-1, ""), (1e300, ""), ("600", ""))
    ),
    *(
        (f"{code} without a status", {"status_code": code}, (status, code, b"", {}))
        for code, status in ((299, "sent"), (302, "sent"), (399, "sent"), (400, "failed"), (503, "failed"))
    ),
]


@pytest.mark.parametrize(("form", "expected"), [row[1:] for row in FORMS], ids=[row[0] for row in FORMS])
@pytest.mark.gen_test
async def test_an_answer_in_each_form(here: World, form: dict[str, Any], expected: tuple[Any, ...]) -> None:
    """PUT /logs/{id} takes it with exactly 200, whatever its Content-Type, and the log shows it."""
    bucket = await here.bucket("orders")
    for content_type in (None, "application/json", "application/x-www-form-urlencoded"):
        log = await here.send(bucket)
        headers = {} if content_type is None else {"Content-Type": content_type}
        body = json.dumps({**form, **({"id": log} if "id" in form else {})}).encode()
        answer = await here.call("PUT", f"/v1/logs/{log}", body, **headers)
        assert (answer.status, answer.document["id"]) == (200, log), answer.document
        shown = (await here.call("GET", f"/v1/logs/{log}")).document
        assert (
            shown["status"],
            shown["status_code"],
            base64.b64decode(shown["response_body"]),
            shown["response_headers"],
        ) == expected


@pytest.mark.gen_test
async def test_an_answer_that_does_not_fit(here: World) -> None:
    """Each is a 400 that names the field, and an event that is not there is a 404."""
    log = await here.send(await here.bucket("orders"))
    for body, field in (
        ({}, "status_code"),
        ({"response_body": "x"}, "status_code"),
        ({"status": "preparing"}, "status_code"),
        ({"status_code": "2oo"}, "status_code"),
        ({"status_code": "-1"}, "status_code"),
        ({"status_code": 200.5}, "status_code"),
        ({"status_code": True}, "status_code"),
        ({"status_code": 200, "duration_ms": -0.1}, "duration_ms"),
        ({"status_code": 200, "duration_ms": 1e300}, "duration_ms"),
        ({"status_code": 200, "duration_ms": "12ms"}, "duration_ms"),
        ({"status_code": 200, "retries": "-1"}, "retries"),
        ({"status_code": 200, "response_headers": [["X", "v"]]}, "response_headers"),
        ({"status_code": 200, "status": "done"}, "status"),
        ({"status_code": 200, "status": 6}, "status"),
        ({"status_code": 200, "status": True}, "status"),
        ({"status_code": 200, "response_headers": {"X": {}}}, "response_headers.X"),
        ({"status_code": 200, "response_headers": {"X": [None]}}, "response_headers.X"),
        ({"status_code": 200, "response_body": 7}, "response_body"),
        ({"status_code": 200, "response_body": ["a"]}, "response_body"),
        ({"status_code": 200, "response_body": [True]}, "response_body"),
        ({"status_code": 200, "response_body": [0, 255, 256]}, "response_body"),
        ({"status_code": 200, "response_body": [-1, 2**70]}, "response_body"),
        ({"status_code": 200, "response_body": [-1, 128]}, "response_body"),
        ({"status_code": 200, "response_body": [-129]}, "response_body"),
        ({"status_code": 200, "response_body": [0.5]}, "response_body"),
        ({"status_code": 200, "response_body": [1e300]}, "response_body"),
    ):
        await here.refused(field, "PUT", f"/v1/logs/{log}", body)
    epoch = log.split("-")[0]
    for missing in ("nonsense", "k3v9x1q7m2ab-1", f"{epoch}-2", f"{epoch}-0"):
        assert (await here.call("PUT", f"/v1/logs/{missing}", {"status_code": 200})).status == 404, missing


@pytest.mark.parametrize(
    "rest", [b",}", b"} x", b', "n": NaN}', b', "n": ' + b"9" * 5_000 + b"}", b', "n": ' + b"[" * 9_999]
)
@pytest.mark.gen_test
async def test_an_answer_that_was_cut_within_a_character_and_is_no_json(here: World, rest: bytes) -> None:
    """It is refused as any other."""
    log = await here.send(await here.bucket("orders"))
    body = b'{"status_code": 200, "response_body": "\\ud83d"' + rest
    answer = await here.call("PUT", f"/v1/logs/{log}", body)
    assert (answer.status, answer.document["code"]) == (400, "invalid")
    assert (await here.call("GET", f"/v1/logs/{log}")).document["deliveries"] == []


@pytest.mark.gen_test
async def test_a_large_answer(here: World) -> None:
    """A body of 5 MB in base64 arrives exactly, and one over 10 MiB is a 413 in JSON."""
    log = await here.send(await here.bucket("orders"))
    body = bytes(range(256)) * 20_000
    document = {"status_code": 200, "response_body": base64.b64encode(body).decode()}
    assert (await here.call("PUT", f"/v1/logs/{log}", document)).status == 200
    shown = (await here.call("GET", f"/v1/logs/{log}")).document
    assert base64.b64decode(shown["response_body"]) == body
    answer = await here.call("PUT", f"/v1/logs/{log}", b" " * (10 * 2**20 + 1))
    assert (answer.status, answer.document["code"]) == (413, "too_large")


@pytest.mark.gen_test
async def test_an_answer_has_only_so_many_parts(here: World) -> None:
    """Objects and lists take many times their bytes, and their time from everybody, also where nobody asks for them;
    what stands in a text is none, whatever escapes are in it."""
    log = await here.send(await here.bucket("orders"))
    for parts, status in (("[],", 400), ('{"[":0},', 400), ('"[{",', 200), (r'"\\\"[{\\",', 200), ("1,", 200)):
        body = '{"status_code": 200, "more": [' + parts * 60_000 + r'"\\"]}'
        answer = await here.call("PUT", f"/v1/logs/{log}", body.encode())
        assert answer.status == status, (parts, answer.document)
        assert status == 200 or "too many objects and lists" in answer.document["message"]


@pytest.mark.gen_test
async def test_an_answer_has_only_so_many_values(here: World) -> None:
    """Each takes its time from everybody, as a number, as a text, and as a header's; a body of so many bytes is taken,
    and what stands in a text is no value."""
    log = await here.send(await here.bucket("orders"))
    most, over = MAX_VALUES, MAX_VALUES + 2
    for body, status, words in (
        ('{"status_code": 200, "response_body": [%s7]}' % ("7," * (most - 1)), 200, ""),
        ('{"status_code": 200, "response_body": "%s"}' % (r"\"a\"," * over), 200, ""),
        ('{"status_code": 200, "response_body": [%s7]}' % ("7," * over), 400, "send bytes as base64"),
        ('{"status_code": 200, "more": [%s""]}' % ('"",' * over), 400, "too many values"),
        (json.dumps({"status_code": 200, "response_headers": {"A": [1] * 1001}}), 400, "1000 are allowed"),
        (json.dumps({"status_code": 200, "response_headers": {f"A{n}": "" for n in range(1001)}}), 400, "1001"),
        (json.dumps({"status_code": 200, "response_headers": {"A": ["1"] * 999, "B": 1}}), 200, ""),
    ):
        answer = await here.call("PUT", f"/v1/logs/{log}", body.encode())
        assert answer.status == status, (body[:60], answer.document)
        assert status == 200 or words in answer.document["message"]


@pytest.mark.gen_test
async def test_headers_have_only_so_many_values(here: World) -> None:
    """An input's and an output's, too."""
    bucket = await here.bucket("orders")
    many = {"name": "o", "headers": {f"X-{n}": ["a", "b"] for n in range(501)}}
    for path in (f"inputs/{bucket.inputs[0].id}", "outputs"):
        method = "POST" if path == "outputs" else "PUT"
        answer = await here.refused("headers", method, f"/v1/buckets/orders/{path}", many)
        assert "1002 values" in answer.document["message"]


@pytest.mark.gen_test
async def test_an_answer_reaches_the_sender_that_waits(here: World) -> None:
    """With response_from_output the sender gets what a client PUTs, found by the id in its frame."""
    bucket = await here.bucket("orders")
    await here.relay.administration.create_output(bucket.id, name="o", destination="http://localhost:3000")
    await here.relay.administration.set_input(bucket.inputs[0].id, response_from_output="anyOutput")
    async with here.socket("administrator", "orders") as socket:
        sending = asyncio.create_task(here.fetch("POST", f"/v1/webhooks/{bucket.inputs[0].id}", b"q", {}))
        frame = json.loads(await socket.recv())
        answer = {"status_code": 202, "response_body": ENCODED, "response_headers": {"X-Made": "here"}}
        assert (await here.call("PUT", f"/v1/logs/{frame['meta']['id']}", answer)).status == 200
        response = await sending
    assert (response.code, response.body, response.headers["X-Made"]) == (202, BODY, "here")


@pytest.mark.gen_test
async def test_logs_are_listed_in_pages(here: World) -> None:
    """Newest first with a cursor that stays right while events arrive; filters; a Log's shape."""
    bucket = await here.bucket("orders")
    ids = [await here.send(bucket, b"%d" % n, f"/x/{n}?a={n}") for n in range(5)]
    first = (await here.call("GET", "/v1/logs?bucket=orders&limit=2")).document
    assert [each["id"] for each in first["data"]] == [ids[4], ids[3]]
    assert (first["total"], first["limit"], first["offset"]) == (5, 2, 0)
    await here.send(bucket)
    second = (await here.call("GET", f"/v1/logs?bucket=orders&limit=2&cursor={first['next_cursor']}")).document
    assert [each["id"] for each in second["data"]] == [ids[2], ids[1]]
    await here.call("PUT", f"/v1/logs/{ids[1]}", {"status_code": 500, "status": "failed"})
    failed = (await here.call("GET", "/v1/logs?status=failed")).document
    assert [each["id"] for each in failed["data"]] == [ids[1]]
    log = first["data"][0]
    assert set(log) >= {
        *("id", "account_id", "bucket_id", "input_id", "output_id", "method", "status", "status_code", "body"),
        *("headers", "raw_query", "extra_path", "ip_address", "response_body", "response_headers"),
        *("duration_ms", "retries", "internal", "ephemeral", "created_at", "updated_at"),
    }
    assert (log["body"], log["extra_path"], log["raw_query"], log["method"]) == ("4", "/x/4", "a=4", "POST")
    assert (log["status"], log["response_body"]) == ("received", "")
    assert type(log["created_at"]) is int
    for query, field in (
        ("limit=x", "limit"),
        ("limit=-1", "limit"),
        ("status=done", "status"),
        ("from=%FF", "from"),
        ("cursor=nonsense", "cursor"),
    ):
        await here.refused(field, "GET", f"/v1/logs?bucket=orders&{query}")


@pytest.mark.gen_test
async def test_a_log_of_a_bucket(here: World) -> None:
    """GET /buckets/{id}/logs/{log id} finds it in its own bucket, by the bucket's name or id, and in no other."""
    bucket = await here.bucket("orders")
    await here.bucket("other")
    log = await here.send(bucket)
    for name in ("orders", bucket.id):
        assert (await here.call("GET", f"/v1/buckets/{name}/logs/{log}")).document["id"] == log
    assert (await here.call("GET", f"/v1/buckets/other/logs/{log}")).status == 404


@pytest.mark.gen_test
async def test_resend(here: World) -> None:
    """One event by its action, to one output and past its rules; a range in its order."""
    bucket = await here.bucket("orders")
    _, output = await here.relay.administration.create_output(bucket.id, name="o")
    logs = [await here.send(bucket, b"%d" % n) for n in range(3)]
    body = {"action": "resend", "output": output.id, "process_policy": "force"}
    answer = await here.call("POST", f"/v1/logs/{logs[1]}/action", body)
    assert (answer.status, answer.document["status"]) == (200, "resent")
    copy = (await here.call("GET", f"/v1/logs/{answer.document['ids'][0]}")).document
    assert (copy["body"], copy["resend_of"]) == ("1", logs[1])
    for policy, force in ((body, True), ({"action": "resend"}, False)):
        again = (await here.call("POST", f"/v1/logs/{logs[1]}/action", policy)).document["ids"][0]
        assert (await here.site.rest.logs.event(OWNER, again)).force == force
    ranged = await here.call("POST", "/v1/buckets/orders/resend", {"first": 1, "last": 2})
    bodies = [(await here.call("GET", f"/v1/logs/{each}")).document["body"] for each in ranged.document["ids"]]
    assert (ranged.status, bodies) == (200, ["0", "1"])
    nulls = dict.fromkeys(("first", "from", "to", "cursor", "filter", "output", "process_policy"))
    for last, sent in ((2, 2), (0, 0)):
        ranged = await here.call("POST", "/v1/buckets/orders/resend", {**nulls, "last": last})
        assert (ranged.status, len(ranged.document.get("ids", []))) == (200, sent)
    for wrong, field in (({"action": "delete"}, "action"), ({}, "action"), ({"action": "resend", "x": 1}, "x")):
        await here.refused(field, "POST", f"/v1/logs/{logs[1]}/action", wrong)


@pytest.mark.gen_test
async def test_resend_of_a_range_by_its_cursor(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer's `next_cursor` alone leads to the end of the range, and a cursor of nothing is refused in words."""
    monkeypatch.setattr("relay_tornado.admin.resending.MOST", 2)

    bucket = await here.bucket("orders")
    logs = [await here.send(bucket) for _ in range(5)]
    found: list[str] = []
    body: dict[str, Any] = {}
    for _ in range(3):
        answer = (await here.call("POST", "/v1/buckets/orders/resend", body)).document
        found += answer["ids"]
        body = {"cursor": answer.get("next_cursor")}
    assert body == {"cursor": None}
    copies = [(await here.call("GET", f"/v1/logs/{each}")).document for each in found]
    assert [each["resend_of"] for each in copies] == logs
    for cursor in (logs[0][:-1] + "99", "zzzzzzzzzzzz-1"):
        refused = await here.call("POST", "/v1/buckets/orders/resend", {"cursor": cursor})
        listed = await here.call("GET", f"/v1/logs?bucket=orders&cursor={cursor}")
        for each in (refused, listed):
            assert (each.status, each.document["field"]) == (400, "cursor")
    assert (await here.call("GET", "/v1/logs?bucket=orders")).document["total"] == 10


@pytest.mark.gen_test
async def test_resend_tells_what_is_not_there(here: World) -> None:
    """Events of the range that have left are `skipped`, each stretch with its reason."""
    bucket = await here.bucket("orders", retention={"max_events": 1})
    for _ in range(3):
        await here.send(bucket)
    await here.relay.administration.housekeeping.trim_all()
    answer = (await here.call("POST", "/v1/buckets/orders/resend", {"first": 1, "last": 2})).document
    assert answer == {
        "status": "resent",
        "ids": [],
        "skipped": [{"from": 1, "to": 2, "count": 2, "reason": "retention"}],
    }


async def drained(here: World, query: str, method: str = "GET") -> list[str]:
    answer = await here.call(method, f"/v1/events?bucket=orders&{query}")
    assert answer.status == 200
    return [] if answer.document is None else [each["id"] for each in answer.document["logs"]]


@pytest.mark.gen_test
async def test_events_drain(here: World) -> None:
    """Without a cursor each event is given once, in order, one by default; HEAD takes nothing out."""
    bucket = await here.bucket("orders")
    ids = [await here.send(bucket) for _ in range(4)]
    assert await drained(here, "", "HEAD") == []
    assert await drained(here, "") == ids[:1]
    assert await drained(here, "limit=2") == ids[1:3]
    assert (await here.call("GET", f"/v1/logs/{ids[0]}")).document["status"] == "sent"
    assert await drained(here, "limit=100") == ids[3:]
    last = (await here.call("GET", "/v1/events?bucket=orders")).document
    assert last == {"logs": [], "has_more": False}
    await here.refused("bucket", "GET", "/v1/events")


@pytest.mark.gen_test
async def test_events_behind_a_cursor(here: World) -> None:
    """With one the same page comes as often as one likes, and an empty one is the beginning."""
    bucket = await here.bucket("orders")
    ids = [await here.send(bucket) for _ in range(3)]
    for _ in range(2):
        page = (await here.call("GET", "/v1/events?bucket=orders&limit=2&cursor=")).document
        assert [each["id"] for each in page["logs"]] == ids[:2]
        assert page["has_more"] is True
    page = (await here.call("GET", f"/v1/events?bucket=orders&limit=2&cursor={page['next_cursor']}")).document
    assert [each["id"] for each in page["logs"]] == ids[2:]
    page = (await here.call("GET", "/v1/events?bucket=orders&cursor=k3v9x1q7m2ab-7")).document
    assert page["gap"] == {"from": None, "to": None, "count": None, "reason": "reset"}


@pytest.mark.gen_test
async def test_large_answers_of_clients_make_no_page_larger(here: World) -> None:
    """Whoever may only answer can't have others read more than is read at once: what is left out says so. A list of
    logs ends before it instead."""
    bucket = await here.bucket("orders")
    await here.token("worker", buckets=["orders"], api_access=False)
    large = base64.b64encode(b"x" * (READ_BYTES // 4)).decode()
    for _ in range(5):
        log = await here.send(bucket)
        for _ in range(5):
            answer = {"status_code": 200, "response_body": large}
            assert (await here.call("PUT", f"/v1/logs/{log}", answer, "worker")).status == 200
    found = (await here.call("GET", f"/v1/logs/{log}")).document
    assert [each.get("response_truncated", False) for each in found["deliveries"]] == [True, True, False, False, False]
    assert (found["response_body"], found["deliveries"][0]["response_body"]) == (large, "")
    start = log.rpartition("-")[0] + "-0"
    for path, name in (("search?", "data"), (f"events?cursor={start}&limit=5", "logs")):
        logs = (await here.call("GET", f"/v1/{path}&bucket={bucket.id}")).document[name]
        assert [each.get("response_truncated", False) for each in logs] == [False, False, False, True, True], path
    pages: list[list[bool]] = []
    cursor = ""
    while cursor is not None:
        page = (await here.call("GET", f"/v1/logs?bucket={bucket.id}&cursor={cursor}")).document
        pages.append([each["response_body"] == large for each in page["data"]])
        cursor = page.get("next_cursor")
    assert pages == [[True] * 3, [True] * 2]


@pytest.mark.gen_test
async def test_deliveries(here: World) -> None:
    """A log has all that came of the event, and a copy's log what came of that."""
    bucket = await here.bucket("orders")
    await here.relay.administration.create_output(bucket.id, name="one")
    await here.relay.administration.create_output(bucket.id, name="two")
    log = await here.send(bucket, b"x")
    for copy, code in ((1, 500), (2, 200), (1, 201)):
        body = {"status_code": code, "response_body": "aGk=", "response_headers": {"X-A": "b"}, "duration_ms": 7}
        assert (await here.call("PUT", f"/v1/logs/{log}-{copy}", body)).status == 200
    every = (await here.call("GET", f"/v1/logs/{log}")).document["deliveries"]
    assert [(each["output"], each["status_code"]) for each in every] == [(1, 500), (2, 200), (1, 201)]
    assert every[0]["response_body"] == "aGk="
    assert every[0]["response_headers"] == {"X-A": ["b"]}
    of_one = (await here.call("GET", f"/v1/logs/{log}-1")).document["deliveries"]
    assert [each["status_code"] for each in of_one] == [500, 201]
