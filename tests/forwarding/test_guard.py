"""relay_tornado/forwarding/guard.py: no way of writing an address leads to one that must not be called."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from dataclasses import replace
from typing import Any, NoReturn
from urllib.parse import urlsplit

import pytest

from relay_tornado.errors import Invalid
from relay_tornado.forwarding.forwarding import BOUNDS
from relay_tornado.forwarding.guard import Guard, GuardedResolver, Refused
from relay_tornado.outgoing.transport import Transport, Unanswered
from relay_tornado.proxy_trust import parse_ranges
from relay_tornado.wire.destination import parse
from tests.forwarding.target import Target, answer
from tests.forwarding.world import B, public, world
from tests.needs import needs_ipv6
from tests.storage.faults import no_threads
from tests.waiting import until

BOTH, REBOUND, INSIDE = "both.test", "rebound.test", "inside.test"


class Names:
    """What names stand for, in the place of the system's own; numbers are as ever."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._real = socket.getaddrinfo

    def __call__(self, host: Any, port: Any, *args: Any, **more: Any) -> Any:
        flags = args[3] if len(args) > 3 else more.get("flags", 0)
        if not str(host).rstrip(".").endswith(".test") or flags & socket.AI_NUMERICHOST:
            return self._real(host, port, *args, **more)
        self.asked.append(host)
        found = {
            BOTH: ["127.0.0.2", "127.0.0.1"],
            REBOUND: ["127.0.0.2"] if self.asked.count(REBOUND) == 1 else ["127.0.0.1"],
            INSIDE: ["127.0.0.1"],
        }[host.rstrip(".")]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in found]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    made = Names()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    return made


TRICKS = {
    "plain": "http://127.0.0.1:{port}/",
    "another of its network": "http://127.0.0.77:{port}/",
    "name": "http://localhost:{port}/",
    "upper case": "http://LOCALHOST:{port}/",
    "dot at the end": f"http://{INSIDE}.:{{port}}/",
    "decimal": "http://2130706433:{port}/",
    "hexadecimal": "http://0x7f000001:{port}/",
    "octal": "http://0177.0.0.01:{port}/",
    "short": "http://127.1:{port}/",
    "mixed": "http://0x7f.0.1:{port}/",
    "this host": "http://0.0.0.0:{port}/",
    "zero": "http://0:{port}/",
    "mapped": "http://[::ffff:127.0.0.1]:{port}/",
    "mapped in hexadecimal": "http://[::ffff:7f00:1]:{port}/",
    "any IPv6": "http://[::]:{port}/",
    "IPv6": "http://[::1]:{port}/",
    "IPv6 in full": "http://[0:0:0:0:0:0:0:1]:{port}/",
    "zone": "http://[::1%1]:{port}/",
    "login": "http://example.org@127.0.0.1:{port}/",
    "login with a port": "http://example.org:80@127.0.0.1:{port}/",
    "backslash": "http://example.org\\@127.0.0.1:{port}/",
    "fragment": "http://127.0.0.1:{port}#@example.org/",
    "circled digits": "http://①②⑦.⓪.⓪.①:{port}/",
    "a name from inside": f"http://{INSIDE}:{{port}}/",
    "a name for both": f"http://{BOTH}:{{port}}/",
}


def naive(url: str) -> None:
    """What a client does that looks at nothing."""
    parts = urlsplit(url)
    host = str(parts.hostname)
    host = host if host.isascii() else host.encode("idna").decode()
    with socket.create_connection((host, parts.port), timeout=5) as made:
        made.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        made.recv(1)


@pytest.mark.gen_test
async def test_tricks(names: Names) -> None:
    """25 ways to write an address of this machine: a naive client gets to the listener by every one of them, the relay
    by none, whether the output's URL has it or a name stands for it."""
    needs_ipv6()
    async with Target() as trap, Target(host="::1") as trap6:
        for name, form in TRICKS.items():
            hit = trap6 if "IPv6" in name or name == "zone" else trap
            url = form.format(port=hit.port)
            before = len(hit.got)
            try:
                await asyncio.to_thread(naive, url)
            except ConnectionRefusedError:
                # It got to this machine, but to another address than the listener's.
                assert name in ("another of its network", "a name for both"), name
            else:
                assert len(hit.got) == before + 1, name
        trap.got.clear()
        trap6.got.clear()
        for name, form in TRICKS.items():
            port = trap6.port if "IPv6" in name or name == "zone" else trap.port
            url = form.format(port=port)
            async with world(public(url, retries=-1), forward_allow=None) as w:
                await w.append(b"secret")
                await w.idle()
                result = (await w.stored(1))[0]
                assert (result.status, result.status_code) == ("failed", 0), name
                assert b"is not a public address" in result.body or b"no single host" in result.body, name
                assert w.counters.forward_attempts["refused"] == 1, name
        assert trap.got == trap6.got == []
        assert trap.connections + trap6.connections > 20


@pytest.mark.gen_test
async def test_rebinding(names: Names) -> None:
    """A name that stands for something else when it is looked up again: it is looked up once, and what was judged is
    what is dialled. The next connection is judged anew."""
    async with Target() as trap, Target(host="127.0.0.2") as good:
        good.answers = lambda got: answer(200, b"", "Connection: close")
        trap_before = trap.connections
        url = f"http://{REBOUND}:{good.port}/"
        async with world(public(url, retries=-1), forward_allow="127.0.0.2/32") as w:
            await w.append(b"1")
            await w.settled(good, 1)
            assert names.asked == [REBOUND]
            await w.append(b"2")
            await w.idle()
            assert names.asked == [REBOUND, REBOUND]
            assert b"127.0.0.1 is not a public address" in (await w.stored(2))[0].body
        assert trap.connections == trap_before


@pytest.mark.gen_test
async def test_one_of_several_addresses(names: Names) -> None:
    """A name that stands for an address that may be called, where nobody listens, and behind it for one that may not:
    neither is called."""
    async with Target() as trap:
        output = public(f"http://{BOTH}:{trap.port}/", retries=-1)
        async with world(output, forward_allow="127.0.0.2/32") as w:
            await w.append(b"1")
            await w.idle()
            assert b"127.0.0.1 is not a public address" in (await w.stored(1))[0].body
        assert trap.connections == 0


@pytest.mark.gen_test
async def test_redirects_are_not_followed() -> None:
    """A redirect to an address inside is an answer like any other: a failed try."""
    async with Target() as trap, Target(host="127.0.0.2") as good:
        for status in (301, 302, 303, 307, 308):
            good.answers = lambda got, status=status: answer(status, b"", f"Location: {trap.url}/")
            async with world(public(good.url, retries=-1), forward_allow="127.0.0.2/32") as w:
                await w.append(b"1")
                await w.idle()
                assert [each.status_code for each in await w.stored(1)] == [status]
                assert (await w.dead())[0].reason == f"retries: {status}"
        assert trap.connections == 0


@pytest.mark.gen_test
async def test_what_a_sender_appends_changes_no_address() -> None:
    """Path and query that look like another host go to the destination as a path; one that climbs out is not sent.
    Of the destination's own path but one slash makes room for that of the event's."""
    async with Target() as trap, Target(host="127.0.0.2") as good:
        inside = f"127.0.0.1:{trap.port}".encode()
        async with world(public(f"{good.url}/hook//", retries=-1), forward_allow="127.0.0.2/32") as w:
            await w.append(b"1", path=b"//" + inside + b"/x", query=b"@" + inside)
            await w.append(b"2", path=b"/@" + inside)
            await w.append(b"3", path=b"/a b\r\nHost: evil", query=b"x#y")
            for path in (b"/../x", b"/%2e%2e/x"):
                await w.append(b"out", path=path)
            await w.append(b"4", path=b"/a/../b")
            await w.settled(good, 4)
            assert [got.target for got in good.got] == [
                b"/hook///" + inside + b"/x?@" + inside,
                b"/hook//@" + inside,
                b"/hook//a%20b%0D%0AHost:%20evil?x#y",
                b"/hook//a/../b",
            ]
            assert w.counters.forward_attempts["invalid"] == 2
            assert w.counters.forward_attempts["refused"] == 0
        assert trap.connections == 0


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "100.127.255.255", "127.0.0.1", "169.254.169.254"),
        *("172.16.0.1", "192.0.0.8", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1"),
        *("203.0.113.1", "224.0.0.1", "239.1.2.3", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::808:808"),
        *("64:ff9b:1::1", "100::1", "2001::1", "2001:0:7f00:1::", "2001:db8::1", "2002:7f00:1::", "2002:808:808::1"),
        *("3fff::1", "fc00::1", "fd12:3456::1", "fe80::1", "fe80::1%lo", "fec0::1", "ff02::1", "5f00::1"),
    ],
)
def test_refused(address: str) -> None:
    """Private, local, shared, reserved, documentation, multicast; and what tunnels or maps to IPv4."""
    with pytest.raises(Refused):
        Guard().judge(address, 80)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8"])
def test_allowed(address: str) -> None:
    """Public addresses."""
    Guard().judge(address, 80)


def test_ranges() -> None:
    """Ranges that the operator names may be called, mapped addresses by what they stand for; nothing else."""
    guard = Guard(parse_ranges("10.0.0.0/8, fd00::/8 127.0.0.1 ::ffff:192.168.7.0/120"))
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00::1", "127.0.0.1", "192.168.7.1"):
        guard.judge(address, 80)
    for address in ("127.0.0.2", "11::1", "192.168.0.1", "fc00::1"):
        with pytest.raises(Refused):
            guard.judge(address, 80)
    for address in ("0.0.0.0", "224.0.0.1", "::", "ff02::1"):
        with pytest.raises(Refused):
            Guard(parse_ranges("0.0.0.0/0, ::/0")).judge(address, 80)
    for wrong in ("10.0.0.0/33", "10.0.0.1/8", "example.org"):
        with pytest.raises(Invalid):
            parse_ranges(wrong)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0", "::ffff:0.0.0.0", "::", "", "::1", "::1%1", "relay.test"]
)
def test_its_own_listeners(host: str) -> None:
    """The relay never calls itself, however wide the ranges are: not on its address, nor on any of this machine's where
    it listens on all of them, or on those of a name; another port, and another machine's, are others."""
    guard = Guard(parse_ranges("0.0.0.0/0, ::/0"), lambda: [(host, 8080)])
    mine = ["::1", "::1%1"] if host.startswith("::1") else ["127.0.0.1", "::ffff:127.0.0.1"]
    if host in ("0.0.0.0", "::ffff:0.0.0.0", "::", "", "relay.test"):
        needs_ipv6()
        mine += ["127.0.0.9", "::1"]
    for address in mine:
        with pytest.raises(Refused, match="this relay itself"):
            guard.judge(address, 8080)
        guard.judge(address, 8081)
    guard.judge("192.0.2.77", 8080)


def test_each_of_its_own_listeners() -> None:
    """Not only the first one on a port. What is no address is not called."""
    guard = Guard(parse_ranges("0.0.0.0/0, ::/0"), lambda: [("127.0.0.2", 8080), ("127.0.0.1", 8080)])
    for address in ("127.0.0.1", "127.0.0.2", "example.org"):
        with pytest.raises(Refused):
            guard.judge(address, 8080)


def test_an_address_that_may_be_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no socket is left to find out, it is not called, and nobody is told that it is the relay's."""
    guard = Guard(parse_ranges("0.0.0.0/0"), lambda: [("", 8080)])

    def none_left(*_: object) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", none_left)
    with pytest.raises(OSError, match="Too many open files"):
        guard.judge("192.0.2.77", 8080)


@pytest.mark.gen_test
async def test_its_own_listener_over_http() -> None:
    """An output that leads to the relay's own port, allowed or not, or to its public URL, is never called: the first is
    a failed try, the second is known before there is one."""
    async with Target() as trap:
        outputs = public(trap.url, retries=-1), public("http://relay.test/x/v1/webhooks/a", 2, retries=-1)
        async with world(*outputs, public_url="http://relay.test/x") as w:
            w.own = [("0.0.0.0", trap.port)]
            await w.append(b"1")
            await w.idle()
            await w.idle(2)
            for n in (1, 2):
                assert b"without end" in (await w.stored(1, n))[0].body
            assert (await w.dead(1))[0].reason == "retries: refused"
            assert (await w.dead(2))[0].reason.startswith("invalid: it is this relay's own public URL")
        assert trap.connections == 0


@pytest.mark.parametrize("public_url", ["http://bücher.test", "http://xn--bcher-kva.test.:80/"])
@pytest.mark.parametrize(
    "destination", ["http://Bücher.test:80/v1/webhooks/a", "http://xn--bcher-kva.test/v1/webhooks/a"]
)
@pytest.mark.gen_test
async def test_its_public_url_in_other_letters(public_url: str, destination: str) -> None:
    """It is recognised in Unicode and in ASCII, with and without the default port."""
    async with world(public(destination, retries=-1), public_url=public_url) as w:
        await w.append(b"1")
        await w.idle()
        assert (await w.dead())[0].reason.startswith("invalid: it is this relay's own public URL")


@pytest.mark.parametrize(
    ("destination", "path"),
    [
        ("http://relay.test//x//v1/webhooks/a", b""),
        ("http://relay.test/x/shop", b""),
        ("http://relay.test/x/", b"/shop/orders"),
        ("http://relay.test/x/v1", b"/webhooks/a"),
    ],
)
@pytest.mark.gen_test
async def test_its_public_url_by_every_way_to_an_input(destination: str, path: bytes) -> None:
    """With slashes that senders may double, by an input's prefix, and where an event's path leads there; but not where
    that path is not appended."""
    outputs = public(destination, retries=-1), public("http://relay.test/x/", 2, retries=-1, lock_path=True)
    async with world(*outputs, public_url="http://relay.test/x") as w:
        shop = tuple(replace(each, path_prefix="/shop") for each in w.bucket.inputs)
        await w.registry.put("bucket", B, replace(w.bucket, inputs=shop))
        await w.append(b"1", path=path)
        await w.idle()
        await w.idle(2)
        assert (await w.dead())[0].reason.startswith("invalid: it is this relay's own public URL")
        assert (await w.dead(2))[0].reason.startswith("retries: unreachable")


@pytest.mark.gen_test
async def test_slow_names_hold_one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many requests for a name whose servers are slow are one lookup, and a time-out ends the wait for it."""
    gate, asked = threading.Event(), []

    def slow(host: str, port: int, *args: Any) -> Any:
        if args[3] & socket.AI_NUMERICHOST:
            raise socket.gaierror
        asked.append(host)
        gate.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)

    transport = Transport(GuardedResolver(Guard()), BOUNDS)

    async def send() -> None:
        with pytest.raises(Unanswered) as failed:
            await transport.send(b"", b"", parse("http://slow.test/"), method="GET", verify=True, timeout=0.05)
        assert failed.value.kind == "timeout"

    await asyncio.gather(*(send() for _ in range(50)))
    await until(lambda: asked)
    assert asked == ["slow.test"]
    gate.set()
    await transport.close()


@pytest.mark.gen_test
async def test_without_a_thread_to_look_a_name_up(names: Names) -> None:
    """There was no answer, and it is said why; the next look-up is one of its own."""

    transport = Transport(GuardedResolver(Guard()), BOUNDS)
    with no_threads(), pytest.raises(Unanswered, match="it can't be reached: no thread can be started") as failed:
        await transport.send(b"", b"", parse(f"http://{INSIDE}/"), method="GET", verify=True, timeout=60)
    assert failed.value.kind == "unreachable"
    with pytest.raises(Refused):
        await transport.send(b"", b"", parse(f"http://{INSIDE}/"), method="GET", verify=True, timeout=60)
    await transport.close()
