"""`gateway send`: send sample telemetry to an endpoint and explain the response."""

from __future__ import annotations

import asyncio
import enum
import os
import sys
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import typer

from gateway.cli.output import Exit, error, fail, info, is_fancy, success
from gateway.model import Signal
from gateway.otlp.services import SERVICES, Service
from gateway.sender.agents import AgentPath
from gateway.sender.explain import Explanation, Verdict
from gateway.sender.run import Attempt
from gateway.sender.run import send as send_plan
from gateway.sender.target import (
    Plan,
    PlanError,
    SendProtocol,
    Tls,
    check_key,
    parse_endpoint,
)

KEY_VARIABLE: Final = "GATEWAY_KEY"
_EXITS: Final = {
    Verdict.ACCEPTED: Exit.OK,
    Verdict.REFUSED: Exit.REFUSED,
    Verdict.UNREACHABLE: Exit.UNREACHABLE,
}


class SignalChoice(enum.StrEnum):
    """What to send."""

    TRACES = "traces"
    METRICS = "metrics"
    LOGS = "logs"
    PROFILES = "profiles"
    ALL = "all"

    @property
    def signals(self) -> tuple[Signal, ...]:
        """The chosen signals."""
        return tuple(SERVICES) if self is SignalChoice.ALL else (Signal(self.value),)


class Compression(enum.StrEnum):
    """Compression of the request bodies."""

    NONE = "none"
    GZIP = "gzip"
    DEFLATE = "deflate"
    ZSTD = "zstd"
    SNAPPY = "snappy"
    LZ4 = "lz4"


EndpointOption = Annotated[
    str, typer.Option(metavar="URL", help="Base URL, e.g. http://127.0.0.1:4317 or https://host.")
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="The API key. Other users can see command lines: prefer --key-file or GATEWAY_KEY.",
    ),
]
KeyFileOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Read the API key from a file; - is standard input [default: GATEWAY_KEY].",
    ),
]
SchemeOption = Annotated[
    str, typer.Option(metavar="SCHEME", help="Scheme of the Authorization header.")
]
ProtocolOption = Annotated[
    SendProtocol,
    typer.Option(help="OTLP/gRPC, OTLP/HTTP with protobuf or JSON, or the agents' intake."),
]
SignalOption = Annotated[SignalChoice, typer.Option(help="What to send over OTLP.")]
CountOption = Annotated[int, typer.Option(min=1, metavar="N", help="Requests per signal.")]
CompressionOption = Annotated[Compression, typer.Option(help="Compression of the request bodies.")]
CaFileOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="CA certificates (PEM) to verify the server with."),
]
ClientCertOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A client certificate (PEM) to say who sends."),
]
ClientKeyOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Its private key (PEM), if it is in another file."),
]
InsecureOption = Annotated[
    bool,
    typer.Option(
        "--insecure-skip-verify", help="Accept any certificate. The API key can be stolen."
    ),
]
TimeoutOption = Annotated[
    float, typer.Option(min=0.1, metavar="SECONDS", help="Timeout of one request.")
]


def send(
    *,
    endpoint: EndpointOption,
    key: KeyOption = None,
    key_file: KeyFileOption = None,
    scheme: SchemeOption = "StackState",
    protocol: ProtocolOption = SendProtocol.GRPC,
    signal: SignalOption = SignalChoice.TRACES,
    count: CountOption = 1,
    compression: CompressionOption = Compression.NONE,
    ca_file: CaFileOption = None,
    client_cert_file: ClientCertOption = None,
    client_key_file: ClientKeyOption = None,
    insecure_skip_verify: InsecureOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Send sample telemetry and explain the response: the outcome, the reason, and what to do.

    Exit codes: 0 accepted, 1 invalid arguments, 2 refused, 3 no response.

    Examples:

    gateway send --endpoint http://127.0.0.1:4317 --key-file key.txt

    gateway send --endpoint https://127.0.0.1:4443 --ca-file ca.crt --signal all

    gateway send --endpoint http://127.0.0.1:4318 --protocol json --compression gzip --count 100

    gateway send --endpoint http://127.0.0.1:4318/receiver/stsAgent --protocol intake
    """
    try:
        plan = Plan(
            endpoint=parse_endpoint(endpoint, protocol),
            protocol=protocol,
            signals=signal.signals,
            key=_read_key(key, key_file),
            scheme=_checked_scheme(scheme),
            compression=compression,
            count=count,
            timeout_s=timeout,
            tls=_tls(ca_file, client_cert_file, client_key_file, insecure_skip_verify),
        )
        report = asyncio.run(_send(plan))
    except PlanError as problem:
        fail(str(problem), Exit.BAD_INPUT)
    report.summarize()
    raise typer.Exit(_EXITS[report.worst])


def _tls(
    ca_file: Path | None,
    cert_file: Path | None,
    key_file: Path | None,
    insecure_skip_verify: bool,
) -> Tls:
    if key_file is not None and cert_file is None:
        msg = "--client-key-file needs --client-cert-file, the certificate of this key"
        raise PlanError(msg)
    return Tls(ca_file, insecure_skip_verify, cert_file, key_file)


def _read_key(key: str | None, key_file: str | None) -> str | None:
    """Take the key from the option, the file or the environment, in this order."""
    if key is not None and key_file is not None:
        msg = "use either --key or --key-file, not both"
        raise PlanError(msg)
    if key is not None:
        return check_key(key, "--key")
    if key_file is not None:
        return check_key(_read_text(key_file), f"--key-file {key_file}")
    from_environment = os.environ.get(KEY_VARIABLE)
    return check_key(from_environment, KEY_VARIABLE) if from_environment else None


def _read_text(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "not a text file"
        msg = f"--key-file {name}: {reason or problem}"
        raise PlanError(msg) from problem


def _checked_scheme(scheme: str) -> str:
    if not scheme.isascii() or not scheme.replace("-", "").isalnum():
        msg = f"--scheme {scheme!r}: must be one word, e.g. StackState"
        raise PlanError(msg)
    return scheme


@dataclass(slots=True)
class _Report:
    """The results so far; each kind of error is explained once."""

    expected: int
    attempts: int = 0
    accepted: Counter[Service | AgentPath] = field(default_factory=Counter)
    requests_accepted: int = 0
    worst: Verdict = Verdict.ACCEPTED
    explained: Counter[str] = field(default_factory=Counter)

    def take(self, attempt: Attempt) -> None:
        """Count an attempt, and explain it if it is the first of its kind."""
        self.attempts += 1
        self.worst = max(self.worst, attempt.explanation.verdict)
        if attempt.explanation.verdict is Verdict.ACCEPTED:
            self.requests_accepted += 1
            self.accepted[attempt.service] += attempt.items
        about = f"{attempt.service.signal}: {attempt.explanation.headline}"
        self.explained[about] += 1
        if self.explained[about] == 1:
            _clear_progress()
            _show(attempt)
        self._show_progress()

    def summarize(self) -> None:
        """Print a summary if there was more than one request."""
        _clear_progress()
        if self.expected == 1:
            return
        items = ", ".join(service.count(amount) for service, amount in self.accepted.items())
        line = f"{self.requests_accepted} of {self.expected} requests accepted"
        info(f"{line}: {items}" if items else line)
        if self.attempts < self.expected:
            info(f"stopped after {self.attempts}, because the others would fail in the same way")

    def _show_progress(self) -> None:
        if self.expected > 1 and is_fancy(sys.stderr):
            sys.stderr.write(f"\r\x1b[K{self.attempts} of {self.expected} requests sent")
            sys.stderr.flush()


def _clear_progress() -> None:
    if is_fancy(sys.stderr):
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


async def _send(plan: Plan) -> _Report:
    report = _Report(expected=plan.count * len(plan.services))
    async with aclosing(send_plan(plan)) as attempts:
        async for attempt in attempts:
            report.take(attempt)
    return report


def _show(attempt: Attempt) -> None:
    explanation, service = attempt.explanation, attempt.service
    what = f"{service.signal}: {service.count(attempt.items)}, {attempt.bytes} bytes"
    if explanation.verdict is Verdict.ACCEPTED:
        success(f"{what}: {explanation.headline} in {attempt.duration_s * 1000:.0f} ms")
    else:
        error(f"{what}: {explanation.headline}")
    for line in _details(explanation):
        info(f"   {line}", err=explanation.verdict is not Verdict.ACCEPTED)


def _details(explanation: Explanation) -> list[str]:
    return [*explanation.facts, *(f"→ {line}" for line in explanation.advice)]
