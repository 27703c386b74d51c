"""Workers' questions about tokens of identity providers, answered by checking them here.

This module and what it imports is loaded only where an issuer is configured: the libraries for
signatures take memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final, Literal

import structlog
from cachetools import LRUCache

from gateway import metrics
from gateway.channel import SNAPSHOT_CHUNK, Forget, LookedUp, Lookup
from gateway.config import Config
from gateway.control.authorities.authority_settings import read_tls_files
from gateway.control.authorities.cache_metrics import CacheMetrics
from gateway.control.authorities.token_settings import issuer_settings, token_limits
from gateway.control.core.tasks import Tasks
from gateway.control.metrics.metric_totals import Labels, MetricTotals
from gateway.control.workers.worker_handle import Sent, WorkerHandle, WorkerObserver
from gateway.control.workers.worker_set import WorkerSet
from gateway.keys.errors import StoreUnavailableError
from gateway.keys.following.status import StoreStatus
from gateway.keys.jwt.identity import TokenSender
from gateway.keys.jwt.issuer import Issuer
from gateway.keys.jwt.issuer_client import FetchResult, IssuerClient, IssuerError, IssuerOptions
from gateway.keys.jwt.keys_file import FetchedKeys, IssuerKeysFile
from gateway.keys.jwt.token import IssuerRules
from gateway.keys.jwt.verdicts import TokenVerdict, TokenVerdicts
from gateway.keys.state_file import StateFileError
from gateway.keys.tenancy import Label, Tenancy
from gateway.model import Denied, Undecided, Verdict

STORE: Final = "jwt"
"""The `store` label."""
_SENDERS: Final = 100_000
_MS_PER_S: Final = 1_000

_log = structlog.get_logger("gateway.control")


class TokenLookups(WorkerObserver):
    """Checks tokens of all configured issuers. Made inside the event loop; must be closed.

    `on_status` is called when an issuer fails and when it is back; `route_labels` returns the
    labels that workers are told. `run` must run beside it.
    """

    def __init__(
        self,
        config: Config,
        totals: MetricTotals,
        tasks: Tasks,
        workers: WorkerSet,
        on_status: Callable[[StoreStatus], None],
        route_labels: Callable[[], frozenset[Label]],
    ) -> None:
        """Raises `StartError`."""
        self._totals = totals
        self._tasks = tasks
        self._workers = workers
        self._on_status = on_status
        self._file = IssuerKeysFile(config.state_dir)
        self._is_writing_failing = False
        self._fetched = asyncio.Event()
        self._senders: LRUCache[str, TokenSender] = LRUCache(_SENDERS)
        """By their ids."""
        self._route_labels = route_labels
        settings = issuer_settings(config)
        self._contexts = [options.tls for _, options in settings if options.tls is not None]
        self._statuses = {rules.url: StoreStatus(STORE, rules.url) for rules, _ in settings}
        self._issuers = [self._issuer(config, *each) for each in settings]
        self._verdicts = TokenVerdicts(
            self._issuers, token_limits(config), CacheMetrics(totals), self._on_change
        )

    async def start(self) -> None:
        """Read the issuers' keys of the last run: they are used while they are not too old."""
        try:
            found = await self._file.read()
        except StateFileError as error:
            _log.warning(
                "cannot read the saved keys of the issuers of tokens: tokens are undecided until"
                " their issuer has been asked",
                file=str(self._file.path),
                reason=str(error),
            )
            return
        for issuer in self._issuers:
            saved = found.get(issuer.rules.url)
            if saved is not None:
                issuer.restore(saved.content, time.time() - saved.fetched_ms / _MS_PER_S)

    async def run(self) -> None:
        """Keep the issuers' keys up to date, and save them. Never returns."""
        async with asyncio.TaskGroup() as group:
            for issuer in self._issuers:
                group.create_task(issuer.run())
            group.create_task(self._save_again_and_again())

    def read_tls_files(self, config: Config) -> None:
        """Have new connections use what the configured files hold now. Raises `OSError`."""
        if (tls := config.keys.jwt.tls) is not None:
            for context in self._contexts:
                read_tls_files(context, tls)

    def statuses(self) -> list[StoreStatus]:
        """Return the status of each issuer."""
        return list(self._statuses.values())

    def series(self) -> Mapping[str, Mapping[Labels, float]]:
        """Return the metrics of the cache: name → labels → value."""
        entries = self._verdicts.entries()
        return {metrics.JWT_TOKENS.name: {(kind,): float(n) for kind, n in entries.items()}}

    def name(self, key_id: str) -> str:
        """Return the name of a sender with a token, "" for an unknown one."""
        sender = self._senders.get(key_id)
        return "" if sender is None else sender.principal.name

    def tenancy(self, key_id: str) -> Tenancy | None:
        """Return whose data a sender with a token sends; None where nothing is known of that."""
        sender = self._senders.get(key_id)
        return None if sender is None else sender.tenancy

    def worker_sent(self, worker: WorkerHandle, message: Sent) -> None:
        """Answer a worker's question, at once unless an issuer must be asked (`WorkerObserver`)."""
        if not isinstance(message, Lookup) or not message.is_token:
            return
        digest = message.digest
        answer = self._verdicts.look_up(digest, message.key.decode("ascii"))
        if isinstance(answer, TokenVerdict):
            self._answer(worker, digest, answer)
        else:
            tell = partial(self._answer, worker, digest)
            self._tasks.once("token look-up", partial(_tell_later, tell, answer))

    async def check(self, digest: bytes, token: str) -> tuple[Verdict, str]:
        """Return the verdict on a token, and its source (`metrics.SOURCES`)."""
        found = self._verdicts.look_up(digest, token)
        answer = found if isinstance(found, TokenVerdict) else await found
        message = self._noted(digest, answer)
        if message.principal is not None:
            return message.principal, message.source
        return Denied(answer.refusal) if answer.refusal else Undecided(), message.source

    async def close(self) -> None:
        """Check no more."""
        await self._verdicts.close()
        await asyncio.gather(*(issuer.close() for issuer in self._issuers))

    def _issuer(self, config: Config, rules: IssuerRules, options: IssuerOptions) -> Issuer:
        issuer = Issuer(
            rules,
            IssuerClient(options),
            refresh_s=config.keys.jwt.refresh,
            max_stale_s=config.keys.max_stale,
            on_fetch=lambda seconds, error: self._on_fetch(rules.url, seconds, error),
            on_keys=lambda: self._verdicts.keys_changed(issuer),
        )
        return issuer

    def _answer(self, worker: WorkerHandle, digest: bytes, answer: TokenVerdict) -> None:
        worker.send(self._noted(digest, answer))

    def _noted(self, digest: bytes, answer: TokenVerdict) -> LookedUp:
        """Count a check, and remember the sender's name; return what workers are told."""
        if answer.principal is not None:
            self._senders[answer.principal.key_id] = TokenSender(answer.principal, answer.tenancy)
            if answer.tenancy is not None:
                tenant = answer.tenancy.tenant(self._route_labels())
                answer = answer._replace(principal=answer.principal._replace(tenant=tenant))
        message = _message(digest, answer)
        if not answer.is_cached:
            self._totals.count(metrics.JWT_CHECKS, (message.verdict,))
        return message

    def _on_change(self, digests: list[bytes]) -> None:
        for start in range(0, len(digests), SNAPSHOT_CHUNK):
            self._workers.send_to_all(Forget(digests[start : start + SNAPSHOT_CHUNK]))

    def _on_fetch(self, url: str, seconds: float, error: IssuerError | None) -> None:
        result = FetchResult.OK if error is None else error.result
        self._totals.count(metrics.JWT_FETCHES, (result,))
        self._totals.observe(metrics.JWT_FETCH_DURATION, (result,), seconds)
        status = self._statuses[url]
        before = status.up, status.error
        if error is None:
            status.note_in_step(round(time.time() * _MS_PER_S), read_only=False, cut_off=False)
            self._fetched.set()
        else:
            reason = StoreUnavailableError.reason
            status.errors[reason] = status.errors.get(reason, 0) + 1
            status.up, status.error = False, str(error)
        if before != (status.up, status.error):
            self._on_status(status)

    async def _save_again_and_again(self) -> None:
        while True:
            await self._fetched.wait()
            self._fetched.clear()
            await self._save()

    async def _save(self) -> None:
        now = time.time()
        keys = {
            issuer.rules.url: FetchedKeys(issuer.content, round((now - issuer.age_s) * _MS_PER_S))
            for issuer in self._issuers
            if issuer.content
        }
        try:
            await self._file.write(keys)
        except (OSError, StateFileError) as error:
            if not self._is_writing_failing:
                _log.warning(
                    "cannot save the keys of the issuers of tokens: after a restart while an"
                    " issuer is unreachable, its tokens would be undecided",
                    file=str(self._file.path),
                    reason=error.strerror if isinstance(error, OSError) else str(error),
                )
            self._is_writing_failing = True
        else:
            self._is_writing_failing = False


async def _tell_later(
    tell: Callable[[TokenVerdict], None], answer: Awaitable[TokenVerdict]
) -> None:
    tell(await answer)


def _message(digest: bytes, answer: TokenVerdict) -> LookedUp:
    if answer.principal is not None:
        verdict: Literal["allowed", "denied", "undecided"] = "allowed"
    else:
        verdict = "denied" if answer.refusal else "undecided"
    source = "cache" if answer.is_cached else "authority"
    return LookedUp(
        digest, verdict, answer.principal, source, answer.fresh_s, refusal=answer.refusal
    )
