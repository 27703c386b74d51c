"""How long a worker's event loop is held at a time: a probe that goes into workers, and its reader.

From the moment a worker accepts, a timer beats in its loop every millisecond. Noted is how much
CPU time the loop's thread took from one beat to the next, and how much time passed. Whatever holds
the loop, and with it every request, is in the first of the two, whether anybody has thought of it
or not: applying changes, a dict that grows, a garbage collection, memory that is given back. The
second one also has what other programs do to this one on a busy machine. The program's sources know
nothing of this: `environment` has Python load the probe where a worker starts.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_FOLDER: str = "BENCH_PAUSES"
"""The environment variable that names the folder for what the probes note."""
_BEAT_S = 0.001
_NOTED_EVERY_NS = 100_000_000
_WORKER = "gateway.dataplane.worker_process"

Kind = Literal["open", "loop", "gc"]


@dataclass(frozen=True, slots=True)
class Note:
    """The longest of a tenth of a second, or one garbage collection.

    Attributes:
        at_ns: when it was written (`time.monotonic_ns`, which all processes share).
        kind: `open` where the worker began to accept.
    """

    at_ns: int
    kind: Kind
    cpu_ms: float
    wall_ms: float


def environment(folder: Path) -> Mapping[str, str]:
    """Give the variables with which a gateway's workers are probed; `folder` gets the notes."""
    folder.mkdir()
    hook = "from bench import pauses\npauses.install()\n"
    (folder / "sitecustomize.py").write_text(hook, encoding="utf-8")
    paths = [str(folder), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths)), _FOLDER: str(folder)}


def notes(folder: Path) -> list[Note]:
    """Read what the probes have noted so far."""
    return [note for path in sorted(folder.glob("*.notes")) for note in _read(path)]


def _read(path: Path) -> Iterator[Note]:
    kinds: dict[str, Kind] = {"open": "open", "loop": "loop", "gc": "gc"}
    # The last line of a process that was killed may be half a line.
    whole, _, _ = path.read_text(encoding="ascii").rpartition("\n")
    for line in whole.splitlines():
        at, kind, cpu, wall = line.split()
        yield Note(int(at), kinds[kind], int(cpu) / 1e6, int(wall) / 1e6)


def install() -> None:
    """Have the probe begin, if this process is a worker. Called before anything of it is loaded."""
    folder = os.environ.get(_FOLDER)
    if folder is None or _WORKER not in sys.orig_argv:
        return
    import uvloop  # noqa: PLC0415 - in workers only

    run = uvloop.run

    def probed_run(main: Coroutine[Any, Any, int]) -> int:
        # Not before: a worker chooses itself in which order it loads what it needs.
        from gateway.dataplane.accept.acceptor import Acceptor  # noqa: PLC0415 - in workers only

        path = Path(folder) / f"{os.getpid()}.notes"
        setattr(Acceptor, "open", _then(Acceptor.open, lambda: Probe(path).start()))  # noqa: B010 - mypy
        return run(main)

    setattr(uvloop, "run", probed_run)  # noqa: B010 - mypy


def _then(before: Callable[[Any], None], after: Callable[[], None]) -> Callable[[Any], None]:
    def both(self: Any) -> None:  # noqa: ANN401 - whatever the method is of
        before(self)
        after()

    return both


class Probe:
    """Writes its notes to `path`. Made inside the event loop that it beats in."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._gc_ns = 0, 0
        self._began_ns = 0
        self._wall_ns = 0
        self._cpu_ns = 0
        self._longest_wall_ns = 0
        self._longest_cpu_ns = 0

    def start(self) -> None:
        """Beat from the next turn of the loop on."""
        gc.callbacks.append(self._on_gc)
        self._note("open", 0, 0)
        self._loop.call_soon(self._begin)

    def stop(self) -> None:
        """Beat no more."""
        gc.callbacks.remove(self._on_gc)
        if self._timer is not None:
            self._timer.cancel()
        os.close(self._file)

    def _begin(self) -> None:
        self._wall_ns, self._cpu_ns = time.monotonic_ns(), time.thread_time_ns()
        self._began_ns = self._wall_ns
        self._timer = self._loop.call_later(_BEAT_S, self._beat)

    def _beat(self) -> None:
        wall_ns, cpu_ns = time.monotonic_ns(), time.thread_time_ns()
        self._longest_wall_ns = max(self._longest_wall_ns, wall_ns - self._wall_ns)
        self._longest_cpu_ns = max(self._longest_cpu_ns, cpu_ns - self._cpu_ns)
        self._wall_ns, self._cpu_ns = wall_ns, cpu_ns
        if wall_ns - self._began_ns > _NOTED_EVERY_NS:
            self._note("loop", self._longest_cpu_ns, self._longest_wall_ns)
            self._longest_wall_ns = self._longest_cpu_ns = 0
            self._began_ns = wall_ns
        self._timer = self._loop.call_later(_BEAT_S, self._beat)

    def _on_gc(self, phase: str, _: object) -> None:
        if phase == "start":
            self._gc_ns = time.monotonic_ns(), time.thread_time_ns()
            return
        wall_ns, cpu_ns = self._gc_ns
        self._note("gc", time.thread_time_ns() - cpu_ns, time.monotonic_ns() - wall_ns)

    def _note(self, kind: Kind, cpu_ns: int, wall_ns: int) -> None:
        os.write(
            self._file, b"%d %s %d %d\n" % (time.monotonic_ns(), kind.encode(), cpu_ns, wall_ns)
        )
