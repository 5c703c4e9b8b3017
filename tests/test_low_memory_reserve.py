"""relay_tornado/low_memory.py: what is kept in reserve for the signals."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from relay_tornado import low_memory as module
from relay_tornado.low_memory import exception_handler, watch_timers
from tests.needs import uvloops
from tests.serving import TIMEOUT
from tests.waiting import until


@pytest.mark.gen_test
async def test_a_reserve_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the loop to read which signal came, and for nothing else, which would take it before; it is kept again a
    moment later. Without it the loop rests, as whatever fails may be tried again at once. Other errors do neither."""
    loop = asyncio.get_running_loop()
    rests: list[float] = []
    reads = "Exception in callback BaseSelectorEventLoop._read_from_self()"
    monkeypatch.setattr(module, "RETRY_DELAY", 0.01)
    reserve: list[bytearray] = []
    monkeypatch.setattr(module, "_reserve", reserve)
    monkeypatch.setattr(module.time, "sleep", rests.append)
    rounds = watch_timers()
    try:
        assert [len(each) for each in reserve] == [1 << 20]
        with capture_logs():
            exception_handler(loop, {"message": "", "exception": OSError()})
            assert (len(reserve), rests) == (1, [])
            exception_handler(loop, {"message": "", "exception": MemoryError()})
            assert (len(reserve), len(rests)) == (1, 1)
            exception_handler(loop, {"message": reads, "exception": MemoryError()})
            assert (len(reserve), len(rests)) == (0, 1)
            exception_handler(loop, {"message": reads, "exception": MemoryError()})
            assert (len(reserve), len(rests)) == (0, 2)
        await until(lambda: reserve)
    finally:
        rounds.cancel()


_USED_UP = """
import asyncio, os, resource, signal, sys
from relay_tornado.low_memory import exception_handler, watch_timers

async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(exception_handler)
    loop.add_signal_handler(signal.SIGTERM, os._exit, 7)
    rounds = watch_timers()
    kept, times = [], []

    def use_up():
        times.append(None)
        if len(times) < 5:
            loop.call_later(0.02, use_up)
        else:  # the last time: on a busy machine another one would come before the signal is read
            os.kill(os.getpid(), signal.SIGTERM)
        while True:
            kept.append(bytearray(3000))

    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (30 << 20),) * 2)
    loop.call_soon(use_up)
    await asyncio.Event().wait()

factory = asyncio.new_event_loop
if sys.argv[1] == "uvloop":
    import uvloop
    factory = uvloop.new_event_loop
with asyncio.Runner(loop_factory=factory) as runner:
    runner.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the size of a process is read from /proc")
@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_signal_is_heard_though_all_other_memory_is_used_up(kind: str) -> None:
    """The reserve is still there, however much else failed before."""
    if kind == "uvloop":
        uvloops().close()
    done = subprocess.run([sys.executable, "-c", _USED_UP, kind], capture_output=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 7, done.stderr[-2000:]
