"""Commands that are stopped by a signal: what they say, what they leave, and that the next run copes with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cli.runner import Runner
from tests.needs import first_process
from tests.ops.filling import fill
from tests.serving import TIMEOUT

EXPORT = """
import relay_tornado.ops.export as module
line, count = module.item_line, iter(range(300))
module.item_line = lambda *given: next(count, None) is None and end() or line(*given)
"""
"""A signal after 300 events."""

IMPORT = """
from relay_tornado.cli.export_import import _Import
send = _Import._send
_Import._send = lambda job, batch: end() if job.read else send(job, batch)
"""
"""A signal after the first batch."""

CHECK = """
import relay_tornado.ops.check as module, threading
ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
module._check_pages = lambda raw, *_: (threading.Timer(0.1, end).start(), raw.execute(ENDLESS).fetchone())
"""
"""A signal during a statement that takes long."""

SIGNALS = [("SIGTERM", 143), ("SIGINT", 130)]


def stopped(
    signal: str, when: str, data: Path, *arguments: object, inside: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Runs `relay ARGUMENTS`, which gets the signal at that moment."""
    code = f"""
import os, signal, sys
from relay_tornado.cli.entry import main
def end():
    os.kill(os.getpid(), signal.{signal})
{when}
main()
"""
    line = [*inside, sys.executable, "-c", code, *map(str, arguments), "--data", str(data)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RELAY_")}
    run = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    assert "Traceback" not in run.stderr
    return run


@pytest.mark.parametrize(("signal", "code"), SIGNALS)
def test_an_export(cli: Runner, tmp_path: Path, signal: str, code: int) -> None:
    """The file has what was exported, and --append adds the rest."""
    fill(cli.data, "orders", 1000)
    file, whole = tmp_path / "orders.ndjson", tmp_path / "whole.ndjson"
    done = stopped(signal, EXPORT, cli.data, "export", "orders", file)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == f"relay: stopped: {file} is incomplete; --append continues it\n"
    cli.json("export", "orders", file, "--append")
    cli.json("export", "orders", whole)
    events = [[line for line in each.read_text().splitlines() if '"seq"' in line] for each in (file, whole)]
    assert len(events[0]) == 1000
    assert events[0] == events[1]


def test_an_export_to_standard_output(cli: Runner) -> None:
    """Its reader has whole lines up to some event, and the message says how to go on."""
    fill(cli.data, "orders", 1000)
    done = stopped("SIGTERM", EXPORT, cli.data, "export", "orders")
    assert done.returncode == 143
    assert done.stderr.endswith(
        "relay: stopped: the output is incomplete; --after and the seq of its last whole line continue it\n"
    )


def test_an_export_that_had_not_begun(cli: Runner, tmp_path: Path) -> None:
    """No file is left."""
    fill(cli.data, "orders", 1)
    early = "import relay_tornado.ops.export as module\nmodule.header_line = lambda *_: end()"
    done = stopped("SIGTERM", early, cli.data, "export", "orders", tmp_path / "orders.ndjson")
    assert (done.returncode, done.stderr) == (143, "relay: stopped: nothing was exported\n")
    assert not (tmp_path / "orders.ndjson").exists()


@pytest.mark.parametrize(("signal", "code"), SIGNALS)
def test_an_import(cli: Runner, tmp_path: Path, signal: str, code: int) -> None:
    """What was imported is told, and is in the log; the same import again adds the rest."""
    fill(cli.data, "orders", 1000)
    file = tmp_path / "orders.ndjson"
    cli.json("export", "orders", file)
    done = stopped(signal, IMPORT, cli.data, "import", "copy", file)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == (
        "relay: stopped: imported 256 events into copy, up to 256, and perhaps the next batch; importing the same "
        "again adds the rest\n"
    )
    assert cli.json("import", "copy", file)["imported"] == 1000 - 256
    assert cli.json("check")["findings"] == []


def test_an_import_that_had_not_begun(cli: Runner, tmp_path: Path) -> None:
    fill(cli.data, "orders", 1)
    early = "from relay_tornado.cli.export_import import _Import\n_Import._begin = lambda *_: end()"
    file = tmp_path / "orders.ndjson"
    cli.json("export", "orders", file)
    done = stopped("SIGTERM", early, cli.data, "import", "copy", file)
    assert (done.returncode, done.stderr) == (143, "relay: stopped: nothing was imported\n")
    assert [bucket["name"] for bucket in cli.json("bucket", "list")] == ["orders"]


@pytest.mark.parametrize(("signal", "code"), [*SIGNALS, ("SIGHUP", 129)])
def test_a_check(cli: Runner, signal: str, code: int) -> None:
    """It ends at once, also within a statement that takes long."""
    fill(cli.data, "orders", 1)
    done = stopped(signal, CHECK, cli.data, "check")
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "relay: stopped: nothing was changed\n")
    assert cli.json("check")["sound"]


def test_a_check_that_outlives_its_terminal(cli: Runner) -> None:
    """With `nohup`, which has SIGHUP ignored, it goes on."""
    fill(cli.data, "orders", 1)
    begun = "import relay_tornado.ops.check as module\nlook = module._check_pages\n"
    begun += "module._check_pages = lambda *given: end() or look(*given)"
    done = stopped("SIGHUP", begun, cli.data, "check", inside=["nohup"])
    assert (done.returncode, "sound" in done.stdout) == (0, True)


def test_a_check_as_the_first_process_of_a_container(cli: Runner) -> None:
    fill(cli.data, "orders", 1)
    done = stopped("SIGTERM", CHECK, cli.data, "check", inside=first_process())
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "relay: stopped: nothing was changed\n")


def test_a_restore_that_was_just_done(cli: Runner, tmp_path: Path) -> None:
    """The message says so, as nothing else tells of the tokens and outputs."""
    fill(cli.data, "orders", 1)
    cli.json("backup", tmp_path / "b.db")
    late = "from relay_tornado.ops import restore as module\nmodule.Restored = lambda *_: end()"
    done = stopped("SIGTERM", late, tmp_path / "new", "restore", tmp_path / "b.db")
    assert done.returncode == 143
    assert done.stderr.startswith(f"relay: stopped: {tmp_path / 'new' / 'relay.db'} is restored and checked; ")
    assert Runner(tmp_path / "new").json("check")["events"] == 1


def test_a_backup_that_was_just_done(cli: Runner, tmp_path: Path) -> None:
    """One that replaces an earlier file, too: either the earlier one is there, or the new one."""
    fill(cli.data, "orders", 1)
    file = tmp_path / "b.db"
    cli.json("backup", file)
    early = "from relay_tornado.ops import backup as module\nmodule.check = lambda *_: end()"
    done = stopped("SIGTERM", early, cli.data, "backup", file, "--force")
    assert done.stderr == f"relay: stopped: no backup was made; {file} is as it was\n"
    late = "from relay_tornado.ops import backup as module\nmodule.Made = lambda *_: end()"
    done = stopped("SIGTERM", late, cli.data, "backup", file, "--force")
    assert (done.returncode, done.stderr) == (143, f"relay: stopped: {file} is complete and checked\n")
    assert cli.json("check", file)["sound"]
    assert {each.name for each in tmp_path.iterdir()} == {"data", "b.db"}
