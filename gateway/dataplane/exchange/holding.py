"""Requests that wait for their backend to come back, for senders that drop their data on every
failure (`Route.hold_s`).

What is held weighs at most a quarter of the worker's memory account. When that is full, the sender
that holds most gives up its newest request: few senders cannot take the room of the others.

A request is sent again at the next sweep at which its backend has a connection; while there is
none, one request a second asks for it. After an attempt that was lost it waits longer each time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, Protocol

from gateway import metrics
from gateway.dataplane.core.context import WorkerContext
from gateway.outcome import REFUSALS, Refusal

_PART: Final = 4
"""All that is held weighs at most this part of the account."""
_REQUEST_BYTES: Final = 4 * 1024
"""What a held request weighs besides its body: its head, its connection or stream."""
_LONGEST_PAUSE_S: Final = 8.0


class Holdable(Protocol):
    """A request as `Holding` sees it."""

    @property
    def sender(self) -> str:
        """Whose request it is: see `UpstreamRequest`."""

    @property
    def received(self) -> int:
        """Body bytes that have come."""

    @property
    def hold_until(self) -> float:
        """Until when it may wait, in monotonic seconds."""

    losses: int
    """How often an attempt has been lost."""
    was_held: bool
    """Whether it has waited before."""

    @property
    def has_backend(self) -> bool:
        """Whether its backend has a connection."""

    def send_again(self) -> None:
        """Take a place at the backend."""

    def displace(self, refusal: Refusal) -> None:
        """Answer it: it is held no longer."""


class _Held:
    """One request that waits."""

    __slots__ = ("due_at", "request", "weight")

    def __init__(self, request: Holdable, due_at: float) -> None:
        self.request = request
        self.due_at = due_at
        """When it may be sent again."""
        self.weight = _weight(request)


class Holding:
    """See the module. There is one per worker."""

    __slots__ = ("_context", "_ends_at", "_lines", "_most", "_weight")

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._most = context.budget.limit // _PART
        self._weight = 0
        self._lines: dict[str, dict[Holdable, _Held]] = {}
        """Sender → its requests, oldest first."""
        self._ends_at = math.inf
        """From then on nothing is held, in monotonic seconds."""

    def __len__(self) -> int:
        """Count the requests that are held now."""
        return sum(map(len, self._lines.values()))

    def hold(self, request: Holdable, *, was_sent: bool) -> bool:
        """Hold a request, if it may wait and there is room; return whether it is taken care of.

        `was_sent`: an attempt was lost, so that the next one must wait.
        """
        now = self._context.now()
        if now >= min(request.hold_until, self._ends_at):
            return False
        pause_s = 0.0
        if was_sent:
            pause_s = min(2.0**request.losses, _LONGEST_PAUSE_S)
            request.losses += 1
        held = _Held(request, now + pause_s)
        self._lines.setdefault(request.sender, {})[request] = held
        self._weight += held.weight
        if not request.was_held:
            request.was_held = True
            self._context.counters.count(metrics.INTAKE_HELD_TOTAL)
        self._make_room()
        return True

    def forget(self, request: Holdable) -> None:
        """Let go of a request that has ended, if it is held."""
        sender = request.sender
        line = self._lines.get(sender)
        held = line.pop(request, None) if line is not None else None
        if held is not None:
            self._weight -= held.weight
            if not line:
                del self._lines[sender]

    def is_holding(self, request: Holdable) -> bool:
        """Return whether a request is held now."""
        return request in self._lines.get(request.sender, ())

    def sweep(self, now: float) -> None:
        """Once a second: send again what is due, answer what has waited for too long."""
        self._context.counters.gauges[metrics.INTAKE_HELD.name, ()] = len(self)
        if not self._lines:
            return
        self._weigh()
        self._make_room()
        may_ask = True
        for held in list(self._all()):
            request = held.request
            if not self.is_holding(request):
                continue  # another one of them made it end
            if now >= min(request.hold_until, self._ends_at):
                self._give_up(request, "BACKEND_UNREACHABLE")
            elif now >= held.due_at and (may_ask or request.has_backend):
                may_ask = may_ask and request.has_backend
                self.forget(request)
                request.send_again()

    def end(self, at: float) -> None:
        """Hold nothing from `at` on (monotonic seconds), and answer then what waits: a drain."""
        self._ends_at = at
        if at <= self._context.now():
            for held in list(self._all()):
                self._give_up(held.request, "BACKEND_UNREACHABLE")

    def _all(self) -> Iterator[_Held]:
        for line in self._lines.values():
            yield from line.values()

    def _weigh(self) -> None:
        """Weigh anew: bodies go on arriving while their requests are held."""
        self._weight = 0
        for held in self._all():
            held.weight = _weight(held.request)
            self._weight += held.weight

    def _make_room(self) -> None:
        while self._weight > self._most:
            heaviest = max(
                self._lines.values(), key=lambda line: sum(held.weight for held in line.values())
            )
            self._give_up(next(reversed(heaviest)), "OVERLOADED")

    def _give_up(self, request: Holdable, reason: str) -> None:
        self.forget(request)
        request.displace(REFUSALS[reason])


def _weight(request: Holdable) -> int:
    return request.received + _REQUEST_BYTES
