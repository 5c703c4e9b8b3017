"""relay_tornado/registry/routes.py: inputs by Host and path prefix."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from unittest.mock import Mock

import pytest

from relay_tornado.handlers import health, metrics, rest, socket, stream, ui
from relay_tornado.model import Bucket, Input
from relay_tornado.registry.memory import MemoryRegistry
from relay_tornado.registry.routes import RESERVED, Routes


def bucket(id: str, *inputs: Input) -> Bucket:
    return Bucket(id, id, 0, 0, inputs=inputs)


def at(id: str, domain: str = "", prefix: str = "", **fields: Any) -> Input:
    return Input(id, id, 0, 0, custom_domain=domain, path_prefix=prefix, **fields)


def routes(*buckets: Bucket) -> tuple[Routes, MemoryRegistry]:
    registry = MemoryRegistry()
    made = Routes(registry)
    for each in buckets:
        asyncio.run(registry.put("bucket", each.id, each))
    return made, registry


def found(made: Routes, host: str, path: str) -> tuple[str, str] | None:
    located = made.locate(host, path.encode())
    return None if located is None else (located[0].id, located[1].decode())


@pytest.mark.parametrize(
    ("host", "path", "input"),
    [
        ("hooks.example", "/", "domain"),
        ("Hooks.Example:8443", "/any/thing", "domain"),
        ("hooks.example.", "/", "domain"),
        ("hooks.example", "/in", "both"),
        ("hooks.example", "/in/x", "both"),
        ("hooks.example", "/in/deep/x", "deep"),
        ("hooks.example", "/in/deeper", "both"),
        ("hooks.example", "/inn", "domain"),
        ("hooks.example", "/IN", "domain"),
        ("hooks.example", "/shop", "domain"),
        ("other.example", "/shop", "prefix"),
        ("", "/shop/x", "prefix"),
        ("other.example", "/shopping", None),
        ("other.example", "/", None),
        ("other.example", "/x/shop", None),
        ("hooks.example.org", "/", None),
        ("xhooks.example", "/", None),
        ("[2001:db8::1]:80", "/", None),
        ("xn--bcher-kva.example:80", "/", "idn"),
        ("bücher.example", "/", None),
        ("hooks.example@other.example", "/", None),
        ("hooks.example,hooks.example", "/", None),
    ],
)
def test_which_input_it_is(host: str, path: str, input: str | None) -> None:
    """The host's own inputs first, then those of every host; the longest whole prefix wins."""
    made, _ = routes(
        bucket("a", at("domain", "hooks.example"), at("prefix", prefix="/shop"), at("plain")),
        bucket("b", at("both", "hooks.example", "/in"), at("deep", "hooks.example", "/in/deep")),
        bucket("c", at("idn", "xn--bcher-kva.example")),
    )
    located = found(made, host, path)
    assert (located and located[0]) == input


@pytest.mark.parametrize(
    ("prefix", "strip", "path", "rest"),
    [
        ("", False, "/", ""),
        ("", True, "/", ""),
        ("", False, "/a/b", "/a/b"),
        ("", True, "/a/b", "/a/b"),
        ("/in", False, "/in", "/in"),
        ("/in", False, "/in/a", "/in/a"),
        ("/in", True, "/in", ""),
        ("/in", True, "/in/", "/"),
        ("/in", True, "/in/a%2Fb", "/a%2Fb"),
        ("/%C3%A9%20x", True, "/%C3%A9%20x/a", "/a"),
    ],
)
def test_what_goes_on_of_the_path(prefix: str, strip: bool, path: str, rest: str) -> None:
    """The whole, raw, or with `strip_path_prefix` what is behind the prefix."""
    made, _ = routes(bucket("a", at("in", "hooks.example", prefix, strip_path_prefix=strip)))
    assert found(made, "hooks.example", path) == ("in", rest)


@pytest.mark.parametrize("path", RESERVED)
def test_the_relays_own_paths_are_never_taken(path: str) -> None:
    """Neither by a domain nor by a prefix that says just that."""
    made, _ = routes(bucket("a", at("domain", "hooks.example"), at("prefix", prefix=path), at("v1", prefix="/v1/in")))
    for host in ("hooks.example", "other.example"):
        assert found(made, host, path) is None
        assert found(made, host, f"{path}/in") is None
    assert found(made, "hooks.example", f"{path}x") == ("domain", f"{path}x")


def test_every_path_of_the_relays_own_is_one_of_them() -> None:
    """Whatever the site serves, but for `/`, where the page's address is only sent on."""
    none: Any = Mock()
    specs = [*rest.routes(none), *socket.routes(none), *stream.routes(none, none, none, none)]
    specs += [*health.routes(none, ""), *metrics.routes(none, none), *ui.routes(none, none, none)]
    first = {re.findall(r"/[a-z0-9.]*", spec.regex.pattern.replace("\\", ""))[0] for spec in specs}
    assert first - {"/"} == set(RESERVED)


def test_changes_are_followed() -> None:
    """A place that is given up is nobody's, and nothing of it is left; another bucket's on the same host stays."""
    made, registry = routes(bucket("a", at("in", "hooks.example", "/in")), bucket("b", at("else", "hooks.example")))
    assert found(made, "hooks.example", "/in") == ("in", "/in")
    asyncio.run(registry.put("bucket", "a", bucket("a", at("in", "other.example"))))
    assert found(made, "hooks.example", "/in") == ("else", "/in")
    assert found(made, "other.example", "/in") == ("in", "/in")
    asyncio.run(registry.put("bucket", "a", bucket("a", at("in"))))
    asyncio.run(registry.delete("bucket", "b"))
    assert made._places == {}
    assert made.find("in") is not None


def test_a_hostile_path_costs_little() -> None:
    """What is looked up are the lengths that prefixes have, not every part of a path."""
    made, _ = routes(bucket("a", *(at(f"in-{n}", "hooks.example", "/x" * n) for n in range(1, 20))))
    assert found(made, "hooks.example", "/x" * 30_000) == ("in-19", "/x" * 30_000)
