"""The rows of the bench: what is sent, over how many connections, through which proxies."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench import heads
from bench.running import Kind, Running, Setting

SUBJECT = "gateway"
BASELINE = "nginx"

_MAIN = (SUBJECT, BASELINE, "haproxy", "envoy")
_WITH_COLLECTOR = (*_MAIN, "collector")
_GRPC_ALL = (
    *_MAIN,
    "collector",
    "collector-gzip",
    "gateway-python",
    "grpc-aio",
    "splice",
    "no-proxy",
)
_HTTP_ALL = (
    *_MAIN,
    "collector",
    "collector-gzip",
    "gateway-python",
    "aiohttp",
    "splice",
    "no-proxy",
)
PROXIES = tuple(dict.fromkeys((*_GRPC_ALL, *_HTTP_ALL)))
"""What may be measured, by name."""

_PLAIN = Setting()
_TLS = Setting(tls="listener")
_TLS_BOTH = Setting(tls="both")


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of load.

    Attributes:
        name: what tables and `--row` call it.
        kind: the protocol.
        body: one of `bodies.NAMES`.
        connections: how many the client holds.
        streams: how many requests each has in flight (HTTP/1.1: always 1).
        requests: the most that a round sends unless told otherwise.
        proxies: through which it goes.
        group: rows of a group are measured in the same rounds.
        setting: what it wants of a proxy.
        encoder: whose header blocks are sent; None: grpc-go's, made by the bench.
        reconnects: whether each request has a connection of its own.
        is_refused: whether keys are unknown, and answers refusals.
        is_quick: whether `--quick` measures it.
        shows_latency: whether it is measured in an open loop as well.
    """

    name: str
    kind: Kind
    body: str
    connections: int
    streams: int
    requests: int
    proxies: tuple[str, ...] = _MAIN
    group: str = "grpc"
    setting: Setting = _PLAIN
    encoder: str | None = None
    reconnects: bool = False
    is_refused: bool = False
    is_quick: bool = False
    shows_latency: bool = False

    @property
    def in_flight(self) -> int:
        """How many requests are under way at once."""
        return self.connections * self.streams

    def suits(self, proxy: Running) -> bool:
        """Return whether a proxy passes the row's requests on as they are, and judges keys."""
        is_changed = proxy.decompresses and self.body.endswith("gzip")
        is_judged = proxy.checks_keys or not self.is_refused
        return self.kind in proxy.ports and not is_changed and is_judged

    def load_arguments(self, port: int, requests: int, *, bdp_pings: bool) -> list[str]:
        """Return `bench.load`'s arguments for one run against `port`."""
        arguments = [
            self.kind,
            f"--port={port}",
            f"--body={self.body}",
            f"--requests={requests}",
            f"--connections={self.connections}",
            f"--keys={self.setting.keys}",
        ]
        if self.kind == "grpc":
            arguments.append(f"--streams={self.streams}")
            arguments += ["--bdp-pings"] if bdp_pings else []
            arguments += [] if self.encoder is None else [f"--encoder={self.encoder}"]
        arguments += ["--tls"] if self.setting.tls != "none" else []
        arguments += ["--reconnect"] if self.reconnects else []
        arguments += ["--refused"] if self.is_refused else []
        return arguments


def _grpc(name: str, body: str, shape: str, requests: int, **more: object) -> Row:
    connections, streams = map(int, shape.split("x"))
    row = Row(f"grpc-{name}", "grpc", body, connections, streams, requests)
    return replace(row, **more)  # type: ignore[arg-type] # the attributes of a row


def _http(name: str, body: str, connections: int, requests: int, **more: object) -> Row:
    row = Row(f"http-{name}", "http", body, connections, 1, requests, group="http")
    return replace(row, **more)  # type: ignore[arg-type] # the attributes of a row


def _intake(name: str, body: str, connections: int, requests: int, **more: object) -> Row:
    row = Row(f"intake-{name}", "intake", body, connections, 1, requests, group="intake")
    return replace(row, **more)  # type: ignore[arg-type] # the attributes of a row


ENCODERS = (*heads.recorded(), heads.NEVER_SIGNALS)
"""Whose header blocks are sent besides those that the bench makes itself."""

_ALL: tuple[Row, ...] = (
    _grpc("small", "small", "64x1", 20_000, proxies=_GRPC_ALL, is_quick=True, shows_latency=True),
    _grpc("small-1x1", "small", "1x1", 5_000),
    _grpc("small-1x64", "small", "1x64", 20_000, proxies=_WITH_COLLECTOR, is_quick=True),
    _grpc("small-16x1", "small", "16x1", 20_000),
    _grpc("small-16x4", "small", "16x4", 20_000, proxies=_WITH_COLLECTOR),
    _grpc("small-1000x1", "small", "1000x1", 20_000),
    _grpc("30k-1x1", "30k", "1x1", 2_000),
    _grpc("30k", "30k", "16x1", 8_000, proxies=_GRPC_ALL, is_quick=True),
    _grpc("30k-16x4", "30k", "16x4", 8_000),
    _grpc("73k-gzip-1x1", "73k-gzip", "1x1", 2_000),
    _grpc(
        "73k-gzip", "73k-gzip", "16x1", 4_000, proxies=_GRPC_ALL, is_quick=True, shows_latency=True
    ),
    _grpc("73k-gzip-16x4", "73k-gzip", "16x4", 4_000),
    _grpc("594k-gzip", "594k-gzip", "16x1", 1_000, proxies=_WITH_COLLECTOR),
    _grpc("594k-gzip-1x64", "594k-gzip", "1x64", 1_000),
    _grpc("2.5M", "2.5M", "4x2", 200, proxies=_GRPC_ALL, is_quick=True),
    _grpc("2.5M-1x1", "2.5M", "1x1", 100),
    _http("small-1x1", "small", 1, 5_000),
    _http("small", "small", 16, 20_000, proxies=_HTTP_ALL, is_quick=True, shows_latency=True),
    _http("small-64x1", "small", 64, 20_000, proxies=_WITH_COLLECTOR),
    _http("small-1000x1", "small", 1000, 20_000),
    _http("30k", "30k", 16, 8_000, proxies=_WITH_COLLECTOR),
    _http("73k-gzip", "73k-gzip", 16, 4_000, proxies=_HTTP_ALL, is_quick=True, shows_latency=True),
    _http("73k-gzip-64x1", "73k-gzip", 64, 4_000),
    _http("594k-gzip", "594k-gzip", 16, 1_000, proxies=_WITH_COLLECTOR),
    _http("2.5M", "2.5M", 8, 200, proxies=_HTTP_ALL, is_quick=True),
    _http("2.5M-1x1", "2.5M", 1, 100),
    _intake(
        "small",
        "intake-2k",
        16,
        20_000,
        proxies=(*_MAIN, "aiohttp", "splice"),
        is_quick=True,
        shows_latency=True,
    ),
    _intake("2M", "intake-2M", 8, 200),
    _grpc("small-refused", "small", "64x1", 10_000, group="refused", is_refused=True),
    _grpc("2.5M-refused", "2.5M", "4x2", 500, group="refused", is_refused=True),
    _http("small-refused", "small", 16, 10_000, group="refused", is_refused=True),
    _http("2.5M-refused", "2.5M", 8, 500, group="refused", is_refused=True),
    _grpc(
        "2.5M-accepted", "2.5M", "4x2", 200, group="refused", proxies=(SUBJECT,), is_refused=False
    ),
    _http("2.5M-accepted", "2.5M", 8, 200, group="refused", proxies=(SUBJECT,), is_refused=False),
    _grpc("small-connect", "small", "16x1", 2_000, group="connect", reconnects=True),
    _http("small-connect", "small", 16, 2_000, group="connect", reconnects=True),
    _grpc("small-tls", "small", "64x1", 20_000, group="tls", setting=_TLS, is_quick=True),
    _grpc("small-tls-both", "small", "64x1", 20_000, group="tls", setting=_TLS_BOTH),
    _grpc("small-tls-connect", "small", "16x1", 1_000, group="tls", setting=_TLS, reconnects=True),
    _http("small-tls", "small", 16, 20_000, group="tls", setting=_TLS, is_quick=True),
    _http("small-tls-both", "small", 16, 20_000, group="tls", setting=_TLS_BOTH),
    _grpc(
        "small-10-keys",
        "small",
        "64x1",
        20_000,
        group="keys",
        setting=Setting(keys=10),
        proxies=(SUBJECT,),
    ),
    _grpc(
        "small-100k-keys",
        "small",
        "64x1",
        20_000,
        group="keys",
        setting=Setting(keys=100_000),
        proxies=(SUBJECT, BASELINE, "haproxy"),
    ),
    _grpc("small-1-worker", "small", "64x1", 20_000, group="workers", proxies=(SUBJECT,)),
    _grpc(
        "small-2-workers",
        "small",
        "64x1",
        20_000,
        group="workers",
        setting=Setting(workers=2),
        proxies=(SUBJECT,),
    ),
    *(
        _grpc(
            f"encoder-{name}",
            "small",
            "64x1",
            20_000,
            group="encoders",
            encoder=name,
            proxies=(SUBJECT, BASELINE),
        )
        for name in ENCODERS
    ),
)

ROWS = {row.name: row for row in _ALL}
GROUPS = tuple(dict.fromkeys(row.group for row in _ALL))
QUICK = tuple(row.name for row in _ALL if row.is_quick)
