"""Control's own gauges: keys, stores, workers, the last reload, certificates, the version.

Read at the moment of a scrape. Counting a million keys takes a while, so these numbers are
remembered until the keys change or some seconds have passed.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import structlog

from gateway import __version__, compiled, metrics
from gateway.control.metrics.metric_totals import Labels
from gateway.control.workers.worker_set import WorkerSet
from gateway.keys.errors import STORE_ERROR_REASONS
from gateway.keys.following.status import StoreStatus
from gateway.keys.record import KnownKey
from gateway.model import KeyState

SHOWN: Final = 1_000
"""How many keys have a series with their expiry: those whose expiry is nearest to now. As many have
a series with their last use: those that were used last.
"""
REMEMBERED_S: Final = 10.0
_MS_PER_S: Final = 1_000

_log = structlog.get_logger("gateway.control")

Series = Mapping[Labels, float]


class CountedKeys(Protocol):
    """What the gauges need of the key service."""

    @property
    def revision(self) -> int:
        """The count of changes."""

    def records(self) -> Iterator[KnownKey]:
        """Return all keys."""

    def counts(self) -> dict[str, int]:
        """Count keys by state."""

    def last_used_ms(self, key_id: str) -> int:
        """Return when a key was last allowed in Unix ms, 0 = never."""


class ControlGauges:
    """The series of all metrics that no worker reports.

    `statuses` returns the state of each key store.
    `clock` returns monotonic, `unix_s` Unix seconds.
    """

    def __init__(
        self,
        keys: CountedKeys,
        statuses: Callable[[], Sequence[StoreStatus]],
        workers: WorkerSet,
        clock: Callable[[], float] = time.monotonic,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self.is_config_good = True
        """Whether the configuration was read successfully the last time."""
        self.are_tls_files_good = True
        """Whether the files for TLS can be used as they are."""
        self.are_revocation_lists_good = True
        """The same of lists of revoked certificates."""
        self.revocation_lists: Mapping[str, float] = {}
        """File → when its list is out of date, in Unix seconds."""
        self._keys = keys
        self._statuses = statuses
        self._workers = workers
        self._clock = clock
        self._unix_s = unix_s
        self._config_read_s = unix_s()
        self._certificates: dict[str, float] = {}
        self._key_series: dict[str, Series] = {}
        self._key_series_at: tuple[int, float] | None = None

    def config_read(self, certificates: Mapping[str, float]) -> None:
        """Take note of a configuration that was read successfully.

        `certificates`: listening address → when its certificate expires, in Unix seconds.
        """
        self.is_config_good = True
        self._config_read_s = self._unix_s()
        self._certificates = dict(certificates)

    def series(self) -> dict[str, Series]:
        """Return metric name → labels → value."""
        return {
            metrics.WORKERS.name: {(): self._workers.accepting()},
            metrics.WORKERS_UNSTEADY.name: {(): len(self._workers.unsteady)},
            metrics.CONFIG_RELOAD_OK.name: {(): float(self.is_config_good)},
            metrics.TLS_FILES_OK.name: {
                (): float(self.are_tls_files_good and self.are_revocation_lists_good)
            },
            metrics.CRL_NEXT_UPDATE.name: {
                (file,): ends_s for file, ends_s in self.revocation_lists.items()
            },
            metrics.CONFIG_RELOAD_AT.name: {(): self._config_read_s},
            metrics.CERTIFICATE_EXPIRY.name: {
                (address,): expiry for address, expiry in self._certificates.items()
            },
            metrics.BUILD_INFO.name: {(__version__, compiled.runs_as()): 1.0},
            **_of_stores(self._statuses()),
            **self._of_keys(),
        }

    def _of_keys(self) -> dict[str, Series]:
        now, revision = self._clock(), self._keys.revision
        at = self._key_series_at
        if at is None or at[0] != revision or now - at[1] >= REMEMBERED_S:
            counts = self._keys.counts()
            self._key_series = {
                metrics.KEYS.name: {(state,): float(count) for state, count in counts.items()},
                metrics.KEY_EXPIRY.name: _expiries(self._keys.records(), self._unix_s()),
                metrics.KEY_LAST_USED.name: _last_uses(self._keys),
            }
            self._key_series_at = (revision, now)
        return self._key_series


def certificate_expiry(cert_file: str) -> float:
    """Read when a PEM certificate (the first in the file) expires; Unix seconds.

    Raises `OSError`, `ValueError`.
    """
    from cryptography import x509  # noqa: PLC0415 - 9 MB, which only a gateway with TLS needs

    pem = Path(cert_file).read_bytes()
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()


def certificate_expiries(files: Iterable[tuple[str, str]]) -> dict[str, float]:
    """Read the expiry of each (address, certificate file); a file that cannot be read has none."""
    expiries = {}
    for address, cert_file in files:
        try:
            expiries[address] = certificate_expiry(cert_file)
        except (OSError, ValueError) as error:
            _log.warning("cannot read a certificate", address=address, error=str(error))
    return expiries


def _expiries(records: Iterable[KnownKey], now_s: float) -> dict[Labels, float]:
    expiring = (
        (abs(key.expires_at_ms / _MS_PER_S - now_s), key.key_id, key.name, key.expires_at_ms)
        for key in records
        if key.expires_at_ms is not None and key.state is not KeyState.REVOKED
    )
    nearest = heapq.nsmallest(SHOWN, expiring)
    return {(key_id, name): expires_ms / _MS_PER_S for _, key_id, name, expires_ms in nearest}


def _last_uses(keys: CountedKeys) -> dict[Labels, float]:
    used = (
        (last_used_ms, key.key_id, key.name)
        for key in keys.records()
        if (last_used_ms := keys.last_used_ms(key.key_id))
    )
    latest = heapq.nlargest(SHOWN, used)
    return {(key_id, name): last_used_ms / _MS_PER_S for last_used_ms, key_id, name in latest}


def _of_stores(statuses: Iterable[StoreStatus]) -> dict[str, Series]:
    """Merge the stores of one kind: up when all are up, as old as the one that was synced first.

    Their revision is the sum of revisions: it stands still when one of them does.
    """
    up: dict[Labels, float] = {}
    synced: dict[Labels, float] = {}
    revisions: dict[Labels, float] = {}
    errors: dict[Labels, float] = {}
    for status in statuses:
        store = (status.name,)
        up[store] = min(up.get(store, 1.0), float(status.up))
        synced_s = status.last_sync_ms / _MS_PER_S
        synced[store] = min(synced.get(store, synced_s), synced_s)
        revisions[store] = revisions.get(store, 0.0) + status.revision
        for reason in STORE_ERROR_REASONS:
            labels = (status.name, reason)
            errors[labels] = errors.get(labels, 0.0) + status.errors.get(reason, 0)
    return {
        metrics.KEY_STORE_UP.name: up,
        metrics.KEY_STORE_SYNC.name: synced,
        metrics.KEY_STORE_REVISION.name: revisions,
        metrics.KEY_STORE_ERRORS.name: errors,
    }
