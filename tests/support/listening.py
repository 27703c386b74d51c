"""Whether anybody listens on an address."""

from __future__ import annotations

import socket

from tests.support.polling import until


async def until_refused(address: str) -> None:
    """Connect to host:port until nobody listens there any more."""
    await until(lambda: is_refused(address), f"nobody listens on {address}")


def is_refused(address: str) -> bool:
    """Whether a connection to host:port is refused."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port))).close()
    except ConnectionRefusedError:
        return True
    return False
