"""TLS without a socket: ciphertext to plaintext and back, through OpenSSL's memory.

What it has to send waits in `unsent` for `take`. It knows neither asyncio's contracts nor when a
connection is read or closed: those are `tls_transport`'s.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from typing import Final, cast

from gateway.dataplane.accept.tls_records import HAD_DATA, MOST_DEBT, SLICE, TlsRecords

NOTHING: Final = memoryview(b"")


class TlsSession:
    """Server side of one connection."""

    __slots__ = (
        "_decrypted",
        "_has_begun",
        "_incoming",
        "_outgoing",
        "_read_into",
        "_records",
        "tls",
    )

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls: Final = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        # The type that it has with a buffer, which compiled code would check.
        self._read_into = cast("Callable[[int, memoryview], int]", self.tls.read)
        self._records = TlsRecords()
        self._decrypted = b""
        """What had to be decrypted before it was asked for."""
        self._has_begun = False
        """Whether OpenSSL may hold plaintext of a record: the last read took all that it could."""

    @property
    def unsent(self) -> int:
        """Bytes of ciphertext that are to be sent."""
        return self._outgoing.pending

    def take(self) -> bytes:
        """Return what is to be sent."""
        return self._outgoing.read()

    @property
    def has_rest(self) -> bool:
        """Whether there may be plaintext that nobody has asked for."""
        return bool(self._decrypted or self._has_begun or self._incoming.pending)

    @property
    def is_abused(self) -> bool:
        """Whether the peer has sent too many records of no use."""
        return self._records.debt > MOST_DEBT

    def feed(self, cipher: memoryview) -> memoryview:
        """Give OpenSSL the next piece; return the rest."""
        length = self._records.next_piece(cipher)
        if length == len(cipher):  # as a rule
            self._incoming.write(cipher)
            return NOTHING
        self._incoming.write(cipher[:length])
        return cipher[length:]

    def shake_hands(self) -> bool:
        """Go on with the handshake; return whether it is done. Raises `ssl.SSLError`."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self._records.debt = 0  # those of the handshake brought none
        return True

    def decrypt(self, plain: memoryview, cipher: memoryview) -> tuple[int, memoryview, bool]:
        """Fill `plain`; return how far, the ciphertext left, and whether the peer's half ended.

        Raises `ssl.SSLError`.
        """
        filled = 0
        read = self._read_into
        records = self._records
        room = len(plain)
        if self._decrypted:
            filled = min(room, len(self._decrypted))
            plain[:filled] = self._decrypted[:filled]
            self._decrypted = self._decrypted[filled:]
        while True:
            try:
                while filled < room and (self._has_begun or self._incoming.pending):
                    length = read(room - filled, plain[filled:] if filled else plain)
                    if not length:
                        return filled, cipher, True
                    filled += length
                    self._has_begun = filled == room
                    records.debt -= HAD_DATA
            except ssl.SSLWantReadError:
                self._has_begun = False
            except ssl.SSLZeroReturnError:
                return filled, cipher, True
            if filled == room or not cipher or records.debt > MOST_DEBT:
                return filled, cipher, False
            cipher = self.feed(cipher)

    def encrypt(self, data: bytes | bytearray | memoryview) -> bytes:
        """Return the ciphertext of up to `SLICE` bytes. Raises `ssl.SSLError`."""
        self.tls.write(data)
        return self._outgoing.read()

    def encrypt_all(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """Return the ciphertext of any length, in parts. Raises `ssl.SSLError`."""
        view = memoryview(data)
        return [self.encrypt(view[at : at + SLICE]) for at in range(0, len(view), SLICE)]

    def end(self) -> None:
        """Have close_notify to be sent; what has come before is kept to be asked for."""
        with contextlib.suppress(ssl.SSLError):  # what is wrong with it shows when it is read
            # OpenSSL looks for the peer's close_notify at once, and takes data for an error.
            while self._incoming.pending or self.tls.pending():
                data = self.tls.read(SLICE)
                if not data:
                    break
                self._decrypted += data
        self._has_begun = False
        with contextlib.suppress(ssl.SSLError):  # the peer's has not come, which is no matter
            self.tls.unwrap()
