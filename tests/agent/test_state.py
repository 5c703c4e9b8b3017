"""Where a checkpoint is kept, and by whom."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from relay_tornado.agent.state import Holder, InUse, default_path


def test_the_path_says_what_it_is_for(tmp_path: Path) -> None:
    """One for each relay, bucket and target, in the directory for state, with the bucket's name to be found by."""
    environment = {"XDG_STATE_HOME": str(tmp_path)}
    path = default_path("https://relay", "orders", "http://localhost", environment)
    assert path == default_path("https://relay", "orders", "http://localhost", environment)
    assert path.parent == tmp_path / "relay"
    assert path.name.startswith("forward-orders-")
    others = [("https://other", "orders", "http://localhost"), ("https://relay", "orders", "http://localhost/x")]
    assert path not in [default_path(*each, environment) for each in others]


def test_where_it_is() -> None:
    """A service's own directory comes first, then XDG's, then the usual one."""
    service = {"STATE_DIRECTORY": "/var/lib/agent:/var/lib/other", "XDG_STATE_HOME": "/x"}
    assert default_path("r", "b", "t", service).parent == Path("/var/lib/agent")
    assert default_path("r", "b", "t", {}).parent == Path.home() / ".local" / "state" / "relay"


@pytest.mark.parametrize("bucket", ["../../etc", "a/b", ".", "..", "ö" * 99, "x" * 100, "a b\n"])
def test_any_bucket_has_a_file_name(bucket: str) -> None:
    """Its name leads nowhere else."""
    path = default_path("r", bucket, "t", {"XDG_STATE_HOME": "/state"})
    assert path.parent == Path("/state/relay")
    assert path.name.isascii()
    assert len(path.name) < 120


def test_one_holder(tmp_path: Path) -> None:
    """The second one is told who the first is, whoever was there before; a dead one holds nothing."""
    place = tmp_path / "new" / "deep" / "orders.checkpoint"
    Holder(place).close()
    assert [each.stat().st_mode & 0o777 for each in (place.parent, *place.parent.iterdir())] == [0o700, 0o600]
    place.with_name("orders.checkpoint.lock").write_text("1234567890123\n")
    place.write_text("how far it is")
    holder = Holder(place)
    with pytest.raises(InUse, match=f"^{os.getpid()}$"):
        Holder(place)
    holder.close()
    code = "import os, sys, pathlib, relay_tornado.agent.state as s; s.Holder(pathlib.Path(sys.argv[1])); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code, str(place)], timeout=60).returncode == 9
    Holder(place).close()


def test_a_link_to_a_checkpoint(tmp_path: Path) -> None:
    """It is the same checkpoint, so it has one holder. Who is refused, however often, leaves no file open."""
    (tmp_path / "link").symlink_to(tmp_path / "orders.checkpoint")
    holder = Holder(tmp_path / "orders.checkpoint")
    before = set(Path("/proc/self/fd").iterdir())
    for _ in range(3):
        with pytest.raises(InUse):
            Holder(tmp_path / "link")
    assert set(Path("/proc/self/fd").iterdir()) <= before
    holder.close()


def test_what_is_no_file(tmp_path: Path) -> None:
    """A pipe would be waited for without end."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is no regular file"):
        Holder(tmp_path / "pipe")
    assert [each.name for each in tmp_path.iterdir()] == ["pipe"]
