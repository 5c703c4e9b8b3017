"""A relay on another machine: `--url` and `--secret` make commands do over REST what they do locally.

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

import relay_tornado
from relay_tornado.cli import answers
from relay_tornado.cli.answers import Refused
from relay_tornado.cli.output import Document, note
from relay_tornado.cli.parts import find_part
from relay_tornado.client.opener import opener
from relay_tornado.errors import BucketGone, Invalid, NotFound, Unavailable

_NO_PATH: Final = "there is nothing at this path"
"""What a relay answers with 404 where it has no such path at all."""

_PART: Final = 150
"""Ids of events in one request: a URL of them passes proxies that take 8 KiB."""

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class Remote:
    """The relay at a URL, for a token's secret. It has the form of cli/client.py's `Relay`."""

    def __init__(self, url: str, secret: str) -> None:
        self.url = url
        self._secret = secret
        self._opener = opener(None)
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            note(f"the secret goes to {parts.hostname} without TLS: use https where you can")

    def call(self, command: str, **arguments: Any) -> Any:
        """Runs a command and returns its answer. Raises RelayError."""
        run = _COMMANDS.get(command)
        if run is None:
            raise Invalid(f"{command} works on the relay's own machine only: leave out --url (RELAY_URL)")
        return run(self, arguments)

    def close(self) -> None:
        """Nothing is kept open."""

    def request(self, method: str, *path: str, body: Any = None, query: Mapping[str, Any] | None = None) -> Any:
        """One request under /v1; returns the answer's document. Raises RelayError."""
        if "" in path:  # what is left then is the path of something else
            raise NotFound("a name or an id is empty: is the variable set that it is taken from?")
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
                return answers.decode(response.read())
        except urllib.error.HTTPError as error:
            with error:
                self._refused(error)
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLError) and not isinstance(error.reason, ssl.SSLCertVerificationError):
                from relay_tornado.client.address import tls_trouble  # here: what is around it takes its time

                raise Unavailable(tls_trouble(error.reason, self.url)[0]) from None
            reason = getattr(error.reason, "strerror", None) or error.reason
            raise Unavailable(f"{self.url} can't be reached: {reason}") from None
        except (OSError, IncompleteRead) as error:
            # Not in a URLError: the request has left.
            what = (
                f"gave no answer within {answers.ANSWER:g} s"
                if isinstance(error, TimeoutError)
                else "broke off its answer"
            )
            if method == "GET":
                raise Unavailable(f"{self.url} {what}: try again") from None
            raise Unavailable(f"{self.url} {what}, so this may have been done or not: look, and repeat it") from None
        except (ValueError, HTTPException):
            raise Unavailable(f"{self.url} does not answer like a relay: is the URL right?") from None

    def _refused(self, error: urllib.error.HTTPError) -> NoReturn:
        try:
            document = json.loads(error.read())
            message = str(document["message"])
        except (ValueError, KeyError, TypeError, OSError, HTTPException):
            raise Unavailable(f"{self.url} answers {error.code}, and not like a relay: is the URL right?") from None
        if error.code == 405 or message == _NO_PATH:
            raise Refused(
                f"{self.url} does not have what this command needs: is it a relay older than this program, which is "
                f"of version {relay_tornado.__version__}, and is the URL right?"
            )
        if error.code == 404 and document.get("code") in (NotFound.code, BucketGone.code):
            raise NotFound(message)
        raise Refused(message)

    # what several commands need

    def buckets(self) -> list[Document]:
        found: list[Document] = self.request("GET", "buckets")
        return found

    def holder(self, part: str, reference: str, bucket: str | None) -> tuple[Document, Document]:
        """The bucket and its input or output (`part`: "inputs", "outputs") that a reference names, see `find_part`."""
        buckets = self.buckets() if bucket is None else [self.request("GET", "buckets", bucket)]
        return find_part(buckets, part, reference, bucket)


def _token_body(options: Document) -> Document:
    body: Document = {name: options[name] for name in ("description", "durable", "expires_at") if name in options}
    if "api_access" in options:
        body["api_access"] = "enabled" if options["api_access"] else "disabled"
    if "buckets" in options:
        body["scopes"] = {"buckets": options["buckets"] or []}
    return body


def _create_token(remote: Remote, arguments: Document) -> Document:
    made = remote.request("POST", "tokens", body=_token_body(arguments["options"]))
    return {"key": made["key"], "secret": made["secret"]}


def _rotate_token(remote: Remote, arguments: Document) -> Document:
    body = {"grace": arguments.get("grace", 0.0)}
    made = remote.request("POST", "tokens", arguments["key"], "rotate", body=body)
    return {"key": made["key"], "secret": made["secret"]}


def _create_part(part: str, **defaults: Any) -> Callable[[Remote, Document], Any]:
    def run(remote: Remote, arguments: Document) -> Any:
        return remote.request("POST", "buckets", arguments["bucket"], part, body=defaults | arguments["options"])

    return run


def _change_part(method: str, part: str) -> Callable[[Remote, Document], Any]:
    def run(remote: Remote, arguments: Document) -> Any:
        bucket, one = remote.holder(part, arguments[part.removesuffix("s")], arguments.get("bucket"))
        body = arguments.get("options") if method == "PUT" else None
        return remote.request(method, "buckets", bucket["id"], part, one["id"], body=body)

    return run


def _resend_log(remote: Remote, arguments: Document) -> Any:
    body = {**arguments, "action": "resend"}
    return remote.request("POST", "logs", body.pop("id"), "action", body=body)


def _resend_range(remote: Remote, arguments: Document) -> Any:
    body = _named(arguments)
    return remote.request("POST", "buckets", body.pop("bucket"), "resend", body=body)


def _named(arguments: Document) -> Document:
    """With the API's names, where times are whole seconds."""
    names = {"since": "from", "until": "to", "text": "q"}
    return {
        names.get(name, name): int(value) if isinstance(value, float) else value for name, value in arguments.items()
    }


def _list_consumers(remote: Remote, arguments: Document) -> list[Document]:
    if arguments.get("bucket") is not None:
        named: list[Document] = remote.request("GET", "buckets", arguments["bucket"], "consumers")
        return named
    found: list[Document] = []
    for bucket in remote.buckets():
        with suppress(NotFound):  # it is deleted meanwhile
            found += remote.request("GET", "buckets", bucket["id"], "consumers")
    return found


def _dead(remote: Remote, arguments: Document) -> Any:
    named = ("consumers", arguments["consumer"]) if arguments.get("consumer") is not None else ()
    query = {"limit": arguments.get("limit"), "cursor": arguments.get("cursor")}
    return remote.request("GET", "buckets", arguments["bucket"], *named, "dead", query=query)


def _resend_dead(remote: Remote, arguments: Document) -> Document:
    path = ("buckets", arguments["bucket"], "consumers", arguments["consumer"], "dead", "resend")
    return _in_parts(
        arguments.get("ids"),
        lambda ids: remote.request("POST", *path, body={"all": True} if ids is None else {"ids": ids}),
    )


def _forget_dead(remote: Remote, arguments: Document) -> Document:
    path = ("buckets", arguments["bucket"], "consumers", arguments["consumer"], "dead")
    return _in_parts(
        arguments.get("ids"),
        lambda ids: remote.request("DELETE", *path, query={"all": "true"} if ids is None else {"ids": ",".join(ids)}),
    )


def _in_parts(ids: Sequence[str] | None, request: Callable[[Sequence[str] | None], Document]) -> Document:
    """The sums of what is answered for all ids (None: whichever there are), a part of them a request."""
    parts = [None] if ids is None else [ids[at : at + _PART] for at in range(0, len(ids), _PART)]
    done = [request(part) for part in parts]
    return {name: sum(each[name] for each in done) for name in done[0]}


def _on_consumer(verb: str) -> Callable[[Remote, Document], Any]:
    def run(remote: Remote, arguments: Document) -> Any:
        body = dict(arguments)
        return remote.request("POST", "buckets", body.pop("bucket"), "consumers", body.pop("consumer"), verb, body=body)

    return run


def _replay_output(remote: Remote, arguments: Document) -> Any:
    body = dict(arguments)
    bucket, output = remote.holder("outputs", body.pop("output"), body.pop("bucket"))
    return remote.request("POST", "buckets", bucket["id"], "outputs", output["id"], "replay", body=body)


_COMMANDS: Mapping[str, Callable[[Remote, Document], Any]] = {
    "bucket.create": lambda remote, of: remote.request("POST", "buckets", body={**of["options"], "name": of["name"]}),
    "bucket.list": lambda remote, of: remote.buckets(),
    "bucket.show": lambda remote, of: remote.request("GET", "buckets", of["bucket"]),
    "bucket.set": lambda remote, of: remote.request("PUT", "buckets", of["bucket"], body=of["options"]),
    "bucket.delete": lambda remote, of: remote.request(
        "DELETE", "buckets", of["bucket"], query={"force": "true" if of.get("force") else None}
    ),
    "input.create": _create_part("inputs"),
    "input.set": _change_part("PUT", "inputs"),
    "input.delete": _change_part("DELETE", "inputs"),
    # Left out, REST goes by the destination.
    "output.create": _create_part("outputs", internal=True),
    "output.set": _change_part("PUT", "outputs"),
    "output.delete": _change_part("DELETE", "outputs"),
    "logs.list": lambda remote, of: remote.request("GET", "logs", query=_named(of)),
    "logs.search": lambda remote, of: remote.request("GET", "search", query=_named(of)),
    "logs.show": lambda remote, of: remote.request("GET", "logs", of["id"]),
    "logs.resend": _resend_log,
    "logs.resend_range": _resend_range,
    "token.create": _create_token,
    "token.list": lambda remote, of: remote.request("GET", "tokens"),
    "token.set": lambda remote, of: remote.request("PUT", "tokens", of["key"], body=_token_body(of["options"])),
    "token.rotate": _rotate_token,
    "token.revoke": lambda remote, of: remote.request("DELETE", "tokens", of["key"]),
    "consumer.list": _list_consumers,
    "consumer.show": lambda remote, of: remote.request("GET", "buckets", of["bucket"], "consumers", of["consumer"]),
    "consumer.seek": _on_consumer("seek"),
    "consumer.delete": lambda remote, of: remote.request(
        "DELETE", "buckets", of["bucket"], "consumers", of["consumer"]
    ),
    "consumer.dead": _dead,
    "consumer.resend": _resend_dead,
    "consumer.forget": _forget_dead,
    "consumer.replay": _on_consumer("replay"),
    "output.replay": _replay_output,
    "relay.info": lambda remote, of: {"url": remote.url},
}
