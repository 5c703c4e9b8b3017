"""Ports that nobody else gets."""

import socket
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


def hold_port() -> socket.socket:
    """Has a port of 127.0.0.1 until it is closed: connections are refused, and whoever asks for any port gets another
    one, but a server that allows an address to be used again (as all do here) can listen on it."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


def port_for(owner: object) -> int:
    """A port that is held as long as its owner is there."""
    held = hold_port()
    weakref.finalize(owner, held.close)
    return port_of(held)


def port_of(held: socket.socket) -> int:
    return int(held.getsockname()[1])


@contextmanager
def silent(host: str, port: int) -> Iterator[None]:
    """A port whose queue is full: the kernel drops what would connect to it."""
    with socket.create_server((host, port), backlog=0), ExitStack() as waiting:
        for _ in range(3):
            each = waiting.enter_context(socket.socket())
            each.setblocking(False)
            each.connect_ex((host, port))
        yield
