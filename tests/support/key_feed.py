"""A central gateway's key feed in the test's own event loop, on a real store; its followers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from gateway.config import Config
from gateway.control.admin.roles import Caller, Role
from gateway.control.admin.token_gate import TokenGate
from gateway.control.admin.tokens import AdminTokens
from gateway.control.core.errors import ErrorReporter
from gateway.control.core.sockets import BIND_PATIENCE_S
from gateway.control.core.tasks import Tasks
from gateway.control.lifecycle.assembly import _authority_lookups
from gateway.control.lifecycle.grpc_address import GrpcAddress
from gateway.control.metrics.metric_totals import MetricTotals
from gateway.control.workers.worker_set import WorkerSet
from gateway.keys.limit_board import LimitBoard
from gateway.keys.quota_store import QuotaStore
from gateway.keys.store import KeyStore
from gateway.keys.stores.gateway_channel import FeedSource, FeedTls
from gateway.keys.stores.gateway_feed import gateway_store
from gateway.keys.stores.sqlite import sqlite_store
from tests.support.config import config_from
from tests.support.keys import Workers, running_keys

TOKEN: Final = "token-of-the-center"


class Center:
    """A central gateway: its keys, and where they can be followed."""

    def __init__(self, workers: Workers, address: GrpcAddress, config: Config) -> None:
        self.config = config
        self.workers = workers
        self.keys = workers.keys
        self.grpc = address

    @property
    def address(self) -> str:
        """HOST:PORT of the feed."""
        return self.grpc.addresses[0]

    @property
    def port(self) -> int:
        """Its port."""
        return int(self.address.rpartition(":")[2])

    def store(
        self, *, port: int | None = None, token: str | None = TOKEN, tls: FeedTls | None = None
    ) -> KeyStore:
        """Make a store that follows it, by way of another port if one is given."""
        return store_at(port or self.port, token=token, tls=tls)


def store_at(port: int, *, token: str | None = TOKEN, tls: FeedTls | None = None) -> KeyStore:
    """Make a store of the gateway at a port."""
    return gateway_store(FeedSource(f"127.0.0.1:{port}", tls, token))


@asynccontextmanager
async def running_center(
    folder: Path,
    *,
    port: int = 0,
    stores: list[KeyStore] | None = None,
    authority: str | None = None,
    admin: dict[str, Any] | None = None,
    board: LimitBoard | None = None,
    quotas: QuotaStore | None = None,
    is_draining: Callable[[], bool] = lambda: False,
    patience_s: float = BIND_PATIENCE_S,
    **options: Any,
) -> AsyncIterator[Center]:
    """Serve the keys of a SQLite store in `folder`, or of `stores`; `authority` is a url."""
    folder.mkdir(exist_ok=True)
    if stores is None:
        stores = [sqlite_store(folder / "keys.db", own_only=True)]
    tree: dict[str, Any] = {"admin": {"grpc_address": f"127.0.0.1:{port}", **(admin or {})}}
    if authority is not None:
        tree["keys"] = {"stores": [f"authority+{authority}"]}
    config = config_from(folder, tree)
    totals, errors = MetricTotals(), ErrorReporter(lambda: None)
    lookups = _authority_lookups(config, totals, Tasks(errors), WorkerSet(1))
    async with running_keys(stores, **options) as workers:
        gate = TokenGate(AdminTokens([(Caller("alice", Role.READER), TOKEN)]).accept)
        grpc = GrpcAddress(
            workers.keys,
            gate,
            totals,
            errors,
            lookups,
            board=board,
            quotas=quotas,
            is_draining=is_draining,
            patience_s=patience_s,
        )
        await grpc.start(config)
        try:
            yield Center(workers, grpc, config)
        finally:
            await grpc.close()
            if lookups is not None:
                await lookups.close()
