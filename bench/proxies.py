"""The proxies under measurement: how each is configured and started.

All check the caller's key against the same 1,000 keys, run in one process (the gateway: one worker
beside its control) and forward to the bench's backend, cleartext on both sides.
"""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import yaml

from bench import installed, keys, management, store
from bench.process import START_TIMEOUT_S, Program, ProgramError, free_port
from bench.running import KINDS, Build, Kind, Running, Tls, serving

_POLL_S = 0.01
_MOST_ADOPTED = 2_000
"""Keys up to so many are handed over through the API; more are put into the store before."""


class Proxy(Protocol):
    """How one proxy is started."""

    @property
    def name(self) -> str:
        """What tables call it."""

    def start(self, folder: Path, backend_port: int, core: int | None) -> Running:
        """Start it with its files in `folder`, and return once it serves.

        Raises:
            ProgramError: it does not start.
        """


def command_path(name: str) -> str:
    """Return the path of a command of this Python environment."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        message = f"{path} is missing: install the package with its bench extra"
        raise ProgramError(message)
    return str(path)


@dataclass(frozen=True, slots=True)
class NoProxy:
    """No proxy at all: the load goes to the backend, so that what a proxy adds can be told.

    What stands for its processes sleeps.
    """

    name: str = "no-proxy"

    def start(self, folder: Path, backend_port: int, core: int | None) -> Running:
        """Start nothing; see `Proxy.start`."""
        program = Program.start(self.name, ["sleep", "infinity"], folder=folder, core=core)
        ports: dict[Kind, int] = dict.fromkeys(KINDS, backend_port)
        return Running(program, ports, Build("no proxy", "load to backend"), checks_keys=False)


@dataclass(frozen=True, slots=True)
class AioHttp:
    """`bench.aiohttp_proxy`: a proxy made of aiohttp's server and client. HTTP/1.1 only."""

    name: str = "aiohttp"

    def start(self, folder: Path, backend_port: int, core: int | None) -> Running:
        """Start it; see `Proxy.start`."""
        port = free_port()
        program = Program.start(
            self.name,
            [sys.executable, "-m", "bench.aiohttp_proxy", str(port), str(backend_port)],
            folder=folder,
            core=core,
            environment={"PYTHONPATH": str(Path(__file__).parents[1])},
        )
        build = Build("aiohttp proxy", f"aiohttp {importlib.metadata.version('aiohttp')}")
        ports: dict[Kind, int] = {"http": port, "intake": port}
        return serving(Running(program, ports, build))


@dataclass(frozen=True, slots=True)
class GrpcAio:
    """`bench.grpc_aio`: a proxy made of grpcio's asyncio API. gRPC only, uncompressed."""

    name: str = "grpc-aio"

    def start(self, folder: Path, backend_port: int, core: int | None) -> Running:
        """Start it; see `Proxy.start`."""
        port = free_port()
        program = Program.start(
            self.name,
            [sys.executable, "-m", "bench.grpc_aio", str(port), str(backend_port)],
            folder=folder,
            core=core,
            environment={"PYTHONPATH": str(Path(__file__).parents[1]), "GRPC_VERBOSITY": "NONE"},
        )
        build = Build("grpc.aio proxy", f"grpcio {importlib.metadata.version('grpcio')}")
        return serving(Running(program, {"grpc": port}, build, decompresses=True))


@dataclass(frozen=True, slots=True)
class Command:
    """Any other proxy, by its command line.

    Attributes:
        name: what tables call it.
        kind: what it speaks.
        line: a shell-like command line in which {port} and {backend} are replaced.
    """

    name: str
    kind: Kind
    line: str

    def start(self, folder: Path, backend_port: int, core: int | None) -> Running:
        """Start it; see `Proxy.start`."""
        port = free_port()
        line = self.line.replace("{port}", str(port)).replace("{backend}", str(backend_port))
        program = Program.start(
            self.name, shlex.split(line), folder=folder, core=core, cwd=Path.cwd()
        )
        return serving(Running(program, {self.kind: port}, Build(self.name, self.line)))


@dataclass(frozen=True, slots=True)
class Gateway:
    """The product: an installed `gateway serve` on a SQLite store, otherwise as shipped.

    Nothing is used of it but its command, its configuration and its API, so that another version
    can be measured beside this checkout's.

    Attributes:
        key_count: how many of the bench's keys it knows.
        workers: how many worker processes it has.
        name: what tables call it.
        command: the path of its `gateway` command; None is the one that `bench.installed` has
            made of this checkout, else this Python environment's.
        tls: TLS on its listener, and perhaps towards the backend.
        environment: variables for its processes.
    """

    key_count: int = keys.COUNT
    workers: int = 1
    name: str = "gateway"
    command: str | None = None
    tls: Tls | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self, folder: Path, backend_port: int, core: int | None) -> Running:
        """Start it and hand the keys over to it; see `Proxy.start`."""
        command = self.command or installed.command() or command_path("gateway")
        build = _gateway_build(command, self.environment)
        port, admin_port = free_port(), free_port()
        configuration = folder / "gateway.yaml"
        configuration.write_text(
            yaml.safe_dump(self._configuration(folder, port, admin_port, backend_port)),
            encoding="utf-8",
        )
        if self.key_count > _MOST_ADOPTED:
            store.fill(folder / "keys.db", keys.keys(self.key_count))
        serve = [command, "serve", "--config", str(configuration)]
        began_s = time.monotonic()
        program = Program.start(
            self.name, serve, folder=folder, core=core, environment=self.environment
        )
        try:
            wait_until_ready(program, admin_port)
            start_s = time.monotonic() - began_s
            if self.key_count <= _MOST_ADOPTED:
                management.adopt(admin_port, keys.keys(self.key_count))
        except ProgramError:
            program.stop()
            raise
        ports: dict[Kind, int] = dict.fromkeys(KINDS, port)
        return serving(Running(program, ports, build, start_s=start_s))

    def _configuration(
        self, folder: Path, port: int, admin_port: int, backend_port: int
    ) -> dict[str, object]:
        backend: dict[str, object] = {"urls": [f"http://127.0.0.1:{backend_port}"]}
        listener: dict[str, object] = {"address": f"127.0.0.1:{port}"}
        if self.tls is not None:
            certificate, key = str(self.tls.cert_file), str(self.tls.key_file)
            listener["tls"] = {"cert_file": certificate, "key_file": key}
            if self.tls.is_upstream:
                backend = {
                    "urls": [f"https://{Tls.NAME}:{backend_port}"],
                    "tls": {"ca_file": str(self.tls.ca_file)},
                }
        return {
            "listen": [listener],
            "backends": {"otlp_grpc": backend, "otlp_http": backend, "intake": backend},
            "keys": {"stores": [f"sqlite://{folder}/keys.db"]},
            "admin": {"address": f"127.0.0.1:{admin_port}", "tokens": [management.TOKEN]},
            "limits": {"drain_delay": "0s"},
            "workers": self.workers,
            "state_dir": str(folder / "state"),
        }


def _gateway_build(command: str, environment: Mapping[str, str]) -> Build:
    """Ask a `gateway` command for its version. Raises ProgramError."""
    try:
        done = subprocess.run(
            [command, "--version"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        message = f"cannot run {command}: {error}"
        raise ProgramError(message) from error
    if done.returncode:
        message = f"`{command} --version` fails: {done.stderr.strip()}"
        raise ProgramError(message)
    return Build(done.stdout.strip(), installed.origin(command))


def wait_until_ready(program: Program, admin_port: int) -> None:
    """Return once `/readyz` answers 200."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    answer = "no answer"
    while time.monotonic() < deadline_s:
        program.check_alive()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/readyz", timeout=2):
                return
        except urllib.error.HTTPError as error:
            answer = error.read().decode(errors="replace")
        except OSError as error:
            answer = str(error)
        time.sleep(_POLL_S)
    message = f"{program.name} is not ready: {answer}\n{program.output()[-2000:]}"
    raise ProgramError(message)
