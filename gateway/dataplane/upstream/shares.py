"""Who holds a backend's places: how many each sender has, how many of them wait for a slow sender.

Nothing is counted while nobody waits. When somebody does, the open requests are counted, and anew
after so many decisions as a sixteenth of them: the count is a little old, and costs a request no
more than a microsecond however many are open.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final

from gateway.dataplane.core.seams import UpstreamRequest

_LEFT_FOR_OTHERS: Final = 3
"""One sender's uploads may hold so many times the places that no upload holds: three quarters of
all, if it is the only one; three sevenths, if there are two.
"""
_RECOUNT: Final = 16


class Shares:
    """The places of one pool. `open_requests` yields those that hold one, of `most` places."""

    __slots__ = ("_all_uploads", "_left", "_open_requests", "_places", "_uploads", "most")

    def __init__(self, most: int, open_requests: Callable[[], Iterable[UpstreamRequest]]) -> None:
        self.most = most
        self._open_requests = open_requests
        self._places: defaultdict[str, int] = defaultdict(int)
        self._uploads: defaultdict[str, int] = defaultdict(int)
        self._all_uploads = 0
        self._left = 0
        """Decisions until the next count."""

    def is_due(self) -> bool:
        """Note a decision; return whether it is time to count anew."""
        self._left -= 1
        return self._left < 0

    def recount(self) -> None:
        """Count all open requests."""
        self._places.clear()
        self._uploads.clear()
        count = self._all_uploads = 0
        for request in self._open_requests():
            count += 1
            self._note(request)
        self._left = count // _RECOUNT

    def took_place(self, request: UpstreamRequest) -> None:
        """Note that a request has got a place."""
        self._note(request)

    def _note(self, request: UpstreamRequest) -> None:
        sender = request.sender
        self._places[sender] += 1
        if request.is_upload:
            self._uploads[sender] += 1
            self._all_uploads += 1

    def places(self, sender: str) -> int:
        """Return how many places a sender holds."""
        return self._places.get(sender, 0)

    def may_upload(self, sender: str) -> bool:
        """Whether one more place may wait for this sender."""
        left = self.most - self._all_uploads
        return self._uploads.get(sender, 0) < _LEFT_FOR_OTHERS * left
