"""Asynchronous contexts as fixtures."""

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from tornado.ioloop import IOLoop

T = TypeVar("T")


def held_open(io_loop: IOLoop, context: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """What a context gives, for a fixture: until its test has ended."""
    yield io_loop.run_sync(context.__aenter__)
    io_loop.run_sync(lambda: context.__aexit__(None, None, None))
