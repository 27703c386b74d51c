"""What control derives from a configuration: the workers' plan, TLS, keys, what needs a restart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from gateway import settings
from gateway.config import Config, Store, worker_settings
from gateway.config.tree import TlsServer
from gateway.config.values import port_of, split_url
from gateway.control.admin_token import TOKEN_FILE, Tokens, ensure_token_file
from gateway.control.series import Backends
from gateway.control.slot import StartError
from gateway.control.sockets import BoundSocket
from gateway.control.supervisor import Plan
from gateway.control.web import TlsFiles
from gateway.keys.embedded import sqlite_store
from gateway.keys.file import FileStore
from gateway.keys.postgresql import postgresql_store
from gateway.keys.record import StaticKey, static_keys
from gateway.keys.service import StoreStatus
from gateway.keys.store import KeyStore

LogFormat = Literal["console", "json"]


def plan_of(
    config: Config, sockets: Sequence[Sequence[BoundSocket]], log_format: LogFormat
) -> Plan:
    """Plan the workers. `sockets` are those of each address of `config.listen`."""
    workers = config.worker_count
    fds = [(place, bound.sock.fileno()) for place, held in enumerate(sockets) for bound in held]
    share = -(-config.limits.max_connections // workers)

    def settings_for(index: int, counts_fd: int) -> settings.WorkerSettings:
        return worker_settings(config, index, workers, fds, counts_fd, share, log_format=log_format)

    return Plan(workers, settings_for, config.limits.drain_timeout)


def listen_addresses(config: Config) -> list[str]:
    """Name the data listeners' addresses, in the order of the configuration."""
    return [listener.address for listener in config.listen]


def backends_of(config: Config) -> Backends:
    """Name the configured backends, each with its addresses as workers call them."""
    fields = {name: getattr(config.backends, name) for name in type(config.backends).model_fields}
    return [
        (name, [_address(url) for url in backend.urls])
        for name, backend in fields.items()
        if backend is not None
    ]


def upstream_connections(config: Config) -> int:
    """Tell the most connections to backends that one worker opens."""
    fields = [getattr(config.backends, name) for name in type(config.backends).model_fields]
    return sum(each.connection_limit for each in fields if each is not None)


def stores_of(config: Config) -> list[KeyStore]:
    """Make the configured key stores; nothing is opened."""
    return [_store(store) for store in config.keys.stores if store.kind != "authority"]


def _store(store: Store) -> KeyStore:
    if store.kind == "postgresql":
        return postgresql_store(store.url)
    if store.kind == "file":
        return FileStore(store.path)
    return sqlite_store(store.path)


def static_keys_of(config: Config) -> list[StaticKey]:
    """Hash the operators' static keys."""
    return static_keys(
        (each.name, each.key.get_secret_value()) for each in config.auth.receiver_keys
    )


def tls_files(tls: TlsServer | None) -> TlsFiles | None:
    """Read the certificate of an admin address. Raises `StartError`."""
    if tls is None:
        return None
    client_ca = str(tls.client_ca_file) if tls.client_ca_file is not None else None
    try:
        return TlsFiles(str(tls.cert_file), str(tls.key_file), client_ca, tls.min_version)
    except OSError as error:  # `load` could read them a moment ago
        msg = f"admin.tls: {tls.cert_file} and {tls.key_file} cannot be used any more ({error})"
        raise StartError(msg) from error


def tokens_of(config: Config) -> Tokens:
    """Read the tokens that open the admin API, making one where none is configured.

    Raises `TokenError`.
    """
    if config.admin.tokens:
        return Tokens((each.name, each.token.get_secret_value()) for each in config.admin.tokens)
    token, _ = ensure_token_file(config.state_dir)
    return Tokens([(TOKEN_FILE, token)])


def store_detail(status: StoreStatus) -> dict[str, Any]:
    """Describe a key store for `/readyz`."""
    return {
        "store": status.name,
        "location": status.location,
        "up": status.up,
        "last_sync_ms": status.last_sync_ms,
        "revision": status.revision,
        "loaded": status.loaded,
        "suspended": status.suspended,
        "error": status.error,
    }


def is_up(value: float | None) -> bool | None:
    """Say whether a backend's address is up; None before the first connection."""
    return None if value is None else value > 0


def certificate_files(config: Config) -> list[tuple[str, str]]:
    """Pair each address that speaks TLS, the admin's too, with its certificate's file."""
    pairs = [(listener.address, listener.tls) for listener in config.listen]
    pairs.append((config.admin.address, config.admin.tls))
    return [(address, str(tls.cert_file)) for address, tls in pairs if tls is not None]


def needs_restart(old: Config, new: Config) -> Iterator[str]:
    """Name what has changed but is only read at the start."""
    for path in (
        "keys.stores",
        "keys.authority",
        "keys.cache",
        "keys.tombstones",
        "keys.max_stale",
        "state_dir",
        "admin.address",
        "admin.metrics_address",
        "admin.authorize_address",
    ):
        if _at(old, path) != _at(new, path):
            yield f"{path} has changed: it takes effect when the gateway is started again"
    if (old.admin.tls is None) != (new.admin.tls is None):
        yield "admin.tls came or went: it takes effect when the gateway is started again"


def _at(config: Config, path: str) -> object:
    value: object = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _address(url: str) -> str:
    parts = split_url(url)
    return settings.Target(parts.hostname or "", port_of(parts)).address
