"""What a sender with a token costs beside one with a key: `python -m bench.tokens`.

One gateway knows both: 1,000 keys, and an issuer of 1,000 tokens (RS256, as long as those of
Keycloak). Load with the ones and with the others takes turns, so that whatever else the machine
does falls on both alike; the medians of the rounds are compared. Every token has been checked
before: it is the steady state that is measured.

Exit code 1 when a token costs more than `MOST_MORE` above a key; 2 when it could not be run.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, cast

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from bench import keys
from bench.backend import Backend, send_load
from bench.process import ProgramError
from bench.proxies import Gateway
from bench.report import RunFailedError
from bench.rows import ROWS, Row
from bench.running import Running

MOST_MORE = 0.03
_ROWS = ("grpc-small", "http-small")
_AUDIENCE = "otlp-gateway"


class _Issuer(http.server.ThreadingHTTPServer):
    """Publishes one key."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._private = rsa.generate_private_key(65537, 2048)
        public = RSAAlgorithm.to_jwk(self._private.public_key(), as_dict=True)
        self.documents: dict[str, Any] = {
            "/keys": {"keys": [{**public, "kid": "bench", "use": "sig", "alg": "RS256"}]},
            "/.well-known/openid-configuration": {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/keys",
            },
        }

    def token(self, number: int) -> str:
        """Sign what Keycloak puts into a service account's token."""
        now = int(time.time())
        claims = {
            "exp": now + 86_400,
            "iat": now,
            "jti": f"trrtcc:{number:08d}-6a0b-4c1e-9d3f-0a1b2c3d4e5f",
            "iss": self.url,
            "aud": [_AUDIENCE, "account"],
            "sub": f"{number:08d}-2f4e-4a6b-8c0d-1e3f5a7b9c0d",
            "typ": "Bearer",
            "azp": f"agent-{number:04d}",
            "acr": "1",
            "realm_access": {"roles": ["offline_access", "default-roles", "uma_authorization"]},
            "scope": "openid profile email",
            "clientHost": "10.0.0.7",
            "preferred_username": f"service-account-agent-{number:04d}",
            "client_id": f"agent-{number:04d}",
        }
        return jwt.encode(claims, self._private, "RS256", {"kid": "bench"})


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers with the issuer's documents."""

    def do_GET(self) -> None:
        issuer = cast("_Issuer", self.server)
        content = json.dumps(issuer.documents[self.path]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@dataclass(frozen=True, slots=True)
class _GatewayWithIssuer(Gateway):
    issuer: str = ""

    def _configuration(
        self, folder: Path, port: int, admin_port: int, backend_port: int
    ) -> dict[str, object]:
        tree = super(_GatewayWithIssuer, self)._configuration(
            folder, port, admin_port, backend_port
        )
        stores = [f"sqlite://{folder}/keys.db", f"jwt+{self.issuer}"]
        return {**tree, "keys": {"stores": stores, "jwt": {"audience": _AUDIENCE}}}


@contextlib.contextmanager
def _issuing() -> Iterator[_Issuer]:
    issuer = _Issuer()
    thread = threading.Thread(target=issuer.serve_forever)
    thread.start()
    try:
        yield issuer
    finally:
        issuer.shutdown()
        thread.join()
        issuer.server_close()


class _Bench:
    """A running gateway and the files of what is sent to it."""

    def __init__(self, running: Running, folder: Path, issuer: _Issuer, core: int) -> None:
        self._running = running
        self._core = core
        self._files = {name: folder / name for name in ("key", "token")}
        self._files["key"].write_text("\n".join(keys.authorizations()), encoding="ascii")
        tokens = [issuer.token(number) for number in range(keys.COUNT)]
        self.token_bytes = len(tokens[0])
        text = "\n".join(f"Bearer {token}" for token in tokens)
        self._files["token"].write_text(text, encoding="ascii")

    def cpu_us(self, row: Row, name: str, requests: int) -> float:
        """Send one round; return the gateway's CPU time per request."""
        arguments = row.load_arguments(self._running.ports[row.kind], requests, bdp_pings=False)
        before = self._running.program.cpu_ns()
        send_load([*arguments, f"--authorizations={self._files[name]}"], self._core)
        return (self._running.program.cpu_ns() - before) / requests / 1e3


def _measure(bench: _Bench, row: Row, rounds: int) -> float:
    """Print what both cost; return by how much a token costs more."""
    samples: dict[str, list[float]] = {"key": [], "token": []}
    for name in samples:
        bench.cpu_us(row, name, 2 * keys.COUNT)
    for number in range(rounds):
        for name in sorted(samples, reverse=number % 2 == 1):
            samples[name].append(bench.cpu_us(row, name, row.requests))
    key, token = (median(samples[name]) for name in ("key", "token"))
    more = token / key - 1
    print(f"{row.name}: key {key:.1f} µs, token {token:.1f} µs: {more:+.1%}", flush=True)
    return more


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="bench.tokens", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--row", action="append", choices=list(ROWS))
    options = parser.parse_args(arguments)
    try:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            issuer = stack.enter_context(_issuing())
            backend = Backend.start(folder, 1)
            stack.callback(backend.program.stop)
            running = _GatewayWithIssuer(issuer=issuer.url).start(folder, backend.port, 0)
            stack.callback(running.program.stop)
            bench = _Bench(running, folder, issuer, 1)
            print(f"{running.build}; tokens of {bench.token_bytes} bytes", flush=True)
            rows = [ROWS[name] for name in options.row or _ROWS]
            more = [_measure(bench, row, options.rounds) for row in rows]
    except (ProgramError, RunFailedError) as error:
        print(f"the bench could not be run: {error}", file=sys.stderr)
        return 2
    return 1 if max(more) > MOST_MORE else 0


if __name__ == "__main__":
    sys.exit(main())
