"""Requests that wait for a place at a backend, and whose turn it is.

A place goes to the sender that holds the fewest, whoever waits longest; among one sender's requests
to the oldest. The room is shared, too: when it is full, a sender that has few requests in it takes
a place of the one that has most.
"""

from __future__ import annotations

import heapq
from typing import Final

from gateway.dataplane.core.seams import UpstreamRequest
from gateway.dataplane.upstream.shares import Shares


class _Line:
    """The requests of one sender, oldest first."""

    __slots__ = ("is_listed", "sender", "uploads", "whole")

    def __init__(self, sender: str) -> None:
        self.sender: Final = sender
        self.whole: dict[UpstreamRequest, int] = {}
        """Request → its number in the order of arrival."""
        self.uploads: dict[UpstreamRequest, int] = {}
        """Those that would hold a whole connection until their sender has sent the body."""
        self.is_listed = False
        """Whether the line is in the list of turns."""

    def __len__(self) -> int:
        """Count those that wait."""
        return len(self.whole) + len(self.uploads)

    def first(self, *, may_upload: bool) -> UpstreamRequest | None:
        """Return the oldest request, or the oldest that is no upload."""
        whole = next(iter(self.whole.items()), None)
        upload = next(iter(self.uploads.items()), None) if may_upload else None
        if whole is None or (upload is not None and upload[1] < whole[1]):
            return None if upload is None else upload[0]
        return whole[0]

    def newest(self) -> UpstreamRequest:
        """Return the request that came last; there is one."""
        waiting = {**self.whole, **self.uploads}
        return max(waiting, key=waiting.__getitem__)

    def discard(self, request: UpstreamRequest) -> None:
        """Remove a request."""
        self.whole.pop(request, None)
        self.uploads.pop(request, None)


class WaitingRoom:
    """See the module."""

    __slots__ = ("_lines", "_number", "_shares", "_turns", "requests")

    def __init__(self, shares: Shares) -> None:
        self.requests: dict[UpstreamRequest, _Line] = {}
        """All that wait: whether somebody does is asked with each request that ends."""
        self._shares = shares
        self._lines: dict[str, _Line] = {}
        self._turns: list[tuple[int, int, _Line]] = []
        """A heap: places that the sender holds, a number that tells equals apart, its line."""
        self._number = 0

    def add(self, request: UpstreamRequest, *, is_upload: bool) -> None:
        """Have a request wait. `is_upload`: it would hold a connection until its body has come."""
        sender = request.sender
        line = self._lines.get(sender)
        if line is None:
            line = self._lines[sender] = _Line(sender)
        if not self.requests:
            self.recount()  # nobody has waited: the last count may be old
        self._number += 1
        (line.uploads if is_upload else line.whole)[request] = self._number
        self.requests[request] = line
        if not line.is_listed:
            self._list(line)

    def discard(self, request: UpstreamRequest) -> None:
        """Let a request wait no longer, if it does."""
        line = self.requests.pop(request, None)
        if line is not None:
            line.discard(request)
            if not line:
                del self._lines[line.sender]

    def take(self) -> UpstreamRequest | None:
        """Return the request whose turn it is, which then waits no longer; None: a free place is
        for others than those that wait.
        """
        if self._shares.is_due():
            self.recount()
        passed = []
        found = None
        while self._turns and found is None:
            line = heapq.heappop(self._turns)[2]
            line.is_listed = False
            if line:
                found = line.first(may_upload=self._shares.may_upload(line.sender))
                passed.append(line)
        if found is not None:
            self.discard(found)
            self._shares.took_place(found)
        for line in passed:
            if line:
                self._list(line)
        return found

    def displace(self, sender: str) -> UpstreamRequest | None:
        """Make room for one more of `sender`; return who has to leave, None where nobody has.

        Nobody has to for a sender that would then have as many requests here as the other.
        """
        longest = max(self._lines.values(), key=len, default=None)
        own = self._lines.get(sender)
        if longest is None or len(longest) <= (0 if own is None else len(own)) + 1:
            return None
        request = longest.newest()
        self.discard(request)
        return request

    def clear(self) -> list[UpstreamRequest]:
        """Return all that wait, and let them wait no longer."""
        waiting = list(self.requests)
        self.requests.clear()
        self._lines.clear()
        self._turns.clear()
        return waiting

    def _list(self, line: _Line) -> None:
        self._number += 1
        line.is_listed = True
        heapq.heappush(self._turns, (self._shares.places(line.sender), self._number, line))

    def recount(self) -> None:
        """Count anew what the senders hold."""
        self._shares.recount()
        self._turns.clear()
        for line in self._lines.values():
            self._list(line)
