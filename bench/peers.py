"""The proxies by name: made for a setting, started where rows want them, named where they lack."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.backend import Backend
from bench.collector import Collector
from bench.envoy import Envoy
from bench.haproxy import HaProxy
from bench.nginx import Nginx
from bench.nginx_stream import NginxStream
from bench.process import ProgramError
from bench.proxies import AioHttp, Gateway, GrpcAio, NoProxy, Proxy
from bench.rows import SUBJECT, Row
from bench.run_file import Program
from bench.running import Running, Setting, Tls
from gateway.demo.certificates import ensure_certificates

PURE = {"GATEWAY_PURE_PYTHON": "1"}

Maker = Callable[[Setting, Tls | None], Proxy]
MAKERS: dict[str, Maker] = {
    SUBJECT: lambda wanted, tls: Gateway(wanted.keys, wanted.workers, tls=tls),
    "gateway-python": lambda wanted, tls: Gateway(
        wanted.keys, wanted.workers, "gateway-python", tls=tls, environment=PURE
    ),
    "nginx": lambda wanted, tls: Nginx(wanted.keys, tls),
    "haproxy": lambda wanted, tls: HaProxy(wanted.keys, tls),
    "envoy": lambda wanted, tls: Envoy(wanted.keys, tls),
    "collector": lambda wanted, _: Collector(wanted.keys),
    "collector-gzip": lambda wanted, _: Collector(wanted.keys, "gzip", "collector-gzip"),
    "grpc-aio": lambda _, __: GrpcAio(),
    "aiohttp": lambda _, __: AioHttp(),
    "splice": lambda _, __: NginxStream(),
    "no-proxy": lambda _, __: NoProxy(),
}


def certificates(folder: Path) -> Tls:
    """Make a CA and a certificate in `folder`, for the backend's TLS port too."""
    files = ensure_certificates(folder, dt.datetime.now(dt.UTC))
    return Tls(files.ca_file, files.cert_file, files.key_file, is_upstream=False)


@dataclass(slots=True)
class Peers:
    """The proxies that run at the moment.

    Attributes:
        folder: where their files are.
        backend, tls: where they forward to, and the certificates.
        core: where they run.
        chosen: makers by name; others are left out.
        required: names whose absence is an error.
        builds, missing: what was started, and what could not be and why, by name.
    """

    folder: Path
    backend: Backend
    tls: Tls
    core: int | None
    chosen: dict[str, Maker]
    required: frozenset[str]
    builds: dict[str, Program] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    _running: dict[tuple[str, Setting], Running] = field(default_factory=dict)

    def of(self, row: Row) -> dict[str, Running]:
        """Return the proxies that a row goes through, by name; those not running are started.

        Raises:
            ProgramError: one that is required does not start.
        """
        found = {}
        for name in self.chosen:
            if name not in row.proxies and name in MAKERS:
                continue
            running = self._get(name, row.setting)
            if running is not None and row.suits(running):
                found[name] = running
        return found

    def _get(self, name: str, setting: Setting) -> Running | None:
        if name in self.missing:
            return None
        place = name, setting
        if place not in self._running:
            try:
                self._running[place] = self._start(name, setting)
            except ProgramError as error:
                if name in self.required:
                    raise
                self.missing[name] = str(error)
                return None
        return self._running[place]

    def _start(self, name: str, setting: Setting) -> Running:
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))
        port, tls = self.backend.port, None
        if setting.tls != "none":
            tls = replace(self.tls, is_upstream=setting.tls == "both")
            if tls.is_upstream and self.backend.tls_port is not None:
                port = self.backend.tls_port
        running = self.chosen[name](setting, tls).start(folder, port, self.core)
        if running.build is not None:
            self.builds[name] = Program(running.build.title, running.build.details)
        return running

    def stop_others(self, wanted: set[Setting]) -> None:
        """Stop those whose setting no further row wants."""
        for place in [each for each in self._running if each[1] not in wanted]:
            self._running.pop(place).program.stop()

    def stop(self) -> None:
        """Stop all."""
        self.stop_others(set())
