"""The rows of the bench's tables: what is sent, over how many connections and streams."""

from __future__ import annotations

from dataclasses import dataclass

from bench.running import Kind


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of load.

    Attributes:
        name: what tables and `--row` call it.
        kind: the protocol.
        body: one of `bodies.NAMES`.
        connections: how many the client holds.
        streams: how many requests each has in flight (HTTP/1.1: always 1).
        requests: how many a round sends unless told otherwise.
    """

    name: str
    kind: Kind
    body: str
    connections: int
    streams: int
    requests: int

    def load_arguments(self, port: int, requests: int, *, bdp_pings: bool) -> list[str]:
        """Return `bench.load`'s arguments for one run against `port`."""
        arguments = [
            self.kind,
            f"--port={port}",
            f"--body={self.body}",
            f"--requests={requests}",
            f"--connections={self.connections}",
        ]
        if self.kind == "grpc":
            arguments.append(f"--streams={self.streams}")
            if bdp_pings:
                arguments.append("--bdp-pings")
        return arguments


_GRPC = "grpc-small"
_INTAKE = "intake-small"
MAX_RATIOS = {_GRPC: 1.0, _INTAKE: 1.4}
"""The gates: row → the most that the gateway's CPU may be, in nginx's."""

ROWS = {
    row.name: row
    for row in (
        Row(_GRPC, "grpc", "small", connections=64, streams=1, requests=20_000),
        Row("grpc-small-1x64", "grpc", "small", connections=1, streams=64, requests=20_000),
        Row("grpc-30k", "grpc", "30k", connections=16, streams=1, requests=8_000),
        Row("grpc-73k-gzip", "grpc", "73k-gzip", connections=16, streams=1, requests=4_000),
        Row("grpc-2.5M", "grpc", "2.5M", connections=4, streams=2, requests=200),
        Row("http-small", "http", "small", connections=16, streams=1, requests=20_000),
        Row("http-30k", "http", "30k", connections=16, streams=1, requests=8_000),
        Row("http-73k-gzip", "http", "73k-gzip", connections=16, streams=1, requests=4_000),
        Row("http-2.5M", "http", "2.5M", connections=8, streams=1, requests=200),
        Row(_INTAKE, "intake", "intake-2k", connections=16, streams=1, requests=20_000),
        Row("intake-2M", "intake", "intake-2M", connections=8, streams=1, requests=200),
    )
}
