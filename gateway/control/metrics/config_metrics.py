"""What metrics show of the configuration, set at the start and by each reload."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gateway.config import Config
from gateway.config.tree import TlsServerConfig
from gateway.control.core.current_config import CurrentConfig
from gateway.control.metrics.control_gauges import ControlGauges, certificate_expiries
from gateway.control.metrics.initial_series import start_at_zero
from gateway.control.metrics.metric_totals import MetricTotals
from gateway.keys.following.status import StoreStatus


class ConfigMetrics:
    """Updates `totals` and `gauges`. `statuses` returns the status of each key store."""

    def __init__(
        self,
        config: CurrentConfig,
        totals: MetricTotals,
        gauges: ControlGauges,
        statuses: Callable[[], Sequence[StoreStatus]],
    ) -> None:
        self._config = config
        self._totals = totals
        self._gauges = gauges
        self._statuses = statuses

    def update(self) -> None:
        """Show the present configuration, which was read successfully."""
        self._gauges.config_read(certificate_expiries(certificate_files(self._config.config)))
        stores = {status.name for status in self._statuses()}
        start_at_zero(self._totals, self._config.backends(), stores)

    def tls_files_read(self, *, good: bool) -> None:
        """Show whether the files for TLS are those in use, or wrong ones have come."""
        self._gauges.are_tls_files_good = good

    def revocation_lists_read(self, ends: Mapping[str, float], *, good: bool) -> None:
        """Show whether lists of revoked certificates are those in use, and when they are out of
        date: file → Unix seconds.
        """
        self._gauges.are_revocation_lists_good = good
        self._gauges.revocation_lists = dict(ends)

    def reload_failed(self) -> None:
        """Show that the last reload failed."""
        self._gauges.is_config_good = False


def certificate_files(config: Config) -> list[tuple[str, str]]:
    """Return each address that speaks TLS, the admin's too, with its certificate's file."""
    pairs: list[tuple[str, TlsServerConfig | None]]
    pairs = [(listener.address, listener.tls) for listener in config.listen]
    pairs.append((config.admin.address, config.admin.tls))
    if config.admin.grpc_address is not None:
        pairs.append((config.admin.grpc_address, config.admin.grpc_tls))
    return [(address, str(tls.cert_file)) for address, tls in pairs if tls is not None]
