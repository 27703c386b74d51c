"""A proxy that has been started, as the bench sees it, and how it was to be started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench import keys
from bench.process import Program, ProgramError

Kind = Literal["grpc", "http", "intake"]
KINDS: tuple[Kind, ...] = ("grpc", "http", "intake")


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS on a proxy's listener, and perhaps towards the backend.

    Attributes:
        ca_file, cert_file, key_file: PEM; the certificate is for `NAME` and 127.0.0.1.
        is_upstream: whether the backend is spoken to over TLS as well, and its certificate checked.
    """

    ca_file: Path
    cert_file: Path
    key_file: Path
    is_upstream: bool

    NAME = "localhost"


@dataclass(frozen=True, slots=True)
class Setting:
    """What a row of the bench wants of a proxy.

    Attributes:
        keys: how many of the bench's keys it knows.
        workers: how many worker processes the gateway has; others have one.
        tls: on which sides it speaks TLS.
    """

    keys: int = keys.COUNT
    workers: int = 1
    tls: Literal["none", "listener", "both"] = "none"


@dataclass(frozen=True, slots=True)
class Build:
    """Which program was measured.

    Attributes:
        title: its name, version and origin, in a few words.
        details: the exact package or path, and how it was compiled where that is known.
    """

    title: str
    details: str

    def __str__(self) -> str:
        return f"{self.title}: {self.details}"


@dataclass(frozen=True, slots=True)
class Running:
    """A proxy that serves.

    Attributes:
        program: its processes.
        ports: where it listens on 127.0.0.1, by what is spoken there.
        build: which program it is, where the results name it.
        decompresses: whether it passes compressed gRPC messages on decompressed.
        reencodes: whether it reads messages and writes them anew: what reaches the backend may
            have another size.
        checks_keys: whether it refuses unknown keys.
        start_s: how long it took until it said that it was ready, where it says so.
    """

    program: Program
    ports: dict[Kind, int]
    build: Build | None = None
    decompresses: bool = False
    reencodes: bool = False
    checks_keys: bool = True
    start_s: float | None = None


def serving(running: Running) -> Running:
    """Wait until all its ports take connections; stop what does not come up.

    Raises:
        ProgramError: it has ended, or does not listen in time.
    """
    try:
        for port in running.ports.values():
            running.program.wait_for_port(port)
    except ProgramError:
        running.program.stop()
        raise
    return running
