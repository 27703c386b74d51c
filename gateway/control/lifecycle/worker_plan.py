"""What the configuration says about workers: how many, their settings, their descriptors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from gateway.config import Config, TlsContents, worker_settings
from gateway.control.core.sockets import (
    BoundSocket,
    descriptor_shortfall,
    raise_descriptor_limit,
)
from gateway.control.workers.generation import WorkerPlan
from gateway.log import LogFormat
from gateway.settings import WorkerSettings


def worker_plan(
    config: Config,
    sockets: Sequence[Sequence[BoundSocket]],
    log_format: LogFormat,
    tls_contents: TlsContents,
) -> WorkerPlan:
    """Plan the workers. `sockets` are those of each address of `config.listen`.

    Whenever a worker is started, it uses `tls_contents`, whatever the files hold by then.
    """
    fds = [(place, bound.sock.fileno()) for place, held in enumerate(sockets) for bound in held]
    settings = partial(_settings, config, fds, log_format, tls_contents)
    return WorkerPlan(config.worker_count, settings, config.limits.drain_timeout)


def descriptor_warning(config: Config) -> str:
    """Raise the limit of descriptors; return what to do when it is still too low, else ""."""
    return descriptor_shortfall(
        raise_descriptor_limit(),
        config.limits.max_connections,
        config.worker_count,
        upstream_connections(config),
    )


def upstream_connections(config: Config) -> int:
    """Return the most connections to backends that one worker opens."""
    return sum(backend.connection_limit for _, _, backend in config.backends.each())


def _settings(
    config: Config,
    fds: Sequence[tuple[int, int]],
    log_format: LogFormat,
    tls_contents: TlsContents,
    index: int,
    counts_fd: int,
) -> WorkerSettings:
    workers = config.worker_count
    share = -(-config.limits.max_connections // workers)
    return worker_settings(
        config,
        index,
        workers,
        fds,
        counts_fd,
        share,
        log_format=log_format,
        tls_contents=tls_contents,
    )
