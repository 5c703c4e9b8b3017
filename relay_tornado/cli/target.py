"""Shared code of commands that send events to an HTTP server from this machine."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from relay_tornado.cli import interrupts
from relay_tornado.cli.options import Decorator, Duration, Lines, Number, OptionOf, together

if TYPE_CHECKING:
    from relay_tornado.agent.agent import Agent, Observer, Respond
    from relay_tornado.agent.request import Shape
    from relay_tornado.agent.target import Target


class Header(Lines):
    """A header as "Name: value"; its variable has one per line."""

    def read(self, value: str) -> tuple[str, str]:
        from relay_tornado.outgoing.fields import NOT_FORWARDED, is_header

        name, colon, text = value.partition(":")
        name, text = name.strip(), text.strip()
        if not colon or not is_header(name.encode(), text.encode()):
            self.fail(f'{value!r} is no header: write it like "X-Api-Key: value"')
        if name.lower().encode() in NOT_FORWARDED - {b"host"}:
            self.fail(f"{name} belongs to the connection, and can't be set")
        return name, text


@dataclass(frozen=True, slots=True)
class Sending:
    """The values of `sending_options`. Times are in seconds; `max_tries` None is no limit."""

    headers: Sequence[tuple[str, str]]
    lock_path: bool
    timeout: float
    max_tries: int | None
    max_delay: float
    concurrency: int
    insecure: bool

    def shape(self, url: str) -> Shape:
        """The form of requests to this URL ("": each output's own). Raises UsageError if it is not valid."""
        from relay_tornado.agent.request import Shape, Unsendable, split_credentials

        try:
            if url:
                split_credentials(url)
        except Unsendable as error:
            raise click.UsageError(f"URL: {error}") from None
        return Shape(url, self.lock_path, tuple(self.headers))

    def target(self) -> Target:
        """The target that sends the requests."""
        from relay_tornado.agent.target import Target

        return Target(self.timeout, verify=not self.insecure)

    def agent(
        self,
        target: Target,
        shape: Shape,
        observer: Observer,
        respond: Respond | None = None,
        output: str | None = None,
        *,
        hold: bool = False,
    ) -> Agent:
        """The agent that takes events to the target."""
        from relay_tornado.agent.agent import Agent
        from relay_tornado.client.backoff import Backoff

        return Agent(
            target,
            shape,
            observer,
            concurrency=self.concurrency,
            max_tries=self.max_tries,
            backoff=Backoff(longest=self.max_delay),
            respond=respond,
            output=output,
            hold=hold,
        )


SENDING_PARAMETERS: Final = tuple(each.name for each in dataclasses.fields(Sending))
"""The names of the parameters that `sending_options` give a command."""


def sending_options(option: OptionOf, when: str = "") -> Decorator:
    """Adds the options of `Sending` to a command; `when` says in their help when they apply, if not always."""

    def about(text: str) -> str:
        return when + (text[0].lower() + text[1:] if when else text)

    return together(
        option(
            "--header",
            "headers",
            type=Header(),
            multiple=True,
            metavar='"NAME: VALUE"',
            help=about("Send this header instead of the sender's; may be repeated."),
        ),
        option("--lock-path", is_flag=True, help=about("Do not append what follows the input in the webhook's URL.")),
        option(
            "--timeout", type=Duration(), default="30s", show_default=True, help=about("How long one try may take.")
        ),
        option(
            "--max-tries", type=Number(min=1), help=about("Give an event up after this many tries. Default: never.")
        ),
        option(
            "--max-delay", type=Duration(), default="30s", show_default=True, help=about("Longest wait between tries.")
        ),
        option(
            "--concurrency",
            type=Number(1, 1000),
            default=1,
            show_default=True,
            help=about("Events in flight at once; 1 keeps their order."),
        ),
        option("--insecure", is_flag=True, help=about("Accept any TLS certificate.")),
    )


@asynccontextmanager
async def until_told(agent: Agent, stopping: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
    """Handles signals while events are sent: the first calls `stopping`, and events in flight are finished; the second
    ends the block at once, but for that of a closed terminal, which often comes twice."""
    this = asyncio.current_task()
    assert this is not None
    loop = asyncio.get_running_loop()

    def told(number: signal.Signals) -> None:
        if not agent.stopping:
            stopping()
            agent.stop()
        elif number != signal.SIGHUP:
            this.cancel()

    handled = (signal.SIGINT, *interrupts.stops())
    for number in handled:
        loop.add_signal_handler(number, told, number)
    try:
        yield
    except asyncio.CancelledError:
        if not agent.stopping:
            raise
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
