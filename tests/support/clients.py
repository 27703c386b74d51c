"""Scripted clients: they send exactly the bytes given and return exactly what came back.

HTTP/2 by the `h2` library, HTTP/1.1 by `h11`: both independent of the gateway's own parsers. They
add nothing: no `user-agent`, no `content-length`, no decompression, no retries.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import unquote

import h11
from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes, Settings
from hyperframe.frame import Frame, GoAwayFrame

from tests.support.exchange import Fields, split_messages

WAIT_S = 20.0
_READ_BYTES = 65536


@dataclass(slots=True)
class Response:
    """What came back for one request."""

    status: int = 0
    fields: Fields = ()
    body: bytes = b""
    trailers: Fields = ()
    reset: int | None = None
    """Error code of the RST_STREAM that ended the answer (after it, where `ended`)."""
    ended: bool = False
    """Whether the answer came to its proper end."""

    def field(self, name: str) -> str | None:
        """Return the first value of a header or trailer field."""
        return next((v for n, v in (*self.fields, *self.trailers) if n == name.lower()), None)

    @property
    def grpc_status(self) -> int | None:
        """The gRPC status code, where there is one."""
        value = self.field("grpc-status")
        return None if value is None else int(value)

    @property
    def grpc_message(self) -> str:
        """The gRPC error's text, percent-decoded."""
        return unquote(self.field("grpc-message") or "")

    @property
    def message(self) -> bytes:
        """The only gRPC message of the body."""
        (message,) = split_messages(self.body)
        return message.data


class _Connection(H2Connection):
    """The library forbids everything behind a GOAWAY; but streams that are open go on (RFC 9113
    §6.8).
    """

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        taken = super()._receive_goaway_frame(frame)
        self.state_machine.state = ConnectionState.CLIENT_OPEN
        return taken


class Http2Client:
    """One HTTP/2 connection, with TLS where a context is given. An asynchronous context manager."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        """Connect to `port` of 127.0.0.1 (by the name localhost for TLS)."""
        self.goaway: int | None = None
        self._port = port
        self._tls = tls
        # Recorded heads are replayed as they were, so nothing here may judge or tidy them.
        self._http2 = _Connection(
            H2Configuration(
                client_side=True,
                header_encoding="utf-8",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._http2.local_settings = Settings(
            client=True, initial_values={SettingCodes.ENABLE_PUSH: 0}
        )
        self._calls: dict[int, Response] = {}
        self._changed = asyncio.Event()
        self._blocked = False
        self._gone = False
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._pump: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        """Connect and announce settings."""
        if self._tls is not None:
            self._tls.set_alpn_protocols(["h2"])
        host = "localhost" if self._tls is not None else None
        self._reader, self._writer = await asyncio.open_connection(
            "127.0.0.1", self._port, ssl=self._tls, server_hostname=host
        )
        self._http2.initiate_connection()
        self._flush()
        self._pump = asyncio.get_running_loop().create_task(self._read())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self._pump.cancel()
        await asyncio.gather(self._pump, return_exceptions=True)
        self._writer.close()
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)

    async def request(
        self,
        path: str,
        fields: Sequence[tuple[str, str]],
        body: bytes = b"",
        *,
        method: str = "POST",
        authority: str = "localhost",
    ) -> Response:
        """Send one request and return its answer, or what there is of it when the peer is gone.

        Raises:
            TimeoutError: no end of an answer within `WAIT_S`.

        """
        stream_id = self._send_head(path, fields, method, authority, end=not body)
        await self._send_body(stream_id, body)
        return await self.answer(stream_id)

    async def start(
        self, path: str, fields: Sequence[tuple[str, str]], body: bytes, *, end: bool = False
    ) -> int:
        """Send a head and (some of) a body that fits the windows; return the stream's id."""
        stream_id = self._send_head(path, fields, "POST", "localhost", end=False)
        self._http2.send_data(stream_id, body, end_stream=end)
        self._flush()
        await self._writer.drain()
        return stream_id

    async def answer(self, stream_id: int) -> Response:
        """Return the answer on a stream, or what there is of it when the peer is gone.

        Raises:
            TimeoutError: no end of an answer within `WAIT_S`.

        """
        call = self._calls[stream_id]
        await self._until(lambda: self._is_over(call))
        return call

    def send_raw(self, data: bytes) -> None:
        """Send bytes that the library would not: frames of a client that errs."""
        self._writer.write(data)

    def reset(self, stream_id: int, code: int = 8) -> None:
        """Give a stream up (RST_STREAM, by default with CANCEL)."""
        self._http2.reset_stream(stream_id, code)
        self._flush()

    @property
    def max_streams(self) -> int:
        """How many streams the peer allows at once."""
        return self._http2.remote_settings.max_concurrent_streams

    async def until_goaway(self) -> None:
        """Return as soon as the peer has sent GOAWAY."""
        await self._until(lambda: self.goaway is not None)

    async def until_blocked(self) -> None:
        """Return as soon as a request's body waits for credit."""
        await self._until(lambda: self._blocked)

    async def _until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    def _send_head(
        self,
        path: str,
        fields: Sequence[tuple[str, str]],
        method: str,
        authority: str,
        *,
        end: bool,
    ) -> int:
        stream_id = self._http2.get_next_available_stream_id()
        self._calls[stream_id] = Response()
        pseudo = [(":method", method), (":scheme", "https" if self._tls else "http")]
        pseudo += [(":path", path), (":authority", authority)]
        self._http2.send_headers(stream_id, [*pseudo, *fields], end_stream=end)
        self._flush()
        return stream_id

    def _is_over(self, call: Response) -> bool:
        return call.ended or call.reset is not None or self._gone

    async def _send_body(self, stream_id: int, body: bytes) -> None:
        """Send within the peer's windows; stop early when the answer is already there."""
        call = self._calls[stream_id]
        while body and not self._is_over(call):
            size = min(self._window(stream_id), self._http2.max_outbound_frame_size, len(body))
            if size > 0:
                self._http2.send_data(stream_id, body[:size], end_stream=size == len(body))
                self._flush()
                body = body[size:]
                continue
            self._blocked = True
            self._changed.set()
            await self._until(lambda: self._is_over(call) or self._window(stream_id) > 0)
            self._blocked = False

    def _window(self, stream_id: int) -> int:
        return self._http2.local_flow_control_window(stream_id)

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(_READ_BYTES):
                for event in self._http2.receive_data(data):
                    self._take(event)
                self._flush()
                self._changed.set()
        except ConnectionError:
            pass
        finally:
            self._gone = True
            self._changed.set()

    def _take(self, event: Event) -> None:
        if isinstance(event, ConnectionTerminated):
            self.goaway = int(event.error_code or 0)
            return
        response = self._calls.get(getattr(event, "stream_id", 0))
        if response is None:
            return
        match event:
            case ResponseReceived():
                head = [(str(name), str(value)) for name, value in event.headers]
                response.status = int(dict(head)[":status"])
                response.fields = tuple(f for f in head if not f[0].startswith(":"))
            case DataReceived():
                response.body += event.data
                self._http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case TrailersReceived():
                response.trailers = tuple((str(n), str(v)) for n, v in event.headers)
            case StreamEnded():
                response.ended = True
            case StreamReset():
                response.reset = int(event.error_code or 0)
            case _:
                pass

    def _flush(self) -> None:
        if data := self._http2.data_to_send():
            self._writer.write(data)


async def http1_request(
    port: int,
    path: str,
    fields: Sequence[tuple[str, str]],
    body: bytes = b"",
    *,
    method: str = "POST",
    tls: ssl.SSLContext | None = None,
) -> Response:
    """Send one HTTP/1.1 request on a connection of its own and return the answer.

    The fields are sent as given; without `content-length` among them the body goes out chunked.

    Raises:
        TimeoutError: no end of an answer within `WAIT_S`.

    """
    host = "localhost" if tls is not None else None
    async with asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=tls, server_hostname=host
        )
        try:
            writer.write(_http1_bytes(method, path, fields, body))
            return await _http1_answer(reader, method)
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)


def _http1_bytes(method: str, path: str, fields: Sequence[tuple[str, str]], body: bytes) -> bytes:
    """Return the request's bytes, with chunked coding where no length is given."""
    names = {name.lower() for name, _ in fields}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    if "host" not in names:
        lines.insert(1, "Host: localhost")
    if body and "content-length" not in names:
        lines += [] if "transfer-encoding" in names else ["Transfer-Encoding: chunked"]
        body = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


async def _http1_answer(reader: asyncio.StreamReader, method: str) -> Response:
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method=method, target="/", headers=[("Host", "localhost")]))
    parser.send(h11.EndOfMessage())
    response = Response()
    while True:
        try:
            event = parser.next_event()
        except h11.RemoteProtocolError:
            return response
        if event is h11.NEED_DATA:
            try:
                parser.receive_data(await reader.read(_READ_BYTES))
            except ConnectionError:
                return response
        elif isinstance(event, h11.Response):
            response.status = event.status_code
            response.fields = tuple((n.decode(), v.decode("latin-1")) for n, v in event.headers)
        elif isinstance(event, h11.Data):
            response.body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            response.ended = True
            return response
        elif isinstance(event, h11.ConnectionClosed):
            return response
