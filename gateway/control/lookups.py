"""Workers' questions about keys that are in no snapshot: who is asked, who is told.

Each worker's question is answered once. When an authority says the opposite of what it said before,
all workers forget what they were told.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import structlog

from gateway import metrics
from gateway.channel import Down, Forget, LookedUp, Lookup
from gateway.control.tasks import Tasks
from gateway.control.totals import Labels, Totals
from gateway.control.worker_handle import WorkerHandle
from gateway.keys.authority import AuthorityClient, AuthorityError, AuthoritySettings, Failure
from gateway.keys.errors import StoreUnavailableError
from gateway.keys.service import StoreStatus
from gateway.keys.snapshot import SnapshotError
from gateway.keys.verdict_file import VerdictFile
from gateway.keys.verdicts import Answer, CacheLimits, Verdicts
from gateway.model import Principal

STORE: Final = "authority"
"""The `store` label."""
ID_PREFIX: Final = "authority:"
"""Before what stands for the id of a key that an authority allowed: the digest's beginning."""
SAVE_S: Final = 30.0
"""How often what is known is written down."""
_ID_BYTES: Final = 6
_MS_PER_S: Final = 1_000

_log = structlog.get_logger("gateway.control")


class _Watched:
    """An authority, and how it is. `on_status` is told when that changes."""

    def __init__(self, client: AuthorityClient, on_status: Callable[[StoreStatus], None]) -> None:
        self.client = client
        self.status = StoreStatus(STORE, client.location, up=True)
        self._on_status = on_status

    async def ask(self, key: str) -> bool:
        """Ask, and note how that went (`verdicts.Authority`)."""
        try:
            is_good = await self.client.ask(key)
        except AuthorityError as error:
            if error.reason is not Failure.PAUSED:
                self._failed(error)
            raise
        self.status.last_sync_ms = round(time.time() * _MS_PER_S)
        self.status.error = None
        was_up, self.status.up = self.status.up, True
        if not was_up:
            self._on_status(self.status)
        return is_good

    def _failed(self, error: AuthorityError) -> None:
        reason = StoreUnavailableError.reason
        self.status.errors[reason] = self.status.errors.get(reason, 0) + 1
        before, self.status.error = self.status.error, str(error)
        self.status.up = False
        if before != self.status.error:
            self._on_status(self.status)


class _Counts:
    """What happens to the cache, counted in `totals` (`verdicts.Counted`)."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals

    def hit(self, kind: str) -> None:
        """A cache had the answer."""
        self._totals.count(metrics.KEY_CACHE_HITS, (kind,))

    def miss(self, kind: str) -> None:
        """A cache did not have it."""
        self._totals.count(metrics.KEY_CACHE_MISSES, (kind,))

    def stale(self, kind: str) -> None:
        """An answer was used beyond its time."""
        self._totals.count(metrics.KEY_CACHE_STALE, (kind,))

    def coalesced(self, kind: str) -> None:
        """A question joined one that was under way."""
        self._totals.count(metrics.KEY_CACHE_COALESCED, (kind,))


class Lookups:
    """All authorities of this gateway. Made inside the event loop; `close` is due.

    `send_to_all` sends to every worker, `on_status` is told when an authority fails and when it is
    back; `file` outlives the gateway. `run` must run beside it.
    """

    def __init__(
        self,
        authorities: Sequence[AuthoritySettings],
        limits: CacheLimits,
        totals: Totals,
        tasks: Tasks,
        send_to_all: Callable[[Down], None],
        on_status: Callable[[StoreStatus], None],
        file: VerdictFile,
    ) -> None:
        self._totals = totals
        self._file = file
        self._changed = asyncio.Event()
        self._is_started = False
        self._is_writing_failing = False
        self._tasks = tasks
        self._watched = [
            _Watched(AuthorityClient(settings, self._on_request), on_status)
            for settings in authorities
        ]
        self._send_to_all = send_to_all
        self._verdicts = Verdicts(self._watched, limits, _Counts(totals), self._on_change)

    async def start(self) -> None:
        """Know what was known before the last end, for as long as it may be served stale."""
        self._is_started = True
        try:
            confirmed = await self._file.read()
        except SnapshotError as error:
            _log.warning(
                "what the authority has said is not known any more: keys are asked for again",
                file=str(self._file.path),
                reason=str(error),
            )
            return
        now_ms = time.time() * _MS_PER_S
        for digest, confirmed_ms in confirmed:
            self._verdicts.restore(digest, (now_ms - confirmed_ms) / _MS_PER_S)

    async def run(self) -> None:
        """Write down what is known, now and then, and at once when a verdict turned."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAVE_S):
                    await self._changed.wait()
            self._changed.clear()
            await self._save()

    def statuses(self) -> list[StoreStatus]:
        """Tell how each authority is."""
        return [each.status for each in self._watched]

    def series(self) -> Mapping[str, Mapping[Labels, float]]:
        """Give what a scrape shows of the cache."""
        entries = self._verdicts.entries()
        return {metrics.KEY_CACHE_ENTRIES.name: {(kind,): float(n) for kind, n in entries.items()}}

    def take(self, worker: WorkerHandle, lookup: Lookup) -> None:
        """Answer a worker's question, at once or when an authority has answered."""
        digest = lookup.digest
        answer = self._verdicts.look_up(digest, lookup.key.decode("ascii"), lookup.why)
        if isinstance(answer, Answer):
            worker.send(_message(digest, answer))
        else:
            self._tasks.once("key look-up", lambda: _answer_later(worker, digest, answer))

    async def ask(self, digest: bytes, key: str) -> str:
        """Give the verdict on a key that no store holds: `allowed`, `denied` or `undecided`."""
        answer = self._verdicts.look_up(digest, key, "unknown")
        return (answer if isinstance(answer, Answer) else await answer).verdict

    async def close(self) -> None:
        """Ask no more."""
        await self._verdicts.close()
        if self._is_started:  # else what the file holds is not known here
            await self._save()
        await asyncio.gather(*(each.client.close() for each in self._watched))

    def _on_change(self, digest: bytes) -> None:
        self._send_to_all(Forget([digest]))
        self._changed.set()

    async def _save(self) -> None:
        now_ms = time.time() * _MS_PER_S
        confirmed = [
            (digest, round(now_ms - age_s * _MS_PER_S))
            for digest, age_s in await self._verdicts.confirmed()
        ]
        try:
            await self._file.write(confirmed)
        except OSError as error:
            if not self._is_writing_failing:
                _log.warning(
                    "what the authority says cannot be written down: a restart while it is away "
                    "would not know it",
                    file=str(self._file.path),
                    reason=error.strerror,
                )
            self._is_writing_failing = True
        else:
            self._is_writing_failing = False

    def _on_request(self, result: str, seconds: float) -> None:
        self._totals.count(metrics.AUTHORITY_REQUESTS, (result,))
        self._totals.observe(metrics.AUTHORITY_DURATION, (result,), seconds)


async def _answer_later(worker: WorkerHandle, digest: bytes, answer: Awaitable[Answer]) -> None:
    worker.send(_message(digest, await answer))


def _message(digest: bytes, answer: Answer) -> LookedUp:
    principal = None
    if answer.verdict == "allowed":
        principal = Principal(f"{ID_PREFIX}{digest[:_ID_BYTES].hex()}", shared=True)
    return LookedUp(
        digest, answer.verdict, principal, answer.source, answer.fresh_s, answer.refresh_s
    )
