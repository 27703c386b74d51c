"""TLS on an accepted connection: ciphertext on one side, an asyncio transport on the other.

asyncio's own layer, and uvloop's, keep up to 430 kB for each connection that has once received a
large body, cannot half-close, and close without the alert that tells a client why its handshake
failed. This one reads ciphertext through one buffer that all connections share and in slices, so
that a connection holds 49 kB whatever it has received; and its back-pressure is the socket's own.

The protocol above sees a transport as over TCP. `close` and `write_eof` send close_notify first
(RFC 8446 §6.1). An end of input is an end with or without the peer's close_notify: HTTP's own
framing tells what is complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

SLICE: Final = 16 * 1024
"""What is given to OpenSSL at a time: its memory buffers grow to what is put in, and stay so."""
SHARED_BYTES: Final = 256 * 1024
"""Size of the shared ciphertext buffer."""
_CLOSE_S: Final = 5.0
"""How long the peer may take to close its half after ours, unless it still takes what we sent."""

Protocol = asyncio.BufferedProtocol


class TlsTransport(asyncio.BufferedProtocol, asyncio.Transport):
    """Server side. It is the protocol of the TCP transport, and the transport of the protocol that
    `make` returns when the handshake is done. `shared` is the buffer to read through: nothing stays
    in it after a call.
    """

    __slots__ = (
        "_app",
        "_closing",
        "_has_eof",
        "_incoming",
        "_inner",
        "_is_closing",
        "_is_paused",
        "_loop",
        "_make",
        "_outgoing",
        "_said_goodbye",
        "_shared",
        "_tls",
        "_unsent",
        "shaken_hands",
    )

    def __init__(
        self, context: ssl.SSLContext, make: Callable[[], Protocol], shared: memoryview
    ) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._make = make
        self._shared = shared
        self._inner: asyncio.Transport | None = None
        self._app: Protocol | None = None
        self._is_closing = False
        self._is_paused = False
        self._has_eof = False
        self._said_goodbye = False
        self._closing: asyncio.TimerHandle | None = None
        self._unsent = 0
        self.shaken_hands: asyncio.Future[None] = self._loop.create_future()
        """Done when the protocol has its transport; failed with `OSError` when there is none."""

    # Towards the socket: an asyncio protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the ClientHello (asyncio)."""
        self._inner = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the shared buffer (asyncio)."""
        return self._shared

    def buffer_updated(self, nbytes: int) -> None:
        """Take ciphertext (asyncio)."""
        if self._is_closing:
            return
        cipher = self._shared[:nbytes]
        try:
            while self._app is None and cipher:
                cipher = self._feed(cipher)
                self._shake_hands()
            if not self._is_closing:
                self._receive(cipher)
        except ssl.SSLError as error:
            self._fail(error)

    def eof_received(self) -> bool:
        """Tell the protocol; keep the connection as long as it wants to answer (asyncio)."""
        if self._app is None or self._is_closing:
            return False
        self._end_of_input()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the protocol, or who waits for the handshake (asyncio)."""
        self._inner = None
        self._is_closing = True
        if self._closing is not None:
            self._closing.cancel()
        if not self.shaken_hands.done():
            self.shaken_hands.set_exception(exc or ConnectionResetError("broken off"))
        app, self._app = self._app, None
        if app is not None:
            app.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass on that the socket takes no more (asyncio)."""
        if self._app is not None and not self._is_closing:
            self._app.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the socket takes more (asyncio)."""
        if self._app is not None and not self._is_closing:
            self._app.resume_writing()

    # TLS

    def _feed(self, cipher: memoryview) -> memoryview:
        """Give OpenSSL the next slice; return the rest."""
        self._incoming.write(cipher[:SLICE])
        return cipher[SLICE:]

    def _shake_hands(self) -> None:
        """Go on with the handshake. Raises `ssl.SSLError`."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        self._flush()
        if self.shaken_hands.done():  # nobody waits any more
            self.abort()
            return
        app = self._app = self._make()
        self.shaken_hands.set_result(None)
        app.connection_made(self)

    def _receive(self, cipher: memoryview) -> None:
        """Decrypt, and hand over as much at a time as the protocol's buffer takes."""
        while (app := self._app) is not None and not self._is_closing:
            if self._is_paused:
                if cipher:
                    self._incoming.write(cipher)
                return
            plain = cast("memoryview", app.get_buffer(-1))
            filled, cipher, is_ended = self._decrypt(plain, cipher)
            if self._outgoing.pending:  # an answer of TLS's own, such as to a key update
                self._flush()
            if filled:
                app.buffer_updated(filled)
            if is_ended:
                self._end_of_input()
            if filled < len(plain):
                return

    def _decrypt(self, plain: memoryview, cipher: memoryview) -> tuple[int, memoryview, bool]:
        """Fill `plain`; return how far, the ciphertext left, and whether the peer's half ended."""
        filled = 0
        read = self._tls.read
        room = len(plain)
        while True:
            try:
                while filled < room and (self._incoming.pending or self._tls.pending()):
                    length = cast("int", read(room - filled, plain[filled:]))
                    if not length:
                        return filled, cipher, True
                    filled += length
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                return filled, cipher, True
            if filled == room or not cipher:
                return filled, cipher, False
            cipher = self._feed(cipher)

    def _receive_rest(self) -> None:
        """Hand over what came while the protocol did not read."""
        try:
            self._receive(memoryview(b""))
        except ssl.SSLError as error:
            self._fail(error)

    def _end_of_input(self) -> None:
        if self._has_eof or self._app is None:
            return
        self._has_eof = True
        if not self._app.eof_received():
            self.close()

    def _flush(self) -> None:
        inner = self._inner
        if inner is not None and self._outgoing.pending:
            inner.write(self._outgoing.read())

    def _fail(self, error: ssl.SSLError) -> None:
        """Close, with the alert that says why."""
        self._is_closing = True
        self._flush()
        if not self.shaken_hands.done():
            self.shaken_hands.set_exception(error)
        if self._inner is not None:
            self._inner.close()

    def _say_goodbye(self) -> None:
        """Send close_notify, once."""
        if self._said_goodbye:
            return
        self._said_goodbye = True
        with contextlib.suppress(ssl.SSLError):  # the peer's has not come, which is no matter
            self._tls.unwrap()
        self._flush()
        inner = self._inner
        if inner is not None and not inner.is_closing():
            inner.write_eof()

    # Towards the protocol: an asyncio transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - asyncio's signature
        """Return the TLS session as `ssl_object`, else what the socket's transport knows."""
        if name == "ssl_object":
            return self._tls
        return self._inner.get_extra_info(name, default) if self._inner is not None else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        inner = self._inner
        if inner is None or self._said_goodbye or not data:
            return
        try:
            if len(data) <= SLICE:
                self._tls.write(data)
                inner.write(self._outgoing.read())
                return
            parts = []
            view = memoryview(data)
            for at in range(0, len(view), SLICE):
                self._tls.write(view[at : at + SLICE])
                parts.append(self._outgoing.read())
            inner.writelines(parts)
        except ssl.SSLError as error:
            self._fail(error)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Encrypt and send all."""
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        """End our half; the peer's is still read."""
        self._say_goodbye()

    def can_write_eof(self) -> bool:
        """Return that it can."""
        return True

    def close(self) -> None:
        """Close after what was written has gone out, and after the peer has seen it."""
        inner = self._inner
        if inner is None or self._is_closing:
            return
        self._is_closing = True
        self._say_goodbye()
        if self._has_eof:
            inner.close()
            return
        inner.resume_reading()
        self._closing = self._loop.call_later(_CLOSE_S, self._give_up)

    def _give_up(self) -> None:
        """Abort the closing connection, unless the peer is still taking what we sent."""
        if self._inner is None:
            return
        unsent = self._inner.get_write_buffer_size()
        if unsent and unsent != self._unsent:
            self._unsent = unsent
            self._closing = self._loop.call_later(_CLOSE_S, self._give_up)
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once, without close_notify."""
        self._is_closing = True
        if self._inner is not None:
            self._inner.abort()

    def is_closing(self) -> bool:
        """Whether it is closed or being closed."""
        return self._is_closing or self._inner is None or self._inner.is_closing()

    def pause_reading(self) -> None:
        """Deliver nothing until `resume_reading`."""
        self._is_paused = True
        if self._inner is not None and not self._is_closing:
            self._inner.pause_reading()

    def resume_reading(self) -> None:
        """Deliver again, first what was left when reading was paused."""
        if not self._is_paused:
            return
        self._is_paused = False
        if self._inner is not None and not self._is_closing:
            self._inner.resume_reading()
            if self._incoming.pending or self._tls.pending():
                self._loop.call_soon(self._receive_rest)

    def is_reading(self) -> bool:
        """Whether what comes is delivered."""
        return not self._is_paused and not self._is_closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Have another protocol take over."""
        self._app = cast("Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol above."""
        return cast("Protocol", self._app)

    def get_write_buffer_size(self) -> int:
        """Return how many bytes, encrypted, the socket has not taken yet."""
        return self._inner.get_write_buffer_size() if self._inner is not None else 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the socket's limits."""
        return self._inner.get_write_buffer_limits() if self._inner is not None else (0, 0)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the socket's limits: they are exact, as over TCP."""
        if self._inner is not None:
            self._inner.set_write_buffer_limits(high, low)
