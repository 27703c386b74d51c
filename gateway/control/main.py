"""What `gateway serve` runs: a gateway in a process of its own, obeying signals.

SIGTERM and SIGINT drain and end it, a second one ends it at once; SIGHUP reloads. `running` runs
one inside another program's event loop instead.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Final

import structlog
import uvloop

from gateway import log
from gateway.config import Loaded
from gateway.control.admin_token import TokenError
from gateway.control.running import Control, Options, running
from gateway.control.signals import STOPPING, Signals
from gateway.control.slot import StartError
from gateway.control.sockets import BindError
from gateway.keys.errors import StoreError

__all__ = ["Control", "Options", "running", "serve"]

_FAILED: Final = 1
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
        control.watch_loop()
        try:
            return await _live(control, signals)
        except (BindError, StoreError, TokenError, StartError) as error:
            _log.error("the gateway cannot start", reason=str(error))
            return _FAILED
        finally:
            await control.close()


async def _live(control: Control, signals: Signals) -> int:
    """Startup, run, shutdown."""
    if await _unless(control.start(), signals.stopping()) is not None:
        return 0
    await _obey(control, signals)
    second = await _unless(control.drain(), signals.stopping())
    return 0 if second is None else _KILLED + second


async def _obey(control: Control, signals: Signals) -> None:
    """Act on signals until one asks to stop."""
    while (number := await signals.next()) not in STOPPING:
        control.reload_in_background()
    _log.info("told to stop", signal=number.name)


async def _unless(
    work: Coroutine[None, None, None], stopping: Coroutine[None, None, signal.Signals]
) -> signal.Signals | None:
    """Do `work` unless a signal comes first: then it is cancelled, and the signal returned."""
    doing, watching = asyncio.create_task(work), asyncio.create_task(stopping)
    await asyncio.wait({doing, watching}, return_when=asyncio.FIRST_COMPLETED)
    if doing.done():
        watching.cancel()
        doing.result()
        return None
    doing.cancel()
    await asyncio.gather(doing, return_exceptions=True)
    return watching.result()
