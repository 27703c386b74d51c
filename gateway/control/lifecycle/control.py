"""One gateway: how it starts, reloads, drains and ends. `assembly` builds its parts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Final

import structlog

from gateway import log, metrics
from gateway.channel import Refused
from gateway.config import Config, Loaded, read_tls_contents
from gateway.control.core.errors import StartError
from gateway.control.lifecycle.assembly import Options, assemble
from gateway.control.lifecycle.start_log import log_address_in_use, log_start
from gateway.control.lifecycle.worker_plan import descriptor_warning, worker_plan
from gateway.keys.service import KeyService
from gateway.keys.state_file import StateFileError, check_state_folder
from gateway.log import LogFormat

_TELL_S: Final = 1.0
_READY_S: Final = 0.1

_log = structlog.get_logger("gateway.control")


class Control:
    """A gateway between `start` and `close`. Made inside the event loop; raises `StartError`.

    The embedding program uses `keys`, `config` and the addresses, which have the ports that the
    system chose for port 0; `parts` is everything else.
    """

    def __init__(self, loaded: Loaded, options: Options | None = None) -> None:
        self._options = options or Options()
        self.parts = assemble(loaded, self._options)

    @property
    def config(self) -> Config:
        """The present configuration."""
        return self.parts.base.config.config

    @property
    def keys(self) -> KeyService:
        """The keys of all stores."""
        return self.parts.base.keys

    @property
    def addresses(self) -> list[str]:
        """Where senders connect."""
        return self.parts.listeners.addresses

    @property
    def admin_addresses(self) -> list[str]:
        """Where `admin.address` is."""
        return self.parts.admin.addresses

    @property
    def metrics_addresses(self) -> list[str]:
        """Where `admin.metrics_address` is."""
        return self.parts.admin.metrics_addresses

    @property
    def authorize_addresses(self) -> list[str]:
        """Where `admin.authorize_address` is."""
        return self.parts.admin.authorize_addresses

    @property
    def grpc_addresses(self) -> list[str]:
        """Where `admin.grpc_address` is."""
        return self.parts.grpc.addresses

    async def start(self) -> None:
        """Start everything; return when every worker accepts.

        Raises `BindError`, `StoreError`, `TokenError`, `StartError`; then `close` is still needed.
        """
        parts, base, config = self.parts, self.parts.base, self.config
        _check_state_dir(config)
        parts.counting.config_metrics.update()
        if warning := descriptor_warning(config):
            _log.warning(warning)
        await parts.admin.start(config, parts.admin_routes)
        await base.keys.start()
        base.distribution.start()
        for each in base.askers():
            await each.start()
        await parts.grpc.start(config)
        await parts.worker_record.read()
        sockets = await parts.listeners.bind(config, on_wait=log_address_in_use)
        parts.listeners.close_leftover()
        self._start_tasks()
        log_start(base.config, sockets, [*parts.admin.all_addresses(), *self.grpc_addresses])
        contents = base.config.tls_contents = await asyncio.to_thread(read_tls_contents, config)
        await parts.revocations.use(config)
        plan = worker_plan(config, sockets, self._options.log_format, contents)
        await parts.supervisor.start(plan)
        is_ready, details = parts.health.ready()
        if is_ready:
            self._say_ready()
        else:
            _log.warning("started, but not ready", reasons=details["reasons"])
            base.tasks.once("ready", self._say_ready_at_last)

    async def confirmed(self, revision: int, timeout_s: float = 1.0) -> bool:
        """Wait until every worker decides by `revision` of `keys`; False after `timeout_s`."""
        return await self.parts.base.distribution.confirmed(revision, timeout_s)

    def key_name(self, key_id: str) -> str:
        """Return the name of a key, "" for an unknown one."""
        return self.parts.base.key_name(key_id)

    async def reload(self) -> list[str]:
        """Read the configuration again, see `Reloader.reload`."""
        return await self.parts.reloader.reload()

    async def drain(self) -> None:
        """Stop in order: not ready at once, later no new connections, then open requests end."""
        parts = self.parts
        parts.health.is_draining = True
        parts.reloader.stop()
        limits = self.config.limits
        if parts.base.workers.accepting():
            parts.supervisor.say_unready()
            _log.info("draining", delay_s=limits.drain_delay, timeout_s=limits.drain_timeout)
            await asyncio.sleep(limits.drain_delay)
        parts.supervisor.drain(limits.drain_timeout)
        parts.listeners.close()
        killed = await parts.supervisor.drained(limits.drain_timeout)
        _log.info("drained", workers_killed=killed)

    async def close(self) -> None:
        """End everything at once, whatever was started; each part ends if another fails to."""
        parts, base = self.parts, self.parts.base
        async with contextlib.AsyncExitStack() as stack:  # last in, first out
            stack.callback(log.tell_repeats, rest=True)
            stack.callback(parts.listeners.close)
            stack.push_async_callback(base.keys.close)
            stack.callback(parts.counting.refusal_log.close)
            for each in base.askers():
                stack.push_async_callback(each.close)
            stack.push_async_callback(parts.admin.close)
            stack.push_async_callback(parts.grpc.close)
            stack.push_async_callback(parts.worker_record.write)
            stack.push_async_callback(base.tasks.close)
            stack.push_async_callback(parts.supervisor.close)

    def _start_tasks(self) -> None:
        base, counting = self.parts.base, self.parts.counting
        background: dict[str, Callable[[], Awaitable[None]]] = {
            **base.keys.background(),
            "supervisor.watch": self.parts.supervisor.watch,
            "busiest_keys.elect": counting.busiest_keys.run,
            "refusals.summary": counting.refusal_log.run,
            "log.summary": self._watch_log,
            "tls.watch": self.parts.tls_watch.run,
            "revocations.watch": self.parts.revocations.run,
            "unserved connections": self.parts.unserved.run,
            "worker record": self.parts.worker_record.run,
        }
        if base.lookups is not None:
            background["authority.verdicts"] = base.lookups.run
        if base.tokens is not None:
            background["issuers"] = base.tokens.run
        for name, run in background.items():
            base.tasks.keep(name, run)

    def _say_ready(self) -> None:
        _log.info("ready", workers=self.parts.base.workers.accepting())

    async def _say_ready_at_last(self) -> None:
        """Write that the gateway is ready as soon as `/readyz` says so."""
        while not self.parts.health.ready()[0]:  # noqa: ASYNC110 - keys, workers, a drain: no one event
            await asyncio.sleep(_READY_S)
        self._say_ready()

    async def _watch_log(self) -> None:
        """Write for ever how often lines of the log have repeated, and count those dropped."""
        while True:
            await asyncio.sleep(_TELL_S)
            log.tell_repeats()
            self.parts.base.totals.count(metrics.LOG_LINES_DROPPED, (), log.take_dropped())


def _check_state_dir(config: Config) -> None:
    """Refuse a folder that somebody else made. Raises `StartError`."""
    try:
        check_state_folder(config.state_dir)
    except StateFileError as error:
        msg = f"state_dir: {error}"
        raise StartError(msg) from error
    except OSError:
        pass  # whoever needs the folder says so, and what to do


@contextlib.asynccontextmanager
async def open_gateway(
    loaded: Loaded,
    *,
    on_refusal: Callable[[Refused], None] | None = None,
    log_format: LogFormat = "json",
) -> AsyncIterator[Control]:
    """Run a gateway in this event loop: ready inside the block, drained and closed after it.

    The arguments are those of `Options`. Raises what `Control` and `Control.start` do. When the
    block fails, nothing is drained.
    """
    options = Options(log_format=log_format)
    if on_refusal is not None:
        options = replace(options, on_refusal=on_refusal)
    control = Control(loaded, options)
    try:
        await control.start()
        yield control
        await control.drain()
    finally:
        await control.close()
