"""When a backend is asked whether it still answers on a connection over HTTP/2 (PING, RFC 9113
§6.7).

It is asked when nothing has come for a while although a stream waits, and when a request has ended
without an answer, be a stream open or not. gRPC servers end a connection after the third PING that
follows another too closely, unless they have sent an answer in between ("ping strikes"): a
connection on which three were answered, and no request, is replaced instead of asked again.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

_SILENCE_S: Final = 9.0
"""Silence while a stream waits, after which the backend is asked."""
_SILENCE_AFTER_REQUEST_S: Final = 2.0
"""The same after a request that ended without an answer; at least so long that it is certain, as
times are as precise as a sweep is.
"""
_ANSWER_S: Final = 8.0
"""In which a PING is answered. With the silence before and a sweep after each: 19 s."""
_LEAST_LOOKS: Final = 2
_BETWEEN_S: Final = 9.0
"""Least time between two PINGs."""
_MOST_PINGS: Final = 3
"""PINGs without the answer to a request in between."""


class Step(Enum):
    """What is to be done about a connection."""

    NOTHING = "nothing"
    PING = "ping"
    REPLACE = "replace"
    """Give it no more requests: the backend is there, but answers none."""
    GIVE_UP = "give up"
    """Nobody is there."""


class Keepalive:
    """See the module. Times are monotonic seconds, as precise as a sweep is."""

    __slots__ = ("_answers", "_asked_at", "_looks", "_pings", "_unanswered_at", "is_asking")

    def __init__(self) -> None:
        self.is_asking = False
        """Whether a PING waits for its answer."""
        self._asked_at = float("-inf")
        self._looks = 0
        """How often there was a look since the PING: one that comes late, because this process was
        held up, finds the answer unread.
        """
        self._pings = 0
        """Those since the last answer to a request."""
        self._answers = 0
        self._unanswered_at = float("-inf")
        """When a request ended without an answer, if nothing came since."""

    def request_unanswered(self, now: float) -> None:
        """Note that a request has ended without an answer."""
        self._unanswered_at = now

    def answered(self) -> None:
        """Note the answer to a PING."""
        self.is_asking = False

    def next_step(self, now: float, last_received: float, answers: int, *, waits: bool) -> Step:
        """Decide, once a second and when a request has ended without an answer.

        `last_received`: when anything came last; `answers`: how many requests have been answered;
        `waits`: whether a stream is open.
        """
        if self.is_asking:
            if last_received < self._asked_at:
                self._looks += 1
                if now - self._asked_at <= _ANSWER_S or self._looks < _LEAST_LOOKS:
                    return Step.NOTHING
                self._asked_at = float("inf")  # once
                return Step.GIVE_UP
            self.is_asking = False
        silence = now - last_received
        is_unanswered = self._unanswered_at >= last_received
        if not (
            (waits and silence > _SILENCE_S)
            or (is_unanswered and silence > _SILENCE_AFTER_REQUEST_S)
        ):
            return Step.NOTHING
        if now - self._asked_at < _BETWEEN_S:
            return Step.NOTHING
        if self._answers != answers:
            self._answers = answers
            self._pings = 0
        if self._pings >= _MOST_PINGS:
            return Step.REPLACE
        self._pings += 1
        self._asked_at = now
        self._looks = 0
        self._unanswered_at = float("-inf")
        self.is_asking = True
        return Step.PING
