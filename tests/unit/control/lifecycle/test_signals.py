from __future__ import annotations

import asyncio
import os
import signal

from gateway.control.lifecycle.signals import Signals


async def test_work_that_is_done_first_leaves_later_signals_to_others() -> None:
    with Signals() as signals:
        assert await signals.unless_stopped(asyncio.sleep(0)) is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert await signals.stop() == signal.SIGTERM


async def test_a_signal_cancels_work_and_is_returned() -> None:
    was_canceled = asyncio.Event()

    async def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            was_canceled.set()
            raise

    with Signals() as signals:
        assert await signals.unless_stopped(work()) == signal.SIGINT
    assert was_canceled.is_set()


async def test_a_signal_that_comes_just_when_work_is_done_is_not_lost() -> None:
    with Signals() as signals:

        async def work() -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            while signals._stops.empty():
                await asyncio.sleep(0)
            # The next turn of the loop gives the signal to whoever waits, and ends this.
            await asyncio.sleep(0)

        assert await signals.unless_stopped(work()) is None
        assert await asyncio.wait_for(signals.stop(), 20) == signal.SIGTERM
