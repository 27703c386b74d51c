"""A running gateway's keys without the gateway: the service, and what its workers would know."""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from gateway.keys.record import KeyDelta, KeyRecord
from gateway.keys.service import KeyService
from gateway.keys.store import Changes, KeyStore
from gateway.model import KeyState, Principal

HANG_S: Final = 60.0
"""Long enough for anything; a test that waits so long has failed."""
LOOK_S = 0.1
"""What is waited for may come about without a change that is told."""


class Workers:
    """Apply what a service says, as its workers' keyrings do."""

    def __init__(self) -> None:
        self.keys: KeyService
        self.keyring: dict[bytes, Principal] = {}
        self.complete = False
        self.problems: list[str] = []
        self.tasks: list[asyncio.Future[None]] = []
        self._changed = asyncio.Event()

    def follow(self, keys: KeyService) -> None:
        """Begin with what a new worker is told."""
        self.keys = keys
        _, entries, self.complete = keys.snapshot()
        self.keyring = dict(entries)
        keys.subscribe(self._apply)

    def _apply(self, delta: KeyDelta) -> None:
        self.complete = delta.complete
        self.keyring.update(delta.upserts)
        for digest in delta.removals:
            self.keyring.pop(digest, None)
        self.keys.publish_confirmed(delta.revision)
        self._changed.set()

    def stir(self, *_: object) -> None:
        """Have those who wait look again."""
        self._changed.set()

    def accepts(self, digest: bytes) -> bool:
        """Whether a request with the key would be let in."""
        return digest in self.keyring and self.keyring[digest].state == KeyState.ACTIVE

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so; looked at after each change, and now and then."""
        deadline_s = time.monotonic() + HANG_S
        while not condition():
            assert time.monotonic() < deadline_s, self._state()
            for task in self.tasks:
                if task.done():
                    task.result()
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), LOOK_S)

    def _state(self) -> str:
        """Say what a hung test needs to be understood: the stores, and where each task stands."""
        out = io.StringIO()
        print(self.keys.statuses(), self.problems, file=out)
        for task in asyncio.all_tasks():
            task.print_stack(file=out)
        return out.getvalue()

    async def until_status(self, condition: Callable[[bool], bool]) -> None:
        """Wait until the first store is up, or is not."""
        await self.until(lambda: condition(self.keys.statuses()[0].up))


async def read_all(store: KeyStore) -> Changes:
    """Read everything that a store holds."""
    revision, records = -1, list[KeyRecord]()
    async for part in store.feed.everything():
        revision = part.revision
        records += part.records
    return Changes(revision, records)


async def changes(store: KeyStore, since: int) -> Changes:
    """Read what changed; a store that wants to be read as a whole fails the test."""
    found = await store.feed.changes(since)
    assert found is not None
    return found


@asynccontextmanager
async def running_keys(stores: Sequence[KeyStore], **options: Any) -> AsyncIterator[Workers]:
    """Run a key service on `stores`, with the background tasks that control keeps."""
    workers = Workers()
    keys = KeyService(
        stores,
        **{"tombstones_s": 1_000.0, **options},
        on_status=workers.stir,
        on_problem=workers.problems.append,
    )
    await keys.start()
    workers.follow(keys)
    tasks = workers.tasks = [asyncio.ensure_future(run()) for run in keys.background().values()]
    try:
        yield workers
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await keys.close()
