"""Where an agent stores its progress, and a lock so that no two agents store it in the same file."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path


class InUse(Exception):
    """Another process holds the checkpoint."""


def default_path(relay: str, bucket: str, target: str, environment: Mapping[str, str]) -> Path:
    """The default checkpoint for this relay, bucket and target: a file in systemd's `$STATE_DIRECTORY`, else in the
    user's state directory, `$XDG_STATE_HOME/relay`. Raises RuntimeError if there is no such directory."""
    ours = environment.get("STATE_DIRECTORY", "").partition(":")[0]
    if ours:
        directory = Path(ours)
    elif environment.get("XDG_STATE_HOME"):
        directory = Path(environment["XDG_STATE_HOME"]) / "relay"
    else:
        directory = Path.home() / ".local" / "state" / "relay"
    digest = hashlib.sha256("\n".join((relay, bucket, target)).encode()).hexdigest()[:12]
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", bucket)[:60].strip("._") or "bucket"
    return directory / f"forward-{readable}-{digest}.checkpoint"


class Holder:
    """Locks a checkpoint for this process until it is closed, with a lock file beside it."""

    def __init__(self, checkpoint: Path) -> None:
        """Raises InUse, whose text is the other process's id, and OSError."""
        # Different links to the file must use the same lock.
        checkpoint = Path(os.path.realpath(checkpoint))
        if checkpoint.exists() and not checkpoint.is_file():
            raise OSError(f"{checkpoint} is no regular file: is the name right?")
        path = checkpoint.with_name(checkpoint.name + ".lock")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._file, 0)
            os.write(self._file, f"{os.getpid()}\n".encode())
        except BlockingIOError:
            other = os.read(self._file, 20).decode(errors="replace").strip()
            os.close(self._file)
            raise InUse(other or "?") from None
        except OSError:
            os.close(self._file)
            raise

    def close(self) -> None:
        """Releases the lock."""
        os.close(self._file)
