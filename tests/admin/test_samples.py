"""Samples of what providers send: fresh each time, in their form, and signed as theirs."""

from __future__ import annotations

import base64
import json
from collections import Counter
from urllib.parse import parse_qs

import pytest

from relay_tornado.admin.samples import SAMPLES, Moment, Sample, find, make
from relay_tornado.errors import Invalid
from relay_tornado.signatures import Verifier

NOW = 1_700_000_000.9
EACH = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample.provider} {sample.event}")


@EACH
def test_a_sample_is_what_its_headers_say(sample: Sample) -> None:
    """JSON, or a form, with a time of that moment where it has one; the same delivery is the same to the byte."""
    made = make(sample, "", NOW, "delivery-1")
    kind = dict(made.headers)["Content-Type"]
    if sample.event == "slash_command":
        assert kind == "application/x-www-form-urlencoded"
        fields = {name: value for name, (value,) in parse_qs(made.body.decode(), strict_parsing=True).items()}
        assert (fields["command"], fields["text"]) == ("/weather", "94070 tomorrow")
    else:
        assert kind == "application/json"
        fields = json.loads(made.body)
    assert len(fields) >= 3
    assert make(sample, "", NOW, "delivery-1") == made
    assert make(sample, "", NOW, "delivery-2").body != made.body


@EACH
def test_a_signed_sample_passes(sample: Sample) -> None:
    """And no header is there twice, as what a provider sends with or without a signature."""
    secret = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()
    made = make(sample, secret, NOW, "delivery-1")
    block = "".join(f"{name}: {value}\r\n" for name, value in made.headers).encode()
    verdict = Verifier(sample.provider, [secret]).verify(block, made.body, NOW)
    assert verdict.verified, verdict
    assert set(Counter(name.lower() for name, _ in made.headers).values()) == {1}
    plain = make(sample, "", NOW, "delivery-1")
    assert plain.body == made.body
    assert {name.lower() for name, _ in plain.headers} < {name.lower() for name, _ in made.headers}


def test_a_sample_is_found_by_its_providers_name() -> None:
    """Who asks for another is told which there are."""
    assert all(find(sample.provider, sample.event) is sample for sample in SAMPLES)
    with pytest.raises(Invalid, match=r"^event: of gitlab there are push, merge_request$"):
        find("gitlab", "pull_request")
    with pytest.raises(Invalid, match=r"^provider: must be one of github, stripe, "):
        find("bitbucket", "push")


def test_what_is_fresh_has_its_form() -> None:
    """So many digits or letters, over their whole range."""
    moment = Moment(NOW, "delivery-1")
    assert (moment.unix, moment.iso, moment.unique) == (1_700_000_000, "2023-11-14T22:13:20Z", "delivery-1")
    numbers = [moment.number(12) for _ in range(300)]
    assert 10**11 <= min(numbers) < 1.2e11
    assert 9e11 < max(numbers) < 10**12
    assert {moment.number(1) for _ in range(100)} == set(range(1, 10))
    assert {len(moment.hex(7)) for _ in range(100)} == {7}
    assert (len(moment.key()), len(moment.key(14))) == (24, 14)


def test_what_names_a_thing_is_as_long_as_the_providers() -> None:
    """Commits, pull requests and orders, wherever one stands."""

    def body(provider: str, event: str) -> dict:  # type: ignore[type-arg]
        return json.loads(make(find(provider, event), "", NOW, "delivery-1").body)  # type: ignore[no-any-return]

    push = body("github", "push")
    assert len(push["before"]) == len(push["after"]) == 40
    assert push["commits"] == [push["head_commit"]]
    assert push["head_commit"]["id"] == push["after"]
    pull = body("github", "pull_request")
    assert (len(str(pull["number"])), pull["pull_request"]["number"]) == (3, pull["number"])
    assert len(body("gitlab", "push")["after"]) == 40
    assert len(str(body("gitlab", "merge_request")["object_attributes"]["iid"])) == 3
    for event in ("orders/create", "products/update"):
        assert len(str(body("shopify", event)["id"])) == 12
    assert len(str(body("github", "ping")["hook_id"])) == 9
    for event, prefix in (
        *(("payment_intent.succeeded", "pi_"), ("invoice.paid", "in_")),
        ("checkout.session.completed", "cs_test_"),
    ):
        made = body("stripe", event)
        assert (made["type"], made["data"]["object"]["id"].startswith(prefix)) == (event, True)
