"""nginx as the peer that the gates compare with: which build, its configuration and start.

The build is the distribution's package, fetched by `tools/debian.py`, or the program that the
environment variable NGINX names. What it was compiled with decides what a request costs: one built
for size needs twice the CPU.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

from bench import keys
from bench.process import Program, ProgramError, free_port
from bench.running import Build, Kind, Running, serving
from tools import debian

# Two upstreams of one address: idle connections are pooled per upstream, and one that has spoken
# HTTP/2 must not be used for HTTP/1.1. `http2` stands with `listen`, where versions before 1.25.1
# want it; later ones still take it there.
_CONFIGURATION = """
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
    listen 127.0.0.1:{grpc} http2; http2_max_concurrent_streams 256;
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


def parse_build(text: str, origin: str) -> Build:
    """Read what `nginx -V` prints of a program that comes from `origin`: a package or a path.

    Raises:
        ProgramError: it does not name a version.
    """
    version = re.search(r"^nginx version: [^/\n]+/(\S+)", text, re.MULTILINE)
    if version is None:
        message = f"{origin} is no nginx: `-V` prints {text.strip()[-500:]!r}"
        raise ProgramError(message)
    configured = re.search(r"^configure arguments: (.*)$", text, re.MULTILINE)
    arguments = shlex.split(configured[1]) if configured else []
    compiler = [each for each in arguments if each.startswith("--with-cc-opt=")]
    flags = [flag for each in compiler for flag in each.partition("=")[2].split() if _costs(flag)]
    if not any(flag.startswith("-O") for flag in flags):
        flags.insert(0, "-O")  # nginx's own default
    flags += [each for each in arguments if each == "--with-debug"]
    whose, is_package, package = origin.partition(" package ")
    title = f"nginx {version[1]}, {whose}{' package' if is_package else ''}"
    details = f"{package or origin}, compiled with {' '.join(flags)}"
    return Build(title, details)


def _costs(flag: str) -> bool:
    """Return whether a compiler's flag changes the code: no warnings, debug symbols, paths."""
    return flag.startswith(("-O", "-f", "-m", "-D", "-s")) and "-prefix-map=" not in flag


def program() -> Path:
    """Return the nginx to measure.

    Raises:
        ProgramError: it was not fetched, or NGINX does not name a program.
    """
    try:
        found = debian.find("nginx")
    except debian.FetchError as error:
        raise ProgramError(str(error)) from error
    if found is None:
        message = (
            "nginx is missing: run `python3 tools/debian.py nginx` to fetch the distribution's "
            "package, or set NGINX to the path of your own"
        )
        raise ProgramError(message)
    return found


def build_of(program: Path) -> Build:
    """Ask an nginx how it was built.

    Raises:
        ProgramError: it cannot be run, for instance because libraries are missing.
    """
    try:
        done = subprocess.run([program, "-V"], capture_output=True, text=True, check=False)
    except OSError as error:
        message = f"cannot run {program}: {error}"
        raise ProgramError(message) from error
    if done.returncode:
        message = (
            f"`{program} -V` fails: {done.stderr.strip()}\n"
            "Install the libraries that it lacks (`apt-get install nginx`), or set NGINX"
        )
        raise ProgramError(message)
    return parse_build(done.stderr, debian.origin(program))


class Nginx:
    """nginx with one worker, a map of the keys, kept-alive upstream connections, no access log."""

    name = "nginx"

    def start(self, folder: Path, backend_port: int, core: int | None) -> Running:
        """Start it; see `proxies.Proxy.start`."""
        path = program()
        build = build_of(path)
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
            _CONFIGURATION.format(backend=backend_port, **ports), encoding="ascii"
        )
        command = [str(path), "-p", str(folder), "-e", "nginx.err", "-c", str(configuration)]
        started = Program.start(self.name, command, folder=folder, core=core)
        return serving(Running(started, ports, build))
