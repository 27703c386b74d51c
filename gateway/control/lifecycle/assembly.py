"""The one place where the parts of control are built and connected."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import structlog

from gateway import metrics
from gateway.channel import Refused
from gateway.config import Config, Loaded
from gateway.control.admin.api.catalogue import Api
from gateway.control.admin.connections import ConnectionLimits
from gateway.control.admin.gateway_state import StateReader
from gateway.control.admin.handlers import AdminHandlers
from gateway.control.admin.health import Health
from gateway.control.admin.servers import AdminRoutes, AdminServers
from gateway.control.admin.trace_api import TraceApi
from gateway.control.core.current_config import CurrentConfig
from gateway.control.core.errors import ErrorReporter, StartError
from gateway.control.core.sockets import BIND_PATIENCE_S, ListenSockets, take_inherited
from gateway.control.core.tasks import Tasks
from gateway.control.lifecycle.data_listeners import DataListeners
from gateway.control.lifecycle.grpc_address import GrpcAddress
from gateway.control.lifecycle.key_stores import (
    configured_static_keys,
    key_stores,
    local_quota_store,
    log_store_status,
)
from gateway.control.lifecycle.reload import Reloader
from gateway.control.lifecycle.revocations import RevocationWatch
from gateway.control.lifecycle.tls_watch import TlsWatch
from gateway.control.lifecycle.unserved import UnservedConnections
from gateway.control.lifecycle.worker_record import WorkerRecord
from gateway.control.limits.fleet_limits import FleetLimits
from gateway.control.limits.period_quotas import PeriodQuotas
from gateway.control.metrics.busiest_keys import BusiestKeys
from gateway.control.metrics.certificate_senders import CertificateSenders
from gateway.control.metrics.config_metrics import ConfigMetrics
from gateway.control.metrics.control_gauges import ControlGauges
from gateway.control.metrics.exposition import Exposition, SeriesByName
from gateway.control.metrics.metric_totals import MetricTotals
from gateway.control.metrics.refusal_log import RefusalLog
from gateway.control.metrics.tenant_traffic import TenantTraffic
from gateway.control.metrics.worker_reports import WorkerReports
from gateway.control.sampling.item_totals import ItemTotals
from gateway.control.sampling.sample_counter import SampleCounter
from gateway.control.workers.key_distribution import KeyDistribution
from gateway.control.workers.quota_tables import QuotaTables
from gateway.control.workers.supervisor import Supervisor, Timing
from gateway.control.workers.trace_sessions import TraceSessions
from gateway.control.workers.worker_handle import WorkerObserver
from gateway.control.workers.worker_set import WorkerSet
from gateway.control.workers.worker_start import WorkerStarter
from gateway.keys.following.status import StoreStatus
from gateway.keys.limit_board import MemoryBoard
from gateway.keys.record import KeyRecord
from gateway.keys.service import KeyService
from gateway.keys.tenancy import Tenancy
from gateway.log import LogFormat

if TYPE_CHECKING:
    from gateway.control.authorities.authority_lookups import AuthorityLookups
    from gateway.control.authorities.token_lookups import TokenLookups
    from gateway.control.telemetry.own_telemetry import OwnTelemetry

_log = structlog.get_logger("gateway.control")


def _ignore(_: object) -> None:
    """Do nothing: an option that is not set."""


@dataclass(frozen=True, slots=True)
class Options:
    """What only tests and embedding programs change."""

    on_refusal: Callable[[Refused], None] = _ignore
    """Gets each refusal as workers report it, besides the log."""
    on_reload: Callable[[Config], object] = _ignore
    """Gets the new configuration after each reload that succeeded."""
    log_format: LogFormat = "json"
    """What workers log in."""
    bind_patience_s: float = BIND_PATIENCE_S
    starter: WorkerStarter | None = None
    """Set where workers were started early."""
    timing: Timing = field(default_factory=Timing)


@dataclass(frozen=True, slots=True)
class Foundation:
    """What most other parts are built with. Nothing runs yet."""

    config: CurrentConfig
    totals: MetricTotals
    errors: ErrorReporter
    tasks: Tasks
    workers: WorkerSet
    keys: KeyService
    lookups: AuthorityLookups | None
    """Set where a remote authority is configured."""
    tokens: TokenLookups | None
    """Set where an issuer of tokens is configured."""
    distribution: KeyDistribution
    quotas: QuotaTables
    limits: FleetLimits
    period_quotas: PeriodQuotas
    certificates: CertificateSenders
    """Whom clients' certificates name."""

    def statuses(self) -> list[StoreStatus]:
        """Return the status of each key store and of each remote authority."""
        return [
            *self.keys.statuses(),
            *(status for each in self.askers() for status in each.statuses()),
        ]

    def askers(self) -> list[AuthorityLookups | TokenLookups]:
        """Return what answers workers' questions about keys that no store has."""
        return [each for each in (self.lookups, self.tokens) if each is not None]

    def read_tls_files(self, config: Config) -> None:
        """Have new connections of all of them use the files as they are now. Raises `OSError`."""
        for each in self.askers():
            each.read_tls_files(config)

    def key_name(self, key_id: str) -> str:
        """Return the name of a key, "" for an unknown one."""
        record = self.keys.record(key_id)
        if record is not None:
            return record.name
        name = self.tokens.name(key_id) if self.tokens is not None else ""
        return name or self.certificates.name(key_id)

    def tenancy(self, key_id: str) -> Tenancy | None:
        """Return whose data the requests of a key, or of a sender without one, hold."""
        record = self.keys.record(key_id)
        if isinstance(record, KeyRecord):
            return record.tenancy
        tenancy = self.tokens.tenancy(key_id) if self.tokens is not None else None
        return tenancy or self.certificates.tenancy(key_id)

    def owner(self, key_id: str) -> str:
        """Return who owns the data of a key, "" where nobody said."""
        tenancy = self.tenancy(key_id)
        return "" if tenancy is None or tenancy.owner is None else tenancy.owner


@dataclass(frozen=True, slots=True)
class Counting:
    """The parts that count, log refusals, and answer a scrape."""

    busiest_keys: BusiestKeys
    refusal_log: RefusalLog
    reports: WorkerReports
    tenants: TenantTraffic
    samples: SampleCounter
    config_metrics: ConfigMetrics
    exposition: Exposition

    @property
    def observers(self) -> list[WorkerObserver]:
        """Those that count what workers report."""
        return [self.reports, self.tenants, self.samples]


@dataclass(frozen=True, slots=True)
class Parts:
    """All parts that `Control` starts, stops or passes on."""

    base: Foundation
    counting: Counting
    supervisor: Supervisor
    health: Health
    listeners: DataListeners
    admin: AdminServers
    admin_routes: AdminRoutes
    grpc: GrpcAddress
    reloader: Reloader
    tls_watch: TlsWatch
    revocations: RevocationWatch
    worker_record: WorkerRecord
    unserved: UnservedConnections
    telemetry: OwnTelemetry | None
    """Set where the gateway exports telemetry of its own."""


def assemble(loaded: Loaded, options: Options) -> Parts:
    """Build all parts, inside the event loop; nothing is opened. Raises `StartError`."""
    base = _foundation(loaded)
    counting = _counting(base, options)
    state = StateReader(
        base.config, base.keys, base.distribution, base.workers, base.statuses, base.totals
    )
    health = Health(state.read)
    traces = TraceSessions(base.workers)
    record = WorkerRecord(base.config.config.state_dir)
    observers = [*counting.observers, traces, health, base.distribution, record]
    revocations = RevocationWatch(base.config, base.workers, counting.config_metrics)
    observers += [base.period_quotas, *base.askers(), base.certificates, revocations]
    telemetry = _own_telemetry(base, counting.exposition)
    if telemetry is not None:
        observers.append(telemetry)
    inherited = take_inherited(os.environ)
    patience_s = options.bind_patience_s
    listeners = DataListeners(inherited, patience_s, record.end_leftovers)
    unserved = UnservedConnections(base.workers, listeners, base.totals)
    observers.append(unserved)
    supervisor = Supervisor(
        base.workers,
        base.distribution,
        observers,
        base.errors,
        quotas=base.quotas,
        starter=options.starter,
        timing=options.timing,
    )
    limits = ConnectionLimits(on_closed=partial(_count_admin_closed, base.totals))
    admin = AdminServers(ListenSockets(inherited), base.errors, patience_s, limits)
    grpc = GrpcAddress(
        base.keys,
        admin.gate,
        base.totals,
        base.errors,
        base.lookups,
        base.tokens,
        quota_place=supervisor.own_quota_place,
        board=base.limits.board,
        quotas=base.period_quotas.for_edges,
        is_draining=lambda: health.is_draining,
        patience_s=patience_s,
    )
    reloader = Reloader(
        base.config,
        base.keys,
        listeners,
        supervisor,
        admin,
        grpc,
        counting.config_metrics,
        revocations=revocations,
        log_format=options.log_format,
        on_reload=options.on_reload,
        on_new_tls_files=base.read_tls_files,
    )
    routes = _admin_routes(base, counting.exposition, health, reloader, traces)
    tls_watch = TlsWatch(base.config, counting.config_metrics, reloader.use_new_tls_files)
    return Parts(
        base=base,
        counting=counting,
        supervisor=supervisor,
        health=health,
        listeners=listeners,
        admin=admin,
        admin_routes=routes,
        grpc=grpc,
        reloader=reloader,
        tls_watch=tls_watch,
        revocations=revocations,
        worker_record=record,
        unserved=unserved,
        telemetry=telemetry,
    )


def _foundation(loaded: Loaded) -> Foundation:
    current = CurrentConfig(loaded)
    config = current.config
    totals = MetricTotals()
    errors = ErrorReporter(partial(totals.count, metrics.INTERNAL_ERRORS, ("control",)))
    tasks = Tasks(errors)
    workers = WorkerSet(config.worker_count)
    keys = KeyService(
        key_stores(config),
        configured_static_keys(config),
        tombstones_s=config.keys.tombstones,
        with_names=config.forward.identity_headers,
        route_labels=config.backends.route_labels,
        max_stale_s=config.keys.max_stale,
        state_dir=config.state_dir,
        on_status=log_store_status,
        on_problem=_log.warning,
    )
    quotas = QuotaTables()
    keys.usage.kept_days = config.usage.days
    return Foundation(
        config=current,
        totals=totals,
        errors=errors,
        tasks=tasks,
        workers=workers,
        keys=keys,
        lookups=_authority_lookups(config, totals, tasks, workers),
        tokens=_token_lookups(config, totals, tasks, workers, keys),
        certificates=CertificateSenders(),
        distribution=KeyDistribution(keys, workers, partial(_observe_lag, keys, totals)),
        quotas=quotas,
        limits=FleetLimits(current, quotas, keys.limit_board or MemoryBoard()),
        period_quotas=PeriodQuotas(current, quotas, keys.quota_store, local_quota_store(config)),
    )


def _authority_lookups(
    config: Config, totals: MetricTotals, tasks: Tasks, workers: WorkerSet
) -> AuthorityLookups | None:
    """Make what asks authorities, if there is one; else nothing of it is imported."""
    if all(store.kind != "authority" for store in config.keys.stores):
        return None
    from gateway.control.authorities.authority_lookups import AuthorityLookups
    from gateway.control.authorities.authority_settings import authority_settings, cache_limits
    from gateway.keys.authority.verdict_file import VerdictFile

    authorities = authority_settings(config)
    file = VerdictFile(config.state_dir, [each.url for each in authorities])
    limits = cache_limits(config)
    return AuthorityLookups(authorities, limits, totals, tasks, workers, log_store_status, file)


def _token_lookups(
    config: Config, totals: MetricTotals, tasks: Tasks, workers: WorkerSet, keys: KeyService
) -> TokenLookups | None:
    if all(store.kind != "jwt" for store in config.keys.stores):
        return None
    # Loaded only here: the libraries that check signatures take 9 MB.
    from gateway.control.authorities.token_lookups import TokenLookups

    return TokenLookups(config, totals, tasks, workers, log_store_status, lambda: keys.route_labels)


def _own_telemetry(base: Foundation, exposition: Exposition) -> OwnTelemetry | None:
    config = base.config.config
    if config.telemetry.endpoint is None:
        return None
    # Loaded only here: the libraries that export take 15 MB.
    from gateway.control.telemetry.own_telemetry import OwnTelemetry

    try:
        return OwnTelemetry(config, exposition.collect, base.key_name, base.totals)
    except OSError as error:
        msg = f"telemetry.tls: {error}"
        raise StartError(msg) from error


def _observe_lag(keys: KeyService, totals: MetricTotals, seconds: float) -> None:
    """Count how long a change took; new keys and changes of them go to the first store."""
    for status in keys.statuses()[:1]:
        totals.observe(metrics.REVOCATION_LAG, (status.name,), seconds)


def _count_admin_closed(totals: MetricTotals, reason: str) -> None:
    totals.count(metrics.ADMIN_CLOSED, (reason,))


def _counting(base: Foundation, options: Options) -> Counting:
    totals = base.totals
    busiest_keys = BusiestKeys()
    refusal_log = RefusalLog(base.key_name, options.on_refusal, owner=base.owner)
    gauges = ControlGauges(base.keys, base.statuses, base.workers)
    sources: list[Callable[[], SeriesByName]] = [
        gauges.series,
        base.limits.series,
        partial(base.period_quotas.series, base.key_name),
    ]
    sources += [each.series for each in base.askers()]
    items = ItemTotals(busiest_keys.keys, base.key_name)
    sources.append(items.series)
    return Counting(
        busiest_keys=busiest_keys,
        refusal_log=refusal_log,
        reports=WorkerReports(totals, busiest_keys, base.keys, refusal_log.take, base.errors),
        tenants=TenantTraffic(lambda: base.config.config.metrics, base.tenancy, totals),
        samples=SampleCounter(base.keys, items, totals),
        config_metrics=ConfigMetrics(base.config, totals, gauges, base.statuses),
        exposition=Exposition(totals, busiest_keys, base.key_name, sources, base.config.backends),
    )


def _admin_routes(
    base: Foundation,
    exposition: Exposition,
    health: Health,
    reloader: Reloader,
    traces: TraceSessions,
) -> AdminRoutes:
    handlers = AdminHandlers(exposition, health, reloader.reload, base.config.masked)
    ask_authority = None if base.lookups is None else base.lookups.ask
    api = Api(base.keys, base.distribution.confirmed, ask_authority)
    return AdminRoutes(
        main=[*handlers.routes(), *TraceApi(traces, base.keys.record).routes(), *api.routes()],
        metrics=handlers.public_routes(),
        authorize=api.authorize_routes(),
    )
