"""What Envoy's questions cost a gateway: `python -m bench.envoy_decisions`.

One gateway answers `envoy.service.auth.v3.Authorization` and takes requests itself, and an Envoy
asks it about each request. The same load goes through the gateway and through Envoy in turn, so
that whatever else the machine does falls on both alike; the medians of the rounds are compared.

- CPU per request on the direct path: of the gateway.
- CPU per request through Envoy: of Envoy, and of the gateway, which is that of a decision.
- Decisions a second: as many questions as one connection brings, 64 at a time, without Envoy.

Gateway and Envoy share core 0, load and backend core 1. Exit code 2 when it could not be run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import grpc.aio

from bench import keys
from bench.backend import Backend, send_load
from bench.envoy import Envoy
from bench.process import ProgramError, free_port, pinned
from bench.proxies import Gateway
from bench.report import RunFailedError
from bench.rows import ROWS, Row
from bench.running import Running
from gateway.protos.envoy.service.auth.v3 import external_auth_pb2 as pb

_ROWS = ("grpc-small", "http-small")
_METHOD = "/envoy.service.auth.v3.Authorization/Check"
_PATH = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_AT_ONCE = 64
_CORE, _LOAD_CORE = 0, 1


@dataclass(frozen=True, slots=True)
class _AskedGateway(Gateway):
    grpc_port: int = 0

    def _configuration(
        self, folder: Path, port: int, admin_port: int, backend_port: int
    ) -> dict[str, object]:
        tree = super(_AskedGateway, self)._configuration(folder, port, admin_port, backend_port)
        admin = tree["admin"]
        assert isinstance(admin, dict)  # noqa: S101 - our own configuration
        return {**tree, "admin": {**admin, "grpc_address": f"127.0.0.1:{self.grpc_port}"}}


@dataclass(frozen=True, slots=True)
class Costs:
    """Medians over the rounds, in microseconds of CPU per request."""

    direct: float
    envoy: float
    decision: float


class _Bench:
    """A running gateway, and an Envoy that asks it."""

    def __init__(self, gateway: Running, envoy: Running) -> None:
        self._gateway = gateway
        self._envoy = envoy

    def direct(self, row: Row) -> float:
        """Send one round to the gateway; return its CPU time per request."""
        before = self._gateway.program.cpu_ns()
        self._send(row, self._gateway)
        return (self._gateway.program.cpu_ns() - before) / row.requests / 1e3

    def through_envoy(self, row: Row) -> tuple[float, float]:
        """Send one round to Envoy; return the CPU time per request, Envoy's and the gateway's."""
        programs = self._envoy.program, self._gateway.program
        before = [each.cpu_ns() for each in programs]
        self._send(row, self._envoy)
        spent = [each.cpu_ns() - was for each, was in zip(programs, before, strict=True)]
        return spent[0] / row.requests / 1e3, spent[1] / row.requests / 1e3

    @staticmethod
    def _send(row: Row, to: Running) -> None:
        send_load(row.load_arguments(to.ports[row.kind], row.requests, bdp_pings=False), _LOAD_CORE)


def measure(bench: _Bench, row: Row, rounds: int) -> Costs:
    """Send all rounds; return what a request costs in each way."""
    bench.direct(row)
    bench.through_envoy(row)
    direct: list[float] = []
    through: list[tuple[float, float]] = []
    for number in range(rounds):
        if number % 2:
            through.append(bench.through_envoy(row))
            direct.append(bench.direct(row))
        else:
            direct.append(bench.direct(row))
            through.append(bench.through_envoy(row))
    envoys, decisions = zip(*through, strict=True)
    return Costs(median(direct), median(envoys), median(decisions))


async def ask(port: int, count: int) -> float:
    """Ask `count` times over one connection; return how many answers came in a second.

    Raises:
        RunFailedError: a key that the gateway knows is refused.
    """
    questions = [_question(each).SerializeToString() for each in keys.authorizations()]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, pb.CheckResponse] = channel.unary_unary(
            _METHOD, response_deserializer=pb.CheckResponse.FromString
        )

        async def ask_some(first: int) -> None:
            for number in range(first, count, _AT_ONCE):
                answer = await check(questions[number % len(questions)])
                if not answer.HasField("ok_response"):
                    message = f"a known key is refused: {answer.status.message}"
                    raise RunFailedError(message)

        began_s = time.perf_counter()
        await asyncio.gather(*(ask_some(first) for first in range(_AT_ONCE)))
        return count / (time.perf_counter() - began_s)


def _question(authorization: str) -> pb.CheckRequest:
    """Ask as Envoy does about an OTLP/gRPC request."""
    question = pb.CheckRequest()
    http = question.attributes.request.http
    http.method, http.path, http.protocol = "POST", _PATH, "HTTP/2"
    fields = {
        ":method": "POST",
        ":path": _PATH,
        ":authority": "gateway.example:4317",
        "content-type": "application/grpc",
        "user-agent": "grpc-go/1.68.0",
        "te": "trailers",
        "authorization": authorization,
        "x-request-id": "2f4e4a6b-8c0d-4e3f-9a7b-0c1d2e3f4a5b",
    }
    for name, value in fields.items():
        http.header_map.headers.add(key=name, raw_value=value.encode())
    return question


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="bench.envoy_decisions", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--requests", type=int, default=4_000)
    parser.add_argument("--questions", type=int, default=20_000)
    parser.add_argument("--row", action="append", choices=list(_ROWS))
    options = parser.parse_args(arguments)
    try:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            backend = Backend.start(folder, _LOAD_CORE)
            stack.callback(backend.program.stop)
            grpc_port = free_port()
            asked = _AskedGateway(grpc_port=grpc_port)
            gateway = asked.start(folder, backend.port, _CORE)
            stack.callback(gateway.program.stop)
            envoy = Envoy(authorizer=grpc_port).start(folder, backend.port, _CORE)
            stack.callback(envoy.program.stop)
            print(f"{gateway.build}\n{envoy.build}", flush=True)
            bench = _Bench(gateway, envoy)
            for name in options.row or _ROWS:
                costs = measure(
                    bench, replace(ROWS[name], requests=options.requests), options.rounds
                )
                print(
                    f"{name}: direct {costs.direct:.0f} µs; through Envoy {costs.envoy:.0f} µs"
                    f" and {costs.decision:.0f} µs for the decision",
                    flush=True,
                )
            before = gateway.program.cpu_ns()
            with pinned(_LOAD_CORE):
                rate = asyncio.run(ask(grpc_port, options.questions))
            cpu_us = (gateway.program.cpu_ns() - before) / options.questions / 1e3
            print(f"asked directly: {rate:,.0f} decisions a second, {cpu_us:.0f} µs each")
    except (ProgramError, RunFailedError) as error:
        print(f"the bench could not be run: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
