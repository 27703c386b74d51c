"""What is known of one request: filled in while it lasts, handed to each observer when it ends."""

from __future__ import annotations

import time
from abc import abstractmethod
from typing import Final

from mypy_extensions import mypyc_attr

from gateway.dataplane.core.heads import RequestHead
from gateway.dataplane.core.routes import Route
from gateway.dataplane.exchange.sampled import Stratum, TakenBody
from gateway.model import Principal

_monotonic: Final = time.monotonic


class RequestRecord:
    """One request. Complete once `code` is set, which happens exactly once."""

    __slots__ = (
        "auth_outcome",
        "backend_address",
        "backend_code",
        "backend_started",
        "code",
        "decided_at_ms",
        "duration_s",
        "head",
        "peer",
        "principal",
        "request_bytes",
        "response_bytes",
        "result",
        "route",
        "started",
        "stratum",
        "taken",
    )

    code: str
    """The `code` label: what the caller was answered. Set, with the next two, when it has ended."""
    result: str
    """The `result` label (`outcome.Result`)."""
    duration_s: float
    backend_started: float
    """Monotonic time of the forwarding; set with `backend_address`."""

    def __init__(self, head: RequestHead, peer: str, route: Route) -> None:
        self.head = head
        self.peer = peer
        """The caller's address (after PROXY header)."""
        self.route = route
        self.started = _monotonic()
        self.principal: Principal | None = None
        """Whose key it was, also of a key that may not send; None where nobody knows."""
        self.auth_outcome = ""
        """The verdict on the key (`outcome.AuthOutcome`), once there is one."""
        self.decided_at_ms = 0
        """Unix time of the verdict on the key, in milliseconds."""
        self.request_bytes = 0
        self.response_bytes = 0
        self.backend_address = ""
        """Where the request went; kept only while somebody traces."""
        self.backend_code = ""
        """The `code` of the backend's answer."""
        self.stratum: Stratum | None = None
        """Where its items are counted; None while that is off, and where it has none."""
        self.taken: TakenBody | None = None
        """Its body, where it was chosen as a sample."""


@mypyc_attr(allow_interpreted_subclasses=True)
class RequestObserver:
    """Who hears of each request once, when it has ended: counters, usage, traces."""

    __slots__ = ()

    @abstractmethod
    def on_end(self, record: RequestRecord) -> None:
        """Take note of a request; the record is not changed any more."""
