"""Waiting for what must come, without guessing how long it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

WAIT_S: Final = 20.0
"""Only failing tests take it."""
_STEP_S: Final = 0.005


async def until(holds: Callable[[], bool], what: str = "") -> None:
    """Return as soon as `holds()`. Raises `TimeoutError` with `what` was waited for."""
    try:
        async with asyncio.timeout(WAIT_S):
            while not holds():
                await asyncio.sleep(_STEP_S)
    except TimeoutError:
        message = f"waited {WAIT_S} s for: {what or holds}"
        raise TimeoutError(message) from None
