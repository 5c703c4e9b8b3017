"""/v1/socket over real sockets: the stock conversation frame by frame, and what ends a connection."""

import asyncio
import json
import os
from functools import partial
from typing import Any

import pytest
import structlog
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import websocket_connect
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from relay_tornado.model import Retention
from relay_tornado.rate_limits import LogLimit
from tests.handlers.edge import BUCKET, edge
from tests.handlers.raw import Raw, request
from tests.handlers.sockets import HANDSHAKE, Client, Live, live
from tests.waiting import until

WORDS = {"type": "status", "status": "authenticated", "message": "connected successfully, subscribe to buckets"}


@pytest.mark.gen_test
async def test_the_stock_conversation_is_exact(server: Live) -> None:
    """Frame by frame: authenticated, subscribed with the names as requested, webhooks; nothing else."""
    await server.bucket("orders")
    key, secret = await server.token()
    client = await server.client()
    loop = asyncio.get_running_loop()
    asked = loop.time()
    await client.say({"action": "auth", "key": key, "secret": secret})
    assert await client.hear() == WORDS
    assert loop.time() - asked >= 0.005
    await client.say({"action": "subscribe", "key": "", "secret": "", "buckets": ["orders", "not there"]})
    assert await client.hear() == {
        "type": "status",
        "status": "subscribed",
        "message": "subscribed to buckets: orders, not there",
    }
    await server.append(2, body=b'{"n":1}', headers=b"host: relay\r\ncontent-type: application/json\r\n")
    event = await client.hear()
    meta = event.pop("meta")
    assert event == {
        "type": "webhook",
        "headers": {"Content-Type": ["application/json"]},
        "query": "",
        "body": '{"n":1}',
        "method": "POST",
    }
    epoch = (await server.log.bounds("id-orders")).epochs[0].epoch
    assert meta.pop("received_at") > 0
    assert meta == {
        "id": f"{epoch}-1",
        "bucked_id": "id-orders",
        "bucket_id": "id-orders",
        "bucket_name": "orders",
        "input_id": "in-orders",
        "input_name": "Default public endpoint",
        "output_name": "",
        "output_destination": "",
        "seq": 1,
        "epoch": epoch,
        "path": "",
        "host": "relay",
        "remote_ip": "192.0.2.1",
    }
    await client.say({"action": "pong"})
    assert (await client.hear())["meta"]["seq"] == 2


@pytest.mark.gen_test
async def test_tornados_client_is_served_alike(server: Live) -> None:
    """Another implementation, with permessage-deflate on offer and messages sent without waiting for answers."""
    await server.bucket()
    key, secret = await server.token()
    socket = await websocket_connect(server.url, compression_options={})
    for message in ({"action": "auth", "key": "whr", "secret": secret}, {"action": "subscribe"}):
        await socket.write_message(json.dumps(message))
    assert json.loads(str(await socket.read_message())) == WORDS
    assert json.loads(str(await socket.read_message()))["message"] == "subscribed to buckets: all"
    await server.append(1)
    assert json.loads(str(await socket.read_message()))["type"] == "webhook"
    assert key
    socket.close()
    await until(lambda: server.clients.count == 0)


@pytest.mark.gen_test
async def test_extensions_are_not_read(server: Live) -> None:
    """The relay has none, and what nobody can read in them is no failure of its own."""
    async with Raw(server.port) as raw:
        raw.send(HANDSHAKE.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: a; b*%b=1\r\n\r\n" % (b"0" * 5_000)))
        assert b" 101 " in await raw.reader.readline()


@pytest.mark.gen_test
async def test_the_handshake_is_spelled_as_its_rfc_does(server: Live) -> None:
    """Some clients' libraries look for these names in this case alone, as in the original's answer."""
    for version, line in (
        (b"13", b"Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI="),
        (b"8", b"Sec-WebSocket-Version: 13"),
    ):
        async with Raw(server.port) as raw:
            raw.send(HANDSHAKE.replace(b"Version: 13", b"Version: " + version))
            head = await raw.reader.readuntil(b"\r\n\r\n")
            assert {line, b"Upgrade: websocket", b"Connection: Upgrade"} <= set(head.split(b"\r\n"))


@pytest.mark.gen_test
async def test_any_origin_is_accepted(server: Live) -> None:
    """A foreign page's too, and one that a browser calls cross-site."""
    token = await server.token()
    for headers in ({"Origin": "https://elsewhere.example"}, {"Sec-Fetch-Site": "cross-site", "Origin": "null"}):
        await server.authenticated(token, additional_headers=headers)


@pytest.mark.gen_test
async def test_wrong_credentials_get_unauthorized_and_4001(server: Live) -> None:
    """The words do not say which half is wrong, and nobody else waits for it."""
    key, secret = await server.token()
    words = set()
    for wrong in ({"key": key, "secret": "sk-x"}, {"key": "x", "secret": secret}, {}, {"key": 1, "secret": None}):
        client = await server.client()
        await client.say({"action": "auth", **wrong})
        answer = await client.hear_status("unauthorized")
        assert answer.keys() == {"type", "status", "message"}
        words.add(answer["message"])
        assert (await client.end())[0] == 4001
    assert len(words) == 1
    await server.authenticated((key, secret))


@pytest.mark.gen_test
async def test_who_has_no_token_fills_no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many sockets are refused, a line tells of the first, and a later one of how many there were; what a
    token's holder does is always told."""
    now = [0.0]
    monkeypatch.setattr("relay_tornado.handlers.connected_clients.LogLimit", partial(LogLimit, clock=lambda: now[0]))
    async with live(max_sockets=1) as server:
        token = await server.token()
        with structlog.testing.capture_logs() as lines:
            for _ in range(3):
                client = await server.client()
                assert (await (await server.client()).end())[0] == 4029
                await client.say({"action": "auth"})
                assert (await client.end())[0] == 4001
                await until(lambda: server.clients.count == 0)
            now[0] = 1.0
            client = await server.authenticated(token)
            assert (await (await server.client()).end())[0] == 4029
            await client.say({"action": "auth", "key": "x"})
            assert (await client.end())[0] == 4001
        told = [(each["event"], each["code"], each.get("left_out")) for each in lines if "code" in each]
        assert told == [("socket_refused", 4029, None), ("socket_refused", 4029, 5), ("socket_closed", 4001, None)]


@pytest.mark.gen_test
async def test_the_log_says_whose_client_asks_for_a_bucket_that_is_not_there(server: Live) -> None:
    """Its address may be that of many."""
    token = await server.token()
    client = await server.authenticated(token)
    with structlog.testing.capture_logs() as lines:
        await client.say({"action": "subscribe", "buckets": ["ordrs"]})
        await client.hear_status("subscribed")
        await until(lambda: bool(lines))
    assert [(each["event"], each["token"]) for each in lines] == [("bucket_not_found", token[0])]


@pytest.mark.gen_test
async def test_the_log_says_that_a_clients_library_refuses_a_large_event(server: Live) -> None:
    """Python's `websockets` takes 1 MiB by default. A client that leaves, or that the relay closes, is no such one."""
    await server.bucket()
    token = await server.token()
    with structlog.testing.capture_logs() as lines:
        leaving = await server.subscribed("orders", token=token)
        await leaving.socket.close(1000, "done")
        closed = await server.subscribed("orders", token=token)
        await closed.say("x" * (server.clients.settings.max_message + 1))
        assert (await closed.end())[0] == 1009
        client = await server.authenticated(token, max_size=2**20)
        await client.subscribe("orders")
        await server.append(body=b"x" * 2**20)
        with pytest.raises(ConnectionClosed):
            await client.hear()
        await until(lambda: server.clients.count == 0)
    told = [each for each in lines if each["event"] == "client_refused"]
    assert [(each["token"], each["code"]) for each in told] == [(token[0], 1009)]
    assert "exceeds limit of 1048576 bytes" in told[0]["reason"]


@pytest.mark.gen_test
async def test_subscribe_before_auth_gets_unauthorized_and_4001(server: Live) -> None:
    """The words say what to do first."""
    client = await server.client()
    await client.say({"action": "subscribe", "buckets": ["a"]})
    assert "auth" in (await client.hear_status("unauthorized"))["message"]
    assert (await client.end())[0] == 4001


@pytest.mark.gen_test
async def test_who_does_not_authenticate_is_closed() -> None:
    """4008, with a reason that says so."""
    async with live(auth_timeout=0.2) as server:
        client = await server.client()
        code, reason = await client.end()
        assert code == 4008
        assert "auth" in reason


@pytest.mark.gen_test
async def test_a_client_that_sends_bytes(server: Live) -> None:
    """JSON in a binary message counts as that in text; what comes back is text."""
    await server.bucket()
    key, secret = await server.token()
    client = await server.client()
    for message, status in (
        ({"action": "auth", "key": key, "secret": secret}, "authenticated"),
        ({"action": "subscribe", "buckets": ["orders"]}, "subscribed"),
    ):
        await client.say(json.dumps(message).encode())
        await client.hear_status(status)


@pytest.mark.gen_test
async def test_what_stock_clients_err_in_disturbs_nothing(server: Live) -> None:
    """Malformed JSON, unknown actions, wrong types and bytes get no frame; the next message is answered."""
    await server.bucket()
    client = await server.authenticated()
    for message in ("{", "[]", '{"action":"dance"}', '{"action":"subscribe","buckets":3}', b"\x00\xff"):
        await client.say(message)
    await client.say({"action": "subscribe"})
    await client.hear_status("subscribed")


@pytest.mark.gen_test
async def test_errors_go_to_who_asked_for_our_additions(server: Live) -> None:
    """With a code, and the connection stays open."""
    await server.bucket()
    client = await server.authenticated()
    await client.say({"action": "subscribe", "since": "yesterday"})
    error = await client.hear_status("error")
    assert error["code"] == "invalid"
    assert "since" in error["message"]
    await client.say({"action": "subscribe", "since": "earliest", "consumer": "a/b"})
    assert (await client.hear_status("error"))["code"] == "invalid"
    await client.say({"action": "dance"})
    assert (await client.hear_status("error"))["code"] == "unknown_action"
    answer = await client.subscribe(since="earliest")
    assert [entry["bucket_name"] for entry in answer["buckets"]] == ["orders"]
    await client.hear_status("caught_up")


@pytest.mark.gen_test
async def test_a_cursor_is_continued_over_a_reconnect(server: Live) -> None:
    """With the last id that it saw a client gets everything that it missed, in order."""
    await server.bucket()
    client = await server.subscribed("orders")
    await server.append(1)
    cursor = (await client.hear())["meta"]["id"]
    client.abort()
    await server.append(3)
    client = await server.subscribed("orders", since=cursor)
    assert [(await client.hear())["meta"]["seq"] for _ in range(3)] == [2, 3, 4]
    assert (await client.hear_status("caught_up"))["id"].endswith("-4")


@pytest.mark.gen_test
async def test_on_gap_fail_is_told_and_closed(server: Live) -> None:
    """The answer names the gap, and 4509 follows."""
    await server.bucket()
    await server.append(5)
    epoch = (await server.log.bounds("id-orders")).epochs[0].epoch
    await server.log.trim("id-orders", Retention(max_events=1), None)
    client = await server.authenticated()
    answer = await client.subscribe(since=f"{epoch}-1", on_gap="fail")
    assert answer["buckets"][0]["gap"] == {"from": 2, "to": 4, "count": 3, "reason": "retention"}
    assert (await client.end())[0] == 4509


@pytest.mark.gen_test
async def test_another_token_ends_the_subscription(server: Live) -> None:
    """A second auth: with the same token nothing changes, with another one the client subscribes anew."""
    await server.bucket("a")
    await server.bucket("b")
    first, second = await server.token(["a"]), await server.token(["b"])
    client = await server.subscribed(token=first)
    await client.say({"action": "auth", "key": first[0], "secret": first[1]})
    assert await client.hear() == WORDS
    await server.append(1, "a")
    assert (await client.hear())["meta"]["bucket_name"] == "a"
    await client.say({"action": "auth", "key": second[0], "secret": second[1]})
    assert await client.hear() == WORDS
    await server.append(1, "a")
    await server.append(1, "b")
    await client.say({"action": "subscribe"})
    await client.hear_status("subscribed")
    await server.append(1, "a")
    await server.append(1, "b")
    event = await client.hear()
    assert (event["meta"]["bucket_name"], event["meta"]["seq"]) == ("b", 2)
    await server.registry.delete("token", first[0])
    await server.registry.delete("token", second[0])
    assert (await client.end())[0] == 4503


@pytest.mark.gen_test
async def test_another_token_does_not_go_on_where_the_first_was(server: Live) -> None:
    """It begins at the head, as if nobody had subscribed there before."""
    await server.bucket("orders")
    first, second = await server.token(), await server.token()
    client = await server.subscribed("orders", token=first)
    await server.append(1)
    assert await client.hear_events(1) == [1]
    await client.say({"action": "auth", "key": second[0], "secret": second[1]})
    assert await client.hear() == WORDS
    await server.append(1)
    await client.say({"action": "subscribe", "buckets": ["orders"]})
    await client.hear_status("subscribed")
    await server.append(1)
    assert await client.hear_events(1) == [3]


@pytest.mark.gen_test
async def test_a_second_subscribe_replaces_the_first(server: Live) -> None:
    """Its answer comes between the events of the one and of the other, and no event is lost or repeated."""
    await server.bucket("a")
    await server.bucket("b")
    client = await server.subscribed("a")
    await server.append(2, "a")
    await client.say({"action": "subscribe", "buckets": ["a", "b"]})
    heard = [await client.hear() for _ in range(3)]
    await server.append(1, "a")
    await server.append(1, "b")
    heard += [await client.hear() for _ in range(2)]
    assert sorted(
        (message["meta"]["bucket_name"], message["meta"]["seq"]) for message in heard if "meta" in message
    ) == [("a", 1), ("a", 2), ("a", 3), ("b", 1)]
    assert [message["status"] for message in heard if "status" in message] == ["subscribed"]


@pytest.mark.gen_test
async def test_buckets_come_and_go_under_a_live_socket(server: Live) -> None:
    """A bucket made later joins, one that is deleted ends, the token's scope is obeyed at once."""
    await server.bucket("a")
    key, secret = await server.token(["a", "b"])
    client = await server.subscribed(token=(key, secret), extended=True)
    await client.hear_status("caught_up")
    await server.bucket("b")
    await server.bucket("c")
    await server.append(1, "c")
    await server.append(1, "b")
    assert (await client.hear())["meta"]["bucket_name"] == "b"
    await server.change_token(key, buckets=frozenset({"id-c"}))
    gone = {(await client.hear_status("bucket_deleted"))["bucket_name"] for _ in range(2)}
    assert gone == {"a", "b"}
    await server.append(1, "b")
    await server.append(1, "c")
    event = await client.hear()
    assert (event["meta"]["bucket_name"], event["meta"]["seq"]) == ("c", 2)
    await client.say({"action": "unsubscribe", "buckets": ["c"]})
    assert (await client.hear_status("unsubscribed"))["message"] == "unsubscribed from buckets: c"
    await server.append(1, "c")
    assert (await client.subscribe("c"))["buckets"][0]["start"] == 4


@pytest.mark.gen_test
async def test_our_additions_may_be_asked_for_later(server: Live) -> None:
    """Who subscribed as a stock client does is told of what happens from the message on that asks for them."""
    await server.bucket("a")
    client = await server.subscribed("a")
    await client.say({"action": "pong", "extended": True})
    await client.say({"action": "ack", "id": "k3v9x1q7m2ab-1"})
    assert (await client.hear_status("error"))["code"] == "not_found"
    await server.registry.delete("bucket", "id-a")
    assert (await client.hear_status("bucket_deleted"))["bucket_name"] == "a"


@pytest.mark.gen_test
async def test_a_shutdown_sends_1001(server: Live) -> None:
    """Every socket gets it, and one that opens meanwhile too; the log has one line of it."""
    await server.bucket()
    clients = [await server.subscribed("orders") for _ in range(3)]
    late = await server.client()
    with structlog.testing.capture_logs() as lines:
        closing = asyncio.ensure_future(server.clients.close_all(5))
        await asyncio.sleep(0)
        for client in [*clients, late]:
            code, reason = await client.end()
            assert code == 1001
            assert reason
        await closing
    assert [(each["event"], each.get("clients")) for each in lines] == [("clients_sent_away", 4)]
    assert server.clients.count == 0
    assert (await (await server.client()).end())[0] == 1001


@pytest.mark.gen_test
async def test_plain_http_is_told_what_this_is(server: Live) -> None:
    """426 with words for what does not upgrade, 400 for half a handshake, 405 with Allow for other methods."""
    client = AsyncHTTPClient()
    url = f"http://127.0.0.1:{server.port}/v1/socket"
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    for method, headers, status in (
        ("GET", {}, 426),
        ("GET", upgrade | {"Sec-WebSocket-Version": "8"}, 426),
        ("GET", upgrade | {"Sec-WebSocket-Version": "13"}, 400),
        ("GET", upgrade | {"Sec-WebSocket-Version": "13", "Connection": "keep-alive"}, 426),
        ("HEAD", {}, 426),
        ("DELETE", {}, 405),
    ):
        answer = await client.fetch(HTTPRequest(url, method=method, headers=headers), raise_error=False)
        assert answer.code == status
        if status == 405:
            assert "GET" in answer.headers["Allow"]
        if method == "GET":
            assert "WebSocket" in json.loads(answer.body)["message"]
    client.close()


@pytest.mark.parametrize(
    "key",
    [
        b"x",
        b"AAAAAAAAAAAAAAAAAAAAAA",
        b"AAAAAAAAAAAAAAAAAAAA",
        b"AAAAAAAAAAAAAAAAAAAAAAA=",
        b"AAAAAAAAAAAAAAAAAAAA_A==",
        b"AAAAAAAAAAAAAAAAAAAAAAAAAA==",
    ],
)
@pytest.mark.gen_test
async def test_a_key_that_is_not_16_bytes_is_refused(server: Live, key: bytes) -> None:
    """400, as RFC 6455 asks for; what stands beside it in another header of that name makes it none, too."""
    one = b"AAAAAAAAAAAAAAAAAAAAAA=="
    assert one in HANDSHAKE
    async with Raw(server.port) as raw:
        for handshake in (HANDSHAKE.replace(one, key), HANDSHAKE.replace(b"Host", b"Sec-WebSocket-Key: x\r\nHost")):
            raw.send(handshake)
            answer = await raw.reply()
            assert (answer.status, b"16 bytes" in answer.body) == (400, True)
        raw.send(HANDSHAKE.replace(b"Host: x", b"Host:"))
        answer = await raw.reply()
        assert (answer.status, b"its Host header" in answer.body) == (400, True)
        raw.send(HANDSHAKE)
        assert (await raw.reply()).status == 101


@pytest.mark.gen_test
async def test_a_slash_at_the_end_of_the_url(server: Live) -> None:
    """It counts for nothing, as in REST: who configures a client may write one."""
    async with connect(f"{server.url}/") as socket:
        await socket.send(json.dumps({"action": "pong", "extended": True}))
        await socket.send("nonsense")
        assert json.loads(await socket.recv())["code"] == "invalid"


@pytest.mark.gen_test
async def test_http_1_0_can_not_upgrade(server: Live) -> None:
    """It is told so, and nothing fails."""
    async with Raw(server.port) as raw:
        raw.send(HANDSHAKE.replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert (await raw.reply()).status == 426
        assert await raw.closed() == b""
        assert server.clients.count == 0


@pytest.mark.gen_test
async def test_a_client_that_vanishes_leaves_nothing(server: Live) -> None:
    """Its delivery, its place among its token's sockets and its timer go with it."""
    await server.bucket()
    await server.append(20, body=b"x" * 300_000)
    client = await server.subscribed("orders", since="earliest")
    client.abort()
    await until(lambda: server.clients.count == 0)
    await until(lambda: server.clients.deliveries.budget.outstanding == 0)
    assert server.clients._tokens == {}
    assert not server.clients.alarms._sleepers
    assert server.clients.deliveries._live == set()
    assert server.clients.deliveries._shared.dispatcher._places == {}


@pytest.mark.gen_test
async def test_through_the_relays_own_listener() -> None:
    """The same over the whole HTTP edge, whose read buffers are small: a webhook in, a frame out, a long message."""
    async with edge() as site, connect(f"ws://127.0.0.1:{site.port}/v1/socket") as socket:
        client = Client(socket)
        await client.sign_in(*await site.token())
        await client.say(json.dumps({"action": "subscribe"}).ljust(1 << 20))
        await client.hear_status("subscribed")
        async with Raw(site.port) as raw:
            body = os.urandom(100)
            assert (await raw.ask(request(b"/v1/webhooks/in-1/x?y=1", body=body))).status == 200
        event: dict[str, Any] = await client.hear()
        assert (event["meta"]["path"], event["query"], event["method"]) == ("/x", "y=1", "POST")
        assert event["meta"]["bucket_name"] == BUCKET.name


@pytest.mark.gen_test
async def test_a_close_code_that_must_not_be_sent(server: Live) -> None:
    """It is not sent back: the answer says that the protocol was broken. One that may be is echoed."""
    for code, answer in [(1000, 1000), (3000, 3000), (4999, 4999)] + [
        (wrong, 1002) for wrong in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535)
    ]:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(HANDSHAKE + bytes((0x88, 0x82)) + bytes(4) + code.to_bytes(2, "big"))
        await reader.readuntil(b"\r\n\r\n")
        frame = await reader.read()
        assert (frame[0], int.from_bytes(frame[2:4], "big")) == (0x88, answer)
        writer.close()
        await writer.wait_closed()
