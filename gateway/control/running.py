"""One running gateway: every part of control, put together in one place.

Read it from the top: what there is, how it starts, what happens while it runs, how it reloads, how
it ends. Each part has its own module and knows little of the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from gateway import metrics
from gateway.channel import Lookup, Refused, Report, Traced
from gateway.config import Config, ConfigError, Loaded, effective
from gateway.control import derive
from gateway.control.admin import Admin, ReloadError
from gateway.control.admin_servers import AdminServers
from gateway.control.admin_token import TokenError
from gateway.control.announce import announce, store_changed
from gateway.control.api.catalogue import Api
from gateway.control.authorities import lookups_of
from gateway.control.distribution import Distribution
from gateway.control.exposition import Exposition
from gateway.control.health import Facts, Health
from gateway.control.lookups import Lookups
from gateway.control.measures import Measures, certificate_expiries
from gateway.control.refusals import Refusals
from gateway.control.reports import Reports
from gateway.control.series import start_at_zero
from gateway.control.slot import StartError
from gateway.control.sockets import (
    BIND_PATIENCE_S,
    BindError,
    BoundSocket,
    ListenSockets,
    close_leftover,
    descriptor_shortfall,
    raise_descriptor_limit,
    take_inherited,
)
from gateway.control.supervisor import WORKER_COMMAND, Supervisor, Timing
from gateway.control.tasks import Tasks
from gateway.control.totals import Labels, Totals
from gateway.control.trace import TraceApi, Traces
from gateway.control.usage import ELECTION_S, KeyTraffic
from gateway.control.worker_handle import Snapshot, WorkerHandle
from gateway.keys.service import KeyService, StoreStatus

_STOPPING: Final = "the gateway is draining: it was told to stop"

_log = structlog.get_logger("gateway.control")


@dataclass(frozen=True, slots=True)
class Options:
    """What only tests and embedding programs change."""

    on_refusal: Callable[[Refused], None] = lambda _: None
    """Gets each refusal as workers report it, besides the log."""
    on_reload: Callable[[Config], object] = lambda _: None
    """Gets the new configuration after each reload that succeeded."""
    log_format: derive.LogFormat = "json"
    """What workers log in."""
    bind_patience_s: float = BIND_PATIENCE_S
    worker_command: Sequence[str] = WORKER_COMMAND
    timing: Timing = field(default_factory=Timing)


class Control:
    """A gateway between `start` and `close`. Made by `running`, or by `serve`.

    `addresses`, `admin_addresses`, `metrics_addresses` and `authorize_addresses` are where it
    listens, with the ports that port 0 became.
    """

    def __init__(self, loaded: Loaded, options: Options | None = None) -> None:
        self.config: Config = loaded.config
        self.options = options or Options()
        self.addresses: list[str] = []
        self.admin_addresses: list[str] = []
        self.metrics_addresses: list[str] = []
        self.authorize_addresses: list[str] = []
        self._loaded = loaded
        self._totals = Totals()
        self._traffic = KeyTraffic()
        self.tasks = Tasks(lambda: self._totals.count(metrics.INTERNAL_ERRORS, ("control",)))
        self.keys = KeyService(
            derive.stores_of(self.config),
            derive.static_keys_of(self.config),
            tombstones_s=self.config.keys.tombstones,
            with_names=self.config.forward.identity_headers,
            max_stale_s=self.config.keys.max_stale,
            state_dir=self.config.state_dir,
            on_status=store_changed,
            on_problem=_log.warning,
        )
        self.health = Health(self._facts)
        self.supervisor = Supervisor(self, self.options.worker_command, self.options.timing)
        self.traces = Traces(lambda: self.supervisor.workers, self.supervisor.send_to_all)
        self.lookups: Lookups | None = None
        """Set where a remote authority is configured."""
        self._distribution: Distribution | None = None
        self._snapshot: weakref.ref[Snapshot] = weakref.ref(Snapshot(-1, []))
        self._measures = Measures(
            self.keys, lambda: self.supervisor.accepting, statuses=self._statuses
        )
        self._exposition = Exposition(
            self._totals,
            self._traffic,
            self.key_name,
            self._measured,
            lambda: derive.backends_of(self.config),
        )
        self._refusals = Refusals(self.key_name, self.options.on_refusal)
        self._reports = Reports(
            self._totals, self._traffic, self.keys, self._refusals.take, self.tasks.failed
        )
        self._inherited = take_inherited(os.environ)
        self._sockets = ListenSockets(self._inherited)
        self._admin_sockets = ListenSockets(self._inherited)
        self._admin = AdminServers(
            self._admin_sockets, self.tasks.failed, self.options.bind_patience_s
        )
        self._reloading = asyncio.Lock()
        self._replacing: asyncio.Task[list[str]] | None = None

    # Start

    async def start(self) -> None:
        """Start everything; return when every worker accepts.

        Raises `BindError`, `StoreError`, `TokenError`, `StartError`; then `close` is still due.
        """
        self.lookups = lookups_of(
            self.config, self._totals, self.tasks, self.supervisor.send_to_all
        )
        self._note_config()
        self._raise_descriptors()
        await self._start_admin()
        await self._start_keys()
        sockets = await self._bind(self.config, on_wait=_say_address_in_use)
        close_leftover(self._inherited)
        self._start_tasks()
        announce(self.config, sockets, self._admin.all_addresses(), self._loaded.warnings)
        await self.supervisor.start(derive.plan_of(self.config, sockets, self.options.log_format))
        _log.info("ready", workers=self.supervisor.accepting)

    def _note_config(self) -> None:
        """Take note of what metrics say of the configuration."""
        self._measures.reload_succeeded = True
        self._measures.reloaded_at_s = time.time()
        self._measures.certificates = certificate_expiries(derive.certificate_files(self.config))
        stores = {status.name for status in self._statuses()}
        start_at_zero(self._totals, derive.backends_of(self.config), stores)

    def _raise_descriptors(self) -> None:
        shortfall = descriptor_shortfall(
            raise_descriptor_limit(),
            self.config.limits.max_connections,
            self.config.worker_count,
            derive.upstream_connections(self.config),
        )
        if shortfall:
            _log.warning(shortfall)

    async def _bind(
        self, config: Config, on_wait: Callable[[str], None] | None = None
    ) -> list[list[BoundSocket]]:
        sockets = await self._sockets.bind(
            derive.listen_addresses(config),
            patience_s=self.options.bind_patience_s,
            on_wait=on_wait,
        )
        self.addresses = [bound.bound for held in sockets for bound in held]
        return sockets

    async def _start_admin(self) -> None:
        handlers = Admin(self._exposition, self.health, self.reload, lambda: effective(self.config))
        asked = None if self.lookups is None else self.lookups.ask
        api = Api(self.keys, self.confirmed, asked)
        routes = [*handlers.routes(), *TraceApi(self.traces).routes(), *api.routes()]
        servers = self._admin
        await servers.start(self.config, routes, handlers.public_routes(), api.authorize_routes())
        self.admin_addresses = servers.addresses
        self.metrics_addresses = servers.metrics_addresses
        self.authorize_addresses = servers.authorize_addresses

    async def _start_keys(self) -> None:
        await self.keys.start()
        self._distribution = Distribution(
            self.keys.revision,
            lambda: self.supervisor.workers,
            self.supervisor.push,
            self.keys.publish_confirmed,
            self._observe_lag,
        )
        self.keys.subscribe(self._distribution.on_delta)
        if self.lookups is not None:
            await self.lookups.start()

    def _start_tasks(self) -> None:
        for name, run in self.keys.background().items():
            self.tasks.keep(name, run)
        if self.lookups is not None:
            self.tasks.keep("authority.verdicts", self.lookups.run)
        self.tasks.keep("supervisor.watch", self.supervisor.watch)
        self.tasks.keep("usage.election", self._elect)
        self.tasks.keep("refusals.summary", self._refusals.run)

    # While it runs

    async def confirmed(self, revision: int, timeout_s: float = 1.0) -> bool:
        """Wait until every worker decides by `revision` of `keys`; False after `timeout_s`."""
        if self._distribution is None:
            return False
        return await self._distribution.confirmed(revision, timeout_s)

    def key_name(self, key_id: str) -> str:
        """Tell the name of a key, "" when nobody knows it."""
        record = self.keys.record(key_id)
        return record.name if record is not None else ""

    def snapshot(self) -> Snapshot:
        """Return all keys as they are now; workers that start together share one."""
        snapshot = self._snapshot()
        if snapshot is None or snapshot.revision != self.keys.revision:
            snapshot = Snapshot(*self.keys.snapshot())
            self._snapshot = weakref.ref(snapshot)
        return snapshot

    def on_report(self, worker: WorkerHandle, report: Report) -> None:
        """Take a worker's report (`supervisor.Listener`)."""
        self._reports.take(worker, report)

    def on_message(self, worker: WorkerHandle, message: Lookup | Traced) -> None:
        """Take a question, or what a trace sees (`supervisor.Listener`)."""
        if isinstance(message, Traced):
            self.traces.take(worker, message)
        elif self.lookups is not None:
            self.lookups.take(worker, message)

    def on_workers_changed(self) -> None:
        """Look at the workers again (`supervisor.Listener`)."""
        self.traces.recheck()
        self.health.note_accepting(self.supervisor.accepting)
        if self._distribution is not None:
            self._distribution.recheck()

    def on_worker_gone(self, worker: WorkerHandle) -> None:
        """Forget a worker (`supervisor.Listener`)."""
        self._reports.forget(worker)

    def on_restart(self, reason: str) -> None:
        """Count a worker that was replaced (`supervisor.Listener`)."""
        self._totals.count(metrics.WORKER_RESTARTS, (reason,))

    def on_bug(self, place: str, error: Exception) -> None:
        """Count an unexpected exception (`supervisor.Listener`)."""
        self.tasks.failed(place, error)

    async def _elect(self) -> None:
        while True:
            await asyncio.sleep(ELECTION_S)
            self._traffic.elect()

    def _statuses(self) -> list[StoreStatus]:
        """Tell how each store is, remote authorities too."""
        authorities = self.lookups.statuses() if self.lookups is not None else []
        return [*self.keys.statuses(), *authorities]

    def _measured(self) -> Mapping[str, Mapping[Labels, float]]:
        cache = self.lookups.series() if self.lookups is not None else {}
        return {**self._measures.series(), **cache}

    def _observe_lag(self, seconds: float) -> None:
        """Count how long a change took; new keys and changes of them go to the first store."""
        for status in self.keys.statuses()[:1]:
            self._totals.observe(metrics.REVOCATION_LAG, (status.name,), seconds)

    def _facts(self) -> Facts:
        up = self._totals.gauges(metrics.BACKEND_UP)
        return Facts(
            keys_loaded=self._distribution is not None and self.keys.is_loaded,
            accepting=self.supervisor.accepting,
            wanted=self.supervisor.wanted or self.config.worker_count,
            stores=[derive.store_detail(status) for status in self._statuses()],
            backends=[
                {"backend": name, "address": address, "up": derive.is_up(up.get((name, address)))}
                for name, addresses in derive.backends_of(self.config)
                for address in addresses
            ],
        )

    # Reload

    async def reload(self) -> list[str]:
        """Read the configuration again and replace the workers one by one.

        Returns what takes effect only after a restart. Raises `ReloadError`; then nothing has
        changed.
        """
        async with self._reloading:
            if self.health.is_draining:
                raise ReloadError([_STOPPING])
            self._replacing = asyncio.create_task(self._read_again())
            try:
                notes = await self._replacing
            except ReloadError as error:
                self._measures.reload_succeeded = False
                _log.error("reload failed, nothing was changed", reasons=error.reasons)
                raise
            except asyncio.CancelledError:
                if self.health.is_draining:
                    raise ReloadError([_STOPPING]) from None
                raise
            finally:
                self._replacing = None
        _log.info("the configuration was read again", workers=self.supervisor.wanted)
        return notes

    async def _read_again(self) -> list[str]:
        old = self.config
        try:
            loaded = await asyncio.to_thread(self._loaded.reload)
            static = derive.static_keys_of(loaded.config)
            tokens = await asyncio.to_thread(derive.tokens_of, loaded.config)
            derive.tls_files(loaded.config.admin.tls)
            self.keys.use_names(with_names=loaded.config.forward.identity_headers)
            sockets = await self._bind(loaded.config)
            await self.supervisor.replace(
                derive.plan_of(loaded.config, sockets, self.options.log_format)
            )
        except (ConfigError, BindError, StartError, TokenError) as error:
            self.keys.use_names(with_names=old.forward.identity_headers)
            await self._bind(old)
            self._sockets.keep_only(derive.listen_addresses(old))
            raise ReloadError(_reasons(error)) from error
        self._sockets.keep_only(derive.listen_addresses(loaded.config))
        self.keys.replace_static(static)
        self._admin.take_over(loaded.config, tokens)
        self._loaded, self.config = loaded, loaded.config
        self._note_config()
        self.options.on_reload(self.config)
        notes = list(derive.needs_restart(old, loaded.config))
        for note in notes:
            _log.warning(note)
        return notes

    # End

    async def drain(self) -> None:
        """Stop in order: not ready at once, later no new connections, then what is open ends."""
        self.health.is_draining = True
        if self._replacing is not None:
            self._replacing.cancel()
        limits = self.config.limits
        if self.supervisor.accepting:
            self.supervisor.say_unready()
            _log.info("draining", delay_s=limits.drain_delay, timeout_s=limits.drain_timeout)
            await asyncio.sleep(limits.drain_delay)
        self.supervisor.drain(limits.drain_timeout)
        self._sockets.close()  # else the kernel would go on to take connections for nobody
        killed = await self.supervisor.drained(limits.drain_timeout)
        _log.info("drained", workers_killed=killed)

    async def close(self) -> None:
        """End everything at once, whatever was started; each part ends if another fails to."""
        async with contextlib.AsyncExitStack() as stack:  # last in, first out
            stack.callback(self._sockets.close)
            stack.callback(self._admin_sockets.close)
            stack.push_async_callback(self.keys.close)
            stack.callback(self._refusals.close)
            if self.lookups is not None:
                stack.push_async_callback(self.lookups.close)
            stack.push_async_callback(self._admin.close)
            stack.push_async_callback(self.tasks.close)
            stack.push_async_callback(self.supervisor.close)


@contextlib.asynccontextmanager
async def running(
    loaded: Loaded,
    *,
    on_refusal: Callable[[Refused], None] = lambda _: None,
    log_format: derive.LogFormat = "json",
) -> AsyncIterator[Control]:
    """Run a gateway in this event loop: ready inside the block, drained and closed after it.

    The arguments are those of `Options`. Raises what `Control.start` does. When the block fails
    nothing is drained.
    """
    control = Control(loaded, Options(on_refusal=on_refusal, log_format=log_format))
    try:
        await control.start()
        yield control
        await control.drain()
    finally:
        await control.close()


def _say_address_in_use(address: str) -> None:
    _log.info("waiting for an address that is still in use", address=address)


def _reasons(error: Exception) -> list[str]:
    """Give each fault on its own."""
    return (
        [str(fault) for fault in error.faults] if isinstance(error, ConfigError) else [str(error)]
    )
