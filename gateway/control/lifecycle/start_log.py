"""What the gateway logs about itself when it starts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import structlog

from gateway import __version__
from gateway.control.admin.tokens import TOKEN_FILE
from gateway.control.core.current_config import CurrentConfig
from gateway.control.core.sockets import BoundSocket

_log = structlog.get_logger("gateway.control")


def log_start(
    current: CurrentConfig,
    sockets: Iterable[Iterable[BoundSocket]],
    admin_addresses: Sequence[str],
) -> None:
    """Log version, addresses, backends and key stores, and the configuration's warnings."""
    config = current.config
    token = "admin.tokens" if config.admin.tokens else str(config.state_dir / TOKEN_FILE)
    backends = {name: list(addresses) for name, addresses in current.backends()}
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
    for warning in current.loaded.warnings:
        _log.warning(str(warning))


def log_address_in_use(address: str) -> None:
    """Log that the start waits for an address that is still in use."""
    _log.info("waiting for an address that is still in use", address=address)
