"""The directory, ports and files of one demo run, and its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from gateway.demo.certificates import Certificates
from gateway.demo.ports import HOST, choose_ports

GRPC_PORT, HTTP_PORT, TLS_PORT, ADMIN_PORT = 4317, 4318, 4443, 8090
COLLECTOR_PORTS: Final = (14317, 14318, 24317, 24318)
"""Ports on which the two Collectors of the snippets listen for applications."""
WORKERS: Final = 2
OWN_PORTS: Final = 4
"""How many the gateway listens on."""


class PortInUseError(Exception):
    """A port that was asked for is in use; its argument is the port."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports on 127.0.0.1. Those of the Collectors are suggestions: nothing listens there yet."""

    grpc: int
    http: int
    tls: int
    admin: int
    collectors: tuple[int, ...]

    @classmethod
    def choose(cls) -> Ports:
        """Choose the usual ports, or free ones if those are in use."""
        grpc, http, tls, admin, *collectors = choose_ports(
            (GRPC_PORT, HTTP_PORT, TLS_PORT, ADMIN_PORT, *COLLECTOR_PORTS)
        )
        return cls(grpc, http, tls, admin, tuple(collectors))

    @classmethod
    def starting_at(cls, first: int) -> Ports:
        """Take four ports in a row. Raises `PortInUseError`: one of them is in use."""
        wanted = range(first, first + OWN_PORTS)
        chosen = choose_ports((*wanted, *COLLECTOR_PORTS))
        for port, each in zip(wanted, chosen[:OWN_PORTS], strict=True):
            if port != each:
                raise PortInUseError(port)
        grpc, http, tls, admin, *collectors = chosen
        return cls(grpc, http, tls, admin, tuple(collectors))


@dataclass(frozen=True, slots=True)
class DemoLayout:
    """Directory, ports and files of one demo run. `folder` is absolute."""

    folder: Path
    ports: Ports
    certificates: Certificates

    @property
    def config_file(self) -> Path:
        """The configuration of this run, written at each start."""
        return self.folder / "gateway.yaml"

    @property
    def store_file(self) -> Path:
        """The key store."""
        return self.folder / "keys.db"

    @property
    def admin_url(self) -> str:
        """The URL of the admin API."""
        return f"http://{HOST}:{self.ports.admin}"


def configuration(layout: DemoLayout, receiver_address: str) -> str:
    """Format the gateway's configuration as YAML, with the receiver as the backend."""
    backend = {"urls": [f"http://{receiver_address}"]}
    files = {
        "cert_file": str(layout.certificates.cert_file),
        "key_file": str(layout.certificates.key_file),
    }
    tree = {
        "listen": [
            {"address": f"{HOST}:{layout.ports.grpc}"},
            {"address": f"{HOST}:{layout.ports.http}"},
            {"address": f"{HOST}:{layout.ports.tls}", "tls": files},
        ],
        "backends": {
            "otlp_grpc": backend,
            "otlp_http": dict(backend),
            "intake": dict(backend),
        },
        # The receiver needs no key, but shows the name of the sender's key.
        "forward": {"key": "none", "identity_headers": True},
        "keys": {"stores": [f"sqlite://{layout.store_file}"]},
        "limits": {"drain_delay": "0s", "drain_timeout": "2s"},
        "admin": {"address": f"{HOST}:{layout.ports.admin}"},
        "workers": WORKERS,
        # The live view shows refusals already; as warnings they would appear twice.
        "log": {"level": "error"},
        "state_dir": str(layout.folder),
    }
    heading = (
        "# Written by `gateway demo` at each start. Copy it to start your own configuration.\n"
    )
    return heading + yaml.safe_dump(_escaped(tree), sort_keys=False)


def _escaped(value: object) -> object:
    """Escape `${` in a directory's name, which the configuration would read as a reference."""
    match value:
        case dict():
            return {name: _escaped(inner) for name, inner in value.items()}
        case list():
            return [_escaped(inner) for inner in value]
        case str():
            return value.replace("${", "$${")
        case _:
            return value
