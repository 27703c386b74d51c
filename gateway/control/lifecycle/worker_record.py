"""Which workers run, in a file, so that the next gateway knows its predecessor's.

When control is killed, its workers let go of the listening sockets by themselves. One that hangs
does not, and would keep the next gateway from its addresses: that one ends it, if it is certain
whose it is. A process is taken for such a worker only if all of this holds: it stands in the
record, with the start time that it has; it runs the same program as the same user; the control
process that started it is gone; and it holds an address that this gateway is to listen on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from gateway.control.core import processes
from gateway.control.core.processes import ProcessId, identify
from gateway.control.workers.worker_handle import WorkerHandle, WorkerObserver
from gateway.keys.state_file import (
    StateFileError,
    make_private,
    open_state_file,
    replace_state_file,
)

NAME: Final = "workers.json"
WORKER_MODULE: Final = "gateway.dataplane.worker_process"
"""Stands in the command line of every worker."""
_END_MS: Final = 2000
"""How long a killed worker may take to end."""

_log = structlog.get_logger("gateway.control")


class _Entry(NamedTuple):
    """A worker, and the control process that started it."""

    worker: ProcessId
    control: ProcessId


class WorkerRecord(WorkerObserver):
    """The file in `folder`. `read` comes first; `run` keeps it up to date."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._control = identify(os.getpid())
        self._program = processes.program_of(os.getpid())
        self._boot = processes.boot_id()
        self._own: dict[int, _Entry] = {}
        self._others: list[_Entry] = []
        """Those of earlier gateways, and of others that share the folder."""
        self._changed = asyncio.Event()
        self._writing = threading.Lock()

    async def read(self) -> None:
        """Read what earlier gateways have written."""
        try:
            self._others = await asyncio.to_thread(self._read)
        except FileNotFoundError:
            pass
        except (OSError, StateFileError, ValueError, KeyError, TypeError) as error:
            _log.warning("the record of workers is not used", file=str(self.path), error=str(error))

    async def run(self) -> None:
        """Write the file whenever workers have started or ended. Never returns."""
        while True:
            await self._changed.wait()
            await self.write()

    async def write(self) -> None:
        """Write what has changed since the last time."""
        if not self._changed.is_set():
            return
        self._changed.clear()
        try:
            await asyncio.to_thread(self._write)
        except (OSError, StateFileError) as error:
            _log.warning(
                "cannot write which workers run: should one hang when this gateway is killed,"
                " the next one cannot end it",
                file=str(self.path),
                error=str(error),
            )

    def worker_started(self, worker: WorkerHandle) -> None:
        """Note a worker (`WorkerObserver`)."""
        found = identify(worker.pid)
        if found is not None and self._control is not None:
            self._own[worker.pid] = _Entry(found, self._control)
            self._changed.set()

    def worker_gone(self, worker: WorkerHandle) -> None:
        """Forget a worker (`WorkerObserver`)."""
        if self._own.pop(worker.pid, None) is not None:
            self._changed.set()

    async def end_leftovers(self, pids: Sequence[int]) -> None:
        """End those of these processes that certainly are hung workers of killed gateways."""
        candidates = [each for each in self._others if each.worker.pid in pids]
        ended = await asyncio.to_thread(lambda: [each for each in candidates if self._end(each)])
        if ended:
            _log.warning(
                "workers that a killed gateway has left behind hang and are ended: they hold an"
                " address that this gateway is to listen on",
                pids=sorted(each.worker.pid for each in ended),
                control_pids=sorted({each.control.pid for each in ended}),
            )

    def _end(self, entry: _Entry) -> bool:
        """End a worker that is certainly a leftover; return whether it is one."""
        try:
            descriptor = os.pidfd_open(entry.worker.pid)
        except OSError:
            return False  # it has ended, or the kernel is older than 5.3
        try:
            # Looked at after the descriptor was opened, which never means another process.
            if not self._is_leftover(entry):
                return False
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            ended = select.poll()
            ended.register(descriptor, select.POLLIN)
            ended.poll(_END_MS)
        finally:
            os.close(descriptor)
        return True

    def _is_leftover(self, entry: _Entry) -> bool:
        pid = entry.worker.pid
        return (
            identify(pid) == entry.worker
            and identify(entry.control.pid) != entry.control
            and processes.user_of(pid) == os.geteuid()
            and processes.program_of(pid) == self._program != ""
            and WORKER_MODULE in processes.arguments_of(pid)
        )

    def _read(self) -> list[_Entry]:
        with open_state_file(self.path) as file:
            make_private(file, self.path)
            content = json.load(file)
        if not self._boot or content["boot"] != self._boot:
            return []
        entries = [
            _Entry(ProcessId(*map(int, worker)), ProcessId(*map(int, control)))
            for worker, control in content["workers"]
        ]
        return [each for each in entries if identify(each.worker.pid) == each.worker]

    def _write(self) -> None:
        # A write that was cancelled goes on in its thread: whichever is last writes what is so now.
        with self._writing:
            self._replace(list(self._own.values()))

    def _replace(self, own: list[_Entry]) -> None:
        others = [each for each in self._others if identify(each.worker.pid) == each.worker]
        content = {"boot": self._boot, "workers": [*own, *others]}
        replace_state_file(self.path, json.dumps(content).encode())
