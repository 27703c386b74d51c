"""What one run of the demo consists of: its folder, addresses and files, and its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from gateway.demo.certificates import Certificates
from gateway.demo.ports import HOST, choose_ports

GRPC_PORT, HTTP_PORT, TLS_PORT, ADMIN_PORT = 4317, 4318, 4443, 8090
COLLECTOR_PORTS: Final = (14317, 14318, 24317, 24318)
"""Where the two Collectors of the snippets listen for applications themselves."""
WORKERS: Final = 2


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports on 127.0.0.1. The Collectors' are proposals: nobody listens there yet."""

    grpc: int
    http: int
    tls: int
    admin: int
    collectors: tuple[int, ...]

    @classmethod
    def choose(cls) -> Ports:
        """Take the usual ports, and free ones where those are taken."""
        grpc, http, tls, admin, *collectors = choose_ports(
            (GRPC_PORT, HTTP_PORT, TLS_PORT, ADMIN_PORT, *COLLECTOR_PORTS)
        )
        return cls(grpc, http, tls, admin, tuple(collectors))


@dataclass(frozen=True, slots=True)
class Setting:
    """One run of the demo. `folder` is absolute."""

    folder: Path
    ports: Ports
    certificates: Certificates

    @property
    def config_file(self) -> Path:
        """The configuration that this run is made of, written anew at each start."""
        return self.folder / "gateway.yaml"

    @property
    def store_file(self) -> Path:
        """The key store."""
        return self.folder / "keys.db"

    @property
    def admin_url(self) -> str:
        """The admin API."""
        return f"http://{HOST}:{self.ports.admin}"


def configuration(setting: Setting, receiver_address: str) -> str:
    """Write the gateway's configuration, with the receiver as the backend, as YAML."""
    backend = {"urls": [f"http://{receiver_address}"]}
    files = {
        "cert_file": str(setting.certificates.cert_file),
        "key_file": str(setting.certificates.key_file),
    }
    tree = {
        "listen": [
            {"address": f"{HOST}:{setting.ports.grpc}"},
            {"address": f"{HOST}:{setting.ports.http}"},
            {"address": f"{HOST}:{setting.ports.tls}", "tls": files},
        ],
        "backends": {
            "otlp_grpc": backend,
            "otlp_http": dict(backend),
            "intake": dict(backend),
        },
        # The receiver needs no key, and shows whose key it was.
        "forward": {"key": "none", "identity_headers": True},
        "keys": {"stores": [f"sqlite://{setting.store_file}"]},
        "limits": {"drain_delay": "0s", "drain_timeout": "2s"},
        "admin": {"address": f"{HOST}:{setting.ports.admin}"},
        "workers": WORKERS,
        # Refusals are shown in the live view: as warnings they would stand there twice.
        "log": {"level": "error"},
        "state_dir": str(setting.folder),
    }
    heading = "# Written by `gateway demo` at each start. Copy it to begin a configuration.\n"
    return heading + yaml.safe_dump(_escaped(tree), sort_keys=False)


def _escaped(value: object) -> object:
    """Escape what the configuration would read as a reference: `${` in a folder's name."""
    match value:
        case dict():
            return {name: _escaped(inner) for name, inner in value.items()}
        case list():
            return [_escaped(inner) for inner in value]
        case str():
            return value.replace("${", "$${")
        case _:
            return value
