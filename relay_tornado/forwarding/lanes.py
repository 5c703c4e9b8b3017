"""How many requests of one public output are out, and when the next one may go: by its circuit, its throttle, and the
slots that all outputs share."""

from __future__ import annotations

from collections.abc import Callable

from relay_tornado.forwarding.circuit import Circuit
from relay_tornado.forwarding.shared import Shared
from relay_tornado.forwarding.throttle import Throttle
from relay_tornado.model import Output


class Lanes:
    """Whoever has something to send asks `wait`, and then takes a lane. `trying`: those that are taken."""

    def __init__(self, shared: Shared, output: Output, freed: Callable[[], None]) -> None:
        """`freed` is called where there may be a lane again. It must be quick."""
        self.trying = 0
        self.output = output
        self.circuit = Circuit(shared.spread)
        self.throttle = Throttle(output.throttle)
        self.shared = shared
        self.freed = freed

    @property
    def at_once(self) -> int:
        """The most that may be taken."""
        return 1 if self.output.strict_order else self.throttle.at_once

    def change(self, output: Output) -> None:
        """The output was changed. Whoever did that expects it to be tried."""
        circuit = self.circuit if output == self.output else Circuit(self.shared.spread)
        throttle = self.throttle if output.throttle == self.output.throttle else Throttle(output.throttle)
        self.circuit, self.throttle, self.output = circuit, throttle, output

    def wait(self) -> float:
        """In how many seconds the next one may be taken; infinity while that depends on one that is."""
        now = self.shared.monotonic()
        return max(self.circuit.wait(now), self.throttle.wait(now))

    def take(self) -> Lane | None:
        """After `wait` said 0. None where there is no slot beside the one that each output has."""
        extra = self.trying > 0
        lane = Lane(self, extra)  # first, as there may be no memory for it
        if extra and not self.shared.slots.take(self, self.freed):
            return None
        self.trying += 1
        self.throttle.take()
        lane.probe = self.circuit.begin()
        return lane

    def hold(self, seconds: float) -> None:
        """None may be taken for so long."""
        self.circuit.hold(self.shared.monotonic() + seconds)

    def close(self) -> None:
        """Nobody waits for one any more."""
        self.shared.slots.leave(self)


class Lane:
    """The place that a try takes among those of its output, at the circuit and the throttle as they were when it was
    taken; left once. Then `begin` or `cancel`, and after `begin` one of `succeeded`, `failed` and `cancel`. `probe`:
    whether it finds out if the destination is back."""

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
        """Whether the output has another destination than the one that is asked."""
        return self.destination != self._lanes.output.destination

    def begin(self) -> None:
        """The request goes out, to the destination that the output has now."""
        self.destination = self._lanes.output.destination
        self._throttle.begin(self._lanes.shared.monotonic())
        self._open = False
        if self._throttle.rated:
            self._lanes.freed()  # who waits knows from here how long

    def succeeded(self) -> bool:
        """Whether that closed the circuit."""
        return self._circuit.succeeded()

    def failed(self) -> bool:
        """Whether that opened the circuit."""
        return self._circuit.failed(self._lanes.shared.monotonic(), self.probe)

    def hold(self, seconds: float) -> None:
        """No other may be taken for so long, as far as this circuit goes."""
        self._circuit.hold(self._lanes.shared.monotonic() + seconds)

    def cancel(self) -> None:
        """Nothing goes out; or it was cut off. May be repeated."""
        self._circuit.cancelled(self.probe)
        self.probe = False
        if self._open:
            self._open = False
            self._throttle.give_back()

    def leave(self) -> None:
        """There is room for another one."""
        if self._left:
            return
        self._left = True
        self._lanes.trying -= 1
        if self._extra:
            self._lanes.shared.slots.give_back()
        self._lanes.freed()
