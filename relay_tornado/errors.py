"""All errors that the relay reports, each with its stable code: the one map to HTTP statuses and close codes.

RelayError                  internal          500
├── Invalid                 invalid           400   says which field is wrong and what to write instead
│   └── NotClear            invalid           400   a name means more than one thing; says their ids
├── Unauthorized            unauthorized      401   close 4001
├── Forbidden               forbidden         403
├── NotFound                not_found         404
│   └── BucketGone          bucket_gone       404   of the log: the bucket does not exist (any more)
├── Conflict                conflict          412   a name is taken, or the record changed meanwhile
│   └── Damaged             conflict          412   a record in the file can't be read; says how to repair it
├── TooLarge                too_large         413
├── WrongType               unsupported_media_type  415   a body declared to be something other than JSON
├── CursorLost              cursor_lost       410   carries `first`, where reading continues
├── NotSent                 not_sent          502   a request that the relay sent for a client got no answer
├── TooMany                 too_many          429   too many attempts from one address; carries `retry_after`
├── Overloaded              overloaded        503   a bounded queue is full; nothing was stored
├── Unavailable             unavailable       503   the write failed; nothing was stored
│   ├── Malformed           unavailable       503   damage in the file, or not the expected state; nothing was stored
│   └── Unknown             unknown           503   the write failed; it may have been stored
├── NoSpace                 no_space          507   the disk is (nearly) full; nothing was stored
└── StartupError            startup           –     `relay serve` or a command can't use the data directory
    ├── Locked              locked                  another process owns it
    ├── NewerSchema         newer_schema            the file was written by a newer relay
    └── NotWritable         not_writable            missing rights, a read-only disk, not a directory
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from relay_tornado.model import GapReason


class RelayError(Exception):
    """The base of all errors. The message says what to do next, and never holds a secret."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retry_after: int | None = None
    """Seconds after which the same request may succeed; None if repeating it does not help."""


class Invalid(RelayError):
    """Invalid input. `field` names the part, "" is the whole. The message begins with the field, unless `problem`
    already names it (`named`)."""

    code = "invalid"
    status = 400

    def __init__(self, problem: str, field: str = "", *, named: bool = False) -> None:
        super().__init__(f"{field}: {problem}" if field and not named else problem)
        self.problem = problem
        self.field = field

    def within(self, whole: str) -> Invalid:
        """The same error as one of a field of `whole`, or of `whole` itself."""
        return Invalid(self.problem, f"{whole}.{self.field}" if self.field else whole)


class NotClear(Invalid):
    """It is not clear which of a bucket's inputs or outputs (`kind`: "input" or "output") is meant: several have the
    name, or no name was given and the bucket has none or several."""

    SHOWN: ClassVar[int] = 5
    """How many ids the message lists; a bucket may have a thousand."""

    def __init__(self, bucket: str, kind: str, ids: Sequence[str], name: str | None, field: str = "") -> None:
        some = ", ".join(ids[: self.SHOWN]) + (", …" if len(ids) > self.SHOWN else "")
        if name is not None:
            words = f"has {len(ids)} {kind}s {name[:100]!r}: name the one you mean by its id ({some})"
        elif ids:
            words = f"has {len(ids)} {kind}s: name the one you mean by its id ({some}), or by its name with --bucket"
        else:
            words = f"has no {kind}: make one with `relay {kind} create`"
        super().__init__(f"the bucket {bucket!r} {words}", field)


class Unauthorized(RelayError):
    code = "unauthorized"
    status = 401


class Forbidden(RelayError):
    code = "forbidden"
    status = 403


class NotFound(RelayError):
    code = "not_found"
    status = 404


class BucketGone(NotFound):
    code = "bucket_gone"

    def __init__(self, bucket_id: str) -> None:
        super().__init__(f"the bucket {bucket_id} does not exist (any more)")
        self.bucket_id = bucket_id


class Conflict(RelayError):
    code = "conflict"
    status = 412


class Damaged(Conflict):
    pass


class TooLarge(RelayError):
    code = "too_large"
    status = 413


class WrongType(RelayError):
    code = "unsupported_media_type"
    status = 415


class CursorLost(RelayError):
    """The next event of a reader is no longer available; `first` is the next seq that is. `reason` is that of a gap:
    "retention", or "ephemeral" if its content was only in memory and has been dropped."""

    code = "cursor_lost"
    status = 410

    def __init__(self, first: int, reason: GapReason = "retention") -> None:
        super().__init__(f"the events before {first} are not kept any more; read on from there")
        self.first = first
        self.reason: GapReason = reason


class NotSent(RelayError):
    code = "not_sent"
    status = 502


class TooMany(RelayError):
    code = "too_many"
    status = 429

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Overloaded(RelayError):
    code = "overloaded"
    status = 503
    retry_after = 1


class Unavailable(RelayError):
    code = "unavailable"
    status = 503
    retry_after = 5


class Malformed(Unavailable):
    """Other writes may succeed: the problem may concern a single bucket."""


class Unknown(Unavailable):
    code = "unknown"


class NoSpace(RelayError):
    code = "no_space"
    status = 507
    retry_after = 60


class StartupError(RelayError):
    code = "startup"


class Locked(StartupError):
    code = "locked"


class NewerSchema(StartupError):
    code = "newer_schema"


class NotWritable(StartupError):
    code = "not_writable"


class CloseCode:
    """Why the relay closes a socket. 4001 and 4500 to 4999 are final; after any other code a client reconnects."""

    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    INVALID_DATA = 1007
    TOO_BIG = 1009
    UNAUTHORIZED = 4001
    TOO_SLOW = 4008
    TOO_MANY = 4029
    TOKEN_REVOKED = 4503
    TOKEN_EXPIRED = 4504
    GAP_REFUSED = 4509


NO_THREAD = (
    "no thread can be started: there are as many processes and threads as may be, or memory is short; raise the limit "
    "(`ulimit -u`, `TasksMax=` of the unit, `pids` of the container)"
)
"""The message for Python's RuntimeError "can't start new thread"."""

NO_DESCRIPTOR = (
    "no more files can be opened: as many files and connections are open as may be; raise the limit (`ulimit -n`, "
    "`LimitNOFILE=` of the unit, `nofile` of the container)"
)
"""The message for EMFILE, and for errors that it causes."""
