"""docs/client.md: its examples run against a real relay, and it names what there is."""

from __future__ import annotations

import asyncio
import inspect
import re
import textwrap
import threading
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import relay_tornado.client as client
from relay_tornado.client import Event, Notice, subscribe
from relay_tornado.client.core import LARGE
from tests.client.world import TIMEOUT, World

TEXT = (Path(__file__).parents[2] / "docs" / "client.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
HEAD = "import asyncio\nfrom relay_tornado.client import subscribe\n\n"


class Enough(Exception):
    """The example has handled what it was to handle."""


class Handled:
    """What an example calls; at the third event the program is told to end, as by Ctrl-C."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def handle(self, event: Any) -> None:
        self.events.append(event)
        if len(self.events) == 3:
            raise Enough

    async def handle_async(self, event: Any) -> None:
        self.handle(event)


def program(example: str) -> str:
    """The whole program of an example: one that shows only what goes into `main` is put there, as the page says."""
    if "import" in example:
        return example
    return f"{HEAD}async def main():\n{textwrap.indent(example, '    ')}\n\nasyncio.run(main())\n"


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_run(shared: World, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each example gets the events that are there."""
    monkeypatch.chdir(tmp_path)
    bucket = shared.bucket()
    shared.send('{"n": 1}', '{"n": 2}', '{"n": 3}', bucket=bucket)
    handled = Handled()
    printed: list[str] = []
    lock = threading.Event()

    def prints(*words: object) -> None:
        printed.append(" ".join(map(str, words)))
        if printed[-1].startswith("POST"):
            handled.handle(words)

    code = program(EXAMPLES[number]).replace('"orders"', f'"{bucket}"')
    # What handles its own errors, and what only answers, is ended from outside.
    ended = "except Exception" in code or ("respond(201" in code)
    names = {
        "URL": shared.relay.url, "KEY": shared.key, "SECRET": shared.secret,
        "handle": handled.events.append if ended else handled.handle, "handle_async": handled.handle_async,
        "print": prints, "__name__": "example",
    }  # fmt: skip
    if ended:

        def bounded(main: Any) -> None:
            async def until_done() -> None:
                running = asyncio.create_task(main)
                deadline = asyncio.get_running_loop().time() + TIMEOUT
                while not finished(shared, bucket, code, handled):
                    assert not running.done(), running.exception()
                    assert asyncio.get_running_loop().time() < deadline
                    await asyncio.sleep(0.02)
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

            asyncio.run(until_done())

        exec(code.replace("asyncio.run(main())", "bounded(main())"), names | {"bounded": bounded})
        return
    with pytest.raises((Enough, ExceptionGroup)) as end:
        exec(code, names)
    if isinstance(end.value, ExceptionGroup):
        assert end.value.subgroup(Enough) is not None
    assert len(handled.events) == 3
    assert not lock.is_set()


def finished(world: World, bucket: str, code: str, handled: Handled) -> bool:
    """Whether the example that never ends by itself has done its work."""
    if "respond(201" in code:
        listed = world.relay.command("logs", "list", "--bucket", bucket)["data"]
        return all(each["status_code"] == 201 for each in listed)
    return len(handled.events) == 3


def named(heading: str) -> set[str]:
    """The names in the first column of the tables of a section."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    return set(re.findall(r"`(\w+)(?:\(\))?`", " ".join(rows)))


def test_every_option_is_documented() -> None:
    """Each of `subscribe`, and no other."""
    assert named("Options") == set(inspect.signature(subscribe).parameters) - {"url", "key", "secret"}


def test_every_field_is_documented() -> None:
    """Each of an event, and no other."""
    public = {name for name in dir(Event) if not name.startswith("_")} - {"ack", "nak", "respond", "done"}
    assert named("Events") == public


def test_every_error_and_notice_is_documented() -> None:
    """Each error that the package offers, and each kind of notice."""
    errors = {name for name in client.__all__ if name.endswith(("Error", "ed", "Unreachable"))}
    assert named("Errors") | {"RelayClientError"} == errors
    assert named("Gaps and notices") == set(get_args(get_type_hints(Notice)["kind"]))


def test_numbers() -> None:
    """The bounds are those of the code."""
    assert f"{LARGE:,} bytes" in TEXT
    backoff = client.Backoff()
    assert f"Backoff(first={backoff.first:g}, factor={backoff.factor:g}, longest={backoff.longest:g}, " in TEXT
    defaults = inspect.signature(subscribe).parameters
    assert f"| {defaults['open_timeout'].default:g}, {defaults['idle_timeout'].default:g} |" in TEXT
    assert f"| {defaults['buffer'].default >> 20} MiB |" in TEXT
    assert f"| {defaults['max_message'].default >> 20} MiB |" in TEXT
