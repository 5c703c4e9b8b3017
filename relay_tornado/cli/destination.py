"""Notes on outputs' destinations that can't be called, which the commands print that make or change outputs."""

from __future__ import annotations

from relay_tornado.cli.client import Caller
from relay_tornado.cli.printing import Document, note
from relay_tornado.errors import Invalid


def tell_refusal(relay: Caller, output: Document, where: str = "") -> None:
    """Prints a note if an internal output's destination can't be called, or if the relay would refuse to call a public
    one's, as far as that is known without DNS. It begins with `where`."""
    if not output["destination"]:
        return
    if output["internal"]:
        _tell_nowhere(output["destination"], where)
        return
    from relay_tornado.forwarding.guard import Guard, Refused, literal
    from relay_tornado.proxy_trust import parse_ranges
    from relay_tornado.wire.destination import parse

    info = relay.call("relay.info")
    try:
        destination = parse(output["destination"])
        guard = Guard(parse_ranges(info.get("forward_allow") or ""))
    except Invalid:  # the relay's start, or the first event, reports it
        return
    try:
        for address in literal(destination.host, destination.port):
            guard.judge(address, destination.port)
    except Refused as refused:
        # A relay on another machine does not say what it allows.
        unless = "" if "forward_allow" in info else ", unless it is set to"
        note(f"{where}the relay will not send to this destination{unless}: {refused}")


def _tell_nowhere(destination: str, where: str) -> None:
    from relay_tornado.agent.request import Unsendable, split_credentials

    try:
        split_credentials(destination)
    except Unsendable as error:
        note(f"{where}`relay forward` without a URL can't send to this destination: {error}")
