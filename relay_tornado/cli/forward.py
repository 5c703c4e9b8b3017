"""`relay forward`: the agent behind NAT. It sends a bucket's events to a local HTTP server, and returns the answers."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relay_tornado.cli.access import open_access, refuse_with_stock, stock_options
from relay_tornado.cli.client import open_relay, remote_given
from relay_tornado.cli.common import held
from relay_tornado.cli.conditions import filter_option
from relay_tornado.cli.errors import Failure
from relay_tornado.cli.lookup import no_output
from relay_tornado.cli.options import options_of, relay_options
from relay_tornado.cli.positions import Position, PositionType
from relay_tornado.cli.printing import Document
from relay_tornado.cli.target import Sending, sending_options, until_told
from relay_tornado.errors import RelayError

if TYPE_CHECKING:
    from relay_tornado.agent.agent import Agent
    from relay_tornado.agent.target import Target
    from relay_tornado.cli.tally import Tally
    from relay_tornado.client import Subscription

_option = options_of("FORWARD")


@click.command()
@click.argument("bucket")
@click.argument("url", required=False, default="")
@_option("--output", help="Only the copies for this internal output, by its name.")
@filter_option(_option)
@sending_options(_option)
@_option("--no-respond", is_flag=True, help="Do not send the target's answers back.")
@_option("--checkpoint", type=click.Path(path_type=Path, dir_okay=False), help="File that keeps the position.")
@_option("--since", type=PositionType(), help="Where to begin if there is no checkpoint. Default: latest.")
@stock_options(_option)
@relay_options
def forward(
    bucket: str,
    url: str,
    output: str | None,
    rules: Document | None,
    no_respond: bool,
    checkpoint: Path | None,
    since: Position | None,
    stock: bool,
    key: str | None,
    data: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Forward the events of BUCKET to the HTTP server at URL, and send its answers back, until Ctrl-C.

    Each event is retried until the answer is anything but 408, 425, 429 or 5xx. A checkpoint keeps the position: the
    next start continues there. Without URL each event goes to the destination of its output.
    """
    sending = Sending(**options)
    shape = sending.shape(url)
    if sending.lock_path and not url:
        raise click.UsageError("--lock-path is about URL: without one, each output says itself what is appended")
    if stock:
        refuse_with_stock({"--since": since, "--filter": rules})

    from relay_tornado.agent.answers import respond
    from relay_tornado.cli.screen import Screen
    from relay_tornado.cli.tally import Tally
    from relay_tornado.client import subscribe
    from relay_tornado.client.errors import RelayClientError

    if not stock and (output is not None or not url):
        _check_outputs(data, bucket, url, output)
    screen = Screen()
    tally = Tally(screen, as_json, endless=sending.max_tries is None)
    target = sending.target()
    answer = None if no_respond else partial(respond, screen.note)
    path = checkpoint or _checkpoint(data, bucket, url, output)
    with (
        held(path, f"forwards {bucket} with the same checkpoint: stop it, or name another file with --checkpoint"),
        open_access(data, "relay forward", [bucket], key) as access,
    ):
        # The original protocol has no positions, so an event that is held would not come again.
        agent = sending.agent(target, shape, tally, answer, output, hold=not stock)
        screen.left = agent.stop
        events = partial(
            subscribe,
            access.url,
            access.key,
            access.secret,
            buckets=[bucket],
            checkpoint=path,
            since=None if since is None else since.since,
            filter=rules,
            extended=not stock,
            auto_done=False,
            on_gap=None if stock else tally.gap,
            on_notice=tally.notice,
        )
        order = "in order" if sending.concurrency == 1 else f"{sending.concurrency} at once"
        if since is not None and path.exists():
            screen.note("--since is ignored, because the checkpoint exists")
        screen.note(f"forwarding {bucket} to {shape.shown}, {order}; checkpoint: {path}")
        for each in access.silent:
            screen.note(each)
        try:
            asyncio.run(_work(agent, target, events, tally))
        except RelayClientError as error:
            raise Failure(str(error)) from error
        finally:
            tally.close(agent.open)


def _check_outputs(data: Path, bucket: str, url: str, output: str | None) -> None:
    """Checks that the events have a target. Raises UsageError if there is neither a URL nor an output with a
    destination, and Failure if there is a URL and no such internal output. If the relay can't be asked, or the token
    may not read the bucket, there is no check."""
    try:
        with open_relay(data) as relay:
            found = relay.call("bucket.show", bucket=bucket)
    except RelayError:
        return
    wanted = [each for each in found["outputs"] if output in (None, each["name"])]
    if not url:
        _check_destinations(bucket, output, wanted)
    elif output is not None and not wanted:
        raise no_output(found, output)
    elif not any(each["internal"] for each in wanted):
        raise Failure(
            f"the output {output!r} of {bucket} is public, so the relay itself sends its events: name an internal one"
        )


def _check_destinations(bucket: str, output: str | None, wanted: list[Document]) -> None:
    if any(each["internal"] and each["destination"] for each in wanted):
        return
    which = "no internal output" if output is None else f"no internal output {output!r}"
    named = shlex.quote(bucket)
    raise click.UsageError(
        f"{bucket} has {which} with a destination, so nothing says where its events go: name a URL, like "
        f"`relay forward {named} http://localhost:3000`, or give it one with `relay output create {named} "
        "--destination URL`"
    )


async def _work(agent: Agent, target: Target, subscribed: Callable[[], Subscription], tally: Tally) -> None:
    """Forwards until a signal. If an event has no target, subscribes again from its position after a pause: its output
    may have changed."""
    held, tries = "", 0
    async with until_told(agent, lambda: tally.stopping(agent.open)), target:
        while not agent.stopping:
            async with subscribed() as events:
                await agent.run(events)
            if agent.held is None:
                break
            event, trouble = agent.held
            held, tries = event.id, tries + 1 if event.id == held else 1
            wait = agent.backoff.delay(tries)
            tally.retrying(event, None, trouble, tries, wait)
            await agent.pause(wait)


def _checkpoint(data: Path, bucket: str, url: str, output: str | None) -> Path:
    """The default path of the checkpoint. Raises Failure."""
    from relay_tornado.agent.state import default_path

    remote = remote_given()
    relay = str(data.absolute()) if remote is None else remote.url
    try:
        return default_path(relay, bucket, f"{url}\n{output or ''}", os.environ)
    except RuntimeError:
        raise Failure("there is no home directory for the checkpoint: name a file with --checkpoint") from None
