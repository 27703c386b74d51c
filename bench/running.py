"""A proxy that has been started, as the bench sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench.process import Program, ProgramError

Kind = Literal["grpc", "http", "intake"]


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
    """

    program: Program
    ports: dict[Kind, int]
    build: Build | None = None
    decompresses: bool = False


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
