"""Turns the configuration into a worker's settings: its share of this host, in plain numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

from gateway import settings
from gateway.config import jwt, tree
from gateway.config.client_identity import identity_headers, identity_settings
from gateway.config.telemetry import TelemetryConfig
from gateway.config.tls_contents import TlsContents
from gateway.config.values import port_of, split_url
from gateway.model import BackendName

Label = tuple[str, str]
"""Name and value."""


def worker_settings(  # noqa: PLR0913 - what differs by worker, and by generation
    config: tree.Config,
    index: int,
    workers: int,
    fds: Sequence[tuple[int, int]],
    counts_fd: int,
    max_connections_share: int,
    *,
    log_format: Literal["console", "json"] = "json",
    tls_contents: TlsContents | None = None,
) -> settings.WorkerSettings:
    """Build the settings of worker `index` of `workers`.

    `fds` are (position in `config.listen`, descriptor) of each bound socket: a name such as
    localhost may have two. `counts_fd` is the shared memory of connection counts and
    `max_connections_share` this worker's part of `limits.max_connections`. `log_format` is the
    format that control chose for `log.format: auto`; `tls_contents` is what the files for TLS held
    when they were checked.
    """
    contents = tls_contents or {}
    labels = config.backends.route_labels
    return settings.WorkerSettings(
        index=index,
        workers=workers,
        counts_fd=counts_fd,
        listeners=tuple(_listener(config.listen[place], fd, contents, labels) for place, fd in fds),
        backends=tuple(_backends(config.backends, contents)),
        routes=tuple(_route(route, contents) for route in config.backends.routes),
        forward=_forward(config),
        schemes=tuple(config.auth.schemes),
        limits=_limits(config.limits, workers, max_connections_share),
        cors=_cors(config.cors),
        intake=_intake(config.backends.intake),
        trusted_networks=tuple(config.trusted_networks),
        authority=_authority(config.keys),
        telemetry=_telemetry(config.telemetry, workers),
        sampling=_sampling(config.usage, workers),
        log_level=config.log.level,
        log_format=log_format,
    )


def _telemetry(telemetry: TelemetryConfig, workers: int) -> settings.TelemetrySettings | None:
    if telemetry.endpoint is None:
        return None
    return settings.TelemetrySettings(
        sample_ratio=telemetry.sample_ratio,
        requests_per_second=-(-telemetry.max_requests_per_second // workers),
        logs=telemetry.logs,
    )


def _sampling(usage: tree.UsageConfig, workers: int) -> settings.SamplingSettings | None:
    if not usage.sample:
        return None
    return settings.SamplingSettings(
        samples_s=usage.samples / workers,
        samples_per_key_s=usage.samples_per_key / workers,
        workers=workers,
    )


def _authority(keys: tree.KeysConfig) -> settings.AuthoritySettings | None:
    kinds = [store.kind for store in keys.stores]
    authorities = kinds.count("authority")
    has_issuers = "jwt" in kinds
    if not authorities and not has_issuers:
        return None
    return settings.AuthoritySettings(
        cache_size=keys.cache.size,
        negative_cache_size=keys.cache.negative_size,
        # Each request waits for its turn, and then for the response.
        wait_s=max(2 * authorities * keys.authority.timeout, has_issuers * keys.jwt.timeout)
        + _AUTHORITY_GRACE_S,
        keys=authorities > 0,
        tokens=has_issuers,
    )


def _listener(
    listener: tree.ListenerConfig, fd: int, contents: TlsContents, labels: frozenset[Label]
) -> settings.ListenerSettings:
    tls = listener.tls
    return settings.ListenerSettings(
        fd=fd,
        address=listener.address,
        tls=_server_tls(tls, contents, labels) if tls is not None else None,
        proxy_protocol=listener.proxy_protocol,
    )


def _server_tls(
    tls: tree.ListenerTlsConfig, contents: TlsContents, labels: frozenset[Label]
) -> settings.TlsServerSettings:
    identity = tls.client_identity
    return settings.TlsServerSettings(
        cert_file=str(tls.cert_file),
        key_file=str(tls.key_file),
        client_ca_file=_path(tls.client_ca_file),
        min_version=tls.min_version,
        identity=identity_settings(identity, labels) if identity is not None else None,
        has_revocation_lists=bool(tls.client_crl_files),
        contents=_named(contents, tls.cert_file, tls.key_file, tls.client_ca_file),
    )


def _named(contents: TlsContents, *files: Path | None) -> dict[str, bytes]:
    names = {str(file) for file in files if file is not None}
    return {name: content for name, content in contents.items() if name in names}


def _path(path: Path | None) -> str | None:
    return str(path) if path is not None else None


def _backends(
    backends: tree.BackendsConfig | tree.LabelRouteConfig, contents: TlsContents
) -> Iterator[settings.BackendSettings]:
    for name in BackendName:
        backend = getattr(backends, name.value)
        if backend is not None:
            yield _backend(name.value, backend, contents)


def _route(route: tree.LabelRouteConfig, contents: TlsContents) -> settings.LabelRoute:
    return settings.LabelRoute(tuple(route.label.items()), tuple(_backends(route, contents)))


def _backend(
    name: str, backend: tree.BackendConfig, contents: TlsContents
) -> settings.BackendSettings:
    tls = backend.tls or tree.TlsClientConfig()
    return settings.BackendSettings(
        name=name,
        targets=tuple(_target(url) for url in backend.urls),
        tls=_client_tls(tls, contents) if _has_tls(backend) else None,
        connect_timeout_s=backend.connect_timeout,
        min_connections=backend.min_connections,
        max_connections=backend.connection_limit,
        max_waiting=backend.max_waiting,
        host=backend.host,
        resolve_interval_s=backend.resolve_interval,
        max_connection_age_s=backend.max_connection_age,
    )


def _has_tls(backend: tree.BackendConfig) -> bool:
    return any(url.startswith("https://") for url in backend.urls)


def _target(url: str) -> settings.Target:
    parts = split_url(url)
    return settings.Target(
        host=parts.hostname or "",
        port=port_of(parts),
        tls=parts.scheme == "https",
        prefix=parts.path.rstrip("/"),
    )


def _client_tls(tls: tree.TlsClientConfig, contents: TlsContents) -> settings.TlsClientSettings:
    return settings.TlsClientSettings(
        ca_file=_path(tls.ca_file),
        cert_file=_path(tls.cert_file),
        key_file=_path(tls.key_file),
        server_name=tls.server_name,
        insecure_skip_verify=tls.insecure_skip_verify,
        contents=_named(contents, tls.ca_file, tls.cert_file, tls.key_file),
    )


def _forward(config: tree.Config) -> settings.ForwardSettings:
    forward = config.forward
    key = forward.gateway_key
    return settings.ForwardSettings(
        key=forward.key,
        gateway_key=key.get_secret_value() if key is not None else None,
        scheme=forward.scheme,
        identity_headers=forward.identity_headers,
        sender_address=forward.sender_address,
        # What identities set, no sender may state: with a token or without one.
        drop_headers=(*forward.drop_headers, *_identity_headers(config)),
    )


def _identity_headers(config: tree.Config) -> Iterator[str]:
    """Yield the headers that tokens of issuers and clients' certificates set."""
    yield from identity_headers(config)
    for issuer in jwt.issuers(config.keys):
        yield from issuer.map.headers


_AUTHORITY_GRACE_S: Final = 2.0
"""Extra time for control, beyond the timeouts of the authorities."""
_QUOTA_STATUS: Final[dict[int, Literal[429, 503]]] = {429: 429, 503: 503}


def _limits(
    limits: tree.LimitsConfig, workers: int, max_connections: int
) -> settings.LimitsSettings:
    return settings.LimitsSettings(
        max_body_bytes=limits.max_body,
        max_connections=max_connections,
        max_connections_per_address=-(-limits.max_connections_per_address // workers),
        max_streams_per_connection=limits.max_streams_per_connection,
        buffer_memory_bytes=limits.buffer_memory,
        header_timeout_s=limits.header_timeout,
        idle_timeout_s=limits.idle_timeout,
        linger_bytes=limits.linger_bytes,
        linger_timeout_s=limits.linger_timeout,
        stall_timeout_s=limits.stall_timeout,
        min_upload_rate=limits.min_upload_rate,
        request_timeout_s=limits.request_timeout,
        max_connection_age_s=limits.max_connection_age,
        drain_timeout_s=limits.drain_timeout,
        per_key=_per_key(limits.per_key, workers),
        quota_status=_QUOTA_STATUS[limits.quota_status],
    )


def _per_key(limits: tree.PerKeyConfig, workers: int) -> settings.PerKeyLimits:
    return settings.PerKeyLimits(
        requests=limits.requests,
        bytes=limits.bytes,
        concurrent=limits.concurrent,
        requests_per_day=limits.requests_per_day,
        bytes_per_day=limits.bytes_per_day,
        requests_per_month=limits.requests_per_month,
        bytes_per_month=limits.bytes_per_month,
        workers=workers,
    )


def _cors(cors: tree.CorsConfig) -> settings.CorsSettings:
    return settings.CorsSettings(
        allowed_origins=tuple(cors.allowed_origins),
        allowed_headers=tuple(cors.allowed_headers),
        max_age_s=int(cors.max_age),
    )


def _intake(intake: tree.IntakeBackendConfig | None) -> settings.IntakeSettings:
    if intake is None:
        return settings.IntakeSettings()
    return settings.IntakeSettings(
        path=intake.path,
        no_answer=intake.no_answer,
        hold_timeout_s=intake.hold_timeout,
        service_bearer=intake.service_bearer,
        max_body=dict(intake.max_body),
    )
