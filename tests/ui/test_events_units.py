"""The page's modules that know no document: shells' quoting, headers, JSON, differences, forms. In Chromium."""

from __future__ import annotations

import base64
import http.server
import re
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.acceptance.relay import TIMEOUT, Relay
from tests.ui.browser import Watch, watched


class _Echo(http.server.BaseHTTPRequestHandler):
    """Keeps what it gets, and answers nothing."""

    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline:
            self.close_connection = True
            return
        lines = []
        while (line := self.rfile.readline(65537)) not in (b"\r\n", b""):
            lines.append(line.rstrip(b"\r\n"))
        length = next((int(each.split(b":")[1]) for each in lines if each.lower().startswith(b"content-length:")), 0)
        got: list[Any] = self.server.got  # type: ignore[attr-defined]
        got.append((self.raw_requestline.rstrip(), lines, self.rfile.read(length)))
        self.wfile.write(b"HTTP/1.1 204 No Content\r\n\r\n")


@pytest.fixture(scope="module")
def echo() -> Iterator[Any]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    server.daemon_threads = True
    server.got = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join(TIMEOUT)
    server.server_close()


@pytest.fixture(scope="module")
def blank(chromium: Browser, relay: Relay) -> Iterator[tuple[Page, Watch]]:
    """One page for all that only calls functions in it."""
    with watched(chromium, relay.url) as (page, watch):
        page.goto("/ui/")
        yield page, watch


@pytest.fixture
def module(blank: tuple[Page, Watch]) -> Iterator[Any]:
    """Runs the body of an async function over the exports of a module: module("curl", "return m.quote(x)", x)."""
    page, watch = blank

    def run(name: str, body: str, argument: object = None) -> Any:
        return page.evaluate(
            f"async (x) => {{ const m = await import('/ui/static/event/{name}.js'); {body} }}", argument
        )

    yield run
    watch.check()


CURL = """
  const bytes = Uint8Array.from(atob(x.body), (each) => each.charCodeAt(0));
  const { parseBlock } = await import('/ui/static/event/headers.js');
  const block = Uint8Array.from(atob(x.headers), (each) => each.charCodeAt(0));
  return m.curl({ method: x.method, url: x.url, headers: parseBlock(block), body: bytes });
"""

REQUESTS = {
    "json": ("POST", "/a?b=1&c=%20", b"Content-Type: a/json\r\nX-Two: 1\r\nX-Two: 2\r\n", b'{"a": "it\'s"}\n\n'),
    "a query that globs, and dots": ("PUT", "/a/../b/[1-3]/{x}?q=[a]", b"X-A: b\r\n", b"@/etc/hostname"),
    "a shell's delight": ("POST", "/", b"X-Shell: $(id) `id` \"'\\ !! %s %n ;&|\r\n", b"'; id; echo '$(id)`id`\\"),
    "no body": ("GET", "/x", b"User-Agent: Shop/1\r\nAccept: */*\r\n", b""),
    "nothing but a method": ("DELETE", "/x", b"", b""),
    "an empty body": ("POST", "/x", b"Content-Length: 0\r\nX-Empty:\r\n", b""),
    "bytes": ("POST", "/x", b"Content-Type: application/octet-stream\r\n", bytes(range(256)) * 3),
    "controls": ("POST", "/x", b"X-Tab: a\tb\r\n", b"a\x1b[31mred\rb\r\n"),
    "headers in UTF-8": ("POST", "/x", b"X-Utf: gr\xc3\xbc\xc3\x9fe\r\nX-Turn: \xe2\x80\xaex\r\n", b"x"),
    "headers in Latin-1": ("POST", "/x", b"X-Latin: gr\xfc\xdfe %s \\x '\r\n", b"x"),
    "a large text": ("POST", "/x", b"Content-Type: text/plain\r\n", b"0123456789abcdef" * 80_000),
    "a history's commands": ("POST", "/x", b"X-Turn: !! \xe2\x80\xae!e\r\nX-Latin: \xfc!e\r\n", b"x"),
    "an argument's looks": ("-X", "/x", b"X-Dash: -d @x\r\n", b"--data -d @-"),
}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
def test_curl_sends_the_same_bytes(module: Any, echo: Any, name: str) -> None:
    """A shell that runs the command sends the method, path, headers and body that the event had."""
    method, path, headers, body = REQUESTS[name]
    url = f"http://127.0.0.1:{echo.server_port}{path}"
    argument = {"method": method, "url": url} | {
        key: base64.b64encode(value).decode() for key, value in (("headers", headers), ("body", body))
    }
    command = module("curl", CURL, argument)
    assert not any(ord(each) < 32 and each not in "\n\t" for each in command)
    assert "!" not in "".join(re.findall("printf %b '([^']*)'", command)), "older shells put an earlier command there"
    run = subprocess.run(["sh"], input=command.encode(), capture_output=True, timeout=TIMEOUT)
    assert run.returncode == 0, (command[:2000], run.stderr)
    line, got, received = echo.got.pop()
    assert line == f"{method} {path} HTTP/1.1".encode()
    assert received == body
    own = (b"host:", b"content-length:")
    wanted = [each for each in headers.split(b"\r\n") if each and not each.lower().startswith(own)]
    assert sorted(each for each in got if not each.lower().startswith(own)) == sorted(wanted)


def test_headers_keep_their_order_and_bytes(module: Any) -> None:
    """A raw block comes out in order, UTF-8 where it is that, else Latin-1; names are no keys."""
    block = base64.b64encode(
        b"B: 1\r\na: gr\xc3\xbc\r\nB: \xfc\r\n__proto__: x\r\nFold: a\r\n  b\r\nempty:\r\n"
    ).decode()
    found = module(
        "headers", "return m.headersOf({ headers_base64: x }).map((each) => [each.name, each.value]);", block
    )
    assert found == [["B", "1"], ["a", "grü"], ["B", "ü"], ["__proto__", "x"], ["Fold", "a b"], ["empty", ""]]
    media = module(
        "headers",
        "const f = m.mediaType(x); return [f.type, [...f.parameters]];",
        'Multipart/Form-Data; boundary="a;b\\"c"; x=1',
    )
    assert media == ["multipart/form-data", [["boundary", 'a;b"c'], ["x", "1"]]]


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ('{"a": 1,}', 1, 9),
        ('{\n  "a": [1,\n  2,,\n3]}', 3, 5),
        ("{'a': 1}", 1, 2),
        ('{"a": "x', 1, 7),
        ('{"a": tru}', 1, 7),
        ('["\\x"]', 1, 3),
        ("[01]", 1, 3),
        ("[1] x", 1, 5),
        ('{"a" 1}', 1, 6),
        ("[" * 600, 1, 501),
        ("", 1, 1),
    ],
)
def test_a_json_error_has_its_place(module: Any, text: str, line: int, column: int) -> None:
    """What is no JSON is told with the line and the column where it stops to be some."""
    code = "try { m.parseJson(x); } catch (error) { return [error.constructor.name, error.line, error.column]; }"
    assert module("json", code, text) == ["JsonError", line, column]


def test_json_is_what_was_written(module: Any) -> None:
    """Numbers keep their digits, names may come twice, __proto__ is a name; whatever JSON.parse takes is taken."""
    numbers = '"n": 12345678901234567890.10, "n": -0'
    text = '{"__proto__": {"x": 1}, ' + numbers + ', "s": "\\u202e\\n", "e": {}, "l": [[], true, null]}'
    assert module("json", "return m.printJson(m.parseJson(x));", text) == (
        '{\n  "__proto__": {\n    "x": 1\n  },\n  "n": 12345678901234567890.10,\n  "n": -0,\n  "s": "\\u202e\\n",\n'
        '  "e": {},\n  "l": [\n    [],\n    true,\n    null\n  ]\n}'
    )
    same = """const bad = []; for (const t of x) { let a = true, b = true; try { JSON.parse(t); } catch { a = false; }
      try { m.parseJson(t); } catch { b = false; } if (a !== b) bad.push(t); } return bad;"""
    texts = [
        "1",
        "-",
        "-1e5",
        "1.",
        ".5",
        "+1",
        "1e",
        '"a"',
        '"\t"',
        "nul",
        "null ",
        " [ ] ",
        "[1 2]",
        "{,}",
        "{}}",
        '{"a":}',
        "[,1]",
        "\u00a01",
    ]
    assert module("json", same, texts) == []


def test_deep_json_in_few_characters(module: Any) -> None:
    """Lines far down begin no further to the right, and what is deeper yet stands in one line."""
    code = "return m.printJson(m.parseJson('['.repeat(x) + '1, {\"a\": [2, {}]}' + ']'.repeat(x)));"
    assert f"\n{'  ' * 24}1,\n{'  ' * 24}{{\n" in module("json", code, 199)
    assert f'\n{"  " * 24}[1, {{"a": [2, {{}}]}}]\n' in module("json", code, 201)


def test_a_string_of_ten_megabytes(module: Any) -> None:
    """A string of any length is JSON, and its value is what it was."""
    code = "const t = JSON.stringify([x.repeat(5e6)]); return m.parseJson(t).items[0].value.length;"
    assert module("json", code, "a\n") == 10_000_000


def test_differences_of_json(module: Any) -> None:
    """Values are compared by place; an item that was put in between is one difference, the order of names none."""
    left = '{"a": 1, "b": {"x": [1, 2, 3]}, "c": "s", "__proto__": 1}'
    right = '{"b": {"x": [1, 9, 2, 3]}, "a": 1.0, "d e": null, "__proto__": 2, "c": "s"}'
    code = """const j = await import('/ui/static/event/json.js');
      const found = m.diffJson(j.parseJson(x[0]), j.parseJson(x[1]));
      return found.map((each) => [each.path, each.left?.raw ?? null, each.right?.raw ?? null]);"""
    assert module("diff", code, [left, right]) == [
        ["a", "1", "1.0"],
        ["b.x[1]", None, "9"],
        ["__proto__", "1", "2"],
        ['["d e"]', None, "null"],
    ]


@pytest.mark.parametrize(
    ("left", "right"),
    [("", ""), ("a\nb\nc", "a\nc"), ("a\nb\na\nb", "b\na\nb\nb\nc"), ("x\ny", "p\nq"), ("a", "b\na\nc")],
)
def test_differences_of_lines(module: Any, left: str, right: str) -> None:
    """The left and the right come out of the differences again, with no more lines touched than there must be."""
    lines = module("diff", "return m.diffLines(x[0], x[1]);", [left, right])
    assert "\n".join(each["text"] for each in lines if each["kind"] != "right") == left
    assert "\n".join(each["text"] for each in lines if each["kind"] != "left") == right
    assert (left, right) != ("a\nb\nc", "a\nc") or [each["kind"] for each in lines] == ["same", "left", "same"]


def test_hidden_characters_have_names(module: Any) -> None:
    """Controls and marks of direction are cut out by name; letters of any script and emoji are not."""
    assert module("plain", "return m.shown(x);", "a\u202eb\x00c\u200bd") == "a[RLO]b[NUL]c[ZWSP]d"
    assert module("plain", "return m.hasHidden(x);", "grüße שלום 漢字 👩‍👩‍👧 ❤️ نص") is False


@pytest.mark.parametrize(
    "code",
    [0x34F, 0x1160, 0xFFA0, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x2800, 0xE0100, 0xE01EF],
    ids=lambda code: f"U+{code:04X}",
)
def test_what_looks_like_nothing_is_hidden(module: Any, code: int) -> None:
    """Fillers, joiners, blanks and selectors that no font draws are named, too."""
    assert module("plain", "return m.shown(x);", f"a{chr(code)}b") == f"a[U+{code:04X}]b"


def test_forms_and_xml(module: Any) -> None:
    """Fields come in order, twice where they do; parts of multipart have their bytes; XML is indented or left alone."""
    assert module("forms", "return m.fields(x);", "a=1&b=%C3%BC+x&&a=2&__proto__=%zz&c&d=%3D=%26&=%FF") == [
        ["a", "1"], ["b", "ü x"], ["a", "2"], ["__proto__", "%zz"], ["c", ""], ["d", "==&"], ["", "\ufffd"],
    ]  # fmt: skip
    body = (
        b'--XX\r\nContent-Disposition: form-data; name="a"\r\n\r\none\r\n'
        b'--XX\r\nContent-Disposition: form-data; name="f"; filename="x.bin"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n\x00\r\n--XX--\r\n"
    )
    code = """const bytes = Uint8Array.from(atob(x), (each) => each.charCodeAt(0));
      const parts = m.multipart(bytes, 'XX').map(m.partOf);
      return parts.map((part) => [part.name, part.file, part.type, [...part.bytes]]);"""
    assert module("forms", code, base64.b64encode(body).decode()) == [
        ["a", None, "", list(b"one")],
        ["f", "x.bin", "application/octet-stream", [0]],
    ]
    assert module("xml", "return m.prettyXml(x);", "<a b='>'><c>t</c><d/></a>") == "<a b='>'>\n  <c>t</c>\n  <d/>\n</a>"
    assert module("xml", "return m.prettyXml(x);", "<?xml version='1.0'?><a b='1'><c>t</c><d/><!-- x --></a>") == (
        "<?xml version='1.0'?>\n<a b='1'>\n  <c>t</c>\n  <d/>\n  <!-- x -->\n</a>"
    )
    assert module("xml", "return m.prettyXml(x);", "<a><b></a>") is None
    kind = "<!DOCTYPE a [<!ENTITY b 'c'>] >"
    assert module("xml", "return m.prettyXml(x);", f"{kind}<a/>") == f"{kind}\n<a/>"
    code = "return m.prettyXml('<a>'.repeat(x) + '</a>'.repeat(x));"
    assert f"\n{'  ' * 24}<a>\n" in module("xml", code, 200)
    assert module("xml", code, 201) is None


def test_many_blanks_in_a_header(module: Any) -> None:
    """A header's value keeps the blanks in its middle, and loses those at its ends, however many there are."""
    code = """const b = ' \\t'.repeat(4e5), block = new TextEncoder().encode('a:' + b + 'x' + b + 'y' + b);
      return m.parseBlock(block)[0].value.length;"""
    assert module("headers", code) == 800_002


def test_json_whose_names_come_again(module: Any) -> None:
    """The second value of a name is compared with the second."""
    code = """const j = await import('/ui/static/event/json.js');
      return m.diffJson(j.parseJson(x[0]), j.parseJson(x[1])).map((each) => each.path);"""
    assert module("diff", code, ['{"a":1,"a":2,"b":0,"a":3}', '{"a":1,"a":3,"b":0,"a":3}']) == ['["a" (2)]']
    assert module("diff", code, ['{"a":1,"b":{"c":[1]}}', '{"b":{"c":[1]},"a":1}']) == []


FOLLOW = """async () => {
  const opened = [];
  window.EventSource = class extends EventTarget {
    static CLOSED = 2;
    constructor(url) {
      super();
      opened.push(this);
      this.url = url;
    }
    close() {}
  };
  const { follow } = await import('/ui/static/stream.js');
  const seen = [];
  const statuses = [];
  const told = { webhook: (frame) => seen.push(frame.n), status: (text) => statuses.push(text) };
  const end = follow('orders', { since: 'latest' }, told);
  const say = (kind, data, lastEventId) =>
    opened.at(-1).dispatchEvent(new MessageEvent(kind, { data: JSON.stringify(data), lastEventId }));
  const refused = async () => {
    const count = opened.length;
    opened.at(-1).readyState = 2;
    opened.at(-1).dispatchEvent(new Event('error'));
    while (opened.length === count) await new Promise((resolve) => setTimeout(resolve, 20));
  };
  say('subscribed', { buckets: [] }, 'e-7');
  await refused();
  say('webhook', { n: 8, meta: { received_at: 1795617746 } }, 'e-8');
  await refused();
  say('ping', { positions: {} }, 'e-9');
  await refused();
  end();
  return [seen, opened.map(({ url }) => new URLSearchParams(url.split('?')[1]).get('since')), statuses];
}"""


def test_a_stream_goes_on_where_it_was(page: Page) -> None:
    """Whatever ended it, it is opened again behind the last id that came: of an event, or of what was passed over."""
    page.route("**/v1/buckets/orders", lambda route: route.fulfill(json={}))
    page.goto("/ui/")
    seen, since, statuses = page.evaluate(FOLLOW)
    assert seen == [8]
    assert since == ["latest", "e-7", "e-8", "e-9"]
    assert statuses == ["connecting", "live", "away", "away", "away"]


FOLLOW_SILENT = """async () => {
  window.opened = [];
  window.EventSource = class extends EventTarget {
    constructor(url) {
      super();
      opened.push(this);
      this.url = url;
    }
    close() {
      this.closed = true;
    }
  };
  const { follow } = await import('/ui/static/stream.js');
  window.statuses = [];
  follow('orders', { since: 'latest' }, { webhook: () => {}, status: (text) => statuses.push(text) });
  window.say = (kind, data, lastEventId) =>
    opened.at(-1).dispatchEvent(new MessageEvent(kind, { data: JSON.stringify(data), lastEventId }));
  say('subscribed', { buckets: [] }, 'e-7');
}"""


@pytest.mark.own_window
def test_a_stream_that_falls_silent_is_opened_again(page: Page) -> None:
    """A connection may be dead without the browser's knowing: the signs of life that are missing tell."""
    page.route("**/v1/buckets/orders", lambda route: route.fulfill(json={}))
    page.goto("/ui/")
    page.clock.install()
    page.evaluate(FOLLOW_SILENT)
    for _ in range(4):
        page.clock.run_for(30_000)
        page.evaluate("say('ping', { positions: {} }, 'e-9')")
    assert page.evaluate("[opened.length, statuses]") == [1, ["connecting", "live"]]
    page.clock.run_for(45_000)
    page.wait_for_function("() => opened.length === 2", polling=50)
    assert page.evaluate("[opened[0].closed, statuses]") == [True, ["connecting", "live", "away"]]
    assert page.evaluate("new URLSearchParams(opened[1].url.split('?')[1]).get('since')") == "e-9"


def test_who_asks_for_older_events_while_they_come_waits_for_them(module: Any) -> None:
    """One page is asked for, and both have it: before it is there, nobody knows that there are no older ones."""
    body = """
        const live = new m.Live("b", {});
        live.loading.value = false;
        live.filled = true;
        live.cursor = "c";
        let asked = 0;
        let answer;
        live.ask = () => {
          asked += 1;
          return new Promise((done) => { answer = done; });
        };
        let waits = true;
        const both = [live.older(), live.older().then(() => { waits = false; })];
        await new Promise((done) => setTimeout(done));
        const waited = waits;
        answer({ records: [], next: "" });
        await Promise.all(both);
        return [asked, waited, waits, live.whole.value];
    """
    assert module("live", body) == [1, True, False, True]


def test_what_a_search_finds_is_kept_within_the_same_bound(module: Any) -> None:
    """As more fits, the oldest leave the list: they are asked for again by whoever scrolls to them."""
    body = """
        const live = new m.Live("b", { q: "x" });
        let head = 0;
        live.ask = async () => {
          head += 90;
          const log = (seq) => ({ id: `e-${seq}`, seq, at: seq, gap: null });
          return { records: Array.from({ length: Math.min(100, head) }, (_, index) => log(head - index)), next: "c" };
        };
        const lengths = [];
        for (let turn = 0; turn < 60; turn += 1) {
          await live.fill();
          lengths.push(live.length);
        }
        return [Math.max(...lengths), live.row(0).seq, live.cursor === live.rows.oldestId, live.whole.value];
    """
    most, newest, from_the_oldest, whole = module("live", body)
    assert (most <= 2500, newest, from_the_oldest, whole) == (True, 5400, True, False)


def test_a_search_is_not_begun_before_the_last_one_is_answered(module: Any) -> None:
    """On a slow link they would take ever longer. What came meanwhile is looked for behind the answer."""
    body = """
        const live = new m.Live("b", { q: "x" });
        const { setTimeout } = window;
        const [due, asked] = [[], []];
        window.setTimeout = (call) => due.push(call);
        live.fill = () => new Promise((answer) => asked.push(answer));
        const counts = [];
        const rest = () => new Promise((done) => setTimeout(done));
        for (let turn = 0; turn < 3; turn += 1) {
          live.took({ meta: {}, truncated: true });
          for (const call of due.splice(0)) call();
          await rest();
          counts.push(asked.length);
        }
        window.setTimeout = setTimeout;
        asked[0]();
        await rest();
        return [...counts, asked.length];
    """
    assert module("live", body) == [1, 1, 1, 2]


def test_what_came_before_the_subscription_is_asked_for_behind_the_first_page(module: Any) -> None:
    """Two pages at a time would share a slow link. Where the first has all that there was, no other is asked for."""
    body = """
        const streams = [];
        const { EventSource } = window;
        window.EventSource = class extends EventTarget {
          constructor() {
            super();
            streams.push(this);
          }
          close() {}
        };
        const record = (seq) => ({ id: `e-${seq}`, seq, at: seq, status: "sent" });
        const frame = (seq) => ({ meta: { ...record(seq), received_at: seq }, headers: {}, path: "", method: "POST" });
        const say = (kind, data) =>
          streams.at(-1).dispatchEvent(new MessageEvent(kind, { data: JSON.stringify(data) }));
        const counts = [];
        for (const newest of [7, 5]) {
          const asked = [];
          const live = new m.Live("b", {});
          live.ask = () => new Promise((answer) => asked.push((seq) => answer({ records: [record(seq)], next: "" })));
          const rest = () => new Promise((done) => setTimeout(done));
          live.start();
          say("subscribed", { buckets: [{ head: 7 }] });
          say("webhook", frame(8));
          await rest();
          counts.push(asked.length);
          asked[0](newest);
          await rest();
          counts.push(asked.length);
          live.end();
        }
        window.EventSource = EventSource;
        return counts;
    """
    assert module("live", body) == [1, 1, 1, 2]


GATHER = """
  const [original, drawing, got] = [window.requestAnimationFrame, [], []];
  window.requestAnimationFrame = (draw) => drawing.push(draw);
  const list = new m.Gathered(3, (items) => got.push(items));
  for (const [frame, ...items] of x) {
    for (const each of items) list.add(each);
    for (const draw of drawing.splice(0)) draw(frame);
  }
  window.requestAnimationFrame = original;
  return got;
"""


def test_what_comes_in_is_drawn_ten_times_a_second(module: Any) -> None:
    """In the next frame if nothing was for a while, else together; and at once if more than is allowed wait."""
    frames = [[5, "a"], [21, "b"], [37, "c"], [104], [105], [121, "d"], [137, "e", "f", "g", "h"], [300], [416, "i"]]
    assert module("gathered", GATHER, frames) == [["a"], ["b", "c"], ["d", "e", "f", "g"], ["h"], ["i"]]
