"""What the service manager is told: systemd's notification protocol (sd_notify(3)).

Nothing is sent where `NOTIFY_SOCKET` is not set, and what cannot be sent is not tried again: the
gateway never waits for its service manager.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import MutableMapping

_PINGS_PER_LIMIT = 3
"""How often the watchdog hears from us within the time after which it acts."""


class ServiceManager:
    """The manager that started this process, if there is one that wants to know.

    Removes the variables from `environ`, so that no child process speaks in our name.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        limit_us = environ.pop("WATCHDOG_USEC", "")
        watched = environ.pop("WATCHDOG_PID", str(os.getpid()))
        # A leading @ stands for the NUL of Linux's abstract names (sd_notify(3)).
        self._address = "\0" + address[1:] if address.startswith("@") else address
        is_watched = address and watched == str(os.getpid()) and limit_us.isdecimal()
        self._watchdog_s = int(limit_us) / 1e6 if is_watched else 0.0

    def ready(self, status: str) -> None:
        """Say that the start or the reload is done; `status` is shown by `systemctl status`."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """Say that a reload begins: it ends with `ready`."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now_us}\nSTATUS=reloading")

    def stopping(self) -> None:
        """Say that the gateway drains and will end."""
        self._send("STOPPING=1\nSTATUS=draining")

    async def ping_watchdog(self) -> None:
        """Say, as long as this runs, that the event loop turns. Never returns."""
        if not self._watchdog_s:
            await asyncio.Event().wait()
        while True:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / _PINGS_PER_LIMIT)

    def _send(self, state: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),  # the manager is restarting, or its queue is full
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
        ):
            sock.setblocking(False)  # noqa: FBT003 - positional-only
            sock.sendto(state.encode(), self._address)
