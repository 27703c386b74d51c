"""The keys that every sender of the bench uses and every proxy under test knows.

They have a real key's length (`iapikey-`, 32 characters, 6 characters), since what an HPACK
decoder and a hash cost depends on it, and are the same in every run.
"""

from __future__ import annotations

import hashlib

COUNT = 1000
SCHEME = "StackState"

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def key(number: int) -> str:
    """Return key `number`, 46 characters of a real key's form but without its checksum."""
    digest = int.from_bytes(hashlib.sha512(b"bench key %d" % number).digest(), "big")
    characters = []
    for _ in range(38):
        digest, remainder = divmod(digest, len(_ALPHABET))
        characters.append(_ALPHABET[remainder])
    return "iapikey-" + "".join(characters)


_STRIDE, _FEW = 7919, 10_000

UNKNOWN = 1_000_000_000
"""The number of the first of the keys that no proxy knows."""


def in_turn(number: int, count: int) -> int:
    """Return which of `count` keys request `number` uses: the first ones first, unless there are
    so many that a run uses only a part, which is then taken from all over.
    """
    return number * (_STRIDE if count > _FEW else 1) % count


def keys(count: int = COUNT, first: int = 0) -> list[str]:
    """Return `count` keys from number `first` on."""
    return [key(number) for number in range(first, first + count)]


def authorizations(count: int = COUNT, first: int = 0) -> list[str]:
    """Return the values of `Authorization` that carry `count` keys from number `first` on."""
    return [f"{SCHEME} {each}" for each in keys(count, first)]
