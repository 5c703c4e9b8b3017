"""The permits of one public output: its circuit, its throttle and the slots that outputs share limit its requests in
flight.
"""

from __future__ import annotations

from collections.abc import Callable

from relay_tornado.forwarding.circuit import Circuit
from relay_tornado.forwarding.shared import Shared
from relay_tornado.forwarding.throttle import Throttle
from relay_tornado.model import Output


class Permits:
    """To send an event, ask `wait`, and then take a permit. `in_use` is the number of permits taken."""

    def __init__(self, shared: Shared, output: Output, freed: Callable[[], None]) -> None:
        """`freed` is called when there may be a permit again. It must be quick."""
        self.in_use = 0
        self.output = output
        self.circuit = Circuit(shared.spread)
        self.throttle = Throttle(output.throttle)
        self.shared = shared
        self.freed = freed

    @property
    def at_once(self) -> int:
        """The maximum number of permits taken at once."""
        return 1 if self.output.strict_order else self.throttle.at_once

    def change(self, output: Output) -> None:
        """Takes over a changed output. It gets a new circuit, since whoever changed it expects an attempt."""
        circuit = self.circuit if output == self.output else Circuit(self.shared.spread)
        throttle = self.throttle if output.throttle == self.output.throttle else Throttle(output.throttle)
        self.circuit, self.throttle, self.output = circuit, throttle, output

    def wait(self) -> float:
        """In how many seconds the next permit may be taken; infinity while that depends on one already taken."""
        now = self.shared.monotonic()
        return max(self.circuit.wait(now), self.throttle.wait(now))

    def take(self) -> Permit | None:
        """Takes a permit, after `wait` returned 0. Returns None if no slot is free beyond the output's own."""
        extra = self.in_use > 0
        permit = Permit(self, extra)  # first, since memory may be short
        if extra and not self.shared.slots.take(self, self.freed):
            return None
        self.in_use += 1
        self.throttle.take()
        permit.probe = self.circuit.begin()
        return permit

    def hold(self, seconds: float) -> None:
        """Lets no permit be taken for `seconds`."""
        self.circuit.hold(self.shared.monotonic() + seconds)

    def close(self) -> None:
        """Stops waiting for a slot."""
        self.shared.slots.leave(self)


class Permit:
    """Permission for one attempt, with the circuit and the throttle from when it was taken. Call `begin` or `cancel`,
    after `begin` one of `succeeded`, `failed`, `take_back` and `cancel`, and `release` at the end. `probe` says whether
    the attempt probes if the destination is back."""

    __slots__ = (
        "_begun",
        "_circuit",
        "_extra",
        "_left",
        "_open",
        "_output",
        "_permits",
        "_throttle",
        "destination",
        "probe",
    )

    def __init__(self, permits: Permits, extra: bool) -> None:
        self._permits = permits
        self._extra = extra
        self._left = False
        self._open = True
        self._begun = 0.0
        self._circuit = permits.circuit
        self._throttle = permits.throttle
        self.probe = False
        self._output = permits.output
        self.destination = permits.output.destination

    @property
    def holds(self) -> bool:
        """Whether the request may still be made: the output is as it was, and the destination has not asked to be left
        alone, nor has its circuit opened, since the permit was taken."""
        circuit, now = self._circuit, self._permits.shared.monotonic()
        return self._permits.output == self._output and circuit.allows(now, self.probe)

    @property
    def moved(self) -> bool:
        """Whether the output has a new destination, other than the one of this request."""
        return self.destination != self._permits.output.destination

    def begin(self) -> None:
        """Begins the request, to the destination that the output has now."""
        self.destination = self._permits.output.destination
        self._begun = self._permits.shared.monotonic()
        self._throttle.begin(self._begun)
        self._open = False
        if self._throttle.rated:
            self._permits.freed()  # from here on the time to wait is known

    def succeeded(self) -> bool:
        """Returns whether this closed the circuit."""
        return self._circuit.succeeded()

    def failed(self) -> bool:
        """Returns whether this opened the circuit."""
        return self._circuit.failed(self._permits.shared.monotonic(), self.probe)

    def hold(self, seconds: float) -> None:
        """Lets no other permit with this circuit be taken for `seconds`."""
        self._circuit.hold(self._permits.shared.monotonic() + seconds)

    def take_back(self) -> None:
        """The request that was begun was not made after all."""
        self._throttle.take_back(self._begun)
        self.cancel()

    def cancel(self) -> None:
        """The request was not begun, or was cut off. May be repeated."""
        self._circuit.cancelled(self.probe)
        self.probe = False
        if self._open:
            self._open = False
            self._throttle.give_back()

    def release(self) -> None:
        """Makes room for another attempt. May be repeated."""
        if self._left:
            return
        self._left = True
        self._permits.in_use -= 1
        if self._extra:
            self._permits.shared.slots.give_back()
        self._permits.freed()
