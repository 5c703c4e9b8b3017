"""Bodies that came compressed: shown as what they hold, at a bounded cost, with the bytes that came one press away."""

from __future__ import annotations

import base64
import gzip
import json
import zlib

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.ui.sending import Sender, rows

JSON = b'{"order": {"id": 4711, "note": "gr\xc3\xbc\xc3\x9fe"}}'
MIB = 1 << 20


def raw_deflate(body: bytes) -> bytes:
    """Without the head and the checksum that belong to it, as some senders have it."""
    return zlib.compress(body)[2:-4]


@pytest.fixture
def article(events: Page) -> Locator:
    return events.get_by_role("article")


def show(page: Page, sender: Sender, body: bytes, **headers: str) -> None:
    """Sends an event, and opens it by itself."""
    sender.send("/x", body, **headers)
    page.goto(f"/ui/events/{sender.events()[-1]['id']}")
    expect(page.get_by_role("heading", name="Headers")).to_be_visible()


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("gzip", gzip.compress(JSON)),
        ("X-GZip", gzip.compress(JSON)),
        ("identity, gzip", gzip.compress(JSON)),
        ("deflate", zlib.compress(JSON)),
        ("deflate", raw_deflate(JSON)),
    ],
    ids=["gzip", "x-gzip", "identity, gzip", "deflate", "raw deflate"],
)
def test_json(events: Page, sender: Sender, article: Locator, coding: str, packed: bytes) -> None:
    """A tree of what it holds, and pretty; what came is there in hex and raw, and downloaded."""
    sender.send("/x", packed, Content_Type="application/json", Content_Encoding=coding)
    rows(events).first.click()
    expect(article.locator(".json-tree")).to_contain_text("4711")
    expect(article.get_by_text(f"Decompressed, {len(JSON)} B out of {len(packed)} B")).to_be_visible()
    article.get_by_role("button", name="Pretty").click()
    expect(article.get_by_label("Body, pretty")).to_contain_text('"note": "grüße"')
    article.get_by_role("button", name="Text", exact=True).click()
    expect(article.get_by_label("Body, text")).to_have_text(JSON.decode())
    article.get_by_role("button", name="Hex", exact=True).click()
    expect(article.get_by_label("Body in hex")).to_contain_text(packed[:8].hex(" "))
    article.get_by_role("button", name="Raw").click()
    expect(article.get_by_label("Body, raw")).to_contain_text("�")


def test_other_kinds(events: Page, sender: Sender, article: Locator) -> None:
    """A form is a table, a text a text, and a JSON that is none is pointed at, as they are where nothing was packed."""
    form = "application/x-www-form-urlencoded"
    show(events, sender, gzip.compress(b"a=1"), Content_Type=form, Content_Encoding="gzip")
    expect(article.get_by_role("region", name="Form fields")).to_contain_text("a1")
    show(events, sender, gzip.compress(b"hello"), Content_Type="text/plain", Content_Encoding="gzip")
    expect(article.get_by_label("Body, text")).to_have_text("hello")
    show(events, sender, gzip.compress(b"{1}"), Content_Type="application/json", Content_Encoding="gzip")
    expect(article.get_by_text("Line 1, column 2")).to_be_visible()
    show(events, sender, gzip.compress(b"\x00\xff" * 9), Content_Type="application/x", Content_Encoding="gzip")
    expect(article.get_by_label("Body in hex, decompressed")).to_contain_text("00 ff 00 ff")
    show(events, sender, gzip.compress(b""), Content_Type="text/plain", Content_Encoding="gzip")
    expect(article.get_by_text("Decompressed, 0 B out of")).to_be_visible()


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(JSON)[:-9]),
        ("gzip", gzip.compress(JSON) + b"\xff"),
        ("gzip", b"\x1f\x8b\xff\xff"),
        ("deflate", b"\x78\x9c\xff\xff\xff"),
        ("br", b"\x8b\x00\x80\xff\x03"),
        ("gzip, gzip", gzip.compress(gzip.compress(JSON))),
    ],
    ids=["cut", "too much", "no gzip", "no deflate", "br", "twice"],
)
def test_what_cannot_be_decompressed(events: Page, sender: Sender, article: Locator, coding: str, body: bytes) -> None:
    """Stands in hex, as it came, with the reason, and can be downloaded."""
    show(events, sender, body, Content_Type="application/json", Content_Encoding=coding)
    expect(article.get_by_label("Body in hex")).to_contain_text(body[:4].hex(" "))
    expect(article.get_by_text("Decompressed")).to_have_count(0)
    why = "but is damaged or cut" if coding in ("gzip", "deflate") else "which this browser can't open"
    expect(article.get_by_text(f"Compressed with {coding}, {why}: here is what came.")).to_be_visible()
    with events.expect_download() as download:
        article.get_by_role("link", name="Download it").click()
    assert download.value.path().read_bytes() == body


_KNOWS_MORE = """
const { DecompressionStream: Own } = window;
window.largest = 0;
window.DecompressionStream = function (form) {
  if (!["brotli", "zstd"].includes(form)) return new Own(form);
  const { readable, writable } = new Own("gzip");
  const writer = writable.getWriter();
  const write = (bytes) => {
    window.largest = Math.max(window.largest, bytes.length);
    return writer.write(bytes);
  };
  return { readable, writable: new WritableStream({ write, close: () => writer.close() }) };
};"""
"""Makes of a browser one that knows brotli and zstd: both are gzip to it."""


@pytest.mark.parametrize(("coding", "piece"), [("br", 16), ("zstd", 512)])
def test_a_browser_that_knows_more(events: Page, sender: Sender, article: Locator, coding: str, piece: int) -> None:
    """Shows what it can open, in pieces so small that no sender makes it write gibibytes before it can be stopped."""
    events.add_init_script(_KNOWS_MORE)
    body = {"id": 4711, "rest": " ".join(str(number * 7919 % 1009) for number in range(999))}
    packed = gzip.compress(json.dumps(body).encode())
    assert len(packed) > 512
    show(events, sender, packed, Content_Type="application/json", Content_Encoding=coding)
    expect(article.locator(".json-tree")).to_contain_text("4711")
    assert events.evaluate("window.largest") == piece


def test_what_is_not_compressed_at_all(events: Page, sender: Sender, article: Locator) -> None:
    """A body that only says that it were is shown as what it is, as behind a proxy that decompressed it."""
    show(events, sender, JSON, Content_Type="application/json", Content_Encoding="gzip")
    expect(article.locator(".json-tree")).to_contain_text("4711")
    expect(article.get_by_text("Decompressed")).to_have_count(0)
    expect(article.get_by_text("Compressed with")).to_have_count(0)


def test_an_answer(events: Page, sender: Sender, article: Locator) -> None:
    """What a client answered is decompressed as well."""
    sender.send("/x", b"x")
    (event,) = sender.events()
    answer = {
        "status_code": 500,
        "status": "failed",
        "response_headers": {"Content-Type": ["application/json"], "Content-Encoding": ["gzip"]},
        "response_body": base64.b64encode(gzip.compress(JSON)).decode(),
    }
    sender.rest("PUT", f"/v1/logs/{event['id']}", answer)
    events.goto(f"/ui/events/{event['id']}")
    article.locator(".delivery summary.row").click()
    expect(article.locator(".delivery .json-tree")).to_contain_text("4711")


def test_comparing(events: Page, sender: Sender) -> None:
    """Two are compared by what they hold, however each was packed."""
    left, right = ({"n": n, "same": list(range(99))} for n in (1, 2))
    sender.send("/x", gzip.compress(json.dumps(left).encode()), Content_Encoding="gzip")
    sender.send("/x", json.dumps(right).encode())
    ids = [each["id"] for each in sender.events()]
    events.goto(f"/ui/compare/{ids[0]}/{ids[1]}")
    bodies = events.get_by_role("region", name="Differences of the bodies")
    expect(bodies.get_by_role("row")).to_have_text(["PlaceLeftRight", "n12"])


def test_the_same_in_two_packages(events: Page, sender: Sender) -> None:
    """Bytes that differ by how they were packed alone hold the same."""
    sender.send("/x", gzip.compress(JSON, 1, mtime=1), Content_Encoding="gzip")
    sender.send("/x", zlib.compress(JSON), Content_Encoding="deflate")
    ids = [each["id"] for each in sender.events()]
    events.goto(f"/ui/compare/{ids[0]}/{ids[1]}")
    expect(events.get_by_text(f"The same {len(JSON)} B, compressed in another way.")).to_be_visible()


def test_a_bomb(events: Page, sender: Sender, article: Locator) -> None:
    """Gibibytes in less than 3 MiB: the first 4 MiB are shown, as text with no tree."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = packer.compress(b"[" + b" " * MIB) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(b" " * MIB) + packer.flush(zlib.Z_FULL_FLUSH)
    show(events, sender, head + block * 2500, Content_Type="application/json", Content_Encoding="gzip")
    expect(article.get_by_text("Only the first 4.0 MiB of what it holds are shown.")).to_be_visible()
    expect(article.get_by_label("Body, text")).to_contain_text("[")
    expect(article.get_by_text("Not JSON")).to_have_count(0)
    expect(article.get_by_role("button", name="Tree")).to_have_count(0)
    assert events.evaluate("document.getElementsByTagName('*').length") < 1000
