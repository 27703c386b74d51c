"""What the gateway says of itself in the log: at its start, and when a store fails or is back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import structlog

from gateway import __version__
from gateway.config import Config, Fault
from gateway.control import derive
from gateway.control.admin_token import TOKEN_FILE
from gateway.control.sockets import BoundSocket
from gateway.keys.service import StoreStatus

_log = structlog.get_logger("gateway.control")


def announce(
    config: Config,
    sockets: Iterable[Iterable[BoundSocket]],
    admin_addresses: Sequence[str],
    warnings: Iterable[Fault],
) -> None:
    """Say what is started, where it listens, what is behind it, and what is doubtful."""
    token = "admin.tokens" if config.admin.tokens else str(config.state_dir / TOKEN_FILE)
    backends = {name: list(addresses) for name, addresses in derive.backends_of(config)}
    _log.info(
        "otlp-gateway starts",
        version=__version__,
        listening=[bound.bound for held in sockets for bound in held],
        workers=config.worker_count,
        backends=backends,
        stores=[str(store) for store in config.keys.stores],
        admin=list(admin_addresses),
        admin_token=token,
    )
    if not backends:
        _log.warning(
            "no backend is configured: every request is answered 'backend unreachable'; "
            "set backends.otlp_grpc.urls, backends.otlp_http.urls or backends.intake.urls"
        )
    for warning in warnings:
        _log.warning(str(warning))


def store_changed(status: StoreStatus) -> None:
    """Say that a key store fails, or that it is back."""
    if status.up:
        _log.info("the key store is in step", store=status.name, location=status.location)
    else:
        _log.error(
            "the key store fails; known keys go on as they were",
            store=status.name,
            location=status.location,
            error=status.error,
        )
