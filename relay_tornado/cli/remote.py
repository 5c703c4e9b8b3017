"""A relay on another machine: with `--url` and `--secret`, commands do over REST what they do locally.

The commands are those of admin/commands.py. TLS certificates are verified (SSL_CERT_FILE names further authorities),
and redirects are refused, so that the secret goes to nobody else.
"""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http.client import HTTPException, IncompleteRead
from typing import Any, Final, NoReturn
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import relay_tornado
from relay_tornado.cli import answers
from relay_tornado.cli.answers import Refused
from relay_tornado.cli.lookup import find_part
from relay_tornado.cli.printing import Document
from relay_tornado.client.address import parse_address, perhaps_tls, tls_trouble
from relay_tornado.client.opener import opener
from relay_tornado.errors import BucketGone, NotFound, Unavailable

_NO_PATH: Final = "there is nothing at this path"
"""The beginning of a relay's message with a 404 for a path that it does not have at all; up to 0.5.20, all of it."""

_PART: Final = 150
"""The most event ids in one request, so that its URL passes proxies with a limit of 8 KiB."""

_LONGEST: Final = 2000
"""The most characters of a message that are shown."""

_AWAY: Final = frozenset({502, 503, 504})
"""The statuses of a proxy whose relay is away or slow."""


class _Lacking(Refused):
    """The relay does not have the path, or not the method there."""


class Remote:
    """The relay at a URL, with a token's secret. It has the interface of cli/client.py's `Relay`, and a method for each
    command: `bucket_show` for `bucket.show`."""

    def __init__(self, url: str, secret: str) -> None:
        self.url = parse_address(url).rest.removesuffix("/v1")
        self._secret = secret
        self._opener = opener(None)
        parts = urlsplit(self.url)
        proxied = parts.scheme in getproxies() and not proxy_bypass(parts.netloc)
        # The proxy may be the cause of an error.
        self._asked = f" (it was asked through the proxy that {parts.scheme}_proxy names)" if proxied else ""

    def call(self, command: str, **arguments: Any) -> Any:
        return getattr(self, command.replace(".", "_", 1))(**arguments)

    def close(self) -> None:
        """Does nothing: no connection is kept open."""

    def request(
        self, method: str, *path: str, body: Any = None, query: Mapping[str, Any] | None = None, kind: type = dict
    ) -> Any:
        """Sends one request under /v1. Returns the answer's document, which has the type `kind`. Raises RelayError."""
        if "" in path:  # without it, the path would be that of something else
            raise NotFound("a name or an id is empty: is the variable set that it is taken from?")
        for part in {".", ".."}.intersection(path):  # a proxy may remove it, with the part before
            raise NotFound(f"there is nothing with the name or id {part!r}; a consumer of that name is client:{part}")
        url = f"{self.url}/v1/{'/'.join(quote(part, safe='') for part in path)}"
        given = {name: value for name, value in (query or {}).items() if value not in (None, "")}
        if given:
            url += "?" + urlencode(given)
        data = None if body is None else json.dumps(body).encode()
        headers = {
            "Authorization": f"Bearer {self._secret}",
            "User-Agent": f"relay/{relay_tornado.__version__}",
            **({} if data is None else {"Content-Type": "application/json"}),
        }
        request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310  # checked to be http or https
        try:
            with self._opener.open(request, timeout=answers.ANSWER) as response:
                found = answers.decode(response.read())
        except urllib.error.HTTPError as error:
            with error:
                self._refused(error, method)
        except (OSError, IncompleteRead) as error:
            raise self._unanswered(error, method) from None
        except (ValueError, HTTPException):
            found = None
        if not isinstance(found, kind):
            raise Unavailable(f"{self.url} does not answer like a relay: is the URL right?{self._asked}")
        return found

    def _unanswered(self, error: OSError | IncompleteRead, method: str) -> Unavailable:
        """The error if there is no answer, or only a part of one."""
        if not isinstance(error, urllib.error.URLError):
            # The request was sent.
            late = isinstance(error, TimeoutError)
            what = f"gave no answer within {answers.ANSWER:g} s" if late else "broke off its answer"
            return Unavailable(f"{self.url} {what}{_again(method)}{self._asked}")
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            return Unavailable(
                f"the certificate of {self.url} is not trusted: {error.reason.verify_message}: is the URL right? "
                "SSL_CERT_FILE names a file with further authorities"
            )
        if isinstance(error.reason, ssl.SSLError):
            return Unavailable(tls_trouble(error.reason, self.url)[0])
        reason = getattr(error.reason, "strerror", None) or error.reason
        return Unavailable(f"{self.url} can't be reached: {reason}{self._asked}")

    def _refused(self, error: urllib.error.HTTPError, method: str) -> NoReturn:
        try:
            document = answers.decode(error.read())
            message = str(document["message"])[:_LONGEST]
        except (ValueError, KeyError, TypeError, OSError, HTTPException):
            raise Unavailable(f"{self.url} {_stranger(error, method, self.url)}{self._asked}") from None
        if error.code == 405 or message.startswith(_NO_PATH):
            raise _Lacking(
                f"{self.url} does not have what this command needs: is it a relay older than this program, which is "
                f"of version {relay_tornado.__version__}, and is the URL right?"
            )
        if error.code == 404 and document.get("code") in (NotFound.code, BucketGone.code):
            raise NotFound(message)
        raise Refused(message)

    def bucket_create(self, name: str, options: Document) -> Any:
        return self.request("POST", "buckets", body={**options, "name": name})

    def bucket_list(self) -> Any:
        return self.request("GET", "buckets", kind=list)

    def bucket_show(self, bucket: str) -> Any:
        return self.request("GET", "buckets", bucket)

    def bucket_set(self, bucket: str, options: Document) -> Any:
        return self.request("PUT", "buckets", bucket, body=options)

    def bucket_delete(self, bucket: str, force: bool = False) -> Any:
        return self.request("DELETE", "buckets", bucket, query={"force": "true" if force else None})

    def input_create(self, bucket: str, options: Document) -> Any:
        return self.request("POST", "buckets", bucket, "inputs", body=options)

    def input_set(self, input: str, options: Document, bucket: str | None = None) -> Any:
        return self.request("PUT", *self._path("input", input, bucket), body=options)

    def input_delete(self, input: str, bucket: str | None = None) -> Any:
        return self.request("DELETE", *self._path("input", input, bucket))

    def output_create(self, bucket: str, options: Document) -> Any:
        # If `internal` is absent, REST derives it from the destination.
        return self.request("POST", "buckets", bucket, "outputs", body={"internal": True, **options})

    def output_set(self, output: str, options: Document, bucket: str | None = None) -> Any:
        return self.request("PUT", *self._path("output", output, bucket), body=options)

    def output_delete(self, output: str, bucket: str | None = None) -> Any:
        return self.request("DELETE", *self._path("output", output, bucket))

    def output_replay(self, output: str, bucket: str, **wanted: Any) -> Any:
        return self.request("POST", *self._path("output", output, bucket), "replay", body=wanted)

    def logs_list(self, **wanted: Any) -> Any:
        return self.request("GET", "logs", query=_in_whole(_named(wanted)))

    def logs_search(self, **wanted: Any) -> Any:
        return self.request("GET", "search", query=_in_whole(_named(wanted)))

    def logs_show(self, id: str) -> Any:
        return self.request("GET", "logs", id)

    def logs_resend(self, id: str, **orders: Any) -> Any:
        return self.request("POST", "logs", id, "action", body={**orders, "action": "resend"})

    def logs_resend_range(self, bucket: str, **wanted: Any) -> Any:
        return self.request("POST", "buckets", bucket, "resend", body=_named(wanted))

    def token_create(self, options: Document) -> Any:
        return _made(self.request("POST", "tokens", body=_token_body(options)))

    def token_list(self) -> Any:
        return self.request("GET", "tokens", kind=list)

    def token_set(self, key: str, options: Document) -> Any:
        return self.request("PUT", "tokens", key, body=_token_body(options))

    def token_rotate(self, key: str, grace: float) -> Any:
        return _made(self.request("POST", "tokens", key, "rotate", body={"grace": grace}))

    def token_revoke(self, key: str) -> Any:
        return self.request("DELETE", "tokens", key)

    def consumer_list(self, bucket: str | None = None) -> Any:
        if bucket is not None:
            return self.request("GET", "buckets", bucket, "consumers", kind=list)
        with suppress(_Lacking):  # before 0.5.27
            return self.request("GET", "consumers", kind=list)
        found: list[Document] = []
        for each in self.bucket_list():
            with suppress(NotFound):  # deleted meanwhile
                found += self.request("GET", "buckets", each["id"], "consumers", kind=list)
        return found

    def consumer_show(self, bucket: str, consumer: str) -> Any:
        return self.request("GET", "buckets", bucket, "consumers", consumer)

    def consumer_seek(self, bucket: str, consumer: str, **to: Any) -> Any:
        return self.request("POST", "buckets", bucket, "consumers", consumer, "seek", body=to)

    def consumer_replay(self, bucket: str, consumer: str, **wanted: Any) -> Any:
        return self.request("POST", "buckets", bucket, "consumers", consumer, "replay", body=wanted)

    def consumer_delete(self, bucket: str, consumer: str) -> Any:
        return self.request("DELETE", "buckets", bucket, "consumers", consumer)

    def consumer_dead(self, bucket: str, consumer: str | None, **page: Any) -> Any:
        named = () if consumer is None else ("consumers", consumer)
        return self.request("GET", "buckets", bucket, *named, "dead", query=page)

    def consumer_resend(self, bucket: str, consumer: str, ids: Sequence[str] | None) -> Document:
        path = ("buckets", bucket, "consumers", consumer, "dead", "resend")
        return _in_parts(
            ids, lambda part: self.request("POST", *path, body={"all": True} if part is None else {"ids": part})
        )

    def consumer_give_up(self, bucket: str, consumer: str, id: str) -> Any:
        return self.request("POST", "buckets", bucket, "consumers", consumer, "dead", body={"id": id})

    def consumer_forget(self, bucket: str, consumer: str, ids: Sequence[str] | None) -> Document:
        path = ("buckets", bucket, "consumers", consumer, "dead")
        return _in_parts(
            ids,
            lambda part: self.request(
                "DELETE", *path, query={"all": "true"} if part is None else {"ids": ",".join(part)}
            ),
        )

    def relay_info(self) -> Document:
        return {"url": self.url}

    def _path(self, kind: str, reference: str, bucket: str | None) -> tuple[str, ...]:
        """The path of the input or output that a reference names (see `find_part`)."""
        buckets = self.bucket_list() if bucket is None else [self.bucket_show(bucket)]
        owner, found = find_part(buckets, kind, reference, bucket)
        return "buckets", owner["id"], f"{kind}s", found["id"]


def _again(method: str) -> str:
    """The advice if it is not known whether a request was carried out."""
    return ": try again" if method == "GET" else ", so this may have been done: check before you repeat it"


def _stranger(error: urllib.error.HTTPError, method: str, url: str) -> str:
    """The message for an error of this URL that is not a relay's answer."""
    target = error.headers.get("Location", "")[:_LONGEST]
    if 300 <= error.code < 400 and target:
        return f"does not answer like a relay, but redirects to {target}: is the relay there?"
    what = f"answers {error.code}, and not like a relay"
    if error.code in _AWAY:
        return f"{what}, but like a proxy whose relay is away or slow{_again(method)}"
    if error.code == 413:
        return f"{what}: a proxy in front of it takes no request so large (nginx: client_max_body_size)"
    return f"{what}: {perhaps_tls(error.code, url) or 'is the URL right?'}"


def _token_body(options: Document) -> Document:
    body: Document = {name: options[name] for name in ("description", "durable", "expires_at") if name in options}
    if "api_access" in options:
        body["api_access"] = "enabled" if options["api_access"] else "disabled"
    if "buckets" in options:
        body["scopes"] = {"buckets": options["buckets"] or []}
    return body


def _made(token: Document) -> Document:
    return {"key": token["key"], "secret": token["secret"]}


def _named(arguments: Document) -> Document:
    """The arguments with REST's names."""
    names = {"since": "from", "until": "to", "text": "q"}
    return {names.get(name, name): value for name, value in arguments.items()}


def _in_whole(query: Document) -> Document:
    """A query with times in whole seconds: relays before 0.5.25 refuse others."""
    return {name: int(value) if isinstance(value, float) else value for name, value in query.items()}


def _in_parts(ids: Sequence[str] | None, request: Callable[[Sequence[str] | None], Document]) -> Document:
    """Sends requests with at most `_PART` ids each (None: one request for all). Returns the sums of their answers."""
    parts = [None] if ids is None else [ids[at : at + _PART] for at in range(0, len(ids), _PART)]
    done = [request(part) for part in parts]
    return {name: sum(each[name] for each in done) for name in done[0]}
