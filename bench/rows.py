"""The rows of the bench's tables: what is sent, over how many connections, and what it may cost."""

from __future__ import annotations

from dataclasses import dataclass

from bench.running import Kind, Running


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

    def suits(self, proxy: Running) -> bool:
        """Return whether a proxy passes the row's requests on as they are."""
        is_changed = proxy.decompresses and self.body.endswith("gzip")
        return self.kind in proxy.ports and not is_changed

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


ROWS = {
    row.name: row
    for row in (
        Row("grpc-small", "grpc", "small", connections=64, streams=1, requests=20_000),
        Row("grpc-small-1x64", "grpc", "small", connections=1, streams=64, requests=20_000),
        Row("grpc-30k", "grpc", "30k", connections=16, streams=1, requests=8_000),
        Row("grpc-73k-gzip", "grpc", "73k-gzip", connections=16, streams=1, requests=4_000),
        Row("grpc-2.5M", "grpc", "2.5M", connections=4, streams=2, requests=200),
        Row("http-small", "http", "small", connections=16, streams=1, requests=20_000),
        Row("http-30k", "http", "30k", connections=16, streams=1, requests=8_000),
        Row("http-73k-gzip", "http", "73k-gzip", connections=16, streams=1, requests=4_000),
        Row("http-2.5M", "http", "2.5M", connections=8, streams=1, requests=200),
        Row("intake-small", "intake", "intake-2k", connections=16, streams=1, requests=20_000),
        Row("intake-2M", "intake", "intake-2M", connections=8, streams=1, requests=200),
    )
}


@dataclass(frozen=True, slots=True)
class Measured:
    """A row of README's table: what it is called there, and its gate.

    Attributes:
        title: the kind of request, as README says it.
        ratio: of the gateway's CPU to nginx's, as README has it.
    """

    title: str
    ratio: float

    @property
    def max_ratio(self) -> float:
        """The gate: a tenth more than was measured."""
        return round(self.ratio * 1.1, 2)


MEASURED_BESIDE = "nginx 1.22.1, Debian's package"
"""The build whose figures these are."""

MEASURED = {
    "grpc-small": Measured("OTLP/gRPC, 0.6 kB", 0.8),
    "grpc-73k-gzip": Measured("OTLP/gRPC, 73 kB of gzip", 0.8),
    "http-small": Measured("OTLP/HTTP over HTTP/1.1, 0.6 kB", 1.69),
    "http-73k-gzip": Measured("OTLP/HTTP over HTTP/1.1, 73 kB of gzip", 1.55),
    "intake-small": Measured("agents' intake, 2 kB of zlib", 1.72),
}
"""Row → what README says that it costs: these rows are measured by default and have gates."""
