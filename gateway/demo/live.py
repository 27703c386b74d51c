"""Shows the demo's events on the screen as they happen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from gateway.channel import Refused
from gateway.demo.screen import Screen
from gateway.demo.view import LiveView
from gateway.receiver import ReceivedRequest


class Live:
    """Shows arrivals and refusals after `begin`; earlier ones wait for it."""

    def __init__(self, screen: Screen, *, is_fancy: bool) -> None:
        self._screen = screen
        self._is_fancy = is_fancy
        self._begun = asyncio.Event()
        self._view = LiveView(lambda _: "", is_fancy=is_fancy)

    def begin(self, key_name: Callable[[str], str]) -> None:
        """Start to show events; `key_name` returns the name for a key id."""
        self._view = LiveView(key_name, is_fancy=self._is_fancy)
        self._begun.set()

    async def arrived(self, received: ReceivedRequest) -> None:
        """Show a request that reached the receiver, which responds afterwards."""
        await self._begun.wait()
        await self._screen.show(self._view.arrived(received))

    def refused(self, refused: Refused) -> None:
        """Show refused requests that a worker has reported."""
        self._screen.offer(self._view.refused(refused, datetime.now(UTC)))
