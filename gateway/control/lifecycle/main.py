"""What `gateway serve` runs: a gateway in a process of its own, which acts on signals.

SIGTERM and SIGINT drain and end it, a second one ends it at once; SIGHUP reloads.
`control.open_gateway` runs one inside another program's event loop instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from functools import partial
from typing import Final

import structlog
import uvloop

from gateway import log
from gateway.config import Config, Loaded
from gateway.control.admin.tokens import TokenError
from gateway.control.core.errors import ReloadError, StartError
from gateway.control.core.sockets import BindError
from gateway.control.lifecycle.assembly import Options
from gateway.control.lifecycle.control import Control
from gateway.control.lifecycle.orphans import reap_orphans
from gateway.control.lifecycle.service_manager import ServiceManager
from gateway.control.lifecycle.signals import Signals
from gateway.control.workers.worker_start import WorkerStarter
from gateway.keys.errors import StoreError

_CANNOT_START: Final = 1
_KILLED: Final = 128
"""Plus the signal's number: how shells report a process that a signal ended."""

_log = structlog.get_logger("gateway.control")


def serve(loaded: Loaded, starter: WorkerStarter) -> int:
    """Run a gateway until a signal stops it; return the exit status. `starter` is closed.

    0 after an orderly end, 1 when it cannot start, 128 + the signal's number when a second signal
    ended it at once.
    """
    options = Options(
        log_format=_configure_log(loaded.config),
        on_reload=_configure_log,
        starter=starter,
    )
    with contextlib.closing(starter), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(loaded, options))


def _configure_log(config: Config) -> log.LogFormat:
    return log.configure(config.log.level, config.log.format)


async def _serve(loaded: Loaded, options: Options) -> int:
    with Signals() as signals:
        try:
            control = Control(loaded, options)
            asyncio.get_running_loop().set_exception_handler(
                control.parts.base.errors.on_loop_error
            )
            try:
                return await _run(control, signals)
            finally:
                await control.close()
        except (BindError, StoreError, TokenError, StartError) as error:
            _log.error("the gateway cannot start", reason=str(error))
            return _CANNOT_START


async def _run(control: Control, signals: Signals) -> int:
    """Start, run until a signal comes, drain; return the exit status."""
    manager = ServiceManager(os.environ)
    tasks = control.parts.base.tasks
    tasks.keep("orphans", reap_orphans)
    tasks.keep("watchdog of the service manager", manager.ping_watchdog)
    number = await signals.unless_stopped(control.start())
    if number is None:
        manager.ready(_status(control))
        reload = partial(_reload_on_hangup, control, signals, manager)
        tasks.keep("reload on SIGHUP", reload)
        number = await signals.stop()
    manager.stopping()
    _log.info("received a signal to stop", signal=number.name)
    second = await signals.unless_stopped(control.drain())
    return 0 if second is None else _KILLED + second


async def _reload_on_hangup(control: Control, signals: Signals, manager: ServiceManager) -> None:
    while True:
        await signals.hangup.wait()
        signals.hangup.clear()
        manager.reloading()
        try:
            await control.reload()
        except ReloadError as error:  # logged and counted where it happened
            manager.ready(f"the last reload failed: {'; '.join(error.reasons)}".replace("\n", " "))
        else:
            manager.ready(_status(control))


def _status(control: Control) -> str:
    return f"workers that accept connections: {control.parts.base.workers.accepting()}"
