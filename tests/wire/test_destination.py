"""relay_tornado/wire/destination.py: what a URL says, and which paths lead out of their place."""

from __future__ import annotations

import pytest

from relay_tornado.errors import Invalid
from relay_tornado.wire.destination import climbs, parse, parse_new


def test_destinations() -> None:
    """What a URL says: host, port, login, path and query; what is none is refused."""
    found = parse("HTTPS://us%20er:p%40ss@Example.ORG.:8443/a%20b/?x=1#frag")
    assert (found.host, found.port, found.authority) == ("example.org.", 8443, "example.org.:8443")
    assert (found.server_name, found.tls) == ("example.org", True)
    assert (found.path, found.query) == (b"/a%20b/", b"x=1")
    assert found.login == "Basic dXMgZXI6cEBzcw=="
    assert parse("http://[fe80::1%25lo]/").authority.startswith("[fe80::1")
    assert parse("http://h").path == b"/"
    assert parse("https://h:443/").authority == "h"
    assert parse("http://bücher.example/").host == "xn--bcher-kva.example"
    for wrong in ("", "h/x", "ftp://h", "http://", "http://h:x", "http://h:99999", "http://a b/", "http://[::1"):
        with pytest.raises(Invalid):
            parse(wrong)


def test_a_host_that_is_looked_up_as_another_name() -> None:
    """By the rules of 2003, which Python follows: who names it now is told; one that is stored goes where it went."""
    assert parse("http://straße.example/").host == "strasse.example"
    for wrong in (
        "http://straße.example/",
        "http://u:p@βόλος.com:8/",
        "http://STRAẞE.example",
        "http://a\u200db.example",
    ):
        with pytest.raises(Invalid, match="another name: write it as it is in ASCII"):
            parse_new(wrong)
    for fine in ("http://bücher.example/", "http://xn--strae-oqa.example/", "http://ß:ß@h/ß?ß", "http://😀.example"):
        assert parse_new(fine) == parse(fine)


@pytest.mark.parametrize(
    "path",
    [
        *(b"/../x", b"/a/../../x", b"/%2e%2E/x", b"/%252e%252e/x", b"/..%2fx", b"/..\\x", b"/..;/x", b"/..;a/x"),
        # Each was followed out of its place by nginx, or is by servers that decode dots, and no slashes.
        *(b"/..#", b"/a\\b/../../x", b"/%5ca%5c/..%2f../x", b"/%3f%2f..%2f..%2fx", b"/a%2fb/%2e%2e/%2e%2e/x"),
        # By Jetty 9; by Tomcat, which looks for parameters before it decodes; by what makes a URL of a decoded path.
        *(b"/%u002e%u002e/x", b"/..%u002fx", b"/;%2fa/../x", b"/;a=%5cb/../x", b"/..%09/x", b"/%252e%0d./x"),
        *(b"/.\t./x", b"/..%20", b"/..%2501", b"/..%00%20"),
        # By what takes a + for a space; by Node's url.resolve.
        *(b"/..+", b"/..%2B", b"/..%c2%a0", b"/..%ef%bb%bf"),
    ],
)
def test_a_path_that_some_server_takes_to_lead_out(path: bytes) -> None:
    """Above where it begins, however the dots and what divides them are written."""
    assert climbs(path)


@pytest.mark.parametrize(
    "path", [b"", b"/", b"/a/../b", b"/a//b/../c%2F%zz", b"/.../x", b"/a..b/x", b"/./x", b"/%2e/x", b"/..a/x"]
)
def test_a_path_that_stays_below_its_beginning(path: bytes) -> None:
    """As every server takes it."""
    assert not climbs(path)
