"""What every worker of a gateway answers to a key."""

from __future__ import annotations

import aiohttp


async def statuses_of(url: str, key: str) -> set[int]:
    """Send with `key` on so many new connections that each worker gets some; what is answered."""
    headers = {"Authorization": f"StackState {key}", "Content-Type": "application/json"}
    statuses: set[int] = set()
    for _ in range(6):
        connector = aiohttp.TCPConnector(force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector, headers=headers) as session,
            session.post(f"{url}/v1/traces", data=b"{}") as answer,
        ):
            statuses.add(answer.status)
    return statuses
