"""nginx as the peer that the gates compare with: which build, its configuration and start.

The build is the distribution's package, fetched by `tools/debian.py`, or the program that the
environment variable NGINX names. What it was compiled with decides what a request costs: one built
for size needs twice the CPU.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench import keys
from bench.process import Program, ProgramError, free_port
from bench.running import KINDS, Build, Kind, Running, Tls, serving
from tools import debian

# Two upstreams of one address: idle connections are pooled per upstream, and one that has spoken
# HTTP/2 must not be used for HTTP/1.1. `http2` stands with `listen`, where versions before 1.25.1
# want it; later ones still take it there.
_CONFIGURATION = """
worker_processes 1; daemon off; master_process off; pid ./nginx.pid; error_log ./nginx.err;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_max_body_size 0; client_body_buffer_size 4m;
  keepalive_requests 100000000; keepalive_time 1d;
  client_body_temp_path ./body; proxy_temp_path ./proxy; fastcgi_temp_path ./fastcgi;
  uwsgi_temp_path ./uwsgi; scgi_temp_path ./scgi;
  {certificates}
  map_hash_max_size {map_size}; map_hash_bucket_size 256;
  map $http_authorization $is_known {{ default 0; include keys.map; }}
  map $http_sts_api_key $is_agent {{ default 0; include agents.map; }}
  upstream grpc_backend {{
    server 127.0.0.1:{backend}; keepalive 64; keepalive_requests 100000000; keepalive_time 1d;
  }}
  upstream http_backend {{
    server 127.0.0.1:{backend}; keepalive 64; keepalive_requests 100000000; keepalive_time 1d;
  }}
  server {{
    listen 127.0.0.1:{grpc} {ssl} http2; http2_max_concurrent_streams 256;
    location / {{
      if ($is_known = 0) {{ return 401; }}
      grpc_pass {grpc_scheme}://grpc_backend; grpc_buffer_size 64k;
    }}
  }}
  server {{
    listen 127.0.0.1:{http} {ssl};
    location / {{
      if ($is_known = 0) {{ return 401; }}
      proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_request_buffering off; proxy_pass {http_scheme}://http_backend;
    }}
  }}
  server {{
    listen 127.0.0.1:{intake} {ssl};
    location / {{
      if ($is_agent = 0) {{ return 403; }}
      proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_request_buffering off; proxy_pass {http_scheme}://http_backend;
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


@dataclass(frozen=True, slots=True)
class Nginx:
    """nginx with one worker, a map of the keys, kept-alive upstream connections, no access log."""

    key_count: int = keys.COUNT
    tls: Tls | None = None
    name: str = "nginx"

    def start(self, folder: Path, backend_port: int, core: int | None) -> Running:
        """Start it; see `proxies.Proxy.start`."""
        path = program()
        build = build_of(path)
        ports: dict[Kind, int] = {kind: free_port() for kind in KINDS}
        _write_map(folder / "keys.map", keys.authorizations(self.key_count))
        _write_map(folder / "agents.map", keys.keys(self.key_count))
        map_size = max(262_144, 4 * self.key_count)
        text = _CONFIGURATION.format(
            backend=backend_port, map_size=map_size, **ports, **_tls_directives(self.tls)
        )
        started = start(self.name, path, folder, text, core)
        return serving(Running(started, ports, build))


def start(name: str, path: Path, folder: Path, configuration: str, core: int | None) -> Program:
    """Start the nginx at `path` with a configuration and its files in `folder`.

    Raises:
        ProgramError: it cannot be started.
    """
    file = folder / "nginx.conf"
    file.write_text(configuration, encoding="ascii")
    command = [str(path), "-p", str(folder), "-e", "nginx.err", "-c", str(file)]
    return Program.start(name, command, folder=folder, core=core)


def _write_map(file: Path, values: list[str]) -> None:
    file.write_text("".join(f'"{each}" 1;\n' for each in values), encoding="ascii")


def _tls_directives(tls: Tls | None) -> dict[str, str]:
    plain = {"ssl": "", "certificates": "", "grpc_scheme": "grpc", "http_scheme": "http"}
    if tls is None:
        return plain
    listener = f"ssl_certificate {tls.cert_file}; ssl_certificate_key {tls.key_file};"
    if not tls.is_upstream:
        return {**plain, "ssl": "ssl", "certificates": listener}
    checked = " ".join(
        f"{each}_ssl_verify on; {each}_ssl_trusted_certificate {tls.ca_file};"
        f" {each}_ssl_name {Tls.NAME};"
        for each in ("grpc", "proxy")
    )
    both = f"{listener} {checked}"
    return {"ssl": "ssl", "certificates": both, "grpc_scheme": "grpcs", "http_scheme": "https"}
