"""What is told of a backend's addresses: log and metrics.

A url is one series, however many addresses its name leads to. Each line of the log is written when
something changes; lines that repeat are summed up elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import structlog

from gateway import metrics
from gateway.dataplane.core.counters import Counters
from gateway.dataplane.upstream.address import Address, Where
from gateway.dataplane.upstream.url import Url

_log = structlog.get_logger("gateway.worker")

_SILENT: Final = "the backend no longer answers on a connection, which is replaced"


class BackendReport:
    """See the module; of the backend `name`."""

    __slots__ = ("_connections", "_counters", "_name")

    def __init__(self, name: str, counters: Counters) -> None:
        self._name = name
        self._counters = counters
        self._connections: dict[Url, int] = {}

    def connections(self, url: Url) -> None:
        """Say how many connections there are. Other urls, also of other tenants' backends, may have
        the same address: the gauge is their sum.
        """
        count = sum(len(address.connections) for address in url.in_use)
        more = count - self._connections.get(url, 0)
        self._connections[url] = count
        series = metrics.BACKEND_CONNECTIONS.name, (self._name, url.target.address)
        self._counters.gauges[series] = self._counters.gauges.get(series, 0) + more

    def state(self, url: Url, error: str) -> None:
        """Say whether a url is up, if that has changed; `error` is why it may not be."""
        was_up = url.is_up
        if not url.judge():
            return
        labels = self._name, url.target.address
        self._counters.gauges[metrics.BACKEND_UP.name, labels] = int(bool(url.is_up))
        if not url.is_up:
            _log.warning(
                "the backend cannot be reached; senders are told to retry",
                backend=self._name,
                address=url.target.address,
                error=error,
            )
        elif was_up is False:
            _log.info(
                "the backend can be reached again", backend=self._name, address=url.target.address
            )

    def not_connected(self, url: Url, address: Address, was_up: bool | None, error: str) -> None:
        """Say that an attempt to connect has failed. `was_up`: the address's state before."""
        self._count_error(url)
        self.state(url, error)
        if was_up is not False and url.is_up:
            # That nobody serves one of a name's addresses may be meant (`localhost`).
            tell = _log.warning if was_up else _log.info
            tell(
                "one of the backend's addresses cannot be reached; the others get its requests",
                backend=self._name,
                address=url.target.address,
                ip=address.where.sockaddr[0],
                error=error,
            )

    def silent(self, url: Url, address: Address) -> None:
        """Say that a connection was given up on which nothing comes any more."""
        labels = self._name, url.target.address
        self._counters.count(metrics.BACKEND_SILENT_CONNECTIONS, *labels)
        _log.warning(_SILENT, backend=labels[0], address=labels[1], ip=address.where.sockaddr[0])

    def resolved(self, url: Url, before: Iterable[Where]) -> None:
        """Say whether a name leads to other addresses than `before`."""
        old = set(before)
        new = {address.where for address in url.addresses}
        if old and old != new:
            _log.info(
                "the backend's name leads to other addresses",
                backend=self._name,
                address=url.target.address,
                new=sorted(where.sockaddr[0] for where in new - old),
                gone=sorted(where.sockaddr[0] for where in old - new),
            )

    def not_resolved(self, url: Url, error: str) -> None:
        """Say that a name could not be resolved."""
        if url.addresses:
            _log.warning(
                "the backend's name cannot be resolved; the addresses that it had stay in use",
                backend=self._name,
                address=url.target.address,
                error=error,
            )
            return
        self._count_error(url)
        self.state(url, error)

    def _count_error(self, url: Url) -> None:
        self._counters.count(metrics.BACKEND_CONNECT_ERRORS, self._name, url.target.address)
