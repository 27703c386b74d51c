"""The configured key stores and static keys, and what the log says about the stores."""

from __future__ import annotations

from typing import Final

import structlog

from gateway.config import Config, Store
from gateway.config.tree import TlsClientConfig
from gateway.control.lifecycle.grpc_address import quiet_grpc
from gateway.keys.following.status import StoreStatus
from gateway.keys.quota_store import QuotaStore
from gateway.keys.record import StaticKey, static_keys
from gateway.keys.store import KeyStore
from gateway.keys.stores.sqlite_quotas import SqliteQuotaStore

_ASKED = ("authority", "jwt")
"""Stores whose keys nobody lists: each is asked about."""

_CUT_OFF_STANDBY: Final = (
    "the key store is a standby that gets no changes from its primary: keys that it does not have"
    " are undecided until it gets them again"
)
_CUT_OFF_CENTER: Final = (
    "the central gateway cannot tell of keys that it does not have, because it cannot reach one of"
    " its stores, or asks an authority: they are undecided here"
)

_log = structlog.get_logger("gateway.control")


def key_stores(config: Config) -> list[KeyStore]:
    """Return the configured key stores; nothing is opened."""
    return [_store(config, store) for store in config.keys.stores if store.kind not in _ASKED]


def local_quota_store(config: Config) -> QuotaStore:
    """Return where quotas of this host are counted; nothing is opened."""
    return SqliteQuotaStore(config.state_dir / "keys.quotas")


def configured_static_keys(config: Config) -> list[StaticKey]:
    """Return the static keys of `auth.receiver_keys`, hashed."""
    return static_keys(
        (each.name, each.key.get_secret_value()) for each in config.auth.receiver_keys
    )


def log_store_status(status: StoreStatus) -> None:
    """Log that a key store has become unavailable, or that it is available again, and how."""
    if status.up and status.cut_off:
        _log.warning(
            _CUT_OFF_CENTER if status.name == "gateway" else _CUT_OFF_STANDBY,
            store=status.name,
            location=status.location,
        )
    elif status.up and status.read_only:
        _log.info(
            "the key store is up to date, and read-only (a standby, or"
            " default_transaction_read_only): keys are read from it; change them on the primary",
            store=status.name,
            location=status.location,
        )
    elif status.up:
        _log.info("the key store is up to date", store=status.name, location=status.location)
    else:
        _log.error(
            "the key store is unavailable; the known keys stay in use",
            store=status.name,
            location=status.location,
            error=status.error,
        )


def _store(config: Config, store: Store) -> KeyStore:
    """Make a store; only what this kind needs is imported."""
    if store.kind == "postgresql":
        from gateway.keys.stores.postgresql import postgresql_store

        return postgresql_store(store.url)
    if store.kind == "gateway":
        return _gateway_store(config, store)
    if store.kind == "file":
        from gateway.keys.stores.file import file_store

        return file_store(store.path)
    from gateway.keys.stores.sqlite import sqlite_store

    return sqlite_store(store.path, own_only=True)


def _gateway_store(config: Config, store: Store) -> KeyStore:
    quiet_grpc()
    # gRPC, for nobody who does not use it.
    from gateway.keys.stores.gateway_channel import FeedSource, FeedTls
    from gateway.keys.stores.gateway_feed import gateway_store

    feed = config.keys.feed
    tls = feed.tls or TlsClientConfig()
    return gateway_store(
        FeedSource(
            store.address,
            FeedTls(tls.ca_file, tls.cert_file, tls.key_file, tls.server_name)
            if store.is_tls
            else None,
            None if feed.token is None else feed.token.get_secret_value(),
        )
    )
