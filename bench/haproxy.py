"""HAProxy as a peer: which build, its configuration and start.

The build is the distribution's package, fetched by `tools/debian.py`, or the program that the
environment variable HAPROXY names.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench import keys
from bench.process import Program, ProgramError, free_port
from bench.running import KINDS, Build, Kind, Running, Tls, serving
from tools import debian

# Windows of a busy connection, as the gateway and Envoy have them; the rest is HAProxy's default.
_CONFIGURATION = """
global
  nbthread 1
  maxconn 8192
  tune.h2.initial-window-size 1048576
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend grpc
  bind 127.0.0.1:{grpc} {listen_h2}
  http-request deny deny_status 401 unless {{ req.fhdr(authorization) -m str -f keys.lst }}
  default_backend grpc
frontend http
  bind 127.0.0.1:{http} {listen_h1}
  http-request deny deny_status 401 unless {{ req.fhdr(authorization) -m str -f keys.lst }}
  default_backend http
frontend intake
  bind 127.0.0.1:{intake} {listen_h1}
  http-request deny deny_status 403 unless {{ req.fhdr(sts-api-key) -m str -f agents.lst }}
  default_backend http
backend grpc
  server one 127.0.0.1:{backend} {server_h2}
backend http
  server one 127.0.0.1:{backend} {server_h1}
"""


def parse_build(text: str, origin: str) -> Build:
    """Read what `haproxy -vv` prints of a program that comes from `origin`: a package or a path.

    Raises:
        ProgramError: it does not name a version.
    """
    version = re.search(r"^HAProxy version (\S+)", text, re.MULTILINE)
    if version is None:
        message = f"{origin} is no HAProxy: `-vv` prints {text.strip()[-500:]!r}"
        raise ProgramError(message)
    flags = re.search(r"^\s+CFLAGS\s+= (.*)$", text, re.MULTILINE)
    given = flags[1].split() if flags else []
    costly = [each for each in given if each.startswith(("-O", "-f", "-m", "-D"))]
    whose, is_package, package = origin.partition(" package ")
    title = f"HAProxy {version[1].partition('-')[0]}, {whose}{' package' if is_package else ''}"
    compiled = " ".join(dict.fromkeys(costly)) if flags else "unknown flags"
    return Build(title, f"{package or origin}, compiled with {compiled}")


def program() -> Path:
    """Return the HAProxy to measure.

    Raises:
        ProgramError: it was not fetched, or HAPROXY does not name a program.
    """
    try:
        found = debian.find("haproxy")
    except debian.FetchError as error:
        raise ProgramError(str(error)) from error
    if found is None:
        message = (
            "HAProxy is missing: run `python3 tools/debian.py haproxy` to fetch the distribution's "
            "package, or set HAPROXY to the path of your own"
        )
        raise ProgramError(message)
    return found


def build_of(program: Path) -> Build:
    """Ask a HAProxy how it was built.

    Raises:
        ProgramError: it cannot be run.
    """
    try:
        done = subprocess.run(
            [program, "-vv"],
            env=debian.environment(program),
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        message = f"cannot run {program}: {error}"
        raise ProgramError(message) from error
    if done.returncode:
        message = f"`{program} -vv` fails: {done.stderr.strip()}"
        raise ProgramError(message)
    return parse_build(done.stdout, debian.origin(program))


@dataclass(frozen=True, slots=True)
class HaProxy:
    """HAProxy with one thread, a list of the keys, connections to the backend kept and shared."""

    key_count: int = keys.COUNT
    tls: Tls | None = None
    name: str = "haproxy"

    def start(self, folder: Path, backend_port: int, core: int | None) -> Running:
        """Start it; see `proxies.Proxy.start`."""
        path = program()
        build = build_of(path)
        ports: dict[Kind, int] = {kind: free_port() for kind in KINDS}
        (folder / "keys.lst").write_text("\n".join(keys.authorizations(self.key_count)) + "\n")
        (folder / "agents.lst").write_text("\n".join(keys.keys(self.key_count)) + "\n")
        configuration = folder / "haproxy.cfg"
        configuration.write_text(
            _CONFIGURATION.format(backend=backend_port, **ports, **self._options(folder))
        )
        started = Program.start(
            self.name,
            [str(path), "-db", "-q", "-f", str(configuration)],
            folder=folder,
            core=core,
            environment=debian.environment(path),
        )
        return serving(Running(started, ports, build))

    def _options(self, folder: Path) -> dict[str, str]:
        """Return what stands behind addresses."""
        options = {"listen_h2": "proto h2", "listen_h1": "", "server_h2": "proto h2"}
        options["server_h1"] = ""
        if self.tls is None:
            return options
        pem = folder / "haproxy.pem"
        pem.touch(mode=0o600)
        pem.write_bytes(self.tls.cert_file.read_bytes() + self.tls.key_file.read_bytes())
        options["listen_h2"] = f"ssl crt {pem} alpn h2"
        options["listen_h1"] = f"ssl crt {pem} alpn http/1.1"
        if self.tls.is_upstream:
            check = f"ssl verify required ca-file {self.tls.ca_file} sni str({Tls.NAME})"
            options["server_h2"] = f"{check} alpn h2"
            options["server_h1"] = f"{check} alpn http/1.1"
        return options
