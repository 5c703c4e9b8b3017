"""What every test uses: pytest-tornado, an event loop that ends clean, and what becomes of skipped tests."""

import asyncio
import os
import signal
import sys
import tempfile
import threading
import types
from collections.abc import Iterator
from pathlib import Path

import packaging.version
import pytest
from hypothesis import HealthCheck, settings
from tornado.ioloop import IOLoop

from tests.needs import strict

# pytest-tornado imports pkg_resources, which setuptools no longer has, for one function; and marks its hooks in a way
# that pytest warns about. Both are mended here, before pytest loads it.
_had = sys.modules.get("pkg_resources")
_shim = types.ModuleType("pkg_resources")
_shim.parse_version = packaging.version.parse  # type: ignore[attr-defined]
sys.modules["pkg_resources"] = _shim
try:
    from pytest_tornado import plugin as _plugin  # type: ignore[import-untyped]
finally:
    if _had is None:
        del sys.modules["pkg_resources"]
    else:
        sys.modules["pkg_resources"] = _had
for _name in ("pytest_pycollect_makeitem", "pytest_pyfunc_call"):
    _hook = getattr(_plugin, _name)
    _hook.pytestmark = []
    setattr(_plugin, _name, pytest.hookimpl(tryfirst=True)(_hook))
pytest_plugins = ["pytest_tornado.plugin"]

# A relay runs on uvloop where it is installed; what the tests run of it in their own process does so with this.
if os.environ.get("RELAY_TEST_LOOP") == "uvloop":
    import uvloop

    # A policy would say so, too, but for Python 3.14, which warns of it.
    asyncio.new_event_loop = asyncio.events.new_event_loop = uvloop.new_event_loop

# What a script begins with `&` ignores Ctrl-C, and so would every command that a test sends that to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The build machine tries the same examples each time; who runs the tests by hand looks further. Neither is timed.
settings.register_profile("relay", derandomize=strict(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("relay")


@pytest.fixture
def hearing() -> Iterator[None]:
    """What is started meanwhile hears SIGHUP, also where the tests run under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture
def event_loop() -> asyncio.AbstractEventLoop:
    """What `gen_test` runs on."""
    return asyncio.new_event_loop()


@pytest.fixture
def io_loop(event_loop: asyncio.AbstractEventLoop) -> Iterator[IOLoop]:
    """The same as a loop of Tornado's; at the end every task is cancelled and awaited, and every descriptor closed."""
    loop = event_loop
    asyncio.set_event_loop(loop)
    io = IOLoop(asyncio_loop=loop, make_current=False)
    yield io

    async def drain() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await loop.shutdown_asyncgens()
        await loop.shutdown_default_executor()

    io.run_sync(drain)
    asyncio.set_event_loop(None)
    io.close(all_fds=True)


@pytest.fixture
def disk_path() -> Iterator[Path]:
    """A folder of the test's own on a disk; `tmp_path` may lie in memory."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """Fails a test that leaves a thread behind which would keep the process from ending, as an open database does."""
    before = set(threading.enumerate())
    yield
    left = [t for t in threading.enumerate() if t not in before and not t.daemon]
    for thread in left:
        thread.join(60)
    assert not [t.name for t in left if t.is_alive()], "the test left a thread running"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says what was skipped and what would make it run."""
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.write_line(f"SKIPPED {report.nodeid}: {reason.removeprefix('Skipped: ')}", yellow=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under `strict` a skipped test fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(session.config, "workerinput"):
        return
    skipped = reporter.stats.get("skipped", [])
    if strict() and skipped and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line(f"\n{len(skipped)} skipped, and nothing may be skipped here", red=True)
