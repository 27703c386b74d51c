"""OTLP/gRPC over one HTTP/2 connection, on `gateway.wire`.

Not `grpcio`: it supports only gzip and deflate, and hides the peer's actual response. One call at a
time, which is enough for a tool that explains each response.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Final, Self

from gateway import __version__
from gateway.http2_connection import Http2Connection
from gateway.otlp.framing import frame
from gateway.otlp.services import Service
from gateway.sender.response import ExportResponse, parse_grpc_response
from gateway.sender.target import Plan
from gateway.sender.unreachable import Cause, UnreachableError, cause_of, open_stream
from gateway.wire import hpack
from gateway.wire.hpack import Pair
from gateway.wire.http2 import ErrorCode, Http2StreamError, Setting, Stream

USER_AGENT: Final = f"gateway-send/{__version__}"
_READ_BYTES: Final = 64 * 1024
_MAX_RESPONSE_BYTES: Final = 4 * 1024 * 1024
"""OTLP specification 1.11: the limit for responses."""
_SETTINGS: Final = {
    Setting.HEADER_TABLE_SIZE: 0,
    Setting.ENABLE_PUSH: 0,
    Setting.MAX_HEADER_LIST_SIZE: hpack.MAX_HEADER_LIST_BYTES,
}


@dataclass(slots=True)
class _Response:
    """The raw response to the call in progress, so far."""

    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    is_complete: bool = False


class _Calls(Http2Connection):
    """The calls on one connection, one at a time, without I/O."""

    def __init__(self) -> None:
        super().__init__(_SETTINGS, is_server=False)
        self.response = _Response()
        """The response to the last call."""
        self.goodbye: int | None = None
        """The code of the peer's GOAWAY."""
        self._next_id = 1
        self._stream = Stream(0, 0, 0)

    def start(self, headers: list[Pair], body: bytes) -> None:
        """Send a call; what the peer's windows do not allow yet follows as they open."""
        stream = self._stream = self.new_stream(self._next_id)
        self._next_id += 2
        self.response = _Response()
        block = [hpack.encode_field(n, v, sensitive=n == b"authorization") for n, v in headers]
        self.sender.send_headers(stream, b"".join(block), ended=False)
        self.sender.send_data(stream, body, ended=True)

    def next_own_stream(self) -> int:
        """See `Http2Connection`."""
        return self._next_id

    def headers_received(
        self, stream_id: int, stream: Stream | None, block: bytes, ended: bool
    ) -> None:
        """Take the response's head, or its trailers."""
        fields = _text(self.decode(stream_id, block))
        if stream is None:
            return
        if self.response.headers:
            self.response.trailers.update(fields)
        elif ended or not fields.get(":status", "").startswith("1"):  # a provisional response
            self.response.headers.update(fields)
        if ended:
            self._end(stream)

    def data_received(self, stream: Stream, chunk: bytes, ended: bool) -> None:
        """Take bytes of the response."""
        self.response.body += chunk
        if len(self.response.body) > _MAX_RESPONSE_BYTES:
            raise UnreachableError(Cause.BROKEN_OFF, "the response is larger than 4 MiB")
        if ended:
            self._end(stream)
        else:
            self.receiver.windows.grant(stream, len(chunk), may_grow=True)

    def reset_received(self, stream: Stream, code: int) -> None:
        """The server has broken the call off."""
        raise UnreachableError(Cause.BROKEN_OFF, f"the stream was reset with error {code}")

    def stream_error(self, error: Http2StreamError) -> None:
        """The server broke the rules on the stream."""
        super().stream_error(error)
        raise UnreachableError(Cause.BROKEN_OFF, f"the response breaks HTTP/2: {error.code.name}")

    def goaway_received(self, last_stream: int, code: int) -> None:
        """No further call on this connection; the response to this one may come."""
        self.goodbye = code
        if not self.response.is_complete and (code or self._stream.id > last_stream):
            raise self.cut_off()

    def cut_off(self) -> UnreachableError:
        """Return the error for a connection that ends before the response."""
        if self.goodbye is None:
            return UnreachableError(Cause.BROKEN_OFF, "the connection was closed")
        cause = Cause.BROKEN_OFF if self.goodbye else Cause.GOING_AWAY
        return UnreachableError(cause, f"GOAWAY with error {self.goodbye}")

    def _end(self, stream: Stream) -> None:
        self.response.is_complete = True
        stream.remote_ended = True
        if stream.local_ended:
            self.sender.forget(stream)
        else:  # the server has responded after the head: it does not want the rest of the body
            self.sender.reset(stream.id, ErrorCode.NO_ERROR)


class GrpcConnection:
    """One connection to an OTLP/gRPC server."""

    def __init__(
        self, plan: Plan, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._plan = plan
        self._reader = reader
        self._writer = writer
        self._calls = _Calls()
        self._has_received = False
        self._is_usable = True

    @classmethod
    async def open(cls, plan: Plan) -> Self:
        """Connect, with TLS and ALPN if the endpoint is https.

        Raises:
            UnreachableError: there is no connection, or its TLS does not offer HTTP/2.
            PlanError: the CA file is unusable.
        """
        endpoint = plan.endpoint
        context = plan.tls.context("h2") if endpoint.is_tls else None
        try:
            reader, writer = await open_stream(endpoint, context)
        except OSError as error:
            raise cause_of(error) from error
        connection = cls(plan, reader, writer)
        tls = writer.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            await connection.close()
            raise UnreachableError(Cause.NO_HTTP2)
        return connection

    @property
    def is_usable(self) -> bool:
        """Whether another call is possible: the peer has not sent GOAWAY."""
        return self._is_usable and self._calls.goodbye is None

    async def export(self, service: Service, payload: bytes) -> ExportResponse:
        """Make one Export call; `payload` is the message, already compressed.

        Raises:
            UnreachableError: the connection broke, or the peer does not speak HTTP/2.
        """
        is_compressed = self._plan.compression != "none"
        body = frame(payload, is_compressed=is_compressed)
        try:
            response = await self._call(self._request_headers(service), body)
        except (OSError, UnreachableError) as error:
            self._is_usable = False
            raise cause_of(error) from error
        status = int(response.headers.get(":status", "0"))
        return parse_grpc_response(
            service, status, response.headers, response.trailers, bytes(response.body)
        )

    async def close(self) -> None:
        """Send GOAWAY and close."""
        self._calls.sender.goaway(0, ErrorCode.NO_ERROR)
        self._writer.write(self._calls.take_output())
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def _request_headers(self, service: Service) -> list[tuple[str, str]]:
        """Build the headers in gRPC's order (gRPC over HTTP/2, "Requests")."""
        plan = self._plan
        headers = [
            (":method", "POST"),
            (":scheme", "https" if plan.endpoint.is_tls else "http"),
            (":path", service.grpc_path),
            (":authority", plan.endpoint.authority),
            ("te", "trailers"),
            ("grpc-timeout", f"{int(plan.timeout_s * 1000)}m"),
            ("content-type", "application/grpc"),
            ("grpc-accept-encoding", "identity,gzip,deflate,zstd,snappy,lz4"),
            ("user-agent", USER_AGENT),
        ]
        if plan.compression != "none":
            headers.append(("grpc-encoding", plan.compression))
        if plan.authorization is not None:
            headers.append(("authorization", plan.authorization))
        return headers

    async def _call(self, headers: list[tuple[str, str]], body: bytes) -> _Response:
        self._calls.start([(name.encode(), value.encode()) for name, value in headers], body)
        await self._flush()
        while not self._calls.response.is_complete:
            self._take(await self._reader.read(_READ_BYTES))
            await self._flush()
        return self._calls.response

    async def _flush(self) -> None:
        self._writer.write(self._calls.take_output())
        await self._writer.drain()

    def _take(self, data: bytes) -> None:
        if not data:
            raise self._calls.cut_off()
        if not self._has_received and data.startswith(b"HTTP/1."):
            raise UnreachableError(Cause.ONLY_HTTP1)
        self._calls.receive(data)
        if self._calls.failure:
            cause = Cause.BROKEN_OFF if self._has_received else Cause.NOT_HTTP
            raise UnreachableError(cause, self._calls.failure)
        self._has_received = True


def _text(fields: list[Pair]) -> dict[str, str]:
    """Decode header fields; names are lower-case in HTTP/2."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in fields}
