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


def keys(count: int = COUNT) -> list[str]:
    """Return the first `count` keys."""
    return [key(number) for number in range(count)]


def authorizations(count: int = COUNT) -> list[str]:
    """Return the values of `Authorization` that carry the first `count` keys."""
    return [f"{SCHEME} {each}" for each in keys(count)]
