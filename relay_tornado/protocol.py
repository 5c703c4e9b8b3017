"""The protocol of one WebSocket as a state machine without I/O: messages and the time go in, effects come out.

The owner of the socket executes the effects in order, one list at a time, and reads no message before it is done; but
for a `Respond`, behind which further ones may begin (see `answer`).
`Authenticate`, `Subscribe`, `Unsubscribe`, `Respond` and `Settle` are questions. Their outcome comes back through
`authenticated` or `refused`, `subscribed` or `subscribe_refused`, `unsubscribed`, `responded`, `settled`.
Times are seconds of a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from relay_tornado.errors import CloseCode, Invalid, RelayError
from relay_tornado.ids import format_id, hash_secret
from relay_tornado.lateness import Deadline
from relay_tornado.model import KIB, Token
from relay_tornado.rules import Rules, compile_rules
from relay_tornado.settings import Settings
from relay_tornado.wire import control, frames
from relay_tornado.wire.acks import Ack, Nak

AUTH_PAUSE: Final = 0.006
"""`authenticated` is sent at least 5 ms after `auth`: one client occasionally panics if it comes within 1 ms."""

REFUSAL_PAUSE: Final = 0.2
"""Seconds by which the answer to wrong credentials is delayed; nobody else is."""

MAX_UNAUTHENTICATED: Final = 8 * KIB
"""The largest message, in bytes, of a client that has not authenticated."""


@dataclass(frozen=True, slots=True)
class Send:
    """A text message to the client."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """Pauses this socket's conversation for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Ping:
    """A ping frame of the WebSocket protocol."""


@dataclass(frozen=True, slots=True)
class Close:
    """Ends the connection with a close frame with this code and reason (at most 123 bytes). No effect follows."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Log:
    """A line for the relay's own log, once a socket."""

    message: str
    event: str = "message_ignored"


@dataclass(frozen=True, slots=True)
class Authenticate:
    key: str
    secret: str


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Replace the current subscription by this one; `token` is the client's, `filter` the request's, compiled."""

    request: control.Subscribe
    token: Token
    filter: Rules | None = None


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    request: control.Unsubscribe


@dataclass(frozen=True, slots=True)
class Respond:
    """Store this answer; `token` is the client's."""

    request: control.Respond
    token: Token


@dataclass(frozen=True, slots=True)
class Settle:
    """A client's ack or nak of a consumer's event, for the delivery."""

    request: Ack | Nak


@dataclass(frozen=True, slots=True)
class Deliver:
    """The answer to the subscribe is out: events may be sent from now on."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to the subscribe is out, and no event follows."""


@dataclass(frozen=True, slots=True)
class EndDelivery:
    """No further event is sent; the subscription's positions are forgotten."""


Effect: TypeAlias = (
    Send
    | Wait
    | Ping
    | Close
    | Log
    | Authenticate
    | Subscribe
    | Unsubscribe
    | Respond
    | Settle
    | Deliver
    | Answered
    | EndDelivery
)
Effects: TypeAlias = Sequence[Effect]
State: TypeAlias = Literal["unauthenticated", "authenticated", "subscribed", "closing"]

_WHO_FIRST: Final = "authenticate first: send the auth message with a token's key and secret before anything else"

EXPIRED: Final = "the token has expired: use another one"


def revoked(token: Token | None, secret_hash: str) -> str:
    """Why a connection that used this secret has to end, given its token's record as it is now (None: deleted); "" if
    it may go on."""
    if token is None:
        return "the token was revoked: use another one"
    if secret_hash not in (token.secret_hash, token.previous_hash):
        return "the secret was rotated: use the new one"
    return ""


def too_slow(timeout: float) -> str:
    """Why a connection has to end without a sign of life for so many seconds."""
    return f"too slow: no sign of life for {timeout:g} s; reconnect to go on"


class Session:
    """One client's conversation. `extended`: the client asked for the relay's extensions to the stock protocol."""

    __slots__ = (
        "_answering",
        "_deadline",
        "_logged",
        "_next_ping",
        "_secret_hash",
        "_settings",
        "extended",
        "state",
        "token",
    )

    def __init__(self, settings: Settings, now: float) -> None:
        self.state: State = "unauthenticated"
        self.extended = False
        self.token: Token | None = None
        self._secret_hash = ""
        self._settings = settings
        self._deadline = Deadline(settings.auth_timeout, now)
        self._next_ping = now + settings.ping_interval
        self._answering = False
        self._logged = False

    @property
    def due(self) -> float:
        """When `tick` is to be called next."""
        return min(self._next_ping, self._deadline.at) if self.state == "unauthenticated" else self._next_ping

    def received(self, message: str | bytes) -> Effects:
        """Handles a complete message from the client: text as str, binary as bytes."""
        if self.state == "closing":
            return ()
        limit = MAX_UNAUTHENTICATED if self.token is None else self._settings.max_message
        if size(message) > limit:
            return self._close(CloseCode.TOO_BIG, f"message too big: at most {limit} bytes are read here")
        incoming = control.parse(message)
        self.extended = self.extended or incoming.extended
        match incoming.content:
            case control.Auth(key, secret):
                self._answering = True
                self._secret_hash = hash_secret(secret)
                return (Authenticate(key, secret),)
            case control.Pong():
                return ()
        if self.token is None and incoming.action in ("subscribe", "unsubscribe", "ack", "nak", "respond"):
            return (Send(frames.unauthorized(_WHO_FIRST)), *self._close(CloseCode.UNAUTHORIZED, "authenticate first"))
        match incoming.content:
            case control.Subscribe() as request:
                return self._subscribe(request)
            case control.Respond() as request:
                assert self.token is not None
                return (Respond(request, self.token),)
            case control.Unsubscribe() as request:
                return (Unsubscribe(request),)
            case Ack() | Nak() as request:
                return (Settle(request),)
            case control.Problem(code, text, _):
                return self._problem(code, text)

    def answer(self, message: str | bytes) -> Respond | None:
        """The effect of a message behind a `Respond` that is not done, if that is another one. Otherwise None, and
        nothing has changed: `received` handles the message once all before it are done."""
        if self.token is None or self.state == "closing" or size(message) > self._settings.max_message:
            return None
        request = control.parse(message).content
        return Respond(request, self.token) if isinstance(request, control.Respond) else None

    def _subscribe(self, request: control.Subscribe) -> Effects:
        assert self.token is not None
        try:
            rules = compile_rules(request.filter, "filter")
        except Invalid as error:
            return self._problem(error.code, str(error))
        self._answering = True
        return (Subscribe(request, self.token, None if rules.every else rules),)

    def authenticated(self, token: Token) -> Effects:
        """The credentials of the last `Authenticate` belong to this token."""
        self._answering = False
        if self.state == "closing":
            return ()
        before, self.token = self.token, token
        answer = (Wait(AUTH_PAUSE), Send(frames.AUTHENTICATED))
        if before is None:
            self.state = "authenticated"
        elif before.key != token.key:
            self.state = "authenticated"
            return (EndDelivery(), *answer)
        return answer

    def refused(self, message: str) -> Effects:
        """The credentials of the last `Authenticate` are invalid. `message` does not say which part is wrong."""
        if self.state == "closing":
            return ()
        return (
            EndDelivery(),
            Wait(REFUSAL_PAUSE),
            Send(frames.unauthorized(message)),
            *self._close(CloseCode.UNAUTHORIZED, "unauthorized"),
        )

    def subscribed(self, request: control.Subscribe, answers: Sequence[Mapping[str, Any]], now: float) -> Effects:
        """The last `Subscribe` was executed; `answers` has one entry a bucket, as in docs/protocol.md."""
        self._answering = False
        if self.state == "closing":
            return ()
        self.state = "subscribed"
        self._next_ping = now + self._settings.ping_interval
        answer = Send(frames.subscribed(request.buckets, answers if self.extended else None))
        if request.on_gap == "fail" and any(entry.get("gap") for entry in answers):
            return (answer, Answered(), *self.gap_refused())
        absent = [entry["bucket_name"] for entry in answers if entry.get("error") == "not_found"]
        if absent and not self.extended:
            names = ", ".join(f"{name[:80]!r}" for name in absent[:3])
            why = f"it subscribed to {names}: there is no such bucket, or its token does not read it"
            return (answer, *self._log(Log(why, "bucket_not_found")), Deliver())
        return (answer, Deliver())

    def subscribe_refused(self, error: RelayError) -> Effects:
        """The last `Subscribe` failed, and nothing has changed. A stock client can't be told that, and would wait for
        its answer for ever, so it is made to reconnect."""
        self._answering = False
        if self.state == "closing":
            return ()
        told = self._problem(error.code, str(error))
        if self.extended:
            return told
        words = "the token's stored position can't be used: reconnect later; the relay's log says more"
        return (*told, *self._close(CloseCode.GOING_AWAY, words))

    def unsubscribed(self, request: control.Unsubscribe, error: RelayError | None = None) -> Effects:
        """The last `Unsubscribe` was executed, or failed with `error`."""
        return self._outcome(frames.unsubscribed(request.buckets), error)

    def responded(self, request: control.Respond, error: RelayError | None = None) -> Effects:
        """This `Respond` was executed, so the answer is stored, or it failed with `error`."""
        return self._outcome(frames.responded(format_id(request.id.epoch, request.id.seq, request.id.output)), error)

    def settled(self, request: Ack | Nak, found: bool) -> Effects:
        """The last `Settle` was passed on. If the event was `found`, nothing is answered."""
        if found or self.state == "closing":
            return ()
        action = "ack" if isinstance(request, Ack) else "nak"
        named = format_id(request.id.epoch, request.id.seq, request.id.output)
        return self._problem(
            "not_found",
            f"{action}: this connection has no unacked event {named} of a consumer: it was acked, or its ack_wait is"
            " over and it is redelivered, or it was never sent here",
        )

    def tick(self, now: float, positions: Callable[[], Mapping[str, str]], *, blocked: bool = False) -> Effects:
        """Called when the time may have come (see `due`). `positions` returns, by bucket name, the positions that moved
        since its last call.

        `blocked`: the last ping has not been sent yet, so another one is of no use.
        """
        if self.state == "closing":
            return ()
        if self.state == "unauthenticated" and now >= self._deadline.at and not self._deadline.extend(now):
            seconds = f"{self._settings.auth_timeout:g} s"
            return self._close(CloseCode.TOO_SLOW, f"no auth message within {seconds}: send it right after connecting")
        if now < self._next_ping:
            return ()
        self._next_ping = now + self._settings.ping_interval
        if blocked:
            return ()
        if self.state != "subscribed" or self._answering:
            return (Ping(),)
        return (Ping(), Send(frames.ping(positions()) if self.extended else frames.PING))

    def token_changed(self, token: Token | None) -> Effects:
        """The registry has a new record of this session's token, or (None) none any more. A rotated secret is no longer
        in the record once its grace period is over."""
        if self.token is None:
            return ()
        reason = revoked(token, self._secret_hash)
        if token is None or reason:
            return self._close(CloseCode.TOKEN_REVOKED, reason)
        self.token = token
        return ()

    def token_expired(self) -> Effects:
        return self._close(CloseCode.TOKEN_EXPIRED, EXPIRED)

    def gap_refused(self) -> Effects:
        """Events are missing, and the client asked for on_gap "fail"."""
        return self._close(
            CloseCode.GAP_REFUSED, 'events are missing, and on_gap is "fail": subscribe from another position'
        )

    def stuck(self) -> Effects:
        """There was no sign of life for `stuck_timeout` seconds."""
        return self._close(CloseCode.TOO_SLOW, too_slow(self._settings.stuck_timeout))

    def going_away(self, reason: str) -> Effects:
        """The relay, or the log that it reads, is unavailable for a while."""
        return self._close(CloseCode.GOING_AWAY, reason)

    def ended(self) -> None:
        """The socket is gone."""
        self.state = "closing"

    def _close(self, code: int, reason: str) -> Effects:
        if self.state == "closing":
            return ()
        self.state = "closing"
        return (Close(code, reason),)

    def _outcome(self, told: bytes, error: RelayError | None) -> Effects:
        if self.state == "closing":
            return ()
        return (Send(told),) if error is None else self._problem(error.code, str(error))

    def _problem(self, code: str, text: str) -> Effects:
        if self.extended:
            return (Send(frames.error(code, text)),)
        return self._log(Log(text))

    def _log(self, line: Log) -> Effects:
        logged, self._logged = self._logged, True
        return () if logged else (line,)


def size(message: str | bytes) -> int:
    """A message's size, in bytes."""
    return len(message.encode(errors="replace") if isinstance(message, str) else message)
