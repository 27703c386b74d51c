"""Which gateways a shared PostgreSQL knows."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import asyncpg

from gateway.keys.confirmations.gateway_rows import fleet
from gateway.keys.confirmations.notifications import NotificationPublisher
from tests.support.keys import HANG_S, Workers


def name_of(workers: Workers) -> str:
    """Return the name of the gateway whose keys these are, in its first store."""
    publisher = workers.keys._followers[0].publisher
    assert isinstance(publisher, NotificationPublisher)
    return publisher.name


def say_nothing(revision: int) -> None:
    """Do as a gateway whose workers hang, in the place of `KeyService.publish_confirmed`."""


async def known_gateways(url: str) -> frozenset[str]:
    """Return the names of those that a command would wait for."""
    connection = await asyncpg.connect(url)
    try:
        return (await fleet(connection, 0)).known
    finally:
        await connection.close()


async def until_known(url: str, names: Collection[str]) -> None:
    """Wait until the database knows all of them."""
    async with asyncio.timeout(HANG_S):
        while not await known_gateways(url) >= set(names):
            await asyncio.sleep(0.02)
