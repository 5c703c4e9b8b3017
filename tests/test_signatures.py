"""Signatures of senders, against the vectors that the providers or their libraries publish."""

from __future__ import annotations

import base64
import hmac
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay_tornado.errors import Invalid
from relay_tornado.signatures import MAX_SECRETS, PROVIDERS, TOLERANCE, Verdict, Verifier, sign

NOW = 1_700_000_000.0

SECRETS = {
    "github": "It's a Secret to Everybody",
    "standard-webhooks": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "stripe": "whsec_5e1f7c2a",
    "slack": "8f742231b10e8888abcd99yyyzzz85a5",
    "shopify": "hush",
    "gitlab": "glt-é7",
}
OTHER = {provider: base64.b64encode(b"another secret: " + provider.encode()).decode() for provider in PROVIDERS}

SLACK_BODY = (
    b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
    b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
    b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
    b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
)

# The event with which Stripe's own library for .NET tests.
STRIPE_BODY = b"""{
  "id": "evt_123",
  "object": "event",
  "account": "acct_123",
  "api_version": "2017-05-25",
  "created": 1533204620,
  "data": {
    "object": {
      "id": "ii_123",
      "object": "invoiceitem",
      "amount": 1000,
      "currency": "usd",
      "customer": "cus_123",
      "date": 1533204620,
      "description": "Test Invoice Item",
      "discountable": false,
      "invoice": "in_123",
      "livemode": false,
      "metadata": {},
      "period": {
        "start": 1533204620,
        "end": 1533204620
      },
      "plan": null,
      "proration": false,
      "quantity": null,
      "subscription": null
    }
  },
  "livemode": false,
  "pending_webhooks": 1,
  "request": {
    "id": "req_123",
    "idempotency_key": "idempotency-key-123"
  },
  "type": "invoiceitem.created"
}
"""

VECTORS = [
    pytest.param(
        "github",
        "It's a Secret to Everybody",
        b"Hello, World!",
        [(b"X-Hub-Signature-256", b"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17")],
        NOW,
        id="github",
    ),
    pytest.param(
        "standard-webhooks",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        b'{"test": 2432232314}',
        [
            (b"webhook-id", b"msg_p5jXN8AQM9LWM0D4loKWxJek"),
            (b"webhook-timestamp", b"1614265330"),
            (b"webhook-signature", b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
        ],
        1614265330.0,
        id="standard-webhooks",
    ),
    pytest.param(
        "stripe",
        "webhook_secret",
        STRIPE_BODY,
        [
            (
                b"Stripe-Signature",
                b"t=1533204620,v1=f0bdba6d4eacbd8ad8a3bbadd7248e633ec1477f7899c124c51b39405fa36613,"
                b"v0=63f3a72374a733066c4be69ed7f8e5ac85c22c9f0a6a612ab9a025a9e4ee7eef",
            )
        ],
        1533204620.0,
        id="stripe",
    ),
    pytest.param(
        "slack",
        "8f742231b10e8888abcd99yyyzzz85a5",
        SLACK_BODY,
        [
            (b"X-Slack-Request-Timestamp", b"1531420618"),
            (b"X-Slack-Signature", b"v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"),
        ],
        1531420618.0,
        id="slack",
    ),
    pytest.param(
        "shopify",
        "hush",
        b'{"id":1}',
        [(b"X-Shopify-Hmac-Sha256", b"VnKUjZsLuN5iZWjn5EntcBVCF9kMN43LglzCE1/GSeY=")],
        NOW,
        id="shopify",
    ),
    pytest.param("gitlab", "a token", b"{}", [(b"X-Gitlab-Token", b"a token")], NOW, id="gitlab"),
]


def block(lines: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%b: %b\r\n" % line for line in lines)


def signed(provider: str, body: bytes, now: float = NOW, secret: str = "") -> bytes:
    lines = sign(provider, secret or SECRETS[provider], body, now, "msg_1")
    return block([(name.encode(), value.encode()) for name, value in lines])


def judged(provider: str, lines: bytes, body: bytes = b"x", now: float = NOW) -> Verdict:
    """The verdict of an input that knows the sender's secret."""
    return Verifier(provider, [SECRETS[provider]]).verify(lines, body, now)


@pytest.mark.parametrize(("provider", "secret", "body", "lines", "now"), VECTORS)
def test_published_vectors(
    provider: str, secret: str, body: bytes, lines: list[tuple[bytes, bytes]], now: float
) -> None:
    """What a provider documents as signed is verified, whatever the case of the header's name, and not a byte else."""
    verifier = Verifier(provider, [secret])
    assert verifier.verify(b"Host: x\r\n" + block(lines), body, now).verified
    assert verifier.verify(block([(name.lower(), value) for name, value in lines]), body, now).verified
    assert verifier.verify(block([(name.upper(), value) for name, value in lines]), body, now).verified
    assert provider == "gitlab" or not verifier.verify(block(lines), body + b" ", now).verified


@pytest.mark.parametrize("provider", PROVIDERS)
@settings(deadline=None, max_examples=50)
@given(body=st.binary(max_size=200))
def test_what_is_signed_is_verified(provider: str, body: bytes) -> None:
    """`sign` and `Verifier` agree on every body, also on one that is no text."""
    verdict = judged(provider, signed(provider, body), body)
    assert verdict.verified, verdict


@pytest.mark.parametrize("provider", PROVIDERS)
def test_either_secret_verifies_while_it_is_changed(provider: str) -> None:
    """With two secrets both are good, the verdict says which one it was, and a third is refused."""
    old, new = SECRETS[provider], OTHER[provider]
    verifier = Verifier(provider, [new, old])
    noun = "token" if provider == "gitlab" else "signature"
    assert verifier.verify(signed(provider, b"x", secret=new), b"x", NOW).reason == f"the {noun} matches secret 1 of 2"
    assert verifier.verify(signed(provider, b"x", secret=old), b"x", NOW).reason == f"the {noun} matches secret 2 of 2"
    third = signed(provider, b"x", secret=base64.b64encode(b"third").decode())
    assert verifier.verify(third, b"x", NOW) == Verdict(False, f"the {noun} does not match any of the 2 secrets")
    assert Verifier(provider, [new]).verify(third, b"x", NOW).reason == f"the {noun} does not match the secret"


@pytest.mark.parametrize("provider", ["stripe", "standard-webhooks"])
def test_a_sender_may_sign_with_both_secrets(provider: str) -> None:
    """Where one header has a signature by an unknown secret and one by ours, in this order, ours counts."""
    ours, other = SECRETS[provider], OTHER[provider]
    if provider == "stripe":
        first, second = (sign(provider, secret, b"x", NOW, "m")[0][1] for secret in (other, ours))
        lines = block([(b"Stripe-Signature", f"{first},{second.partition(',')[2]}".encode())])
    else:
        first, second = (sign(provider, secret, b"x", NOW, "msg_1")[2][1] for secret in (other, ours))
        lines = block(
            [
                (b"webhook-id", b"msg_1"),
                (b"webhook-timestamp", b"%d" % NOW),
                (b"webhook-signature", f"v1a,AAAA {first} {second}".encode()),
            ]
        )
    assert judged(provider, lines).verified


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_sender_may_repeat_the_header_for_each_secret(provider: str) -> None:
    """Each is looked at, not the first alone."""
    lines = signed(provider, b"x", secret=OTHER[provider]) + signed(provider, b"x")
    assert judged(provider, lines).verified


@pytest.mark.parametrize("provider", ["standard-webhooks", "stripe", "slack"])
def test_a_timestamp_may_be_off_by_300_seconds_either_way(provider: str) -> None:
    """A signature is good for 300 s before and after its time, not longer, and the verdict tells by how much."""
    lines = signed(provider, b"x")
    assert judged(provider, lines, now=NOW + TOLERANCE).verified
    assert judged(provider, lines, now=NOW - TOLERANCE).verified
    late = judged(provider, lines, now=NOW + 411.5)
    assert late == Verdict(False, "the timestamp is 412 s old; 300 s are allowed")
    early = judged(provider, lines, now=NOW - TOLERANCE - 0.5)
    assert early == Verdict(False, "the timestamp is 301 s ahead of the clock; 300 s are allowed")


@pytest.mark.parametrize("provider", ["standard-webhooks", "stripe", "slack"])
@pytest.mark.parametrize(
    "stamp", ["", "nan", "NaN", "inf", "1e9", "-1", "+1700000000", "1700000000.0", "0x1", "1_0", "9" * 5000, "\u0661"]
)
def test_a_timestamp_is_a_whole_number(provider: str, stamp: str) -> None:
    """What float() or int() would take for a number but a sender never writes is refused in words."""
    lines = signed(provider, b"x").replace(b"%d" % NOW, stamp.encode())
    assert judged(provider, lines) == Verdict(False, "the timestamp is no whole number of unix seconds")


@pytest.mark.parametrize("provider", ["standard-webhooks", "stripe", "slack"])
def test_the_timestamp_is_signed_too(provider: str) -> None:
    """A captured signature can't be given a fresh timestamp."""
    lines = signed(provider, b"x").replace(b"%d" % NOW, b"%d" % (NOW + 1000))
    assert judged(provider, lines, now=NOW + 1000) == Verdict(False, "the signature does not match the secret")


@pytest.mark.parametrize("provider", ["github", "stripe", "slack"])
def test_hex_may_be_in_capitals(provider: str) -> None:
    """It is the same signature, and the verdict says which secret made it."""
    lines = re.sub(rb"[0-9a-f]{64}", lambda found: found[0].upper(), signed(provider, b"x"))
    assert lines != signed(provider, b"x")
    assert judged(provider, lines) == Verdict(True, "the signature matches the secret")


def test_there_may_be_blanks_in_stripes_header() -> None:
    """Around its parts, and around what they say."""
    lines = signed("stripe", b"x").replace(b"t=", b" t = ").replace(b",v1=", b" , v1 = ")
    assert judged("stripe", lines).verified


def test_the_id_of_standard_webhooks_is_signed_too() -> None:
    """A captured signature can't be given another delivery id, which would pass a deduplication."""
    lines = signed("standard-webhooks", b"x").replace(b"msg_1", b"msg_2")
    assert not judged("standard-webhooks", lines).verified


def test_of_several_delivery_ids_the_first_is_signed() -> None:
    """It is the one by which a repeat is recognised."""
    lines, other = signed("standard-webhooks", b"x"), b"webhook-id: msg_2\r\n"
    assert judged("standard-webhooks", lines + other).verified
    assert not judged("standard-webhooks", other + lines).verified


def test_svix_names_of_the_headers_are_taken() -> None:
    """A sender that still uses svix-id, svix-timestamp and svix-signature is a Standard Webhooks sender."""
    lines = signed("standard-webhooks", b"x").replace(b"webhook-", b"svix-")
    assert judged("standard-webhooks", lines).verified


@pytest.mark.parametrize(
    ("provider", "lines", "reason"),
    [
        ("github", b"", "no X-Hub-Signature-256 header"),
        ("github", b"X-Hub-Signature: sha1=00\r\n", "no X-Hub-Signature-256 header"),
        ("github", b"X-Hub-Signature-256: 00\r\n", "no sha256= in the X-Hub-Signature-256 header"),
        ("github", b"X-Hub-Signature-256:\r\n", "no sha256= in the X-Hub-Signature-256 header"),
        ("standard-webhooks", b"", "no webhook-signature header"),
        ("standard-webhooks", b"webhook-signature: v1,x\r\n", "no webhook-id header"),
        ("standard-webhooks", b"webhook-signature: v1,x\r\nwebhook-id: i\r\n", "no webhook-timestamp header"),
        (
            "standard-webhooks",
            b"webhook-signature: v1a,x\r\nwebhook-id: i\r\nwebhook-timestamp: 1\r\n",
            "no v1 signature in the webhook-signature header",
        ),
        ("stripe", b"", "no Stripe-Signature header"),
        ("stripe", b"Stripe-Signature: v1=00\r\n", "no t= in the Stripe-Signature header"),
        ("stripe", b"Stripe-Signature: t=1,v0=00\r\n", "no v1= in the Stripe-Signature header"),
        ("slack", b"", "no X-Slack-Signature header"),
        ("slack", b"X-Slack-Signature: v0=00\r\n", "no X-Slack-Request-Timestamp header"),
        (
            "slack",
            b"X-Slack-Signature: v1=00\r\nX-Slack-Request-Timestamp: 1\r\n",
            "no v0= in the X-Slack-Signature header",
        ),
        ("shopify", b"", "no X-Shopify-Hmac-Sha256 header"),
        ("gitlab", b"", "no X-Gitlab-Token header"),
    ],
)
def test_a_verdict_says_what_is_missing(provider: str, lines: bytes, reason: str) -> None:
    """Someone who sets up a webhook reads in the verdict which header to look at."""
    assert judged(provider, lines) == Verdict(False, reason)


@pytest.mark.parametrize("provider", PROVIDERS)
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_hostile_headers_never_raise(provider: str, data: st.DataObject) -> None:
    """Bytes of any kind, cut, doubled or mixed into signed headers, give a verdict and no exception."""
    good = signed(provider, b"x")
    lines = good.splitlines(keepends=True)
    junk = st.one_of(
        st.binary(max_size=80),
        st.sampled_from(lines).flatmap(
            lambda line: st.tuples(st.integers(0, len(line)), st.binary(max_size=9)).map(
                lambda cut: line[: cut[0]] + cut[1] + line[cut[0] :] + b"\r\n"
            )
        ),
        st.sampled_from(lines).flatmap(lambda line: st.integers(0, len(line)).map(lambda cut: line[:cut] + b"\r\n")),
    )
    verdict = judged(provider, b"".join(data.draw(st.lists(junk, max_size=6))), data.draw(st.binary(max_size=3)))
    assert isinstance(verdict.verified, bool)
    assert verdict.reason


@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_a_hostile_request_costs_is_bounded(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 headers, or one with 10,000 candidates, cost one HMAC a secret and a few comparisons."""
    verifier = Verifier(provider, [OTHER[provider]] * MAX_SECRETS)
    lines = signed(provider, b"x")
    calls: Counter[str] = Counter()
    for name in ("compare_digest", "digest"):
        real = getattr(hmac, name)
        monkeypatch.setattr(hmac, name, lambda *args, name=name, real=real: calls.update([name]) or real(*args))
    for hostile in (lines * 10_000, lines.replace(b"v1", b"t=1,v1=00,v1,00 v1" * 10_000), lines + b" x\r\n" * 1000):
        calls.clear()
        assert not verifier.verify(hostile, b"x", NOW).verified
        assert calls["digest"] <= MAX_SECRETS
        assert calls["compare_digest"] <= 32 * MAX_SECRETS


@pytest.mark.parametrize(("provider", "part"), [("stripe", b"x=1,"), ("standard-webhooks", b"x ")])
def test_a_list_is_read_as_far_as_64_parts(provider: str, part: bytes) -> None:
    """What stands behind more parts than any sender writes is not looked at."""
    few, many = (signed(provider, b"x").replace(b"v1", part * count + b"v1") for count in (62, 64))
    assert judged(provider, few).verified
    assert judged(provider, many).reason.startswith("no v1")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_verdict_holds_nothing_secret(provider: str) -> None:
    """Neither the secret nor the right signature nor what the sender wrote is in a verdict or a repr."""
    verifier = Verifier(provider, [OTHER[provider]])
    right = [value for _, value in sign(provider, OTHER[provider], b"x", NOW, "msg_1")]
    shown = f"{verifier.verify(signed(provider, b'x'), b'x', NOW)!r} {verifier!r}"
    assert not [value for value in (OTHER[provider], SECRETS[provider], *right) if value in shown]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("secret", ["", " ", "x\n", " x", "a\r\nX-Evil: 1", "a\0b", "\ud800", "x" * 2000])
def test_a_bad_secret_is_refused_when_it_is_configured(provider: str, secret: str) -> None:
    """An empty, broken or pasted-with-a-newline secret is refused by name, and the error does not repeat it."""
    with pytest.raises(Invalid, match=r"^secrets\[1\]: ") as caught:
        Verifier(provider, [SECRETS[provider], secret])
    assert caught.value.field == "secrets[1]"
    assert len(secret) < 3 or secret not in str(caught.value)
    with pytest.raises(Invalid, match=r"^secret: " + ("is empty" if not secret else "")):
        sign(provider, secret, b"", NOW, "m")


@pytest.mark.parametrize("secret", ["whsec_", "whsec_*", "whsec_A", "whpk_MfKQ", "whsec_=", "whsec_é", "whsec_AA=A"])
def test_a_standard_webhooks_secret_is_base64(secret: str) -> None:
    """A whsec_ that decodes to nothing, or not at all, is refused; one without padding or prefix is fine."""
    with pytest.raises(Invalid, match="base64"):
        Verifier("standard-webhooks", [secret])
    lines = signed("standard-webhooks", b"x", secret="whsec_c2VjcmV0cw==")
    for same in ("whsec_c2VjcmV0cw", "c2VjcmV0cw=="):
        assert Verifier("standard-webhooks", [same]).verify(lines, b"x", NOW).verified


def test_a_verifier_needs_a_provider_and_secrets() -> None:
    """An unknown provider, no secret and too many are refused with what to write."""
    with pytest.raises(Invalid, match="provider: write one of github, standard-webhooks"):
        Verifier("bitbucket", ["x"])
    Verifier("github", ["x" * 1024] * MAX_SECRETS)
    with pytest.raises(Invalid, match="secrets: is missing: give the secret that the provider shows"):
        Verifier("github", [])
    with pytest.raises(Invalid, match=f"secrets: holds {MAX_SECRETS + 1} secrets:"):
        Verifier("github", ["x"] * (MAX_SECRETS + 1))


def test_a_test_event_carries_the_deliverys_id() -> None:
    """Where the provider names its deliveries, the signed headers do, so that deduplication can be tried out."""
    ids = {provider: [name for name, value in sign(provider, SECRETS[provider], b"", NOW, "id-1") if value == "id-1"]
           for provider in PROVIDERS}  # fmt: skip
    assert ids == {
        "github": ["X-GitHub-Delivery"],
        "standard-webhooks": ["webhook-id"],
        "stripe": [],
        "slack": [],
        "shopify": ["X-Shopify-Webhook-Id"],
        "gitlab": ["Idempotency-Key"],
    }
