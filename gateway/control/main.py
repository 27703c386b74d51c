"""What `gateway serve` runs: a gateway in a process of its own, obeying signals.

SIGTERM and SIGINT drain and end it, a second one ends it at once; SIGHUP reloads. `running` runs
one inside another program's event loop instead.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import structlog
import uvloop

from gateway import log
from gateway.config import Loaded
from gateway.control.admin import ReloadError
from gateway.control.admin_token import TokenError
from gateway.control.running import Control, Options, running
from gateway.control.signals import Signals
from gateway.control.slot import StartError
from gateway.control.sockets import BindError
from gateway.keys.errors import StoreError

__all__ = ["Control", "Options", "running", "serve"]

_CANNOT_START: Final = 1
_KILLED: Final = 128
"""Plus the signal's number: how shells report a process that a signal ended."""

_log = structlog.get_logger("gateway.control")


def serve(loaded: Loaded) -> int:
    """Run a gateway until it is told to stop; return the exit status.

    0 after an orderly end, 1 when it cannot start, 128 + the signal's number when a second signal
    ended it at once.
    """
    config = loaded.config
    options = Options(
        log_format=log.configure(config.log.level, config.log.format),
        on_reload=lambda new: log.configure(new.log.level, new.log.format),
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(loaded, options))


async def _serve(loaded: Loaded, options: Options) -> int:
    with Signals() as signals:
        control = Control(loaded, options)
        asyncio.get_running_loop().set_exception_handler(control.tasks.on_loop_error)
        try:
            return await _live(control, signals)
        except (BindError, StoreError, TokenError, StartError) as error:
            _log.error("the gateway cannot start", reason=str(error))
            return _CANNOT_START
        finally:
            await control.close()


async def _live(control: Control, signals: Signals) -> int:
    """Startup, run, shutdown."""
    number = await signals.unless_stopped(control.start())
    if number is None:
        control.tasks.keep("reload on SIGHUP", lambda: _reload_on_hangup(control, signals))
        number = await signals.stop()
    _log.info("told to stop", signal=number.name)
    second = await signals.unless_stopped(control.drain())
    return 0 if second is None else _KILLED + second


async def _reload_on_hangup(control: Control, signals: Signals) -> None:
    while True:
        await signals.hangup.wait()
        signals.hangup.clear()
        with contextlib.suppress(ReloadError):  # logged and counted where it happened
            await control.reload()
