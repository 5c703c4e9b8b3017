"""The page's files, kept in memory, compressed once, and served under URLs that name their version.

The page itself has a URL without a version, and names its files under one with it: the hash of them all. Imports within
the files are relative, so they stay under that version. The content of such a URL never changes, and browsers do not
ask for it twice. Everything else is revalidated, mostly with a 304.
"""

from __future__ import annotations

import gzip
import hashlib
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import structlog

import relay_tornado
from relay_tornado.errors import Unavailable

ROOT: Final = Path(relay_tornado.__file__).parent / "ui" / "static"
PREFIX: Final = "/ui/static/"
INDEX: Final = "index.html"

_LOOK: Final = 1.0
"""Seconds between two checks whether the files have changed, as they do during development."""
_WORTH: Final = 600
"""Files of at least this many bytes are compressed."""

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Asset:
    """One file."""

    type: str
    body: bytes

    @cached_property
    def tag(self) -> str:
        """The file's hash."""
        return hashlib.sha256(self.body).hexdigest()[:16]

    @cached_property
    def compressed(self) -> bytes | None:
        """The file compressed with gzip; None if compressing is not worth it."""
        packed = gzip.compress(self.body, 9, mtime=0) if len(self.body) >= _WORTH else self.body
        return packed if len(packed) < len(self.body) else None


class Assets:
    """All files below a directory, by their relative paths. If they can't be read, the previous content stays."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._looked = -_LOOK
        self._seen: dict[str, tuple[int, int]] = {}
        self._files: dict[str, Asset] = {}
        self._version = ""

    @property
    def version(self) -> str:
        """The hash of the content of all files. Raises Unavailable."""
        self._look()
        return self._version

    def find(self, name: str) -> Asset | None:
        """The file with this name, or None; the index names the others under the version. Raises Unavailable."""
        self._look()
        return self._files.get(name)

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        try:
            self._read()
        except OSError as error:
            if not self._files:
                raise Unavailable(f"the page's files can't be read ({error.strerror})") from None
            _log.warning("page_not_read", reason=str(error), consequence="its files are given out as they were")
        self._looked = now

    def _read(self) -> None:
        seen = {}
        for path in sorted(self._root.rglob("*")):
            if path.suffix in _TYPES and path.is_file():
                status = path.stat()
                seen[path.relative_to(self._root).as_posix()] = (status.st_mtime_ns, status.st_size)
        if seen == self._seen:
            return
        files = {name: Asset(_TYPES[Path(name).suffix], (self._root / name).read_bytes()) for name in seen}
        self._seen, self._files = seen, files
        parts = "".join(f"{name} {asset.tag}\n" for name, asset in files.items())
        self._version = hashlib.sha256(parts.encode()).hexdigest()[:12]
        index = files.get(INDEX)
        if index is not None:
            versioned = f"{PREFIX}v-{self._version}/".encode()
            files[INDEX] = Asset(index.type, index.body.replace(PREFIX.encode(), versioned))
