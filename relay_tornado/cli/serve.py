"""`relay serve`: runs the relay until it is told to stop, and says what to do with a new one."""

from __future__ import annotations

import asyncio
import importlib.util
import resource
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from relay_tornado.admin import Administration
from relay_tornado.app import Relay
from relay_tornado.cli.options import settings_from, settings_options
from relay_tornado.logs import configure
from relay_tornado.model import Bucket
from relay_tornado.settings import Settings

DEMO = "demo"


@click.command()
@settings_options
@click.option(
    "--demo",
    is_flag=True,
    envvar="RELAY_SERVE_DEMO",
    show_envvar=True,
    help="Make a bucket and a token, and print a curl and a client line to try them.",
)
def serve(demo: bool, **params: Any) -> None:
    """Run the relay until SIGTERM or SIGINT (Ctrl-C).

    It prints one line on stdout once it is ready; everything else goes to stderr.
    """
    settings = settings_from(params)
    configure(settings)
    _raise_descriptor_limit()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_run(settings, demo))


async def _run(settings: Settings, demo: bool) -> None:
    told_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_stop.set)
    relay = Relay(settings)
    await relay.start()
    try:
        if demo:
            await _prepare_demo(relay)
        elif not relay.administration.list_buckets():
            _say_what_next(settings)
        click.echo(f"listening on {relay.address}")
        sys.stdout.flush()
        await told_to_stop.wait()
    finally:
        await relay.stop()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed (the extra `fast`)."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _raise_descriptor_limit() -> None:
    """Every connection is a descriptor, and the soft limit is meant for programs that use select."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _say_what_next(settings: Settings) -> None:
    _say(
        "There is no bucket yet. In another terminal, make one, and a token for its clients:",
        f"  {_command(settings, 'bucket create orders')}",
        f"  {_command(settings, 'token create')}",
        "The first prints the URL to send webhooks to; clients connect to /v1/socket with the key and secret that the",
        "second prints. `relay serve --demo` makes both, and prints lines to try them with.",
    )


def _command(settings: Settings, arguments: str) -> str:
    """A command on this data directory as a line for a shell, wherever that is: with this program's own path, where
    the shell would not find it as `relay`."""
    program = Path(sys.argv[0])
    found = shutil.which("relay")
    if program.name == "__main__.py":
        relay = f"{shlex.quote(sys.executable)} -m relay_tornado"
    elif found is not None and program.exists() and program.samefile(found):
        relay = "relay"
    else:
        relay = shlex.quote(str(program.absolute()))
    return f"{relay} {arguments} --data {shlex.quote(str(settings.data.absolute()))}"


async def _prepare_demo(relay: Relay) -> None:
    administration = relay.administration
    bucket = next((each for each in administration.list_buckets() if each.name == DEMO), None)
    if bucket is not None:
        _say(
            f"The bucket {DEMO!r} is there already. Send it a webhook with:",
            f"  {_curl(relay, bucket)}",
            "Its token's secret was shown when it was made. Another one is made by:",
            f"  {_command(relay.settings, f'token create --bucket {DEMO}')}",
        )
        return
    bucket = await administration.create_bucket(DEMO)
    key, secret = await _token(administration)
    _say(
        f"Made the bucket {DEMO!r} and a token for it; the secret is shown this once:",
        f"  key    {key}",
        f"  secret {secret}",
        "Connect a client, with websocket-client" + _hint(),
        f"  {_client(relay, key, secret)}",
        "then, in another terminal, send a webhook:",
        f"  {_curl(relay, bucket)}",
    )


async def _token(administration: Administration) -> tuple[str, str]:
    token, secret = await administration.create_token(description=DEMO, buckets=[DEMO])
    return token.key, secret


def _hint() -> str:
    return ":" if importlib.util.find_spec("websocket") else " (pip install websocket-client):"


def _curl(relay: Relay, bucket: Bucket) -> str:
    url = f"{relay.url}/v1/webhooks/{bucket.inputs[0].id}/hello?from=curl"
    return f"""curl {shlex.quote(url)} -d '{{"hello": "world"}}'"""


def _client(relay: Relay, key: str, secret: str) -> str:
    """A stock conversation with websocket-client, as one line for a shell."""
    code = (
        "import json, websocket; w = websocket.create_connection({url!r}); s = lambda **m: w.send(json.dumps(m)); "
        "s(action='auth', key={key!r}, secret={secret!r}); print(w.recv()); "
        "s(action='subscribe', buckets=[{bucket!r}]); any(print(m, flush=True) for m in iter(w.recv, ''))"
    )
    url = "ws" + relay.url.removeprefix("http") + "/v1/socket"
    return f'{shlex.quote(sys.executable)} -c "{code.format(url=url, key=key, secret=secret, bucket=DEMO)}"'


def _say(*lines: str) -> None:
    click.echo("\n" + "\n".join(lines) + "\n", err=True)
