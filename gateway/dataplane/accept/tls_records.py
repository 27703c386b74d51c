"""How many TLS records that bring no data a client may send.

A record without data costs as much as one with it, and a KeyUpdate (RFC 8446 §4.6.3) many times as
much: new keys are derived, and the peer can ask for an answer. OpenSSL works off all records that
it was given before it returns, so it is given only so many at a time.

The heads of records are not encrypted (RFC 8446 §5.1), so they can be counted before. A record with
data is one that OpenSSL then returns bytes of, padded or not.
"""

from __future__ import annotations

from typing import Final

SLICE: Final = 16 * 1024
"""Bytes given to OpenSSL at a time: its memory buffers grow to what is put in, and stay so."""
MOST_AT_ONCE: Final = 32
"""Records given to OpenSSL at a time."""
MOST_USELESS: Final = 32
"""Records without data that a client may send at once,"""
USEFUL_PER_USELESS: Final = 16
"""and so many records with data pay for one more."""

HAD_DATA: Final = USEFUL_PER_USELESS + 2
"""What a record with data takes from the debt: the cost of itself, and a little more."""

_HEAD: Final = 5
"""Type, version, and two bytes for the length of what follows (RFC 8446 §5.1)."""
_COST: Final = USEFUL_PER_USELESS + 1
MOST_DEBT: Final = MOST_USELESS * _COST
"""Beyond this too many records brought no data, when OpenSSL has worked off all of them."""


class TlsRecords:
    """The records of one connection, from its first byte on. Each one adds to `debt`, and whoever
    reads data takes `HAD_DATA` from it for each record.
    """

    __slots__ = ("_head", "_to_head", "debt")

    def __init__(self) -> None:
        self._to_head = 0
        """Bytes before the next head."""
        self._head = b""
        """The beginning of a head, the rest of which has not come."""
        self.debt = 0

    def next_piece(self, cipher: memoryview) -> int:
        """Count what OpenSSL is given next; return how many bytes of `cipher` that is."""
        length = len(cipher)
        at = self._to_head
        begun = 0
        if self._head:
            head = self._head + cipher[: _HEAD - len(self._head)]
            at = len(head) - len(self._head)
            self._head = head if len(head) < _HEAD else b""
            if self._head:
                return at
            at += head[3] << 8 | head[4]
            begun = 1
        end = min(SLICE, length)
        while at < end:
            if begun == MOST_AT_ONCE:
                end = at
            elif at + _HEAD <= length:
                at += _HEAD + (cipher[at + 3] << 8 | cipher[at + 4])
                begun += 1
            elif at:  # only the beginning of a head is left: it is the next piece
                end = at
            else:
                self._head = bytes(cipher)
                at = end = length
        self._to_head = at - end
        debt = begun * _COST
        self.debt = self.debt + debt if self.debt > 0 else debt
        return end
