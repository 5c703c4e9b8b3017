"""Samples of providers' webhooks, generated each time with fresh ids and times, and the provider's headers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeAlias
from urllib.parse import quote

import msgspec

from relay_tornado.errors import Invalid
from relay_tornado.signatures import sign

_Fields: TypeAlias = dict[str, Any]


class Moment:
    """The fresh values of one sample."""

    def __init__(self, now: float, unique: str) -> None:
        self.unix = int(now)
        self.iso = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.unique = unique
        self._random = random.Random(unique)  # noqa: S311 - nothing secret

    def hex(self, digits: int) -> str:
        return f"{self._random.getrandbits(digits * 4):0{digits}x}"

    def number(self, digits: int) -> int:
        return self._random.randrange(10 ** (digits - 1), 10**digits)

    def key(self, letters: int = 24) -> str:
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
        return "".join(self._random.choices(alphabet, k=letters))


class Sample(NamedTuple):
    """One event of a provider, under the provider's own name for it."""

    provider: str
    event: str
    title: str
    body: Callable[[Moment], _Fields]


class Made(NamedTuple):
    """A request without its request line."""

    headers: list[tuple[str, str]]
    body: bytes


def find(provider: str, event: str) -> Sample:
    """Raises Invalid."""
    for each in SAMPLES:
        if (each.provider, each.event) == (provider, event):
            return each
    if provider not in _HEADERS:
        raise Invalid(f"must be one of {', '.join(_HEADERS)}", "provider")
    names = ", ".join(each.event for each in SAMPLES if each.provider == provider)
    raise Invalid(f"of {provider} there are {names}", "event")


def make(sample: Sample, secret: str, now: float, unique: str) -> Made:
    """A sample as received at `now` (unix seconds), signed if there is a secret. `unique` names the delivery."""
    moment = Moment(now, unique)
    fields = sample.body(moment)
    body = _form(fields) if sample.event == "slash_command" else msgspec.json.encode(fields)
    kind = "application/x-www-form-urlencoded" if sample.event == "slash_command" else "application/json"
    headers = [("Accept", "*/*"), ("Content-Type", kind), *_HEADERS[sample.provider](sample.event, moment)]
    if secret:
        signed = sign(sample.provider, secret, body, now, unique)
        names = {name.lower() for name, _ in signed}
        headers = [each for each in headers if each[0].lower() not in names] + signed
    return Made(headers, body)


def _form(fields: _Fields) -> bytes:
    return "&".join(f"{quote(name)}={quote(str(value), safe='')}" for name, value in fields.items()).encode()


# github

_SENDER: Final = {"login": "octocat", "id": 583231, "type": "User", "url": "https://api.github.com/users/octocat"}
_REPOSITORY: Final = {
    "id": 1296269,
    "name": "hello-world",
    "full_name": "octocat/hello-world",
    "private": False,
    "owner": _SENDER,
    "html_url": "https://github.com/octocat/hello-world",
    "default_branch": "main",
}


def _github_push(now: Moment) -> _Fields:
    before, after = now.hex(40), now.hex(40)
    author = {"name": "The Octocat", "email": "octocat@example.com", "username": "octocat"}
    commit = {
        "id": after,
        "message": "Say hello in one more language",
        "timestamp": now.iso,
        "url": f"https://github.com/octocat/hello-world/commit/{after}",
        "author": author,
        "committer": author,
        "added": ["hello/pt.txt"],
        "removed": [],
        "modified": ["README.md"],
    }
    return {
        "ref": "refs/heads/main",
        "before": before,
        "after": after,
        "created": False,
        "deleted": False,
        "forced": False,
        "compare": f"https://github.com/octocat/hello-world/compare/{before[:12]}...{after[:12]}",
        "commits": [commit],
        "head_commit": commit,
        "repository": _REPOSITORY,
        "pusher": {"name": "octocat", "email": "octocat@example.com"},
        "sender": _SENDER,
    }


def _github_pull_request(now: Moment) -> _Fields:
    number = now.number(3)
    url = f"https://github.com/octocat/hello-world/pull/{number}"
    return {
        "action": "opened",
        "number": number,
        "pull_request": {
            "id": now.number(9),
            "number": number,
            "state": "open",
            "title": "Say hello in one more language",
            "body": "Adds Portuguese.",
            "html_url": url,
            "draft": False,
            "merged": False,
            "user": _SENDER,
            "head": {"ref": "portuguese", "sha": now.hex(40)},
            "base": {"ref": "main", "sha": now.hex(40)},
            "created_at": now.iso,
            "updated_at": now.iso,
        },
        "repository": _REPOSITORY,
        "sender": _SENDER,
    }


def _github_ping(now: Moment) -> _Fields:
    hook = {"type": "Repository", "id": now.number(9), "name": "web", "active": True, "events": ["push"]}
    return {
        "zen": "Speak like a human.",
        "hook_id": hook["id"],
        "hook": {**hook, "created_at": now.iso},
        "repository": _REPOSITORY,
        "sender": _SENDER,
    }


def _github_headers(event: str, now: Moment) -> list[tuple[str, str]]:
    return [
        ("User-Agent", f"GitHub-Hookshot/{now.hex(7)}"),
        ("X-GitHub-Delivery", now.unique),
        ("X-GitHub-Event", event),
        ("X-GitHub-Hook-ID", str(now.number(9))),
        ("X-GitHub-Hook-Installation-Target-ID", str(_REPOSITORY["id"])),
        ("X-GitHub-Hook-Installation-Target-Type", "repository"),
    ]


# stripe


def _stripe(kind: str, thing: Callable[[Moment], _Fields]) -> Callable[[Moment], _Fields]:
    def body(now: Moment) -> _Fields:
        return {
            "id": f"evt_{now.key()}",
            "object": "event",
            "api_version": "2025-03-31.basil",
            "created": now.unix,
            "data": {"object": thing(now)},
            "livemode": False,
            "pending_webhooks": 1,
            "request": {"id": f"req_{now.key(14)}", "idempotency_key": now.unique},
            "type": kind,
        }

    return body


def _payment(now: Moment) -> _Fields:
    return {
        "id": f"pi_{now.key()}",
        "object": "payment_intent",
        "amount": 2000,
        "amount_received": 2000,
        "currency": "eur",
        "customer": f"cus_{now.key(14)}",
        "created": now.unix,
        "latest_charge": f"ch_{now.key()}",
        "metadata": {"order": str(now.number(5))},
        "status": "succeeded",
    }


def _invoice(now: Moment) -> _Fields:
    return {
        "id": f"in_{now.key()}",
        "object": "invoice",
        "amount_due": 4900,
        "amount_paid": 4900,
        "currency": "eur",
        "customer": f"cus_{now.key(14)}",
        "customer_email": "ada@example.com",
        "number": f"{now.key(8).upper()}-0001",
        "created": now.unix,
        "paid": True,
        "status": "paid",
        "subscription": f"sub_{now.key()}",
    }


def _checkout(now: Moment) -> _Fields:
    return {
        "id": f"cs_test_{now.key(40)}",
        "object": "checkout.session",
        "amount_total": 2599,
        "currency": "eur",
        "customer_details": {"email": "ada@example.com", "name": "Ada Lovelace"},
        "mode": "payment",
        "payment_intent": f"pi_{now.key()}",
        "payment_status": "paid",
        "status": "complete",
        "created": now.unix,
    }


def _stripe_headers(event: str, now: Moment) -> list[tuple[str, str]]:
    return [("User-Agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)")]


# slack


def _slack_message(now: Moment) -> _Fields:
    return {
        "token": now.key(),
        "team_id": "T061EG9R6",
        "api_app_id": "A0MDYCDME",
        "event": {
            "type": "message",
            "channel": "C024BE91L",
            "user": "U2147483697",
            "text": "Did the relay get that?",
            "ts": f"{now.unix}.{now.number(6)}",
            "channel_type": "channel",
        },
        "type": "event_callback",
        "event_id": f"Ev{now.key(10).upper()}",
        "event_time": now.unix,
    }


def _slack_command(now: Moment) -> _Fields:
    return {
        "token": now.key(),
        "team_id": "T061EG9R6",
        "team_domain": "example",
        "channel_id": "C024BE91L",
        "channel_name": "general",
        "user_id": "U2147483697",
        "user_name": "ada",
        "command": "/weather",
        "text": "94070 tomorrow",
        "response_url": f"https://hooks.slack.com/commands/T061EG9R6/{now.number(12)}/{now.key()}",
        "trigger_id": f"{now.number(12)}.{now.number(12)}.{now.hex(32)}",
    }


def _slack_headers(event: str, now: Moment) -> list[tuple[str, str]]:
    return [
        ("User-Agent", "Slackbot 1.0 (+https://api.slack.com/robots)"),
        ("X-Slack-Request-Timestamp", str(now.unix)),
    ]


# shopify


def _shopify_order(now: Moment) -> _Fields:
    identifier = now.number(12)
    return {
        "id": identifier,
        "admin_graphql_api_id": f"gid://shopify/Order/{identifier}",
        "created_at": now.iso,
        "currency": "EUR",
        "email": "ada@example.com",
        "financial_status": "paid",
        "name": f"#{now.number(4)}",
        "total_price": "254.98",
        "subtotal_price": "244.98",
        "total_tax": "10.00",
        "customer": {"id": now.number(12), "first_name": "Ada", "last_name": "Lovelace", "email": "ada@example.com"},
        "line_items": [
            {"id": now.number(12), "title": "Difference engine", "sku": "DE-2", "quantity": 1, "price": "199.99"},
            {"id": now.number(12), "title": "Punched cards", "sku": "PC-100", "quantity": 3, "price": "15.00"},
        ],
    }


def _shopify_product(now: Moment) -> _Fields:
    identifier = now.number(12)
    return {
        "id": identifier,
        "admin_graphql_api_id": f"gid://shopify/Product/{identifier}",
        "title": "Difference engine",
        "handle": "difference-engine",
        "vendor": "Babbage",
        "status": "active",
        "updated_at": now.iso,
        "variants": [{"id": now.number(12), "sku": "DE-2", "price": "199.99", "inventory_quantity": 7}],
    }


def _shopify_headers(event: str, now: Moment) -> list[tuple[str, str]]:
    return [
        ("User-Agent", "Shopify-Captain-Hook"),
        ("X-Shopify-Topic", event),
        ("X-Shopify-Shop-Domain", "example.myshopify.com"),
        ("X-Shopify-API-Version", "2025-04"),
        ("X-Shopify-Webhook-Id", now.unique),
        ("X-Shopify-Triggered-At", now.iso),
    ]


# gitlab

_PROJECT: Final = {
    "id": 15,
    "name": "Diaspora",
    "path_with_namespace": "mike/diaspora",
    "web_url": "https://gitlab.example.com/mike/diaspora",
    "default_branch": "main",
}
_USER: Final = {"id": 4, "name": "Ada Lovelace", "username": "ada", "email": "ada@example.com"}


def _gitlab_push(now: Moment) -> _Fields:
    after = now.hex(40)
    return {
        "object_kind": "push",
        "event_name": "push",
        "before": now.hex(40),
        "after": after,
        "ref": "refs/heads/main",
        "checkout_sha": after,
        "user_id": _USER["id"],
        "user_name": _USER["name"],
        "user_username": _USER["username"],
        "project_id": _PROJECT["id"],
        "project": _PROJECT,
        "commits": [
            {
                "id": after,
                "message": "Update the catalan translation",
                "timestamp": now.iso,
                "url": f"{_PROJECT['web_url']}/-/commit/{after}",
                "author": {"name": _USER["name"], "email": _USER["email"]},
                "added": [],
                "modified": ["locale/ca.yml"],
                "removed": [],
            }
        ],
        "total_commits_count": 1,
    }


def _gitlab_merge_request(now: Moment) -> _Fields:
    number = now.number(3)
    return {
        "object_kind": "merge_request",
        "event_type": "merge_request",
        "user": _USER,
        "project": _PROJECT,
        "object_attributes": {
            "id": now.number(6),
            "iid": number,
            "title": "Update the catalan translation",
            "state": "opened",
            "action": "open",
            "source_branch": "catalan",
            "target_branch": "main",
            "url": f"{_PROJECT['web_url']}/-/merge_requests/{number}",
            "created_at": now.iso,
        },
        "labels": [],
    }


def _gitlab_headers(event: str, now: Moment) -> list[tuple[str, str]]:
    names = {"push": "Push Hook", "merge_request": "Merge Request Hook"}
    return [
        ("User-Agent", "GitLab/18.0.0"),
        ("X-Gitlab-Event", names[event]),
        ("X-Gitlab-Event-UUID", now.unique),
        ("X-Gitlab-Instance", "https://gitlab.example.com"),
        ("Idempotency-Key", now.unique),
    ]


# standard webhooks


def _standard(kind: str, data: Callable[[Moment], _Fields]) -> Callable[[Moment], _Fields]:
    return lambda now: {"type": kind, "timestamp": now.iso, "data": data(now)}


def _standard_headers(event: str, now: Moment) -> list[tuple[str, str]]:
    return [("User-Agent", "Standard-Webhooks/1.0"), ("webhook-id", now.unique), ("webhook-timestamp", str(now.unix))]


_HEADERS: Final[Mapping[str, Callable[[str, Moment], list[tuple[str, str]]]]] = {
    "github": _github_headers,
    "stripe": _stripe_headers,
    "slack": _slack_headers,
    "shopify": _shopify_headers,
    "gitlab": _gitlab_headers,
    "standard-webhooks": _standard_headers,
}

_COMPLETED: Final = "checkout.session.completed"

SAMPLES: Final = (
    Sample("github", "push", "A push to the main branch", _github_push),
    Sample("github", "pull_request", "A pull request was opened", _github_pull_request),
    Sample("github", "ping", "A webhook was set up", _github_ping),
    Sample("stripe", "payment_intent.succeeded", "A payment succeeded", _stripe("payment_intent.succeeded", _payment)),
    Sample("stripe", "invoice.paid", "An invoice was paid", _stripe("invoice.paid", _invoice)),
    Sample("stripe", _COMPLETED, "A checkout was completed", _stripe(_COMPLETED, _checkout)),
    Sample("slack", "message", "A message in a channel", _slack_message),
    Sample("slack", "slash_command", "A slash command, as a form", _slack_command),
    Sample("shopify", "orders/create", "An order was placed", _shopify_order),
    Sample("shopify", "products/update", "A product was changed", _shopify_product),
    Sample("gitlab", "push", "A push to the main branch", _gitlab_push),
    Sample("gitlab", "merge_request", "A merge request was opened", _gitlab_merge_request),
    Sample(
        "standard-webhooks",
        "user.created",
        "A user was created",
        _standard("user.created", lambda now: {"id": f"user_{now.key(16)}", "email": "ada@example.com", "name": "Ada"}),
    ),
    Sample(
        "standard-webhooks",
        "contact.updated",
        "A contact was changed",
        _standard("contact.updated", lambda now: {"id": f"contact_{now.key(16)}", "first_name": "Ada"}),
    ),
)
