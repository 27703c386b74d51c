"""Reload: the configuration is read again, and the workers are replaced one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

import structlog

from gateway.config import Config, ConfigError, Loaded, read_tls_contents
from gateway.config.tree import TlsServerConfig
from gateway.control.admin.servers import AdminServers
from gateway.control.admin.tls_files import read_tls_files
from gateway.control.admin.tokens import TokenError, read_tokens
from gateway.control.core.current_config import CurrentConfig
from gateway.control.core.errors import ReloadError, StartError
from gateway.control.core.sockets import BindError
from gateway.control.lifecycle.data_listeners import DataListeners
from gateway.control.lifecycle.grpc_address import GrpcAddress
from gateway.control.lifecycle.key_stores import configured_static_keys
from gateway.control.lifecycle.revocations import RevocationWatch
from gateway.control.lifecycle.worker_plan import worker_plan
from gateway.control.metrics.config_metrics import ConfigMetrics
from gateway.control.workers.supervisor import Supervisor
from gateway.keys.service import KeyService
from gateway.log import EACH_TIME, LogFormat

_EACH_TIME: Final = {EACH_TIME: True}
"""Whoever reloads wants to read what came of it."""

_log = structlog.get_logger("gateway.control")


class Reloader:
    """Applies a new configuration to the parts that can change while the gateway runs.

    `on_reload` gets the new configuration after each reload that succeeded, `on_new_tls_files` the
    present one when the files for TLS are to be read again; it may raise `OSError`.
    """

    def __init__(  # noqa: PLR0913 - each part that a reload changes
        self,
        config: CurrentConfig,
        keys: KeyService,
        listeners: DataListeners,
        supervisor: Supervisor,
        admin: AdminServers,
        grpc: GrpcAddress,
        metrics: ConfigMetrics,
        *,
        revocations: RevocationWatch,
        log_format: LogFormat,
        on_reload: Callable[[Config], object],
        on_new_tls_files: Callable[[Config], object],
    ) -> None:
        self._config = config
        self._keys = keys
        self._listeners = listeners
        self._supervisor = supervisor
        self._admin = admin
        self._grpc = grpc
        self._metrics = metrics
        self._revocations = revocations
        self._log_format = log_format
        self._on_reload = on_reload
        self._on_new_tls_files = on_new_tls_files
        self._lock = asyncio.Lock()
        self._is_stopped = False
        self._applying: asyncio.Task[list[str]] | None = None

    async def reload(self) -> list[str]:
        """Read the configuration again and replace the workers one by one.

        Returns what takes effect only after a restart. Raises `ReloadError`; then nothing has
        changed.
        """
        async with self._lock:
            if self._is_stopped:
                raise _stopped()
            self._applying = asyncio.create_task(self._apply())
            try:
                notes = await self._applying
            except ReloadError as error:
                self._metrics.reload_failed()
                _log.error(
                    "reload failed, nothing was changed", reasons=error.reasons, **_EACH_TIME
                )
                raise
            except asyncio.CancelledError:
                if self._is_stopped:
                    raise _stopped() from None
                raise
            finally:
                self._applying = None
        _log.info(
            "the configuration was reloaded",
            workers=self._supervisor.workers.wanted,
            **_EACH_TIME,
        )
        return notes

    async def use_new_tls_files(self) -> None:
        """Replace the workers one by one by such that use the files for TLS as they are now.

        Raises `ReloadError`; then nothing has changed.
        """
        async with self._lock:
            if self._is_stopped:
                raise _stopped()
            config = self._config.config
            try:
                tokens = await asyncio.to_thread(read_tokens, config)
                read_tls_files(config.admin.tls)
                self._on_new_tls_files(config)
                await self._replace_workers(self._config.loaded)
            except (BindError, StartError, TokenError, OSError) as error:
                raise ReloadError(_reasons(error)) from error
            self._admin.use(config, tokens)
            self._grpc.use(config)
            self._metrics.update()

    def stop(self) -> None:
        """Cancel a reload that runs, and refuse further ones."""
        self._is_stopped = True
        if self._applying is not None:
            self._applying.cancel()

    async def _apply(self) -> list[str]:
        old = self._config.config
        try:
            loaded = await asyncio.to_thread(self._config.loaded.reload)
            static = configured_static_keys(loaded.config)
            tokens = await asyncio.to_thread(read_tokens, loaded.config)
            read_tls_files(loaded.config.admin.tls)
            self._on_new_tls_files(old)
            await self._replace_workers(loaded)
        except (ConfigError, BindError, StartError, TokenError, OSError) as error:
            self._keys.use_names(with_names=old.forward.identity_headers)
            await self._listeners.bind(old)
            self._listeners.keep_only(old)
            raise ReloadError(_reasons(error)) from error
        self._listeners.keep_only(loaded.config)
        self._revocations.keep_only(loaded.config)
        self._keys.replace_static(static)
        self._admin.use(loaded.config, tokens)
        self._grpc.use(loaded.config)
        self._config.loaded = loaded
        self._metrics.update()
        self._on_reload(loaded.config)
        notes = list(needs_restart(old, loaded.config))
        for note in notes:
            _log.warning(note, **_EACH_TIME)
        return notes

    async def _replace_workers(self, loaded: Loaded) -> None:
        config = loaded.config
        self._keys.use_names(with_names=config.forward.identity_headers)
        self._keys.use_labels(config.backends.route_labels)
        sockets = await self._listeners.bind(config)
        contents = await asyncio.to_thread(read_tls_contents, config)
        await self._revocations.use(config)
        plan = worker_plan(config, sockets, self._log_format, contents)
        await self._supervisor.replace(plan)
        self._config.tls_contents = contents


def needs_restart(old: Config, new: Config) -> Iterator[str]:
    """Yield a note on each setting that has changed but is only read at the start."""
    for path in (
        "keys.stores",
        "keys.authority",
        "keys.jwt",
        "keys.feed",
        "keys.cache",
        "keys.tombstones",
        "keys.max_stale",
        "state_dir",
        "admin.address",
        "admin.metrics_address",
        "admin.authorize_address",
        "admin.console",
        "admin.grpc_address",
    ):
        if _at(old, path) != _at(new, path):
            yield f"{path} has changed: restart the gateway to apply it"
    if (old.admin.tls is None) != (new.admin.tls is None):
        yield "admin.tls was added or removed: restart the gateway to apply it"
    if _demands(old.admin.grpc_tls) != _demands(new.admin.grpc_tls):
        yield (
            "admin.grpc_tls, or its client_ca_file, was added or removed: restart the gateway to"
            " apply it"
        )


def _demands(tls: TlsServerConfig | None) -> tuple[bool, bool]:
    """Return whether an address has TLS, and whether clients need certificates there."""
    return tls is not None, tls is not None and tls.client_ca_file is not None


def _at(config: Config, path: str) -> object:
    value: object = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _stopped() -> ReloadError:
    return ReloadError(["the gateway is draining and will stop"])


def _reasons(error: Exception) -> list[str]:
    """Return each error of the configuration on its own."""
    return (
        [str(each) for each in error.problems] if isinstance(error, ConfigError) else [str(error)]
    )
