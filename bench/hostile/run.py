"""One attack from its gateway's start to what was seen."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.backend import Backend
from bench.hostile.attack import Attack, Traffic
from bench.hostile.bystanders import Report, reports_from_json
from bench.hostile.gates import Memory, Observation, grown, matching
from bench.hostile.victim import BUFFER_MEMORY_MB, Victim
from bench.hostile.watch import Watch
from bench.process import ProgramError, pinned, resident_mb

_CHECKOUT: Final = Path(__file__).parents[2]
_OVERTIME_S: Final = 30.0
_REPORTED_WITHIN_S: Final = 3.0
"""A worker reports its counts to control each second."""
_ANSWERS_WITHIN_S: Final = 20.0
_COUNTED_WITHIN_S: Final = 60.0
BEFORE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How attacks are run: for how long, on which cores, against which `gateway` command."""

    seconds: float
    gateway_core: int | None
    clients_core: int | None
    command: str | None = None


def observe(attack: Attack, settings: Settings) -> Observation:
    """Start a gateway, let clients send without and then beside the attack, and stop it.

    Raises:
        ProgramError: something does not start, or the gateway is gone afterwards.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        backend = Backend.start(folder, settings.clients_core, stall=True)
        stack.callback(backend.program.stop)
        victim = Victim.start(folder, backend.port, settings.gateway_core, settings.command)
        stack.callback(victim.program.stop)
        return _observe(attack, settings, victim)


def _observe(attack: Attack, settings: Settings, victim: Victim) -> Observation:
    before = _bystanders(victim, min(BEFORE_S, settings.seconds), settings)
    worker = victim.worker()
    base_mb, base_files = resident_mb(worker.pid), worker.num_fds()
    time.sleep(_REPORTED_WITHIN_S)
    series = victim.series()
    with Watch(victim, worker) as watch:
        attacker = _start_attacker(attack, victim, settings)
        try:
            during = _bystanders(victim, settings.seconds, settings)
            traffic = _traffic(attack, attacker)
        finally:
            attacker.kill()
            attacker.wait()
    time.sleep(_REPORTED_WITHIN_S)
    victim.program.check_alive()
    after = _series_after(attack, victim, series)
    return Observation(
        attack=attack.name,
        title=attack.title,
        counted=attack.counted,
        traffic=traffic,
        before=before,
        during=during,
        memory=Memory(
            base_mb, watch.peak_mb, max(0, watch.peak_files - base_files), BUFFER_MEMORY_MB
        ),
        grown=grown(series, after, watch.peaks),
        same_worker=worker.is_running() and victim.worker().pid == worker.pid,
    )


def _series_after(attack: Attack, victim: Victim, before: dict[str, float]) -> dict[str, float]:
    """Return the series when the attack has been counted, or at the latest after some time: what
    was sent last, and the ends of its connections, are noticed when the gateway has gone through
    what came before.
    """
    deadline_s = time.monotonic() + _COUNTED_WITHIN_S
    while True:
        after = victim.series_when_it_answers(_ANSWERS_WITHIN_S)
        if matching(grown(before, after, {}), *attack.counted) or time.monotonic() > deadline_s:
            return after
        time.sleep(_REPORTED_WITHIN_S)


def _module(settings: Settings, name: str, *arguments: str) -> subprocess.Popen[str]:
    with pinned(settings.clients_core):
        return subprocess.Popen(
            [sys.executable, "-m", name, *arguments],
            cwd=_CHECKOUT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def _start_attacker(attack: Attack, victim: Victim, settings: Settings) -> subprocess.Popen[str]:
    target = victim.target.to_json()
    return _module(settings, "bench.hostile.attacker", attack.name, target, str(settings.seconds))


def _bystanders(victim: Victim, seconds: float, settings: Settings) -> dict[str, Report]:
    process = _module(
        settings,
        "bench.hostile.bystanders",
        victim.target.to_json(),
        str(seconds),
        str(victim.ca_file),
    )
    return reports_from_json(_output("the clients", process, seconds + _OVERTIME_S))


def _traffic(attack: Attack, attacker: subprocess.Popen[str]) -> Traffic:
    return Traffic.from_json(_output(attack.name, attacker, _OVERTIME_S))


def _output(name: str, process: subprocess.Popen[str], timeout_s: float) -> str:
    """Return what it prints. Raises ProgramError where it fails or does not end."""
    try:
        output, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.communicate()
        message = f"{name} did not end in time"
        raise ProgramError(message) from error
    if process.returncode:
        message = f"{name} failed:\n{errors[-2000:]}"
        raise ProgramError(message)
    return output
