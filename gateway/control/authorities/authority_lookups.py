"""Workers' questions about keys that are in no snapshot, answered by remote authorities.

Each question gets one answer. When an authority changes its verdict on a key, all workers forget
the old one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

import structlog

from gateway import metrics
from gateway.channel import Forget, LookedUp, Lookup, SenderSeen, Traced
from gateway.config import Config
from gateway.control.authorities.authority_settings import read_tls_files
from gateway.control.authorities.cache_metrics import CacheMetrics
from gateway.control.core.tasks import Tasks
from gateway.control.metrics.metric_totals import Labels, MetricTotals
from gateway.control.workers.worker_handle import WorkerHandle, WorkerObserver
from gateway.control.workers.worker_set import WorkerSet
from gateway.keys.authority.client import (
    AuthorityClient,
    AuthorityError,
    AuthorityOptions,
    Failure,
)
from gateway.keys.authority.verdict_file import VerdictFile
from gateway.keys.authority.verdicts import CacheLimits, KeyVerdict, Verdicts
from gateway.keys.errors import StoreUnavailableError
from gateway.keys.following.status import StoreStatus
from gateway.keys.state_file import StateFileError
from gateway.model import Principal

STORE: Final = "authority"
"""The `store` label."""
ID_PREFIX: Final = "authority:"
"""Prefix of the id of a key that an authority allowed; the beginning of its digest follows."""
SAVE_S: Final = 30.0
"""How often verdicts are written to the file, in seconds."""
_ID_BYTES: Final = 6
_MS_PER_S: Final = 1_000

_log = structlog.get_logger("gateway.control")


class _MonitoredAuthority:
    """An authority and its status. `on_status` is called when that changes."""

    def __init__(self, client: AuthorityClient, on_status: Callable[[StoreStatus], None]) -> None:
        self.client = client
        self.status = StoreStatus(STORE, client.location, up=True)
        self._on_status = on_status

    async def ask(self, key: str) -> bool:
        """Ask, and note the status (`verdicts.VerdictSource`)."""
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


class AuthorityLookups(WorkerObserver):
    """Asks all authorities of this gateway. Made inside the event loop; must be closed.

    `on_status` is called when an authority fails and when it is back; `file` outlives the gateway.
    `run` must run beside it.
    """

    def __init__(
        self,
        authorities: Sequence[AuthorityOptions],
        limits: CacheLimits,
        totals: MetricTotals,
        tasks: Tasks,
        workers: WorkerSet,
        on_status: Callable[[StoreStatus], None],
        file: VerdictFile,
    ) -> None:
        self._totals = totals
        self._file = file
        self._changed = asyncio.Event()
        self._is_started = False
        self._is_writing_failing = False
        self._tasks = tasks
        self._contexts = [each.tls for each in authorities if each.tls is not None]
        self._authorities = [
            _MonitoredAuthority(AuthorityClient(settings, self._on_request), on_status)
            for settings in authorities
        ]
        self._workers = workers
        self._verdicts = Verdicts(self._authorities, limits, CacheMetrics(totals), self._on_change)

    async def start(self) -> None:
        """Read the verdicts of the last run: they may be served while they are not too stale."""
        self._is_started = True
        try:
            confirmed = await self._file.read()
        except StateFileError as error:
            _log.warning(
                "cannot read the saved verdicts of the authority: it is asked about each key again",
                file=str(self._file.path),
                reason=str(error),
            )
            return
        now_ms = time.time() * _MS_PER_S
        for digest, confirmed_ms in confirmed:
            self._verdicts.restore(digest, (now_ms - confirmed_ms) / _MS_PER_S)

    async def run(self) -> None:
        """Write the verdicts to the file every `SAVE_S`, and at once when one has changed."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAVE_S):
                    await self._changed.wait()
            self._changed.clear()
            await self._save()

    def read_tls_files(self, config: Config) -> None:
        """Have new connections use what the configured files hold now. Raises `OSError`."""
        if (tls := config.keys.authority.tls) is not None:
            for context in self._contexts:
                read_tls_files(context, tls)

    def statuses(self) -> list[StoreStatus]:
        """Return the status of each authority."""
        return [each.status for each in self._authorities]

    def series(self) -> Mapping[str, Mapping[Labels, float]]:
        """Return the metrics of the cache: name → labels → value."""
        entries = self._verdicts.entries()
        return {metrics.KEY_CACHE_ENTRIES.name: {(kind,): float(n) for kind, n in entries.items()}}

    def worker_sent(self, worker: WorkerHandle, message: Lookup | Traced | SenderSeen) -> None:
        """Answer a worker's question, at once or when an authority answers (`WorkerObserver`)."""
        if not isinstance(message, Lookup) or message.is_token:
            return
        digest = message.digest
        answer = self._verdicts.look_up(digest, message.key.decode("ascii"), message.why)
        if isinstance(answer, KeyVerdict):
            worker.send(_message(digest, answer))
        else:
            self._tasks.once("key look-up", partial(_answer_later, worker, digest, answer))

    async def ask(self, digest: bytes, key: str) -> str:
        """Return the verdict on a key that no store holds: `allowed`, `denied` or `undecided`."""
        answer = self._verdicts.look_up(digest, key, "unknown")
        return (answer if isinstance(answer, KeyVerdict) else await answer).verdict

    async def whose(self, digest: bytes, key: str) -> tuple[str, Principal | None]:
        """As `ask`; return as well whose key it is, if it is allowed."""
        verdict = await self.ask(digest, key)
        return verdict, _principal(digest) if verdict == "allowed" else None

    async def close(self) -> None:
        """Stop asking, and write the verdicts to the file."""
        await self._verdicts.close()
        if self._is_started:  # else the file has not been read
            await self._save()
        await asyncio.gather(*(each.client.close() for each in self._authorities))

    def _on_change(self, digest: bytes) -> None:
        self._workers.send_to_all(Forget([digest]))
        self._changed.set()

    async def _save(self) -> None:
        now_ms = time.time() * _MS_PER_S
        confirmed = [
            (digest, round(now_ms - age_s * _MS_PER_S))
            for digest, age_s in await self._verdicts.confirmed()
        ]
        try:
            await self._file.write(confirmed)
        except (OSError, StateFileError) as error:
            if not self._is_writing_failing:
                _log.warning(
                    "cannot save the verdicts of the authority: after a restart while it is "
                    "unreachable, its keys would be refused",
                    file=str(self._file.path),
                    reason=error.strerror if isinstance(error, OSError) else str(error),
                )
            self._is_writing_failing = True
        else:
            self._is_writing_failing = False

    def _on_request(self, result: str, seconds: float) -> None:
        self._totals.count(metrics.AUTHORITY_REQUESTS, (result,))
        self._totals.observe(metrics.AUTHORITY_DURATION, (result,), seconds)


async def _answer_later(worker: WorkerHandle, digest: bytes, answer: Awaitable[KeyVerdict]) -> None:
    worker.send(_message(digest, await answer))


def _principal(digest: bytes) -> Principal:
    return Principal(f"{ID_PREFIX}{digest[:_ID_BYTES].hex()}", shared=True)


def _message(digest: bytes, answer: KeyVerdict) -> LookedUp:
    principal = None
    if answer.verdict == "allowed":
        principal = _principal(digest)
    return LookedUp(
        digest, answer.verdict, principal, answer.source, answer.fresh_s, answer.refresh_s
    )
