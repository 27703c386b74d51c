"""Looking at a worker from outside while something happens to it."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Final, Self

import psutil

from bench.hostile.victim import Victim
from bench.process import resident_mb

_LOOK_S: Final = 0.1
_SCRAPE_S: Final = 2.0


class Watch:
    """A thread that notes peaks until it is stopped."""

    def __init__(self, victim: Victim, worker: psutil.Process) -> None:
        self._victim = victim
        self._worker = worker
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._look, daemon=True),
            threading.Thread(target=self._scrape, daemon=True),
        ]
        self.peak_mb = 0.0
        self.peak_files = 0
        self.peaks: dict[str, float] = {}

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _look(self) -> None:
        with contextlib.suppress(psutil.Error):
            while not self._stopped.wait(_LOOK_S):
                self.peak_mb = max(self.peak_mb, resident_mb(self._worker.pid))
                self.peak_files = max(self.peak_files, self._worker.num_fds())

    def _scrape(self) -> None:
        """Note the gauges' peaks. Under an attack on these addresses there may be no answer."""
        due_s = time.monotonic()
        while not self._stopped.wait(max(0.0, due_s - time.monotonic())):
            due_s = time.monotonic() + _SCRAPE_S
            with contextlib.suppress(OSError):
                for name, value in self._victim.series().items():
                    self.peaks[name] = max(value, self.peaks.get(name, value))
