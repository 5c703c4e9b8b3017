"""What a test needs of the machine: where it is missing the test is skipped, and says what to install."""

import asyncio
import ctypes
import os
import shutil
import socket
import subprocess
import sys

import pytest


def strict() -> bool:
    """Whether a skipped test fails the run: on the build machine everything that a test needs is there."""
    return os.environ.get("RELAY_TEST_STRICT") == "1" or os.environ.get("CI") == "true"


def needs(tool: str, remedy: str) -> None:
    """Skips the running test where the program `tool` is missing; `remedy` says what to install."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is missing: {remedy}")


def needs_browser() -> None:
    """Skips the running test where Chromium is missing, or the library that Playwright's driver needs."""
    remedy = "apt-get install chromium libatomic1"
    needs("chromium", remedy)
    try:
        ctypes.CDLL("libatomic.so.1")
    except OSError:
        pytest.skip(f"libatomic is missing: {remedy}")


def needs_failing_allocations() -> None:
    """Skips the running test where Python has no `_testcapi`, which lets an allocation fail, or does not survive one
    that fails."""
    pytest.importorskip("_testcapi", reason="this Python comes without the module _testcapi, which lets it want memory")
    if sys.version_info >= (3, 12):
        pytest.skip("Python 3.12 and 3.13 end with a segmentation fault where an allocation fails: install Python 3.11")


def needs_root(remedy: str) -> None:
    """Skips the running test where it does not run as root; `remedy` says why it must."""
    if os.geteuid() != 0:
        pytest.skip(f"it does not run as root: {remedy}")


def first_process() -> list[str]:
    """What to write before a command so that it is the first process of a container. Skips the running test where that
    can't be had."""
    needs("unshare", "install util-linux")
    inside = ["unshare", "-p", "-f", "--kill-child"]
    if subprocess.run([*inside, "true"], stderr=subprocess.DEVNULL, timeout=60).returncode:
        pytest.skip("no processes of their own can be had: it takes root")
    return inside


def needs_ipv6() -> None:
    """Skips the running test where the machine has no IPv6, as in many containers."""
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        pytest.skip("there is no ::1: switch IPv6 on (sysctl net.ipv6.conf.lo.disable_ipv6=0)")


def uvloops() -> asyncio.AbstractEventLoop:
    """A loop of uvloop's. Skips the running test where it is not installed."""
    uvloop = pytest.importorskip("uvloop", reason="it comes with the extra `fast`")
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
