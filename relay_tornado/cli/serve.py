"""`relay serve`: runs the relay until a signal, and says what to do next with a new one."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import resource
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import click
import structlog

from relay_tornado.admin.sessions import Sessions
from relay_tornado.app import Relay
from relay_tornado.cli.common import STOP_SIGNALS, program
from relay_tornado.cli.errors import STDOUT, output_words, silence_output
from relay_tornado.cli.options import options_of
from relay_tornado.cli.printing import socket_url, webhook_url
from relay_tornado.cli.settings_options import settings_from, settings_options, unknown_variables
from relay_tornado.cli.slow_steps import SLOW_START, reported
from relay_tornado.cli.ui import link
from relay_tornado.garbage_collection import limit_full_collections
from relay_tornado.large_blocks import return_large_blocks
from relay_tornado.log_output import configure
from relay_tornado.low_memory import LogWatch, begin_thread, exception_handler, try_log
from relay_tornado.model import Bucket
from relay_tornado.notify import Notifier, inherited_sockets
from relay_tornado.outgoing.lacks import check_descriptors
from relay_tornado.settings import Settings
from relay_tornado.steps import Step, Steps
from relay_tornado.storage import connection

_log = structlog.get_logger(__name__)

DEMO = "demo"

_SWITCH_INTERVAL = 0.0001
_LEAST_DESCRIPTORS = 48
"""The descriptors that a start opens, and some connections."""
_OTHERS = (signal.SIGUSR1, signal.SIGUSR2)
"""Signals that make other programs reopen their logs, and the like. Without a handler they would end the relay."""
_HANDLED = (*STOP_SIGNALS, signal.SIGHUP, *_OTHERS)
_INSTEAD = "the log has the address; `relay ui` prints a link to the page, and `relay token create` makes a token"
_CUT_OFF = 10.0
"""Seconds after the drain time-out after which a stop is cut off, whatever it waits for."""
_SECOND_WAY = 1.0
"""Seconds after which it is cut off in another way, if the first one has failed."""
_LAST = 5.0
"""Seconds that the process may take to end after that."""


@click.command()
@settings_options
@options_of("SERVE")(
    "--demo", is_flag=True, help="Create a bucket and a token, and print a curl and a client command to try them."
)
def serve(demo: bool, **params: Any) -> None:
    """Run the relay until SIGTERM or SIGINT (Ctrl-C).

    Once it is ready it prints one line to stdout, and, if there is no bucket yet, what to do next. The log goes to
    stderr.
    """
    settings = settings_from(params)
    configure(settings)
    _warn_of_variables(os.environ)
    _raise_descriptor_limit()
    check_descriptors(_LEAST_DESCRIPTORS)  # later errors would be less clear, or a traceback
    return_large_blocks(os.environ)
    # The database's threads release the GIL at every row, and get it back from a busy loop only after this interval:
    # with the default of 5 ms, reading old events would take many times as long.
    sys.setswitchinterval(_SWITCH_INTERVAL)
    # Both remove their variables from the environment, so that no child process acts on them.
    notifier, inherited = Notifier(), inherited_sockets()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_run(settings, demo, notifier, inherited))


async def _run(settings: Settings, demo: bool, notifier: Notifier, inherited: Sequence[socket.socket]) -> None:
    told_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(exception_handler)
    threading.excepthook = partial(_thread_failed, loop)
    logging.getLogger().addHandler(LogWatch(loop))
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, told_to_stop.set)
    for other in _OTHERS:
        loop.add_signal_handler(other, _ignored, other)
    steps = Steps("preparing")
    relay = Relay(settings, inherited, steps)
    loop.add_signal_handler(signal.SIGHUP, relay.reload)
    with reported(steps, _say_slow, notifier.send):
        if not await _start(relay, told_to_stop):
            return
    limit_full_collections()
    alive = asyncio.create_task(notifier.keep_alive())
    try:
        _print(f"listening on {relay.address}")
        signs_in = demo or not relay.administration.list_tokens()
        if demo:
            relay.administration.demo = True
            await _prepare_demo(relay)
        elif not relay.administration.list_buckets():
            _say_what_next(settings)
        if signs_in and relay.administration.sessions is not None:
            _say_link(relay, relay.administration.sessions)
        notifier.ready(f"listening on {relay.address}")
        await told_to_stop.wait()
    finally:
        longest = settings.drain_timeout + _CUT_OFF
        notifier.stopping(longest + _LAST)
        _end_within(longest, loop)
        await relay.stop()
        alive.cancel()
        await loop.shutdown_default_executor()
        # A second signal while the interpreter shuts down must not change the exit status. It is blocked meanwhile, in
        # every remaining thread: removing the loop's handler restores the default one for a moment.
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        for number in _HANDLED:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)


async def _start(relay: Relay, told_to_stop: asyncio.Event) -> bool:
    """Starts the relay. Returns False if it was told to stop meanwhile."""
    starting, stopping = asyncio.create_task(relay.start()), asyncio.create_task(told_to_stop.wait())
    stopping.add_done_callback(lambda _: starting.cancel())
    await asyncio.wait((starting,))
    stopping.cancel()
    if starting.cancelled():
        return False
    await starting
    return True


def _thread_failed(loop: asyncio.AbstractEventLoop, failed: threading.ExceptHookArgs) -> None:
    """Ends the process if a database connection has lost its thread: a relay that waits for ever takes no webhooks, and
    nobody starts it again. Once the loop is closed, nobody waits."""
    if loop.is_closed() or not connection.serves(failed.thread):
        threading.__excepthook__(failed)
        return
    try:
        _log.error("database_thread_lost", error=repr(failed.exc_value), consequence="the relay ends: start it again")
    finally:
        os._exit(1)


def _say_slow(step: Step, seconds: int, percent: int | None) -> None:
    share = {} if percent is None else {"percent": percent}
    try_log(_log.warning, SLOW_START, step=step.name, seconds=seconds, **share)


def _ignored(number: signal.Signals) -> None:
    _log.warning("signal_ignored", signal=number.name, known="SIGTERM and SIGINT stop it, SIGHUP loads its certificate")


def _end_within(seconds: float, loop: asyncio.AbstractEventLoop) -> None:
    """Ends the process with 1 if it still runs then: what it waits for may never come, as without memory. Everything
    that was acknowledged is stored."""

    def cut_off(*_: object) -> None:
        try:
            waiting = sorted(task.get_name() for task in asyncio.all_tasks(loop))
            _log.error("stop_cut_off", waiting=waiting, consequence="the next start finds the file as after a crash")
        finally:
            os._exit(1)

    def wait() -> None:
        time.sleep(seconds)
        cut_off()

    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)  # the thread inherits the mask
    with suppress(RuntimeError, MemoryError):  # it may not be possible to start a thread
        begin_thread(wait)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    # A thread may also have no memory for its beginning, and ends without a word. Then this thread does it, if it is
    # not stuck; again and again, as there may be no memory for that either.
    signal.signal(signal.SIGALRM, cut_off)
    signal.setitimer(signal.ITIMER_REAL, seconds + _SECOND_WAY, _SECOND_WAY)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's factory if it is installed (the extra `fast`)."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _warn_of_variables(environment: Mapping[str, str]) -> None:
    """Warns of unknown variables: a mistyped one would leave its setting at the default. It is only a warning, as
    another program's variable may look like the relay's. Values are not logged."""
    from relay_tornado.cli.entry import main

    unknown = unknown_variables(environment, main)
    if unknown:
        meant = {name: nearest for name, nearest in unknown.items() if nearest is not None}
        _log.warning("unknown_variables", names=list(unknown), **({"perhaps_meant": meant} if meant else {}))


def _raise_descriptor_limit() -> None:
    """Raises the soft limit, as each connection is a descriptor; the low default is for programs that use select."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _say_what_next(settings: Settings) -> None:
    _say(
        "There is no bucket yet. In another terminal, make one, and a token for its clients:",
        f"  {_command(settings, 'bucket create orders')}",
        f"  {_command(settings, 'token create --bucket orders')}",
        "The first prints the URL to send webhooks to; clients connect to /v1/socket with the key and secret that the",
        "second prints. `relay serve --demo` makes both, and prints lines to try them with.",
    )


def _say_link(relay: Relay, sessions: Sessions) -> None:
    _say(
        "Look at it in a browser. This link signs you in: once, and within ten minutes.",
        f"  {link(relay.url, sessions.new_code())}",
        "Another one is printed by:",
        f"  {_command(relay.settings, 'ui')}",
    )


def _command(settings: Settings, arguments: str) -> str:
    """A command on this data directory as a line for a shell in any directory."""
    return f"{program()} {arguments} --data {shlex.quote(str(settings.data.absolute()))}"


async def _prepare_demo(relay: Relay) -> None:
    administration = relay.administration
    bucket = next((each for each in administration.list_buckets() if each.name == DEMO), None)
    if bucket is not None:
        if bucket.inputs:
            sending = "Send it a webhook with:", f"  {_curl(relay, bucket)}"
        else:
            sending = "It has no input; one is made by:", f"  {_command(relay.settings, f'input create {DEMO}')}"
        _say(
            f"The bucket {DEMO!r} is there already. {sending[0]}",
            sending[1],
            "Its token's secret was shown when it was made. Another one is made by:",
            f"  {_command(relay.settings, f'token create --bucket {DEMO}')}",
        )
        return
    bucket = await administration.create_bucket(DEMO)
    token, secret = await administration.create_token(description=DEMO, buckets=[DEMO])
    _say(
        f"Made the bucket {DEMO!r} and a token for it; the secret is shown this once:",
        f"  key    {token.key}",
        f"  secret {secret}",
        "Connect a client, with websocket-client" + _hint(),
        f"  {_client(relay, token.key, secret)}",
        "then, in another terminal, send a webhook:",
        f"  {_curl(relay, bucket)}",
    )


def _hint() -> str:
    return ":" if importlib.util.find_spec("websocket") else " (pip install websocket-client):"


def _curl(relay: Relay, bucket: Bucket) -> str:
    url = webhook_url(relay.url, bucket.inputs[0].id) + "/hello?from=curl"
    return f"""curl {shlex.quote(url)} -d '{{"hello": "world"}}'"""


def _client(relay: Relay, key: str, secret: str) -> str:
    """A stock client with websocket-client, as one line for a shell."""
    code = (
        "import json, websocket; w = websocket.create_connection({url!r}); s = lambda **m: w.send(json.dumps(m)); "
        "s(action='auth', key={key!r}, secret={secret!r}); print(w.recv()); "
        "s(action='subscribe', buckets=[{bucket!r}]); any(print(m, flush=True) for m in iter(w.recv, ''))"
    )
    code = code.format(url=socket_url(relay.url), key=key, secret=secret, bucket=DEMO)
    return f'{shlex.quote(sys.executable)} -c "{code}"'


def _say(*lines: str) -> None:
    """Prints on stdout, as the lines may contain a secret: the log on stderr may be kept for long."""
    _print("\n" + "\n".join(lines) + "\n")


def _print(text: str) -> None:
    """Prints on stdout. If that fails (the reader has left, the disk is full), the relay serves all the same."""
    try:
        click.echo(text)
    except OSError as error:
        silence_output()
        _log.warning("not_printed", reason=f"{STDOUT}: {output_words(error)}", instead=_INSTEAD)
