"""What happens while the demo runs, brought to the screen as it happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from gateway.channel import Refused
from gateway.demo.screen import Screen
from gateway.demo.view import LiveView
from gateway.receiver import Record


class Live:
    """Shows arrivals and refusals, from `begin` on; what comes before waits for it."""

    def __init__(self, screen: Screen, *, is_fancy: bool) -> None:
        self._screen = screen
        self._is_fancy = is_fancy
        self._begun = asyncio.Event()
        self._view = LiveView(lambda _: "", is_fancy=is_fancy)

    def begin(self, key_name: Callable[[str], str]) -> None:
        """Start to show; `key_name` gives the name of a key id."""
        self._view = LiveView(key_name, is_fancy=self._is_fancy)
        self._begun.set()

    async def arrived(self, record: Record) -> None:
        """Show a request that reached the receiver; it is answered after that."""
        await self._begun.wait()
        await self._screen.show(self._view.arrived(record))

    def refused(self, refused: Refused) -> None:
        """Show what a worker reports as refused."""
        self._screen.offer(self._view.refused(refused, datetime.now(UTC)))
