"""nginx's `stream` as a peer that only copies bytes: the least that any proxy can cost.

It knows no requests and no keys. nginx is the one of `bench.nginx`; the module comes as a package
of its own on Debian, fetched by `tools/debian.py nginx-stream`. An nginx of your own (`NGINX`) has
it compiled in, or names it with NGINX_STREAM.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bench import nginx
from bench.process import ProgramError, free_port
from bench.running import KINDS, Build, Kind, Running, serving
from tools import debian

_CONFIGURATION = """
{load}
worker_processes 1; daemon off; master_process off; pid ./nginx.pid; error_log ./nginx.err;
events {{ worker_connections 8192; }}
stream {{
  server {{ listen 127.0.0.1:{port}; tcp_nodelay on; proxy_pass 127.0.0.1:{backend}; }}
}}
"""


def _load_module() -> str:
    """Return the directive that loads the module, or nothing where an nginx has it compiled in.

    Raises:
        ProgramError: the module was not fetched.
    """
    try:
        module = debian.find("nginx-stream")
    except debian.FetchError as error:
        raise ProgramError(str(error)) from error
    is_packaged = nginx.program().is_relative_to(debian.CACHE)
    if module is not None and (is_packaged or "NGINX_STREAM" in os.environ):
        return f"load_module {module};"
    if is_packaged:
        message = "nginx's stream module is missing: run `python3 tools/debian.py nginx-stream`"
        raise ProgramError(message)
    return ""


@dataclass(frozen=True, slots=True)
class NginxStream:
    """nginx with one worker that copies bytes between two connections."""

    name: str = "splice"

    def start(self, folder: Path, backend_port: int, core: int | None) -> Running:
        """Start it; see `proxies.Proxy.start`."""
        path = nginx.program()
        build = nginx.build_of(path)
        port = free_port()
        text = _CONFIGURATION.format(load=_load_module(), port=port, backend=backend_port)
        started = nginx.start(self.name, path, folder, text, core)
        ports: dict[Kind, int] = dict.fromkeys(KINDS, port)
        stream = Build(f"{build.title}, stream", build.details)
        return serving(Running(started, ports, stream, checks_keys=False))
