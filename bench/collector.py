"""The OpenTelemetry Collector as a peer: it checks keys with `bearertokenauth` and exports at once.

There is no sending queue, so that a sender's answer is the backend's. The Collector reads every
message and writes it anew: what it costs is the price of understanding telemetry, and it is what
users put in place of a gateway. Built by `tests/interop/tools/build.py otelcol`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from bench import keys
from bench.process import Program, ProgramError, free_port
from bench.running import Build, Kind, Running, serving
from tests.interop.tools import build

_MOST_MIB = 64


def program() -> Path:
    """Return the Collector to measure: the one in OTLP_GATEWAY_TOOLS, or the one built here.

    Raises:
        ProgramError: it was not built.
    """
    given = os.environ.get("OTLP_GATEWAY_TOOLS")
    found = (Path(given) if given else build.bin_dir()) / "otelcol"
    if not os.access(found, os.X_OK):
        message = (
            "the Collector is not built: run `python3 tests/interop/tools/build.py otelcol` "
            "(needs Go)"
        )
        raise ProgramError(message)
    return found


def build_of(program: Path) -> Build:
    """Name the Collector's version, as its pins have it."""
    pins = Path(build.HERE / "otelcol" / "go.mod").read_text(encoding="utf-8")
    version = re.search(r"go\.opentelemetry\.io/collector/otelcol (\S+)", pins)
    go = re.search(r"^go (\S+)", pins, re.MULTILINE)
    title = f"OpenTelemetry Collector {version[1] if version else 'of unknown version'}"
    details = f"go {go[1] if go else '?'}, flags {' '.join(build.FLAGS)}, {program.name}"
    return Build(title, details)


@dataclass(frozen=True, slots=True)
class Collector:
    """The Collector on one core (GOMAXPROCS=1).

    Attributes:
        key_count: how many keys it knows.
        compression: what it exports with.
        name: what tables call it.
    """

    key_count: int = keys.COUNT
    compression: Literal["none", "gzip"] = "none"
    name: str = "collector"

    def start(self, folder: Path, backend_port: int, core: int | None) -> Running:
        """Start it; see `proxies.Proxy.start`."""
        path = program()
        ports: dict[Kind, int] = {"grpc": free_port(), "http": free_port()}
        configuration = folder / "collector.yaml"
        configuration.write_text(yaml.safe_dump(self._configuration(ports, backend_port)))
        started = Program.start(
            self.name,
            [str(path), "--config", str(configuration)],
            folder=folder,
            core=core,
            environment={"GOMAXPROCS": "1"},
        )
        return serving(Running(started, ports, build_of(path), reencodes=True))

    def _configuration(self, ports: dict[Kind, int], backend_port: int) -> dict[str, Any]:
        auth = {"authenticator": "bearertokenauth"}
        exporter = {
            "compression": self.compression,
            "timeout": "60s",
            "tls": {"insecure": True},
            "sending_queue": {"enabled": False},
            "retry_on_failure": {"enabled": False},
        }
        address = f"127.0.0.1:{backend_port}"
        return {
            "extensions": {
                "bearertokenauth": {"scheme": keys.SCHEME, "tokens": keys.keys(self.key_count)}
            },
            "receivers": {
                "otlp/grpc": {
                    "protocols": {
                        "grpc": {
                            "endpoint": f"127.0.0.1:{ports['grpc']}",
                            "max_recv_msg_size_mib": _MOST_MIB,
                            "auth": auth,
                        }
                    }
                },
                "otlp/http": {
                    "protocols": {"http": {"endpoint": f"127.0.0.1:{ports['http']}", "auth": auth}}
                },
            },
            "exporters": {
                "otlp": {**exporter, "endpoint": address},
                "otlphttp": {**exporter, "endpoint": f"http://{address}"},
            },
            "service": {
                "extensions": ["bearertokenauth"],
                "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "error"}},
                "pipelines": {
                    "traces/grpc": {"receivers": ["otlp/grpc"], "exporters": ["otlp"]},
                    "traces/http": {"receivers": ["otlp/http"], "exporters": ["otlphttp"]},
                },
            },
        }
