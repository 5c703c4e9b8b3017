"""The page's own HTTP: files and their headers, signing in and out, and what a cookie may do."""

from __future__ import annotations

import asyncio
import errno
import gc
import gzip
import json
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookies import Morsel
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog
from tornado.httpclient import HTTPResponse

from relay_tornado.admin.commands import run_command
from relay_tornado.errors import Unavailable
from relay_tornado.handlers import assets as assets_module
from relay_tornado.handlers import ui
from relay_tornado.handlers.assets import ROOT, Assets
from relay_tornado.handlers.rest.base import RestHandler
from relay_tornado.handlers.ui import FAILURES
from tests.handlers.raw import Raw, basic, request
from tests.handlers.rest.world import World, world
from tests.waiting import until

GUARDS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


async def get(here: World, path: str, method: str = "GET", **headers: str) -> HTTPResponse:
    return await here.fetch(method, path, None, {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize("transport", ["direct", "tornado"])
@pytest.mark.gen_test
async def test_the_page_is_behind_every_path(tmp_path: Path, transport: str) -> None:
    """/ and /ui lead there, and take no webhook; what is no file is the page, a file that is not there a 404, and all
    of it is guarded."""
    async with world(tmp_path, transport=transport) as here:
        for path in ("/", "/ui"):
            answer = await get(here, path)
            assert (answer.code, answer.headers["Location"]) == (302, "/ui/")
            refused = await get(here, path, "POST", Content_Length="0")
            assert (refused.code, json.loads(refused.body)["code"]) == (405, "method_not_allowed")
            assert refused.headers["Allow"] == "GET, HEAD"
        for path in ("/ui/", "/ui/buckets/a%2Fb/events?x=1", "/ui/index.html", "/ui/../ui/x", "/ui/events/%ff"):
            answer = await get(here, path)
            assert answer.code == 200
            assert answer.body.startswith(b"<!doctype html>")
            assert answer.headers["Cache-Control"] == "no-cache"
            assert {name: answer.headers[name] for name in GUARDS} == GUARDS
        for path in ("", "nothing.js", "%ff", "../__init__.py", "%2e%2e/%2e%2e/__init__.py", "vendor", "/etc/passwd"):
            answer = await get(here, "/ui/static/" + path)
            assert answer.code == 404
            assert answer.headers["Content-Security-Policy"] == GUARDS["Content-Security-Policy"]
        assert (await get(here, "/ui/", "POST", Content_Length="0")).code == 405
        head = await get(here, "/ui/", "HEAD")
        assert (head.code, head.body) == (200, b"")


@pytest.mark.gen_test
async def test_files_are_sent_once(here: World) -> None:
    """Compressed where the browser takes it; under a URL with the version for good, under any other with a tag."""
    index = (await get(here, "/ui/")).body.decode()
    found = re.search(r'src="(/ui/static/v-[0-9a-f]{12}/app\.js)"', index)
    assert found is not None
    source = (ROOT / "app.js").read_bytes()
    for path, lasting in (
        (found[1], True),
        ("/ui/static/app.js", False),
        ("/ui/static/v-000000000000/app.js", False),
    ):
        answer = await get(here, path, Accept_Encoding="br, gzip;q=0.8")
        assert gzip.decompress(answer.body) == source
        assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
        assert answer.headers["Vary"] == "Accept-Encoding"
        kept = "public, max-age=31536000, immutable" if lasting else "no-cache"
        assert answer.headers["Cache-Control"] == kept
        again = await get(here, path, Accept_Encoding="gzip", If_None_Match=answer.headers["ETag"])
        assert (again.code, again.body, again.headers["Cache-Control"]) == (304, b"", kept)
    for accepted in ("", "identity", "gzip;q=0", "br", "gzip;q=0, *", "*, gzip; q=0.0"):
        answer = await get(here, "/ui/static/app.js", Accept_Encoding=accepted)
        assert answer.body == source
        assert "Content-Encoding" not in answer.headers
        assert answer.headers["ETag"] != again.headers["ETag"]


@pytest.mark.parametrize("accepted", ["gzip%sx", "*%sx", "gzip;q=%sx", "gzip;q=0.%sx", ",%sx"])
@pytest.mark.gen_test
async def test_a_hostile_header_costs_no_time(tmp_path: Path, accepted: str) -> None:
    """Long runs of blanks in what a browser says that it takes are read once: quadratic work here would take hours, in
    which nobody else is served."""
    async with world(tmp_path, max_header=1 << 20) as here:
        answer = await get(here, "/ui/", Accept_Encoding=accepted % (" \t" * 250_000))
        assert answer.code == 200


@pytest.mark.gen_test
async def test_signing_in_by_a_secret(here: World) -> None:
    """It says who that is, and gives a cookie that scripts can't read; what does not fit is told."""
    await here.bucket("hidden")
    await here.bucket("mine")
    await here.token("some", buckets=["mine"], description="Ann's")
    await here.token("deaf", buckets=["mine"], api_access=False)
    answer = await here.enter({"secret": here.tokens["some"][1]})
    document = json.loads(answer.body)
    assert document == {
        "key": here.tokens["some"][0],
        "description": "Ann's",
        "administrator": False,
        "api_access": True,
        "buckets": ["mine"],
        "expires_at": document["expires_at"],
        "version": document["version"],
        "public_url": here.url,
        "demo": False,
    }
    value, *attributes = answer.headers["Set-Cookie"].split("; ")
    assert attributes == ["HttpOnly", "Max-Age=604800", "Path=/", "SameSite=Strict"]
    cookie = {"Cookie": value}
    assert json.loads((await here.fetch("GET", "/ui/session", None, cookie)).body) == document
    seen = json.loads((await here.fetch("GET", "/v1/buckets", None, cookie)).body)
    assert [each["name"] for each in seen] == ["mine"]
    assert (await here.fetch("GET", "/v1/tokens", None, cookie)).code == 403
    assert (await here.fetch("GET", "/v1/buckets/hidden", None, cookie)).code == 404
    for credentials, status, words in (
        ({"secret": here.tokens["deaf"][1]}, 403, "no API access"),
        ({"secret": "sk-rly_wrong"}, 401, "wrong, revoked or expired"),
        ({"code": "wrong"}, 401, "`relay ui`"),
        ({}, 400, "secret"),
        ({"secret": 1}, 400, "secret"),
        ({"secret": "a", "code": "b"}, 400, "secret"),
    ):
        answer = await here.enter(credentials)
        assert answer.code == status, credentials
        assert words in json.loads(answer.body)["message"]
        assert "Set-Cookie" not in answer.headers
        assert "WWW-Authenticate" not in answer.headers
    assert (await get(here, "/ui/session")).code == 401


@pytest.mark.gen_test
async def test_signing_in_by_a_code(here: World) -> None:
    """Once, as an administrator without a token; signing in again in the same browser ends the session before."""
    code = (await run_command(here.relay.administration, "ui.code", {}))["code"]
    answer = await here.enter({"code": code})
    document = json.loads(answer.body)
    assert (document["key"], document["administrator"], document["buckets"]) == ("", True, None)
    cookie = answer.headers["Set-Cookie"].partition(";")[0]
    assert (await here.enter({"code": code})).code == 401
    made = await here.fetch(
        "POST", "/v1/tokens", b'{"description": "by the owner"}', {"Cookie": cookie, "Origin": here.url}
    )
    assert made.code == 201
    await here.enter({"secret": here.tokens["administrator"][1]}, Cookie=cookie)
    assert (await here.fetch("GET", "/v1/buckets", None, {"Cookie": cookie})).code == 401


@pytest.mark.gen_test
async def test_guessing_is_slow(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 20 failures an address waits, whatever it shows then; what is right counts for nothing before that."""
    monkeypatch.setattr(ui, "time", SimpleNamespace(monotonic=lambda: 0.0))
    right = {"secret": here.tokens["administrator"][1]}
    for _ in range(FAILURES.events):
        assert (await here.enter({"code": "wrong"})).code == 401
    assert (await here.enter(right)).code == 429
    answer = await here.enter({"secret": "wrong"})
    assert answer.code == 429
    assert answer.headers["Retry-After"] == "3"
    assert json.loads(answer.body)["code"] == "too_many"


@pytest.mark.parametrize(("trust", "claim", "told"), [("", "192.0.2.1", 1), ("127.0.0.1", "192.0.2.1", 0), ("", "", 0)])
@pytest.mark.gen_test
async def test_a_proxy_that_nobody_named_is_told_once(tmp_path: Path, trust: str, claim: str, told: int) -> None:
    """Whoever comes through it counts as one sender: the log says so, and what to do."""
    async with world(tmp_path, proxy_trust=trust) as here:
        sent = {"X-Forwarded-For": claim} if claim else {}
        with structlog.testing.capture_logs() as lines:
            for _ in range(2):
                assert (await here.enter({"secret": "wrong"}, **sent)).code == 401
        said = [line for line in lines if line["event"] == "proxy_not_trusted"]
        assert [line["remedy"] for line in said] == ["name it: --proxy-trust 127.0.0.1"] * told


@pytest.mark.gen_test
async def test_no_link_takes_events_out(here: World) -> None:
    """What is drained by a cookie is drained by the page itself, as Origin says; reading behind a cursor is free. A
    browser follows a link, or a redirect of an input, with a password that it remembers, too."""
    bucket = await here.bucket("orders")
    await here.send(bucket)
    cookie = {"Cookie": await here.cookie()}
    drain, read = "/v1/events?bucket=orders", "/v1/events?bucket=orders&cursor="
    for site in ({}, {"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": "same-origin"}):
        assert (await here.fetch("GET", drain, None, {**cookie, **site})).code == 403
        for method, path in (("HEAD", drain), ("GET", read)):
            assert (await here.fetch(method, path, None, {**cookie, **site})).code == 200
    link = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "none"}
    assert [(await here.call("GET", path, **link)).status for path in (drain, read)] == [403, 200]
    answer = await here.fetch("GET", drain, None, {**cookie, "Origin": here.url})
    assert len(json.loads(answer.body)["logs"]) == 1
    await here.send(bucket)
    assert len((await here.call("GET", drain)).document["logs"]) == 1


ORIGINS = [
    # Origin, Sec-Fetch-Site, the status of GET, and that of a change
    ("{own}", "same-origin", 200, 201),
    ("{own}", None, 200, 201),
    ("https://relay.example.org", "same-origin", 200, 201),
    ("{own}.evil.example", None, 403, 403),
    ("https://evil.example", None, 403, 403),
    ("http://relay.example.org", None, 403, 403),
    ("null", None, 403, 403),
    ("", None, 403, 403),
    (None, None, 200, 403),
    (None, "none", 200, 403),
    (None, "same-origin", 200, 403),
    (None, "cross-site", 403, 403),
    (None, "same-site", 403, 403),
    ("{own}", "cross-site", 403, 403),
]


@pytest.mark.gen_test
async def test_a_cookie_counts_for_the_relays_own_page_only(tmp_path: Path) -> None:
    """Whatever may change something needs an Origin that is the relay's; a secret in the header needs none, but
    goes for nothing where the browser names another site: it may be a password that it remembers."""
    async with world(tmp_path, public_url="https://Relay.example.org:443/") as here:
        cookie = await here.cookie()
        secret = here.tokens["administrator"][1]
        for number, (origin, site, reading, changing) in enumerate(ORIGINS):
            headers = {"Cookie": cookie}
            if origin is not None:
                headers["Origin"] = origin.format(own=here.url)
            if site is not None:
                headers["Sec-Fetch-Site"] = site
            body = json.dumps({"name": f"b-{number}"}).encode()
            answers = [await here.fetch("GET", path, None, headers) for path in ("/v1/buckets", "/ui/session")]
            answers.append(await here.fetch("POST", "/v1/buckets", body, headers))
            assert [each.code for each in answers] == [reading, reading, changing], (origin, site)
            if changing == 403:
                for method in ("PUT", "DELETE"):
                    answer = await here.fetch(method, "/v1/buckets/b-0", b"{}", headers)
                    assert answer.code == 403
                assert (await here.fetch("DELETE", "/ui/session", None, headers)).code == 403
                entry = await here.fetch("POST", "/ui/session", json.dumps({"secret": secret}).encode(), headers)
                assert entry.code == 403
            for value in (f"Bearer {secret}", basic("whr", secret)):
                with_header = {**headers, "Authorization": value, "Content-Type": "application/json"}
                assert (await here.fetch("GET", "/v1/buckets", None, with_header)).code == reading
                answer = await here.fetch("PUT", "/v1/buckets/b-0", b"{}", with_header)
                assert answer.code == reading, (origin, site)
        assert (await here.fetch("GET", "/ui/session", None, {"Cookie": cookie})).code == 200


@pytest.mark.gen_test
async def test_a_public_url_with_other_letters_is_the_pages_own(tmp_path: Path) -> None:
    """Browsers name its host in ASCII."""
    async with world(tmp_path, public_url="https://bücher.example") as here:
        headers = {"Cookie": await here.cookie(), "Origin": "https://xn--bcher-kva.example"}
        assert (await here.fetch("POST", "/v1/buckets", b'{"name": "orders"}', headers)).code == 201


@pytest.mark.gen_test
async def test_an_empty_origin_is_nobodys(here: World) -> None:
    """Neither is it that of a relay that knows no public URL."""
    headers = {"Cookie": await here.cookie(), "Origin": ""}
    for path in ("/v1/buckets", "/ui/session"):
        assert (await here.fetch("GET", path, None, headers)).code == 403
    assert (await here.fetch("POST", "/v1/buckets", b'{"name": "orders"}', headers)).code == 403
    assert (await here.fetch("DELETE", "/ui/session", None, headers)).code == 403
    assert (await here.enter({"secret": here.tokens["administrator"][1]}, Origin="")).code == 403


@pytest.mark.gen_test
async def test_over_tls_the_cookie_is_for_tls(tmp_path: Path) -> None:
    """Where a proxy speaks TLS the cookie says so, and one without that name does not count behind a trusted one."""
    async with world(tmp_path, proxy_trust="127.0.0.1", public_url="https://relay.example.org") as here:
        forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "relay.example.org"}
        entry = {"secret": here.tokens["administrator"][1]}
        answer = await here.enter(entry, Origin="https://relay.example.org", **forwarded)
        value, *attributes = answer.headers["Set-Cookie"].split("; ")
        assert value.startswith("__Host-relay_session=")
        assert {"Secure", "Path=/", "HttpOnly", "SameSite=Strict"} < set(attributes)
        assert (await here.enter(entry, Origin="http://relay.example.org", **forwarded)).code == 403
        plain = value.removeprefix("__Host-")
        for cookie, status in ((value, 200), (plain, 401), (f"{plain}; {value}", 200)):
            assert (await here.fetch("GET", "/v1/buckets", None, {"Cookie": cookie, **forwarded})).code == status


@pytest.mark.gen_test
async def test_no_page_makes_the_browser_ask_for_a_password(here: World) -> None:
    """A 401 challenges scripts and who types a URL, but not what a page fetches."""
    mozilla = "Mozilla/5.0 (X11) Chrome/150"
    for headers, asks in (
        ({"User-Agent": mozilla, "Accept": "*/*"}, False),
        ({"User-Agent": mozilla, "Accept": "text/html,*/*"}, True),
        ({"User-Agent": "curl/8"}, True),
    ):
        answer = await here.fetch("GET", "/v1/buckets", None, headers)
        assert answer.code == 401
        challenges = answer.headers.get_list("WWW-Authenticate")
        assert any(each.startswith("Basic") for each in challenges) == asks


@pytest.mark.gen_test
async def test_many_cookies_do_not_stay_with_their_request(here: World) -> None:
    """Of a request whose body does not come, the head stays, and not a kilobyte for each cookie."""

    def count(kind: type) -> int:
        return sum(isinstance(each, kind) for each in gc.get_objects())

    gc.collect()
    cookies, handlers = count(Morsel), count(RestHandler)
    line = b"Cookie: %b\r\n" % b"; ".join(b"c%d=x" % number for number in range(1000))
    async with Raw(here.relay.port) as raw:
        raw.send(request(b"/v1/buckets", b"{}", line)[:-1])
        await until(lambda: count(RestHandler) > handlers)
        assert count(Morsel) == cookies
        raw.send(b"}")
        assert (await raw.reply()).status == 401


@asynccontextmanager
async def following(here: World, cookie: str) -> AsyncIterator[Raw]:
    """A page that follows the bucket `orders`."""
    async with asyncio.timeout(60), Raw(here.relay.port) as page:
        page.send(request(b"/v1/stream?bucket=orders", b"", f"Cookie: {cookie}\r\n".encode(), b"GET"))
        yield page


@pytest.mark.gen_test
async def test_a_stream_lasts_as_long_as_its_session(tmp_path: Path) -> None:
    """However many signs of life there were; a session keeps no stream that has ended."""
    async with world(tmp_path, ping_interval=0.05) as here:
        await here.bucket("orders")
        cookie = await here.cookie()
        sessions = here.relay.administration.sessions
        assert sessions is not None
        session, _ = sessions.find(cookie.partition("=")[2])
        async with following(here, cookie) as page:
            for _ in range(3):
                await page.reader.readuntil(b"event: ping")
            assert len(session.held) == 1
            session.expires_at = time.time()
            assert b'"code":"signed_out"' in await page.closed()
        await until(lambda: not session.held)


@pytest.mark.parametrize("end", ["sign-out", "revoked", "everybody"])
@pytest.mark.gen_test
async def test_a_stream_ends_with_its_session(here: World, end: str) -> None:
    """A page that follows a bucket gets its last word at once, and comes back to a 401."""
    await here.bucket("orders")
    await here.token("some", buckets=["orders"])
    cookie = await here.cookie("some")
    async with following(here, cookie) as page:
        await page.reader.readuntil(b"event: subscribed")
        if end == "sign-out":
            await here.fetch("DELETE", "/ui/session", None, {"Cookie": cookie, "Origin": here.url})
        elif end == "revoked":
            await here.relay.administration.revoke_token(here.tokens["some"][0])
        else:
            assert await run_command(here.relay.administration, "ui.end", {}) == {"ended": 1}
        rest = await page.closed()
    assert b"event: error" in rest
    assert b'"code":"signed_out"' in rest
    for path in ("/v1/stream?bucket=orders", "/v1/buckets", "/ui/session"):
        assert (await here.fetch("GET", path, None, {"Cookie": cookie})).code == 401


@pytest.mark.gen_test
async def test_a_restart_signs_nobody_out(tmp_path: Path) -> None:
    """The cookie stays good over a restart, and one that was signed out stays bad."""
    async with world(tmp_path) as here:
        good, gone = await here.cookie(), await here.cookie()
        signed_out = await here.fetch("DELETE", "/ui/session", None, {"Cookie": gone, "Origin": here.url})
        assert signed_out.code == 200
        assert 'relay_session=""' in signed_out.headers["Set-Cookie"]
    async with world(tmp_path) as here:
        assert (await here.fetch("GET", "/v1/buckets", None, {"Cookie": good})).code == 200
        assert (await here.fetch("GET", "/v1/buckets", None, {"Cookie": gone})).code == 401


@pytest.mark.gen_test
async def test_a_body_is_saved_as_it_came(here: World) -> None:
    """The exact bytes, of a type that no browser shows, whatever the sender called it."""
    bucket = await here.bucket("orders")
    body = b"<script>\x00\xff</script>"
    log = await here.send(bucket, body, **{"Content-Type": "text/html"})
    cookie = await here.cookie()
    answer = await here.fetch("GET", f"/v1/logs/{log}/body", None, {"Cookie": cookie})
    assert answer.body == body
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{log}.bin"'
    assert answer.headers["Content-Security-Policy"] == "sandbox"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    ephemeral = await here.bucket("passing", ephemeral=True)
    log = await here.send(ephemeral, b"gone")
    assert (await here.call("GET", f"/v1/logs/{log}/body")).status in (200, 404)


@pytest.mark.gen_test
async def test_files_that_can_not_be_read_are_read_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As without descriptors: who has not seen them yet is told so, and they are given out as they were."""
    (tmp_path / "index.html").write_text("first")
    assets = Assets(tmp_path)
    real, fails = Path.read_bytes, [True]

    def read_bytes(path: Path) -> bytes:
        if fails[0]:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    monkeypatch.setattr(assets_module, "_LOOK", 0.0)
    with pytest.raises(Unavailable, match=r"the page's files can't be read \(Too many open files\)"):
        assets.find("index.html")

    def content() -> bytes:
        found = assets.find("index.html")
        assert found is not None
        return found.body

    fails[0] = False
    assert content() == b"first"
    version = assets.version
    (tmp_path / "index.html").write_text("the second")
    fails[0] = True
    assert (content(), assets.version) == (b"first", version)
    fails[0] = False
    assert content() == b"the second"
    assert assets.version != version
