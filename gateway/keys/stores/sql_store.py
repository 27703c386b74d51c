"""A store in an SQL database, put together: all parts of a `KeyStore` are there."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.keys.store import Confirmations, KeyStore, UsageStore
from gateway.keys.stores.sql_feed import SqlFeed
from gateway.keys.stores.sql_repository import SqlRepository


@dataclass(frozen=True, slots=True)
class SqlStore(KeyStore):
    """A store that has everything: it is followed and changed, usage and confirmations included."""

    feed: SqlFeed
    repository: SqlRepository
    usage: UsageStore
    confirmations: Confirmations
