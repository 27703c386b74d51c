"""Which uploads are too slow for the place that they hold (`limits.min_upload_rate`).

Only the time in which the gateway waits for the sender counts, in windows of ten seconds: what the
backend does not take is not the sender's fault, and one late packet makes no upload slow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from gateway.dataplane.core.seams import UpstreamRequest

_WINDOW_S: Final = 10.0


class _Window:
    """One upload's window."""

    __slots__ = ("rate", "received", "waited_s")

    def __init__(self, received: int) -> None:
        self.received = received
        """Body bytes that had come when it began."""
        self.waited_s = 0.0
        """For how long its sender has been waited for."""
        self.rate = math.inf
        """Bytes per second of the last window; infinite before its end."""


class UploadRates:
    """The uploads that hold a place, as far as they have been watched. `least`: bytes per second; 0
    finds none too slow.
    """

    __slots__ = ("_least", "_swept_at", "_windows")

    def __init__(self, least: float) -> None:
        self._least = least
        self._windows: dict[UpstreamRequest, _Window] = {}
        self._swept_at = 0.0

    def watch(self, requests: Iterable[UpstreamRequest], now: float) -> list[UpstreamRequest]:
        """Look once a second; return the uploads that are too slow, the slowest first."""
        passed_s = now - self._swept_at
        self._swept_at = now
        before = self._windows
        self._windows = {}
        if not self._least:
            return []
        for request in requests:
            if request.is_upload:
                window = before.get(request)
                if window is None:
                    window = _Window(request.received)
                elif not request.is_held_up:
                    _go_on(window, passed_s, request.received)
                self._windows[request] = window
        slow = [(each.rate, request) for request, each in self._windows.items()]
        slow = [pair for pair in slow if pair[0] < self._least]
        return [request for _, request in sorted(slow, key=lambda pair: pair[0])]

    def forget(self) -> None:
        """Watch nobody for now."""
        self._windows = {}


def _go_on(window: _Window, passed_s: float, received: int) -> None:
    window.waited_s += passed_s
    if window.waited_s >= _WINDOW_S:
        window.rate = (received - window.received) / window.waited_s
        window.received = received
        window.waited_s = 0.0
