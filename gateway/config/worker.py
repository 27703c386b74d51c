"""From the configuration to what a worker is told: its share of this host, resolved to numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import starmap
from pathlib import Path
from typing import Final, Literal

from gateway import settings
from gateway.config import tree
from gateway.config.values import port_of, split_url


def worker_settings(
    config: tree.Config,
    index: int,
    workers: int,
    fds: Sequence[tuple[int, int]],
    counts_fd: int,
    max_connections_share: int,
    *,
    log_format: Literal["console", "json"] = "json",
) -> settings.WorkerSettings:
    """Resolve the configuration for worker `index` of `workers`.

    `fds` are (position in `config.listen`, descriptor) of each bound socket: a name such as
    localhost may have two. `counts_fd` is the shared memory of connection counts and
    `max_connections_share` this worker's part of `limits.max_connections`. `log_format` is what
    `log.format: auto` came to in control.
    """
    return settings.WorkerSettings(
        index=index,
        workers=workers,
        counts_fd=counts_fd,
        listeners=tuple(_listener(config.listen[place], fd) for place, fd in fds),
        backends=tuple(_backends(config.backends)),
        forward=_forward(config.forward),
        schemes=tuple(config.auth.schemes),
        limits=_limits(config.limits, workers, max_connections_share),
        cors=_cors(config.cors),
        intake=_intake(config.backends.intake),
        trusted_networks=tuple(config.trusted_networks),
        authority=_authority(config.keys),
        log_level=config.log.level,
        log_format=log_format,
    )


def _authority(keys: tree.Keys) -> settings.Authority | None:
    authorities = sum(store.kind == "authority" for store in keys.stores)
    if not authorities:
        return None
    return settings.Authority(
        cache_size=keys.cache.size,
        negative_cache_size=keys.cache.negative_size,
        # Each waits for its turn, and then for the answer.
        wait_s=2 * authorities * keys.authority.timeout + _AUTHORITY_GRACE_S,
    )


def _listener(listener: tree.Listener, fd: int) -> settings.Listener:
    tls = listener.tls
    return settings.Listener(
        fd=fd,
        address=listener.address,
        tls=_server_tls(tls) if tls is not None else None,
        proxy_protocol=listener.proxy_protocol,
    )


def _server_tls(tls: tree.TlsServer) -> settings.TlsServer:
    return settings.TlsServer(
        cert_file=str(tls.cert_file),
        key_file=str(tls.key_file),
        client_ca_file=_path(tls.client_ca_file),
        min_version=tls.min_version,
    )


def _path(path: Path | None) -> str | None:
    return str(path) if path is not None else None


def _backends(backends: tree.Backends) -> list[settings.Backend]:
    named = [(name, getattr(backends, name)) for name in type(backends).model_fields]
    return list(starmap(_backend, ((name, each) for name, each in named if each is not None)))


def _backend(name: str, backend: tree.Backend) -> settings.Backend:
    return settings.Backend(
        name=name,
        targets=tuple(_target(url) for url in backend.urls),
        tls=_client_tls(backend.tls or tree.TlsClient()) if _has_tls(backend) else None,
        connect_timeout_s=backend.connect_timeout,
        min_connections=backend.min_connections,
        max_connections=backend.connection_limit,
        max_waiting=backend.max_waiting,
        host=backend.host,
    )


def _has_tls(backend: tree.Backend) -> bool:
    return any(url.startswith("https://") for url in backend.urls)


def _target(url: str) -> settings.Target:
    parts = split_url(url)
    return settings.Target(
        host=parts.hostname or "",
        port=port_of(parts),
        tls=parts.scheme == "https",
        prefix=parts.path.rstrip("/"),
    )


def _client_tls(tls: tree.TlsClient) -> settings.TlsClient:
    return settings.TlsClient(
        ca_file=_path(tls.ca_file),
        cert_file=_path(tls.cert_file),
        key_file=_path(tls.key_file),
        server_name=tls.server_name,
        insecure_skip_verify=tls.insecure_skip_verify,
    )


def _forward(forward: tree.Forward) -> settings.Forward:
    key = forward.gateway_key
    return settings.Forward(
        key=forward.key,
        gateway_key=key.get_secret_value() if key is not None else None,
        scheme=forward.scheme,
        identity_headers=forward.identity_headers,
    )


_AUTHORITY_GRACE_S: Final = 2.0
"""What control may take beyond its authorities' own times."""
_QUOTA_STATUS: Final[dict[int, Literal[429, 503]]] = {429: 429, 503: 503}


def _limits(limits: tree.Limits, workers: int, max_connections: int) -> settings.Limits:
    return settings.Limits(
        max_body_bytes=limits.max_body,
        max_connections=max_connections,
        max_streams_per_connection=limits.max_streams_per_connection,
        buffer_memory_bytes=limits.buffer_memory,
        header_timeout_s=limits.header_timeout,
        idle_timeout_s=limits.idle_timeout,
        linger_bytes=limits.linger_bytes,
        linger_timeout_s=limits.linger_timeout,
        stall_timeout_s=limits.stall_timeout,
        request_timeout_s=limits.request_timeout,
        max_connection_age_s=limits.max_connection_age,
        drain_timeout_s=limits.drain_timeout,
        per_key=_per_key(limits.per_key, workers),
        quota_status=_QUOTA_STATUS[limits.quota_status],
    )


def _per_key(limits: tree.PerKey, workers: int) -> settings.PerKey:
    """Divide a key's quota by the workers; what is limited at all keeps at least one request."""
    return settings.PerKey(
        requests=limits.requests / workers,
        bytes=limits.bytes / workers,
        concurrent=-(-limits.concurrent // workers),
        workers=workers,
    )


def _cors(cors: tree.Cors) -> settings.Cors:
    return settings.Cors(
        allowed_origins=tuple(cors.allowed_origins),
        allowed_headers=tuple(cors.allowed_headers),
        max_age_s=int(cors.max_age),
    )


def _intake(intake: tree.IntakeBackend | None) -> settings.Intake:
    if intake is None:
        return settings.Intake()
    return settings.Intake(
        path=intake.path,
        no_answer=intake.no_answer,
        service_bearer=intake.service_bearer,
        max_body=dict(intake.max_body),
    )
