"""A backend that costs little: counts what arrives, answers an Export response, checks nothing.

`python -m bench.sink [--port PORT]` listens on 127.0.0.1 for gRPC (HTTP/2 with prior knowledge) and
OTLP/HTTP (HTTP/1.1) on one port, prints one line of JSON with the port once it does, and serves
until SIGTERM. `GET /count` over HTTP/1.1 gives the number of requests and the bytes of their
bodies (over gRPC: of the DATA frames, so with the five bytes before each message).

It does what a proxy can feel of grpc-go: windows of a busy connection (1 MiB a stream, 16 MiB
a connection), credit given back by halves, and, with --bdp-pings, a PING for each batch of DATA.
With --tls it listens on a second port over TLS. With --stall it reads no further on an HTTP/1.1
connection after a head with `x-bench-stall`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import ssl
import sys
from dataclasses import dataclass
from typing import cast

import httptools
import uvloop

from bench import wire

STALL = "x-bench-stall"
_STALL_RECEIVE_BYTES = 4096
_STREAM_WINDOW = 1 << 20
_CONNECTION_WINDOW = 1 << 24
_EMPTY_MESSAGE = b"\0\0\0\0\0"
"""An ExportTraceServiceResponse without partial success, behind gRPC's five bytes."""

_SETTINGS_ACK = wire.frame(wire.SETTINGS, wire.FLAG_ACK, 0)
_BDP_PING = wire.frame(wire.PING, 0, 0, b"\2\4\x10\x10\x09\x0e\7\7")


@dataclass(slots=True)
class Counts:
    """What has arrived so far, over all connections."""

    requests: int = 0
    body_bytes: int = 0

    def to_json(self) -> bytes:
        """Return the counts as `GET /count` gives them."""
        return json.dumps({"requests": self.requests, "body_bytes": self.body_bytes}).encode()


def _grpc_answer(first_block_prefix: bytes = b"") -> tuple[bytes, bytes, bytes, bytes]:
    """Return the frames of an OK answer, cut where a stream id belongs."""
    head = first_block_prefix + wire.fields(
        [(":status", "200"), ("content-type", "application/grpc")]
    )
    trailers = wire.fields([("grpc-status", "0"), ("grpc-message", "")])
    end = wire.FLAG_END_HEADERS | wire.FLAG_END_STREAM
    frames = (
        wire.frame(wire.HEADERS, wire.FLAG_END_HEADERS, 0, head)
        + wire.frame(wire.DATA, 0, 0, _EMPTY_MESSAGE)
        + wire.frame(wire.HEADERS, end, 0, trailers)
    )
    at_data = wire.FRAME_HEADER_BYTES + len(head)
    at_trailers = at_data + wire.FRAME_HEADER_BYTES + len(_EMPTY_MESSAGE)
    return (
        frames[:5],
        frames[9 : at_data + 5],
        frames[at_data + 9 : at_trailers + 5],
        frames[at_trailers + 9 :],
    )


_GRPC_ANSWER = _grpc_answer()
_GRPC_FIRST_ANSWER = _grpc_answer(wire.TABLE_SIZE_UPDATE_TO_ZERO)


class GrpcConnection(asyncio.Protocol):
    """The server side of one HTTP/2 connection."""

    def __init__(self, counts: Counts, *, bdp_pings: bool) -> None:
        self._counts = counts
        self._bdp_pings = bdp_pings
        self._ping_open = False
        self._rest = b""
        self._preface_seen = False
        self._skip = 0
        self._skip_ends: bytes | None = None
        self._answer = _GRPC_ANSWER
        self._send_window = wire.DEFAULT_WINDOW
        self._waiting: list[bytes] = []
        self._uncredited = 0
        self._stream_uncredited: dict[bytes, int] = {}
        self._out: list[bytes] = []
        self._transport: asyncio.Transport

    def attach(self, transport: asyncio.Transport, received: bytes) -> None:
        """Take over a connection whose first bytes have been read."""
        self._transport = transport
        transport.write(
            wire.settings({wire.SETTING_INITIAL_WINDOW_SIZE: _STREAM_WINDOW})
            + wire.window_update(0, _CONNECTION_WINDOW - wire.DEFAULT_WINDOW)
        )
        self.data_received(received)

    def data_received(self, data: bytes) -> None:
        """Count and answer what the frames in `data` complete."""
        if self._skip:
            data = self._skip_payload(data)
        received = self._rest + data if self._rest else data
        self._rest = received[self._frames(received) :]
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def _skip_payload(self, data: bytes) -> bytes:
        """Count what belongs to a DATA frame begun before; return what follows it."""
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        if not self._skip and self._skip_ends is not None:
            self._ended(self._skip_ends)
            self._skip_ends = None
        return data[skipped:]

    def _frames(self, received: bytes) -> int:
        """Handle every frame in `received`; return how many bytes were used."""
        at = 0
        end = len(received)
        if not self._preface_seen:
            if end < len(wire.PREFACE):
                return 0
            self._preface_seen = True
            at = len(wire.PREFACE)
        while end - at >= wire.FRAME_HEADER_BYTES:
            length = int.from_bytes(received[at : at + 3], "big")
            kind, flags = received[at + 3], received[at + 4]
            stream = received[at + 5 : at + 9]
            payload_at = at + wire.FRAME_HEADER_BYTES
            if kind == wire.DATA:
                self._data(stream, length, ends=bool(flags & wire.FLAG_END_STREAM))
                missing = payload_at + length - end
                if missing > 0:
                    self._skip = missing
                    self._skip_ends = stream if flags & wire.FLAG_END_STREAM else None
                    return end
                if flags & wire.FLAG_END_STREAM:
                    self._ended(stream)
            elif payload_at + length > end:
                break
            elif kind != wire.HEADERS:
                self._control(kind, flags, stream, received[payload_at : payload_at + length])
            at = payload_at + length
        return at

    def _data(self, stream: bytes, length: int, *, ends: bool) -> None:
        """Count a DATA frame and give credit back for it."""
        self._counts.body_bytes += length
        self._uncredited += length
        if self._uncredited >= _CONNECTION_WINDOW // 2:
            self._out.append(wire.window_update(0, self._uncredited))
            self._uncredited = 0
        if self._bdp_pings and not self._ping_open:
            self._ping_open = True
            self._out.append(_BDP_PING)
        if ends:
            self._stream_uncredited.pop(stream, None)
            return
        uncredited = self._stream_uncredited.get(stream, 0) + length
        if uncredited >= _STREAM_WINDOW // 2:
            self._out.append(wire.window_update(int.from_bytes(stream, "big"), uncredited))
            uncredited = 0
        self._stream_uncredited[stream] = uncredited

    def _ended(self, stream: bytes) -> None:
        """Count and answer a whole request."""
        self._counts.requests += 1
        self._respond(stream)

    def _respond(self, stream: bytes) -> None:
        """Answer within the connection's window; a stream's own has room for five bytes."""
        if self._send_window < len(_EMPTY_MESSAGE):
            self._waiting.append(stream)
            return
        self._send_window -= len(_EMPTY_MESSAGE)
        self._out.append(stream.join(self._answer))
        self._answer = _GRPC_ANSWER

    def _control(self, kind: int, flags: int, stream: bytes, payload: bytes) -> None:
        if kind == wire.SETTINGS and not flags & wire.FLAG_ACK:
            if wire.parse_settings(payload).get(wire.SETTING_HEADER_TABLE_SIZE) == 0:
                self._answer = _GRPC_FIRST_ANSWER
            self._out.append(_SETTINGS_ACK)
        elif kind == wire.PING:
            if flags & wire.FLAG_ACK:
                self._ping_open = False
            else:
                self._out.append(wire.frame(wire.PING, wire.FLAG_ACK, 0, payload))
        elif kind == wire.WINDOW_UPDATE and stream == b"\0\0\0\0":
            self._send_window += int.from_bytes(payload, "big")
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                self._respond(each)
        elif kind == wire.RST_STREAM:
            self._stream_uncredited.pop(stream, None)


_HTTP_ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\n"
    b"Date: Mon, 02 Nov 2026 10:00:00 GMT\r\nContent-Length: 0\r\n\r\n"
)


class HttpConnection(asyncio.Protocol):
    """The server side of one HTTP/1.1 connection; also the parser's callbacks."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._out: list[bytes] = []
        self._transport: asyncio.Transport

    def attach(self, transport: asyncio.Transport, received: bytes) -> None:
        """Take over a connection whose first bytes have been read."""
        self._transport = transport
        self.data_received(received)

    def data_received(self, data: bytes) -> None:
        """Count and answer what `data` completes."""
        self._parser.feed_data(data)
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def on_url(self, url: bytes) -> None:
        """Note the target (parser callback)."""
        self._url = url

    def on_body(self, body: bytes) -> None:
        """Count (parser callback)."""
        self._counts.body_bytes += len(body)

    def on_message_complete(self) -> None:
        """Answer (parser callback)."""
        if self._url == b"/count":
            counts = self._counts.to_json()
            head = (
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            )
            self._out.append(head % len(counts) + counts)
            return
        self._counts.requests += 1
        self._out.append(_HTTP_ANSWER)


class StallingHttpConnection(HttpConnection):
    """Like its base, but reads no further once a head asks for that."""

    def on_header(self, name: bytes, _value: bytes) -> None:
        """Stop (parser callback)."""
        if name.lower() == STALL.encode():
            self._transport.pause_reading()


class NewConnection(asyncio.Protocol):
    """A connection of which no byte has come: gives way to the protocol that is spoken."""

    def __init__(self, counts: Counts, *, bdp_pings: bool, stall: bool) -> None:
        self._counts = counts
        self._bdp_pings = bdp_pings
        self._http = StallingHttpConnection if stall else HttpConnection
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # what a TCP server gives

    def data_received(self, data: bytes) -> None:
        """Choose by the first four bytes."""
        self._received += data
        if len(self._received) < 4:
            return
        successor: GrpcConnection | HttpConnection
        if wire.PREFACE.startswith(self._received[:4]):
            successor = GrpcConnection(self._counts, bdp_pings=self._bdp_pings)
        else:
            successor = self._http(self._counts)
        self._transport.set_protocol(successor)
        successor.attach(self._transport, self._received)


async def serve(port: int, *, bdp_pings: bool, stall: bool, tls: ssl.SSLContext | None) -> None:
    """Listen on 127.0.0.1:`port` (0: any free one) until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stop.set)
    counts = Counts()

    def make() -> NewConnection:
        return NewConnection(counts, bdp_pings=bdp_pings, stall=stall)

    server = await loop.create_server(make, "127.0.0.1", port, family=socket.AF_INET, backlog=1024)
    tls_port = None
    if tls is not None:
        over_tls = await loop.create_server(
            make, "127.0.0.1", 0, family=socket.AF_INET, backlog=1024, ssl=tls
        )
        tls_port = over_tls.sockets[0].getsockname()[1]
    if stall:  # what its connections inherit: a body that is not read must wait at the gateway
        server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _STALL_RECEIVE_BYTES)
    ports = {"port": server.sockets[0].getsockname()[1], "tls_port": tls_port}
    print(json.dumps(ports), flush=True)
    await stop.wait()
    server.close()


def _server_context(cert_file: str, key_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert_file, key_file)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="bench.sink", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--bdp-pings", action="store_true", help="send PINGs as grpc-go does")
    parser.add_argument("--stall", action="store_true", help=f"do not read bodies after {STALL}")
    parser.add_argument("--tls", metavar="CERT,KEY", help="PEM files: serve over TLS as well")
    options = parser.parse_args()
    tls = None if options.tls is None else _server_context(*options.tls.split(","))
    uvloop.run(serve(options.port, bdp_pings=options.bdp_pings, stall=options.stall, tls=tls))
    return 0


if __name__ == "__main__":
    sys.exit(main())
