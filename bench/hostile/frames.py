"""What attackers over HTTP/2 send: openings, requests, uploads within the windows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bench import keys, wire
from bench.hostile.flood import Inbox

PRIORITY: Final = 0x2
CONTINUATION: Final = 0x9
OPEN: Final = wire.FLAG_END_HEADERS
WHOLE: Final = wire.FLAG_END_HEADERS | wire.FLAG_END_STREAM
SETTING_ENABLE_PUSH: Final = 0x2
GRPC_PATH: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

PREFACE: Final = wire.PREFACE + wire.settings({})
NO_WINDOW: Final = wire.PREFACE + wire.settings({wire.SETTING_INITIAL_WINDOW_SIZE: 0})
"""Opens a connection on which the gateway may send no body."""

_PSEUDO: Final = [(":method", "POST"), (":scheme", "http"), (":authority", "gateway")]


def block(
    key: str | None = None, path: str = "/v1/traces", more: list[tuple[str, str]] | None = None
) -> bytes:
    """Return the header block of an Export request, with a key or without one."""
    content_type = "application/grpc" if path == GRPC_PATH else "application/x-protobuf"
    pairs = [*_PSEUDO, (":path", path), ("content-type", content_type), ("te", "trailers")]
    if key is not None:
        pairs.append(("authorization", f"{keys.SCHEME} {key}"))
    return wire.fields([*pairs, *(more or [])])


def headers(stream: int, header_block: bytes, flags: int = WHOLE) -> bytes:
    """Return HEADERS, and CONTINUATION where the block needs it; whole unless flags say else."""
    first = header_block[: wire.MAX_FRAME_BYTES]
    if len(first) == len(header_block):
        return wire.frame(wire.HEADERS, flags, stream, first)
    frames = [wire.frame(wire.HEADERS, flags & ~wire.FLAG_END_HEADERS, stream, first)]
    for at in range(wire.MAX_FRAME_BYTES, len(header_block), wire.MAX_FRAME_BYTES):
        part = header_block[at : at + wire.MAX_FRAME_BYTES]
        is_last = at + wire.MAX_FRAME_BYTES >= len(header_block)
        end = flags & wire.FLAG_END_HEADERS if is_last else 0
        frames.append(wire.frame(CONTINUATION, end, stream, part))
    return b"".join(frames)


def streams(first: int, count: int, header_block: bytes, flags: int = WHOLE) -> bytes:
    """Return `count` requests on the streams from `first` on."""
    return b"".join(
        headers(stream, header_block, flags) for stream in range(first, first + 2 * count, 2)
    )


def for_ever(piece: bytes) -> Iterator[bytes]:
    """Repeat a piece, so many times at once that a system call pays."""
    many = piece * max(1, (1 << 15) // len(piece))
    while True:
        yield many


class Windows(Inbox):
    """How much may be sent, as the gateway's SETTINGS and WINDOW_UPDATE say."""

    def __init__(self) -> None:
        self.connection = wire.DEFAULT_WINDOW
        self.initial = wire.DEFAULT_WINDOW
        self.streams: dict[int, int] = {}
        self._rest = b""

    def open(self, stream: int) -> None:
        """Begin to count for a stream."""
        self.streams[stream] = self.initial

    def take(self, stream: int, wanted: int) -> int:
        """Return how much of `wanted` may be sent on a stream now, and count it as sent."""
        granted = max(0, min(wanted, self.connection, self.streams.get(stream, 0)))
        if granted:
            self.connection -= granted
            self.streams[stream] -= granted
        return granted

    def feed(self, data: bytes) -> None:
        """Take the next bytes; see `Inbox`."""
        self._rest += data
        at = 0
        while len(self._rest) - at >= wire.FRAME_HEADER_BYTES:
            length = int.from_bytes(self._rest[at : at + 3], "big")
            end = at + wire.FRAME_HEADER_BYTES + length
            if end > len(self._rest):
                break
            kind, flags = self._rest[at + 3], self._rest[at + 4]
            stream = int.from_bytes(self._rest[at + 5 : at + 9], "big")
            self._frame(kind, flags, stream, self._rest[at + 9 : end])
            at = end
        self._rest = self._rest[at:]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == wire.WINDOW_UPDATE:
            credit = int.from_bytes(payload, "big")
            if stream == 0:
                self.connection += credit
            elif stream in self.streams:
                self.streams[stream] += credit
        elif kind == wire.RST_STREAM:
            self.streams.pop(stream, None)
        elif kind == wire.SETTINGS and not flags & wire.FLAG_ACK:
            initial = wire.parse_settings(payload).get(wire.SETTING_INITIAL_WINDOW_SIZE)
            if initial is not None:
                for each in self.streams:
                    self.streams[each] += initial - self.initial
                self.initial = initial
