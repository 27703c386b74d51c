"""What a key is made of: how one is issued, recognised and adopted, and how ids are chosen.

Standard library and `model` only, because workers use it. An issued key is `iapikey-`, 32 random
base62 characters (190 bits) and 6 base62 characters of the CRC-32 (ISO-HDLC, zlib's) of all that
stands before, so that a typing error can be told from a revoked key. Where keys are kept does not
belong here.
"""

from __future__ import annotations

import re
import secrets
import string
import zlib
from typing import Final

from gateway.model import MAX_KEY_BYTES, KeyDigest, digest_of

PREFIX: Final = "iapikey-"
_ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM_LENGTH: Final = 32
_CHECKSUM_LENGTH: Final = 6
_ISSUED: Final = re.compile(
    rb"%s[0-9A-Za-z]{%d}" % (PREFIX.encode(), _RANDOM_LENGTH + _CHECKSUM_LENGTH)
)
_FIRST_VISIBLE: Final = "!"
_LAST_VISIBLE: Final = "~"
_SMALLEST_ID: Final = 10**14
_ID_SPAN: Final = 9 * 10**14


class InvalidKeyError(ValueError):
    """What was given cannot be a key. The text says why and never repeats it."""


class ApiKey:
    """A key in the clear, for as long as it must be shown or hashed.

    It prints as the first digits of its digest: only `reveal` gives the key itself.
    """

    __slots__ = ("_text", "digest")

    def __init__(self, text: str) -> None:
        self._text = text
        self.digest: Final[KeyDigest] = digest_of(text.encode())

    @classmethod
    def generate(cls) -> ApiKey:
        """Make a new random key."""
        head = PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_LENGTH))
        return cls(head + _checksum(head.encode()))

    @classmethod
    def adopt(cls, text: str) -> ApiKey:
        """Take over an existing key of any form: 1 to 512 visible ASCII characters.

        Raises `InvalidKeyError` for anything else; nothing is trimmed.
        """
        if not text:
            msg = "the key is empty"
            raise InvalidKeyError(msg)
        if len(text) > MAX_KEY_BYTES:
            msg = f"the key is {len(text)} characters long: at most {MAX_KEY_BYTES} are possible"
            raise InvalidKeyError(msg)
        for position, character in enumerate(text, start=1):
            if not _FIRST_VISIBLE <= character <= _LAST_VISIBLE:
                msg = (
                    f"character {position} of the key is {_kind(character)}: a key consists of"
                    " visible ASCII characters only"
                )
                raise InvalidKeyError(msg)
        return cls(text)

    def reveal(self) -> str:
        """Return the key itself: to show it once, to the person who asked for it."""
        return self._text

    def __repr__(self) -> str:
        return f"ApiKey({self.digest[:4].hex()}…)"

    def __reduce__(self) -> str:
        msg = "a key in the clear is not to be serialised"
        raise TypeError(msg)


def looks_issued(key: bytes) -> bool:
    """Whether `key` has the form of the keys issued here, be its checksum right or wrong."""
    return _ISSUED.fullmatch(key) is not None


def has_valid_checksum(key: bytes) -> bool:
    """Whether `key` can have been issued here: form and checksum are right.

    A key that `looks_issued` without this was mistyped or cut when it was copied.
    """
    return looks_issued(key) and key.endswith(_checksum(key[:-_CHECKSUM_LENGTH]).encode())


def new_key_id() -> int:
    """Choose a key's id: random, 15 decimal digits, below 2^53.

    Random and not counted up, because then stores that never meet still choose different ids, no id
    is given out again after its key is forgotten, and an id says nothing about how many keys there
    are. All of one length, because people read them in tables.
    """
    return _SMALLEST_ID + secrets.randbelow(_ID_SPAN)


def key_id_of(digest: bytes) -> int:
    """Make an id of the usual length from a digest: the same in every store."""
    return _SMALLEST_ID + int.from_bytes(digest[:8], "big") % _ID_SPAN


def _checksum(head: bytes) -> str:
    """Write the CRC-32 of `head` in base62, most significant character first, `0` on the left."""
    rest = zlib.crc32(head)
    characters = []
    for _ in range(_CHECKSUM_LENGTH):
        rest, digit = divmod(rest, len(_ALPHABET))
        characters.append(_ALPHABET[digit])
    return "".join(reversed(characters))


def _kind(character: str) -> str:
    """Name an unacceptable character without repeating it."""
    if character in "\r\n":
        return "a line break"
    if character.isspace():
        return "a space"
    is_control = character < _FIRST_VISIBLE or character == "\x7f"
    return "a control character" if is_control else "outside ASCII"
