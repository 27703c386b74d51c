"""The header blocks of gRPC requests: made as an encoder makes them, or recorded from a real one.

`grpc-go`'s are made here, with the bench's 1,000 keys in turn and a `grpc-timeout` that differs
each time, because no two requests of a real exporter have equal blocks. Other encoders were
recorded (`bench.record`) by connection: each connection of the load sends one recorded connection's
blocks in their order, and goes round in the part that depends on nothing before it.
"""

from __future__ import annotations

import base64
import functools
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hpack import Decoder, HPACKError

from bench import keys, wire

PATH = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
RECORDINGS = Path(__file__).with_name("encoders")
NEVER_SIGNALS = "dotnet-like"
"""Literals without Huffman code and no table size update, as .NET's HttpClient writes them."""
REFERENCE = "grpc-go"
"""The recorded encoder that the others are compared with."""
TABLE_RESET = b"\x20\x3f\xe1\x1f"
"""Two table size updates (RFC 7541 §4.2): to 0, which empties the table, and to 4,096 again."""

_USER_AGENT = "OpenTelemetry Collector Contrib/0.165.0 (linux/amd64) grpc-go/1.79.0"
_TIMEOUTS = 5000


class HeadWriter(Protocol):
    """Writes one connection's header blocks."""

    def told(self) -> None:
        """Note that the peer has announced a table of size 0."""

    def block(self, number: int) -> bytes:
        """Return the next block; it belongs to request `number`."""


class Heads(Protocol):
    """An encoder."""

    def writer(self) -> HeadWriter:
        """Return what writes one more connection's blocks."""


def request_fields(authority: str, encoding: str | None) -> list[tuple[str, str]]:
    """Return the fields of a request in grpc-go's order, up to grpc-timeout and metadata."""
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", PATH),
        (":authority", authority),
        ("content-type", "application/grpc"),
        ("user-agent", _USER_AGENT),
        ("te", "trailers"),
    ]
    if encoding is not None:
        fields.append(("grpc-encoding", encoding))
    fields.append(("grpc-accept-encoding", "gzip,snappy,zstd"))
    return fields


def dotnet_fields(authority: str, encoding: str | None) -> list[tuple[str, str]]:
    """Return the fields of a request in the order of grpc-dotnet over HttpClient."""
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", authority),
        (":path", PATH),
        ("user-agent", "grpc-dotnet/2.71.0 (.NET 9.0.4; CLR 9.0.4; net9.0; linux; x64)"),
        ("te", "trailers"),
        ("grpc-accept-encoding", "identity,gzip,deflate"),
        ("content-type", "application/grpc"),
    ]
    if encoding is not None:
        fields.append(("grpc-encoding", encoding))
    return fields


@functools.lru_cache(maxsize=4)
def _timeouts(*, is_plain: bool) -> list[bytes]:
    """Encode what is left of a Collector's 5 s, which differs from request to request."""
    write = wire.plain_field if is_plain else wire.field
    return [write("grpc-timeout", f"{4_900_000 + number * 13}u") for number in range(_TIMEOUTS)]


@functools.lru_cache(maxsize=8)
def _authorizations(count: int, first: int, *, is_plain: bool) -> list[bytes]:
    write = wire.plain_field if is_plain else wire.field
    return [write("authorization", each) for each in keys.authorizations(count, first)]


class HeaderBlocks:
    """Blocks that are made here: grpc-go's, or .NET's where `is_plain`."""

    def __init__(
        self,
        authority: str,
        encoding: str | None,
        key_count: int,
        *,
        first_key: int = 0,
        authorizations: Sequence[str] = (),
        is_plain: bool = False,
    ) -> None:
        self._is_plain = is_plain
        if is_plain:
            fields = dotnet_fields(authority, encoding)
            self._base = b"".join(wire.plain_field(*each) for each in fields)
        else:
            self._base = wire.fields(request_fields(authority, encoding))
        if authorizations:
            write = wire.plain_field if is_plain else wire.field
            self._authorizations = [write("authorization", each) for each in authorizations]
        else:
            self._authorizations = _authorizations(key_count, first_key, is_plain=is_plain)
        self._timeouts = _timeouts(is_plain=is_plain)

    def request(self, number: int) -> bytes:
        """Return the block of request `number`."""
        return (
            self._base
            + self._timeouts[number % _TIMEOUTS]
            + self._authorizations[keys.in_turn(number, len(self._authorizations))]
        )

    def writer(self) -> HeadWriter:
        """Return what writes one more connection's blocks."""
        return _Made(self, signals=not self._is_plain)


class _Made:
    def __init__(self, blocks: HeaderBlocks, *, signals: bool) -> None:
        self._blocks = blocks
        self._signals = signals
        self._prefix = b""

    def told(self) -> None:
        """See `HeadWriter.told`."""
        if self._signals:
            self._prefix = wire.TABLE_SIZE_UPDATE_TO_ZERO

    def block(self, number: int) -> bytes:
        """See `HeadWriter.block`."""
        prefix, self._prefix = self._prefix, b""
        return prefix + self._blocks.request(number)


@dataclass(frozen=True, slots=True)
class Recording:
    """What one client's encoder wrote.

    Attributes:
        name: what tables and options call it.
        client: the client and its version.
        is_told: whether the recorder announced a table of 0, as the gateway does.
        connections: the header blocks of each recorded connection.
    """

    name: str
    client: str
    is_told: bool
    connections: list[list[bytes]]

    @classmethod
    def load(cls, name: str) -> Recording:
        """Read a recording.

        Raises:
            FileNotFoundError: there is none of this name.
        """
        content = json.loads((RECORDINGS / f"{name}.json").read_text(encoding="ascii"))
        connections = [[base64.b64decode(each) for each in row] for row in content["connections"]]
        return cls(name, content["client"], content["is_told"], connections)

    def save(self) -> None:
        """Write it to where `load` finds it."""
        RECORDINGS.mkdir(exist_ok=True)
        rows = [[base64.b64encode(each).decode() for each in row] for row in self.connections]
        content = {"client": self.client, "is_told": self.is_told, "connections": rows}
        text = json.dumps(content, indent=1) + "\n"
        (RECORDINGS / f"{self.name}.json").write_text(text, encoding="ascii")

    def writer(self, number: int) -> HeadWriter:
        """Return what writes the blocks of connection `number`, for as long as is wanted."""
        return _Replayed(self.connections[number % len(self.connections)])


class _Replayed:
    def __init__(self, blocks: list[bytes]) -> None:
        first = circle_start(blocks)
        if first is None:
            # Its table never comes to rest: emptied, it is filled anew as at first.
            again = [TABLE_RESET + blocks[0], *blocks[1:]]
            self._blocks = itertools.chain(blocks, itertools.cycle(again))
        else:
            self._blocks = itertools.chain(blocks, itertools.cycle(blocks[first:]))

    def told(self) -> None:
        """See `HeadWriter.told`: what follows was recorded."""

    def block(self, _number: int) -> bytes:
        """See `HeadWriter.block`."""
        return next(self._blocks)


def circle_start(blocks: list[bytes]) -> int | None:
    """Return from which block on none depends on one before it; None where all do to the end."""
    decoder = Decoder()
    first: int | None = None
    for at, block in enumerate(blocks):
        fields = decoder.decode(block, raw=True)
        try:
            stands_alone = list(Decoder().decode(block, raw=True)) == list(fields)
        except HPACKError:
            stands_alone = False
        is_update = block[0] & 0xE0 == 0x20
        if not stands_alone or is_update:
            first = None
        elif first is None:
            first = at
    return first


class RecordedHeads:
    """An encoder that was recorded: connections take what each recorded connection sent in turn."""

    def __init__(self, name: str) -> None:
        self._recording = _recording(name)
        self._opened = 0

    def writer(self) -> HeadWriter:
        """Return what writes one more connection's blocks."""
        self._opened += 1
        return self._recording.writer(self._opened - 1)


@functools.lru_cache(maxsize=16)
def _recording(name: str) -> Recording:
    return Recording.load(name)


def recorded() -> list[str]:
    """Return the names of all recordings."""
    return sorted(path.stem for path in RECORDINGS.glob("*.json"))
