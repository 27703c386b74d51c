"""TLS on an accepted connection: ciphertext on one side, an asyncio transport on the other.

asyncio's own layer, and uvloop's, keep up to 430 kB for each connection that has once received a
large body, cannot half-close, and close without the alert that tells a client why its handshake
failed. This one reads ciphertext through one buffer that all connections share and in slices, so
that a connection holds 49 kB whatever it has received; and its back-pressure is the socket's own.

Records are `tls_session`'s business; here is what asyncio's contracts ask for, above and below.

The protocol above sees a transport as over TCP. `close` and `write_eof` send close_notify first
(RFC 8446 §6.1). An end of input is an end with or without the peer's close_notify: HTTP's own
framing tells what is complete.

What the protocol does not read stays ciphertext, is charged to the worker's memory account, and
keeps the socket from being read. Until the handshake is done, what comes waits for a turn.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final, cast

from gateway.dataplane.accept.tls_records import SLICE
from gateway.dataplane.accept.tls_session import NOTHING, TlsSession
from gateway.dataplane.accept.tls_shared import HANDSHAKE_BYTES, TlsShared
from gateway.dataplane.accept.upper_transport import ClosingWatch, UpperTransport
from gateway.worker_contract import ALIVE

_OWN_UNSENT_BYTES: Final = 16 * 1024
"""A peer gets no more than this of answers to its TLS messages while it reads nothing."""

Protocol = asyncio.BufferedProtocol


class TlsTransport(asyncio.BufferedProtocol, UpperTransport):
    """Server side. It is the protocol of the TCP transport, and the transport of the protocol that
    `make` returns when the handshake is done. `peer` is who is at the other end, and `client` is
    who takes turns with others.
    """

    __slots__ = (
        "_app",
        "_charged",
        "_client",
        "_closing",
        "_has_eof",
        "_is_closing",
        "_is_end_due",
        "_is_paused",
        "_loop",
        "_make",
        "_own_unsent",
        "_peer",
        "_rest",
        "_said_goodbye",
        "_session",
        "_shared",
        "shaken_hands",
    )

    def __init__(
        self,
        context: ssl.SSLContext,
        make: Callable[[], Protocol],
        shared: TlsShared,
        peer: str,
        client: str,
    ) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._session = TlsSession(context)
        self._make = make
        self._shared = shared
        self._peer = peer
        self._client = client
        self._inner: asyncio.Transport | None = None
        self._app: Protocol | None = None
        self._is_closing = False
        self._is_paused = False
        self._rest = b""
        """Ciphertext that came while the protocol did not read."""
        self._is_end_due = False
        """Whether the end of input has come behind what the protocol has not read."""
        self._own_unsent = 0
        self._charged = 0
        self._has_eof = False
        self._said_goodbye = False
        self._closing: ClosingWatch | None = None
        self.shaken_hands: asyncio.Future[None] = self._loop.create_future()
        """Done when the protocol has its transport; failed with `OSError` when there is none."""

    # Before there is a transport below

    def begin(self, cipher: bytes) -> None:
        """Compute the answer to what was read off the socket already; it is this client's turn."""
        self._charge(HANDSHAKE_BYTES)
        self._rest = cipher
        self._go_on()

    def abandon(self, error: Exception) -> None:
        """Give the handshake up: `shaken_hands` fails with `error`."""
        if not self.shaken_hands.done():
            self.shaken_hands.set_exception(error)
        self.abort()

    # Towards the socket: an asyncio protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the answer to the ClientHello, or wait for that (asyncio)."""
        self._inner = cast("asyncio.Transport", transport)
        self._charge(HANDSHAKE_BYTES)
        self._flush()
        if self._is_closing:  # it has failed already
            self._inner.close()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the shared buffer (asyncio)."""
        buffer = self._shared.buffer
        return buffer if self._app is not None else buffer[:SLICE]

    def buffer_updated(self, nbytes: int) -> None:
        """Take ciphertext (asyncio)."""
        if self._is_closing:
            return
        if self._app is None:
            self._wait_for_turn(nbytes)
            return
        self._shared.sign_of_life[0] = ALIVE
        self._take(self._shared.buffer[:nbytes])
        if nbytes == len(self._shared.buffer) and not self._is_paused:
            # There is more: read it in the next turn.
            self.pause_reading()
            self._loop.call_soon(self.resume_reading)

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
        self._rest = b""
        self._charge(0)
        if self._closing is not None:
            self._closing.end()
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
        self._own_unsent = 0
        if self._app is not None and not self._is_closing:
            self._app.resume_writing()

    def _charge(self, length: int) -> None:
        """Have `length` bytes charged in all."""
        before, self._charged = self._charged, length
        if length > before:
            self._shared.budget.charge(length - before)
        elif length < before:
            self._shared.budget.release(before - length)

    # TLS

    def _wait_for_turn(self, nbytes: int) -> None:
        """Read no more before it is this client's turn to have its handshake computed."""
        self._rest = bytes(self._shared.buffer[:nbytes])
        if self._inner is not None:
            self._inner.pause_reading()
        self._shared.turns.add(self._client, self._go_on)

    def _go_on(self) -> None:
        """Go on with the handshake: it is this client's turn."""
        if self._is_closing:
            return
        self._shared.sign_of_life[0] = ALIVE  # it takes a millisecond
        try:
            self._take(NOTHING)
        except BaseException:  # a bug: nobody else closes it
            self.abort()
            raise
        if not self._is_paused:
            self._read_on()

    def _take(self, cipher: memoryview) -> None:
        """Take ciphertext, behind what is held."""
        if self._rest:
            cipher = memoryview(self._rest + cipher)
            self._rest = b""
            if self._app is not None:
                self._charge(0)
        try:
            while self._app is None and cipher:
                cipher = self._session.feed(cipher)
                self._shake_hands()
            if not self._is_closing:
                self._receive(cipher)
        except ssl.SSLError as error:
            self._fail(error)

    def _shake_hands(self) -> None:
        """Go on with the handshake. Raises `ssl.SSLError`."""
        is_done = self._session.shake_hands()
        self._flush()
        if not is_done:
            return
        if self.shaken_hands.done():  # nobody waits any more
            self.abort()
            return
        app = self._app = self._make()
        self._charge(0)
        self.shaken_hands.set_result(None)
        app.connection_made(self)

    def _receive(self, cipher: memoryview) -> None:
        """Decrypt, and hand over as much at a time as the protocol's buffer takes."""
        session = self._session
        while (app := self._app) is not None and not self._is_closing:
            if self._is_paused:
                if cipher:
                    self._rest = bytes(cipher)
                    self._charge(len(cipher))
                return
            plain = cast("memoryview", app.get_buffer(-1))
            filled, cipher, is_ended = session.decrypt(plain, cipher)
            if session.unsent:  # an answer of TLS's own, such as to a key update
                self._send_own()
            if filled:
                app.buffer_updated(filled)
            if is_ended:
                self._end_of_input()
            if filled < len(plain):
                if session.is_abused:
                    self._end_abuse()
                return

    def _end_abuse(self) -> None:
        """End a connection with too many records of no use: what it has still sent is dropped."""
        if not self._is_closing:
            self._shared.report_abuse(self._peer)
            self.abort()

    def _receive_rest(self) -> None:
        """Hand over what came while the protocol did not read, then read the socket again."""
        if self._is_paused or self._is_closing:
            return
        self._take(NOTHING)
        if self._is_end_due:
            self._end_of_input()
        if not self._is_paused:
            self._read_on()

    def _read_on(self) -> None:
        """Read the socket, unless it is over."""
        if self._inner is not None and not self._is_closing:
            self._inner.resume_reading()

    def _end_of_input(self) -> None:
        """Tell the protocol that nothing more comes, once it has read what came before."""
        if self._has_eof or self._app is None:
            return
        if self._is_paused:
            self._is_end_due = True
            return
        self._has_eof = True
        if not self._app.eof_received():
            self.close()

    def _flush(self) -> None:
        """Send what TLS itself has to say; behind our close_notify nothing may follow."""
        inner = self._inner
        if inner is not None and self._session.unsent:
            data = self._session.take()
            if not self._said_goodbye:
                inner.write(data)

    def _send_own(self) -> None:
        """Answer a message of TLS itself, unless the peer takes no answers."""
        self._own_unsent += self._session.unsent
        self._flush()
        if not self.get_write_buffer_size():
            self._own_unsent = 0
        elif self._own_unsent > _OWN_UNSENT_BYTES:
            self.abort()

    def _fail(self, error: ssl.SSLError) -> None:
        """Close, with the alert that says why."""
        self._is_closing = True
        self._flush()
        if not self.shaken_hands.done():
            # Without its frames, which refer to this transport, and so to the error itself.
            self.shaken_hands.set_exception(error.with_traceback(None))
        if self._inner is not None:
            self._inner.close()

    def _say_goodbye(self) -> None:
        """Send close_notify, once."""
        if self._said_goodbye:
            return
        self._session.end()
        self._flush()
        self._said_goodbye = True
        inner = self._inner
        if inner is not None and not inner.is_closing():
            inner.write_eof()

    # Towards the protocol: an asyncio transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - asyncio's signature
        """Return the TLS session as `ssl_object`, else what the socket's transport knows."""
        if name == "ssl_object":
            return self._session.tls
        return super().get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        inner = self._inner
        if inner is None or self._said_goodbye or not data:
            return
        try:
            if len(data) <= SLICE:
                inner.write(self._session.encrypt(data))
            else:
                inner.writelines(self._session.encrypt_all(data))
        except ssl.SSLError as error:
            self._fail(error)

    def write_eof(self) -> None:
        """End our half; the peer's is still read."""
        self._say_goodbye()

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
        self._closing = ClosingWatch(self._loop, self)

    def abort(self) -> None:
        """Close at once, without close_notify."""
        self._is_closing = True
        if self._inner is not None:
            self._inner.abort()
        else:
            self._charge(0)

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
        if self._inner is None or self._is_closing:
            return
        if self._is_end_due or self._rest or self._session.has_rest:
            self._loop.call_soon(self._receive_rest)
        else:
            self._inner.resume_reading()

    def is_reading(self) -> bool:
        """Whether what comes is delivered."""
        return not self._is_paused and not self._is_closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Have another protocol take over."""
        self._app = cast("Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol above."""
        return cast("Protocol", self._app)
