"""OTLP/gRPC over one HTTP/2 connection, on the `h2` library.

Not `grpcio`: it supports only gzip and deflate, and hides the peer's actual response. One call at a
time, which is enough for a tool that explains each response.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from gateway import __version__
from gateway.otlp.framing import frame
from gateway.otlp.services import Service
from gateway.sender.response import ExportResponse, parse_grpc_response
from gateway.sender.target import Plan
from gateway.sender.unreachable import Cause, UnreachableError, cause_of, open_stream

USER_AGENT: Final = f"gateway-send/{__version__}"
_READ_BYTES: Final = 64 * 1024
_MAX_RESPONSE_BYTES: Final = 4 * 1024 * 1024
"""OTLP specification 1.11: the limit for responses."""


@dataclass(slots=True)
class _Response:
    """The raw response to the call in progress, so far."""

    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    is_complete: bool = False


class GrpcConnection:
    """One connection to an OTLP/gRPC server."""

    def __init__(
        self, plan: Plan, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._plan = plan
        self._reader = reader
        self._writer = writer
        config = h2.config.H2Configuration(client_side=True, header_encoding=None)
        self._h2 = h2.connection.H2Connection(config)
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
        connection._h2.initiate_connection()
        return connection

    @property
    def is_usable(self) -> bool:
        """Whether another call is possible: the peer has not sent GOAWAY."""
        return self._is_usable

    async def export(self, service: Service, payload: bytes) -> ExportResponse:
        """Make one Export call; `payload` is the message, already compressed.

        Raises:
            UnreachableError: the connection broke, or the peer does not speak HTTP/2.
        """
        is_compressed = self._plan.compression != "none"
        body = frame(payload, is_compressed=is_compressed)
        try:
            response = await self._call(self._request_headers(service), body)
        except (OSError, h2.exceptions.ProtocolError) as error:
            self._is_usable = False
            raise cause_of(error) from error
        status = int(response.headers.get(":status", "0"))
        return parse_grpc_response(
            service, status, response.headers, response.trailers, bytes(response.body)
        )

    async def close(self) -> None:
        """Send GOAWAY and close."""
        with contextlib.suppress(OSError, h2.exceptions.ProtocolError):
            self._h2.close_connection()
            self._writer.write(self._h2.data_to_send())
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
        stream_id = self._h2.get_next_available_stream_id()
        self._h2.send_headers(stream_id, headers)
        response, unsent = _Response(), memoryview(body)
        while not response.is_complete:
            unsent = self._send_some(stream_id, unsent)
            await self._flush()
            for event in self._received(await self._read()):
                self._handle(event, stream_id, response)
        if unsent:
            # The server has responded after the head: it does not want the rest of the body.
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self._h2.reset_stream(stream_id)
        await self._flush()
        return response

    def _send_some(self, stream_id: int, unsent: memoryview) -> memoryview:
        """Send as much of the body as the peer's windows allow; return the rest."""
        while unsent:
            with contextlib.suppress(h2.exceptions.StreamClosedError):
                window = self._h2.local_flow_control_window(stream_id)
                size = min(window, self._h2.max_outbound_frame_size, len(unsent))
                if size <= 0:
                    return unsent
                is_last = size == len(unsent)
                self._h2.send_data(stream_id, bytes(unsent[:size]), end_stream=is_last)
                unsent = unsent[size:]
                continue
            return unsent
        return unsent

    async def _flush(self) -> None:
        self._writer.write(self._h2.data_to_send())
        await self._writer.drain()

    async def _read(self) -> bytes:
        data = await self._reader.read(_READ_BYTES)
        if not data:
            raise UnreachableError(Cause.BROKEN_OFF, "the connection was closed")
        if not self._has_received and data.startswith(b"HTTP/1."):
            raise UnreachableError(Cause.ONLY_HTTP1)
        return data

    def _received(self, data: bytes) -> Iterable[h2.events.Event]:
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            cause = Cause.BROKEN_OFF if self._has_received else Cause.NOT_HTTP
            raise UnreachableError(cause, str(error)) from error
        self._has_received = True
        return events

    def _handle(self, event: h2.events.Event, stream_id: int, response: _Response) -> None:
        match event:
            case h2.events.ResponseReceived(stream_id=sid) if sid == stream_id:
                response.headers.update(_text(event.headers))
            case h2.events.TrailersReceived(stream_id=sid) if sid == stream_id:
                response.trailers.update(_text(event.headers))
            case h2.events.DataReceived():
                self._take_data(event, stream_id, response)
            case h2.events.StreamEnded(stream_id=sid) if sid == stream_id:
                response.is_complete = True
            case h2.events.StreamReset(stream_id=sid) if sid == stream_id:
                if not response.is_complete:
                    detail = f"the stream was reset with error {event.error_code}"
                    raise UnreachableError(Cause.BROKEN_OFF, detail)
            case h2.events.ConnectionTerminated():
                self._handle_goaway(event, response)
            case _:
                pass

    def _take_data(
        self, event: h2.events.DataReceived, stream_id: int, response: _Response
    ) -> None:
        if event.flow_controlled_length:
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        if event.stream_id == stream_id and event.data:
            response.body += event.data
        if len(response.body) > _MAX_RESPONSE_BYTES:
            raise UnreachableError(Cause.BROKEN_OFF, "the response is larger than 4 MiB")

    def _handle_goaway(self, event: h2.events.ConnectionTerminated, response: _Response) -> None:
        """Handle a GOAWAY. The `h2` library reads nothing after it, not even the response."""
        self._is_usable = False
        if not response.is_complete:
            cause = Cause.BROKEN_OFF if event.error_code else Cause.GOING_AWAY
            raise UnreachableError(cause, f"GOAWAY with error {event.error_code}")


def _text(headers: Iterable[tuple[bytes | str, bytes | str]] | None) -> dict[str, str]:
    """Decode header fields; names are lower-case in HTTP/2."""
    return {_str(name): _str(value) for name, value in headers or ()}


def _str(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
