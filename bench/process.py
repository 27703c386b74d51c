"""Programs under measurement: started on one core, watched, stopped; what they cost and hold.

Linux only: CPU time is read from `/proc/PID/task/*/schedstat`, in nanoseconds. (`/proc/PID/stat`
counts ticks of 10 ms: of a worker and its control that is an error of up to 40 ms, 4 % of a run of
20,000 cheap requests.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
_POLL_S = 0.02


class ProgramError(Exception):
    """A program could not be started, or ended by itself."""


def free_port() -> int:
    """Return a port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Let children started inside run on one core only (None: on any).

    Raises:
        ProgramError: this machine, or this process's affinity, does not have the core.
    """
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    if core not in before:
        message = f"core {core} is not usable here, only {sorted(before)}: the bench needs two"
        raise ProgramError(message)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(slots=True)
class Program:
    """A running program with its children.

    Attributes:
        name: what messages call it.
        process: its first process, leader of a session of its own.
        log: the file that has its output.
    """

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    _stopped: bool = field(default=False, init=False)

    @classmethod
    def start(
        cls,
        name: str,
        command: Sequence[str],
        *,
        folder: Path,
        core: int | None,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Program:
        """Start `command` in `cwd` or `folder`, on `core`, with its output in `folder/NAME.log`.

        Raises:
            ProgramError: there is no such command, or no such core.
        """
        log = folder / f"{name}.log"
        with pinned(core), log.open("ab") as output:
            try:
                process = subprocess.Popen(
                    list(command),
                    cwd=cwd or folder,
                    env={**os.environ, **(environment or {})},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                message = f"{name}: cannot start {command[0]}: {error}"
                raise ProgramError(message) from error
        return cls(name, process, log)

    def output(self) -> str:
        """Return what it has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def check_alive(self) -> None:
        """Raise ProgramError, with the end of the output, if it has ended."""
        if self.process.poll() is not None:
            message = (
                f"{self.name} ended with code {self.process.returncode}:\n{self.output()[-2000:]}"
            )
            raise ProgramError(message)

    def wait_for_port(self, port: int) -> None:
        """Return once it takes connections on `port`.

        Raises:
            ProgramError: it has ended, or does not listen after 30 s.
        """
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            self.check_alive()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            if time.monotonic() > deadline_s:
                message = (
                    f"{self.name} does not listen on port {port} after {START_TIMEOUT_S:.0f} s:\n"
                    f"{self.output()[-2000:]}"
                )
                raise ProgramError(message)
            time.sleep(_POLL_S)

    def tree(self) -> list[psutil.Process]:
        """Return its processes, the first one first."""
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]

    def cpu_ns(self) -> int:
        """Return the CPU time of the whole tree so far, user and system, in nanoseconds.

        Raises:
            ProgramError: it has ended.
        """
        self.check_alive()
        return sum(cpu_ns_of(each.pid) for each in self.tree())

    def stop(self) -> None:
        """End it with SIGTERM, and what is left of its session after 30 s with SIGKILL."""
        if self._stopped:
            return
        self._stopped = True
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def cpu_ns_of(pid: int) -> int:
    """Return the CPU time of a process's living threads; 0 if it has just ended."""
    total_ns = 0
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            total_ns += int((task / "schedstat").read_text().split()[0])
    return total_ns


def resident_mb(pid: int) -> float:
    """Return a process's VmRSS in MB (10^6 bytes would flatter: 2^20)."""
    return psutil.Process(pid).memory_info().rss / (1 << 20)


def forget_peak(pid: int) -> None:
    """Let `peak_mb` count from now on, where the kernel allows that."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def peak_mb(pid: int) -> float:
    """Return the most memory that a process held since `forget_peak`, in MB (2^20 bytes).

    0 if it has ended.
    """
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0
