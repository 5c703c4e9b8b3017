"""Whose word counts about who sent a request."""

from __future__ import annotations

import tracemalloc
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_tornado.errors import Invalid
from relay_tornado.proxy_trust import MAX_HOPS, Origin, ProxyTrust, speaks_proxy_protocol

TRUST = ProxyTrust.parse("127.0.0.1, 10.0.0.0/8 fd00::/8")
PROXY = "10.1.2.3"

values = st.text(st.characters(blacklist_characters="\r\n", max_codepoint=255), max_size=60)
addresses = st.ip_addresses().map(str).filter(lambda text: not TRUST.trusts(text))


def block(*lines: str) -> bytes:
    return "".join(line + "\r\n" for line in lines).encode("latin-1")


def client(*forwarded_for: str, peer: str = PROXY) -> str:
    return TRUST.origin(peer, block("Host: a", *(f"X-Forwarded-For: {value}" for value in forwarded_for))).address


def test_a_trusted_proxy_names_its_client() -> None:
    """Address, scheme and host come from the headers of a proxy in the ranges."""
    headers = block("x-forwarded-for: 192.0.2.7", "X-FORWARDED-PROTO: https", "X-Forwarded-Host: hooks.example.com")
    assert TRUST.origin(PROXY, headers) == Origin("192.0.2.7", "https", "hooks.example.com")


def test_anybody_else_names_nobody() -> None:
    """The same headers from a peer outside the ranges change nothing."""
    headers = block("X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https", "X-Forwarded-Host: hooks.example.com")
    assert TRUST.origin("192.0.2.99", headers) == Origin("192.0.2.99")
    assert ProxyTrust().origin("127.0.0.1", headers) == Origin("127.0.0.1")


@pytest.mark.parametrize(
    ("forwarded_for", "expected"),
    [
        (["192.0.2.1"], "192.0.2.1"),
        (["6.6.6.6, 192.0.2.1"], "192.0.2.1"),
        (["6.6.6.6, 192.0.2.1, 10.0.0.9"], "192.0.2.1"),
        (["6.6.6.6", "192.0.2.1", "10.0.0.9, 127.0.0.1"], "192.0.2.1"),
        (["10.0.0.8, 10.0.0.9"], "10.0.0.8"),
        (["192.0.2.1:55123"], "192.0.2.1"),
        (["2001:DB8::1"], "2001:db8::1"),
        (["[2001:db8::1]:443, fd00::5"], "2001:db8::1"),
        (['"[2001:db8::1]"'], "2001:db8::1"),
        (["::ffff:192.0.2.1"], "192.0.2.1"),
        (["fe80::1%eth0"], "fe80::1"),
        ([" , 192.0.2.1 , ,"], "192.0.2.1"),
        (["192.0.2.1, unknown"], PROXY),
        (["192.0.2.1, unknown, 10.0.0.9"], "10.0.0.9"),
        (["256.1.1.1"], PROXY),
        (["0x7f.1"], PROXY),
        ([""], PROXY),
        ([], PROXY),
    ],
)
def test_the_list_is_read_from_the_right(forwarded_for: list[str], expected: str) -> None:
    """Over trusted proxies, to the first that is not; what can't be read ends the walk at what vouched for it."""
    assert client(*forwarded_for) == expected


@pytest.mark.parametrize(
    ("value", "scheme"),
    [("https", "https"), ("HTTP", "http"), ("wss", "https"), ("http, https", "https"), ("ftp", None), ("", None)],
)
def test_the_nearest_proxy_says_the_scheme(value: str, scheme: str | None) -> None:
    """The last word of the list counts; what is no scheme of ours is none."""
    assert TRUST.origin(PROXY, block(f"X-Forwarded-Proto: {value}")).scheme == scheme


@pytest.mark.parametrize(
    ("value", "host"),
    [
        ("hooks.example.com", "hooks.example.com"),
        ("evil.example, hooks.example.com:8443", "hooks.example.com:8443"),
        ("[2001:db8::1]:443", "[2001:db8::1]:443"),
        ("a b", None),
        ("a/../b", None),
        ("a\x00", None),
        ("a" * 300, None),
    ],
)
def test_a_host_is_a_host(value: str, host: str | None) -> None:
    """What could be more than a host and a port is not taken over into a URL."""
    assert TRUST.origin(PROXY, block(f"X-Forwarded-Host: {value}")).host == host


@given(st.binary(max_size=200), st.sampled_from([PROXY, "192.0.2.9", "::1", ""]))
def test_no_header_block_is_too_strange(headers: bytes, peer: str) -> None:
    """Whatever comes, the answer is the peer or an address."""
    address = TRUST.origin(peer, headers).address
    assert address == peer or str(ip_address(address)) == address


@given(values, addresses, st.lists(st.sampled_from(["10.0.0.9", "127.0.0.1", "fd00::7"]), max_size=4))
def test_nobody_can_claim_another_address(claimed: str, real: str, proxies: list[str]) -> None:
    """Whatever a sender puts into the header, the address that the first trusted proxy saw is the answer."""
    found = client(", ".join([claimed, real, *proxies]))
    assert ip_address(found) == (getattr(ip_address(real), "ipv4_mapped", None) or ip_address(real))


@given(values, st.sampled_from(["192.0.2.9", "2001:db8::5"]))
def test_a_peer_outside_the_ranges_can_claim_nothing(claimed: str, peer: str) -> None:
    """Its headers are not read at all."""
    assert client(claimed, peer=peer) == peer


def test_a_long_list_is_cut() -> None:
    """A head full of trusted addresses costs a bounded walk."""
    assert client(", ".join(["10.0.0.1"] * 5 + ["10.0.0.2"] * MAX_HOPS)) == "10.0.0.2"
    assert client(", ".join(["10.0.0.1"] * 5 + ["10.0.0.2"] * (MAX_HOPS - 1))) == "10.0.0.1"


def test_a_long_entry_is_not_kept() -> None:
    """Addresses that come again are remembered, and what is none is not, however much of it comes."""
    trust = ProxyTrust.parse("10.0.0.0/8")
    tracemalloc.start()
    for number in range(100):
        assert trust.client(PROXY, block(f"X-Forwarded-For: {number}{'a' * 30_000}")) == PROXY
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept < 1_000_000


@pytest.mark.parametrize("address", ["10.255.0.1", "127.0.0.1", "::ffff:10.0.0.1", "fd12::1", "fd12::1%eth0"])
def test_ranges_hold_their_addresses(address: str) -> None:
    """IPv4 and IPv6, an IPv4 address in IPv6's form, and one with a scope."""
    assert TRUST.trusts(address)


@pytest.mark.parametrize("address", ["127.0.0.2", "11.0.0.0", "::1", "", "localhost", "fe80::1"])
def test_ranges_hold_nothing_else(address: str) -> None:
    """A neighbour, another family and what is no address are outside."""
    assert not TRUST.trusts(address)


def test_a_range_in_ipv6s_form_is_its_ipv4_range() -> None:
    """A system that listens on IPv6 writes IPv4 peers so. It is as wide, and no wider."""
    trust = ProxyTrust.parse("::ffff:10.0.0.0/104")
    assert trust.trusts("10.9.9.9")
    assert not trust.trusts("11.0.0.1")
    everything = ProxyTrust.parse("::/0")
    assert everything.trusts("2001:db8::1")
    assert not everything.trusts("10.9.9.9")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("localhost", "an address or a range like"),
        ("10.0.0.0/99", "an address or a range like"),
        ("10.1.2.3/8", "write 10.0.0.0/8"),
        ("127.0.0.1;10.0.0.0/8", "an address or a range like"),
    ],
)
def test_a_bad_range_is_refused_with_words(text: str, words: str) -> None:
    """The error names the part and what to write instead."""
    with pytest.raises(Invalid, match=words):
        ProxyTrust.parse(f"127.0.0.1, {text}")


@pytest.mark.parametrize(
    "head",
    [
        b"PROXY TCP4 192.0.2.1 192.0.2.2 55123 8080\r\nPOST /v1/webhooks/a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PROXY TCP6 2001:db8::1 2001:db8::2 55123 8080\r\n",
        b"PROXY UNKNOWN\r\n",
        b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c",
        b"\r\n\r\n",
    ],
)
def test_the_proxy_protocol_is_recognised(head: bytes) -> None:
    """Both versions, the second also where the head was cut at its first empty line."""
    assert speaks_proxy_protocol(head)


@pytest.mark.parametrize(
    "head", [b"POST /PROXY TCP4 HTTP/1.1\r\n\r\n", b"PROXY /v1 HTTP/1.1\r\n\r\n", b"", b"\r\nGET / HTTP/1.1\r\n\r\n"]
)
def test_a_request_is_not_the_proxy_protocol(head: bytes) -> None:
    """Neither a method of that name nor line ends before a request line."""
    assert not speaks_proxy_protocol(head)
