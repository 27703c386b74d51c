"""A gRPC client of one request at a time that says with which code each was answered."""

from __future__ import annotations

import asyncio
from typing import Self

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.events import TrailersReceived as Trailers

from bench import keys
from bench.heads import PATH
from bench.report import RunFailedError

_READ_BYTES = 1 << 16


def _code(event: ResponseReceived | Trailers, otherwise: int | None) -> int | None:
    """Return grpc-status where the event has it."""
    text = dict(event.headers).get(b"grpc-status")
    return otherwise if text is None else int(text)


class GrpcClient:
    """One connection, and so one worker. Built on `h2`; for what is rare, not for load."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = H2Connection(H2Configuration(client_side=True))
        self._http.initiate_connection()

    @classmethod
    async def connect(cls, port: int) -> Self:
        """Connect to 127.0.0.1:`port`. Raises OSError."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    @property
    def local_port(self) -> int:
        """This end's port: what the server sees as the peer's."""
        port: int = self._writer.get_extra_info("sockname")[1]
        return port

    async def export(self, key: str, message: bytes) -> int:
        """Send `message` (with gRPC's prefix) with `key`; return the gRPC code of the answer.

        Raises:
            RunFailedError: the connection ended, or the answer is not gRPC's.
        """
        stream = self._http.get_next_available_stream_id()
        self._http.send_headers(
            stream,
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", PATH),
                (":authority", "127.0.0.1"),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
                ("authorization", f"{keys.SCHEME} {key}"),
            ],
        )
        self._http.send_data(stream, message, end_stream=True)
        code = None
        while True:
            self._writer.write(self._http.data_to_send())
            data = await self._reader.read(_READ_BYTES)
            if not data:
                error = "the gateway closed a connection"
                raise RunFailedError(error)
            for event in self._http.receive_data(data):
                if isinstance(event, DataReceived):
                    # Or the connection's window is used up after so many answers.
                    self._http.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id
                    )
                elif isinstance(event, ResponseReceived | Trailers) and event.stream_id == stream:
                    code = _code(event, code)
                elif isinstance(event, StreamEnded) and event.stream_id == stream:
                    return self._ended(code)
                elif isinstance(event, ConnectionTerminated | StreamReset):
                    error = f"unexpected {event}"
                    raise RunFailedError(error)

    def _ended(self, code: int | None) -> int:
        self._writer.write(self._http.data_to_send())
        if code is None:
            error = "an answer without grpc-status"
            raise RunFailedError(error)
        return code

    async def close(self) -> None:
        """Close the connection."""
        self._writer.close()
        await self._writer.wait_closed()
