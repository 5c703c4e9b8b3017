"""Limits the requests of one public output in flight, by its circuit, its throttle and the slots that outputs share."""

from __future__ import annotations

from collections.abc import Callable

from relay_tornado.forwarding.circuit import Circuit
from relay_tornado.forwarding.shared import Shared
from relay_tornado.forwarding.throttle import Throttle
from relay_tornado.model import Output


class Lanes:
    """To send an event, ask `wait`, and then take a lane. `trying` is the number of lanes taken."""

    def __init__(self, shared: Shared, output: Output, freed: Callable[[], None]) -> None:
        """`freed` is called when there may be a lane again. It must be quick."""
        self.trying = 0
        self.output = output
        self.circuit = Circuit(shared.spread)
        self.throttle = Throttle(output.throttle)
        self.shared = shared
        self.freed = freed

    @property
    def at_once(self) -> int:
        """The maximum number of lanes taken at once."""
        return 1 if self.output.strict_order else self.throttle.at_once

    def change(self, output: Output) -> None:
        """Takes over a changed output. It gets a new circuit, since whoever changed it expects an attempt."""
        circuit = self.circuit if output == self.output else Circuit(self.shared.spread)
        throttle = self.throttle if output.throttle == self.output.throttle else Throttle(output.throttle)
        self.circuit, self.throttle, self.output = circuit, throttle, output

    def wait(self) -> float:
        """In how many seconds the next lane may be taken; infinity while that depends on one already taken."""
        now = self.shared.monotonic()
        return max(self.circuit.wait(now), self.throttle.wait(now))

    def take(self) -> Lane | None:
        """Takes a lane, after `wait` returned 0. Returns None if no slot is free beyond the output's own."""
        extra = self.trying > 0
        lane = Lane(self, extra)  # first, since memory may be short
        if extra and not self.shared.slots.take(self, self.freed):
            return None
        self.trying += 1
        self.throttle.take()
        lane.probe = self.circuit.begin()
        return lane

    def hold(self, seconds: float) -> None:
        """Lets no lane be taken for `seconds`."""
        self.circuit.hold(self.shared.monotonic() + seconds)

    def close(self) -> None:
        """Stops waiting for a slot."""
        self.shared.slots.leave(self)


class Lane:
    """An attempt's place among those of its output, with the circuit and the throttle from when it was taken. Call
    `begin` or `cancel`, after `begin` one of `succeeded`, `failed` and `cancel`, and `leave` once. `probe` says whether
    the attempt probes if the destination is back."""

    __slots__ = ("_circuit", "_extra", "_lanes", "_left", "_open", "_throttle", "destination", "probe")

    def __init__(self, lanes: Lanes, extra: bool) -> None:
        self._lanes = lanes
        self._extra = extra
        self._left = False
        self._open = True
        self._circuit = lanes.circuit
        self._throttle = lanes.throttle
        self.probe = False
        self.destination = lanes.output.destination

    @property
    def moved(self) -> bool:
        """Whether the output has a new destination, other than the one of this request."""
        return self.destination != self._lanes.output.destination

    def begin(self) -> None:
        """Begins the request, to the destination that the output has now."""
        self.destination = self._lanes.output.destination
        self._throttle.begin(self._lanes.shared.monotonic())
        self._open = False
        if self._throttle.rated:
            self._lanes.freed()  # from here on the time to wait is known

    def succeeded(self) -> bool:
        """Returns whether this closed the circuit."""
        return self._circuit.succeeded()

    def failed(self) -> bool:
        """Returns whether this opened the circuit."""
        return self._circuit.failed(self._lanes.shared.monotonic(), self.probe)

    def hold(self, seconds: float) -> None:
        """Lets no other lane with this circuit be taken for `seconds`."""
        self._circuit.hold(self._lanes.shared.monotonic() + seconds)

    def cancel(self) -> None:
        """The request was not made, or was cut off. May be repeated."""
        self._circuit.cancelled(self.probe)
        self.probe = False
        if self._open:
            self._open = False
            self._throttle.give_back()

    def leave(self) -> None:
        """Makes room for another attempt. May be repeated."""
        if self._left:
            return
        self._left = True
        self._lanes.trying -= 1
        if self._extra:
            self._lanes.shared.slots.give_back()
        self._lanes.freed()
