"""What the configuration says about remote authorities: addresses, TLS, limits of the cache."""

from __future__ import annotations

import ssl

from gateway.config import Config
from gateway.config.authority import dialect_of
from gateway.config.tree import KeysConfig, TlsClientConfig
from gateway.control.core.errors import StartError
from gateway.keys.authority.client import AuthorityOptions
from gateway.keys.authority.verdicts import CacheLimits


def authority_settings(config: Config) -> list[AuthorityOptions]:
    """Return the settings of each configured authority, in their order. Raises `StartError`."""
    keys = config.keys
    return [_settings(keys, store.url) for store in keys.stores if store.kind == "authority"]


def cache_limits(config: Config) -> CacheLimits:
    """Return how many verdicts are remembered, and for how long."""
    keys = config.keys
    return CacheLimits(
        size=keys.cache.size,
        ttl_s=keys.cache.ttl,
        negative_size=keys.cache.negative_size,
        negative_ttl_s=keys.cache.negative_ttl,
        max_stale_s=keys.max_stale,
        unknown_rate=keys.authority.unknown_rate,
    )


def _settings(keys: KeysConfig, url: str) -> AuthorityOptions:
    authority = keys.authority
    return AuthorityOptions(
        url=url,
        dialect=dialect_of(keys, url) or "authorize",  # a configuration without one is refused
        with_receiver_key=authority.with_receiver_key,
        headers={name: value.get_secret_value() for name, value in authority.headers.items()},
        timeout_s=authority.timeout,
        max_concurrent=authority.max_concurrent,
        tls=client_context("keys.authority.tls", url, authority.tls),
        server_name=authority.tls.server_name if authority.tls is not None else None,
    )


def read_tls_files(context: ssl.SSLContext, tls: TlsClientConfig) -> None:
    """Have new connections use what the files hold now. Raises `OSError`.

    CA certificates are added to those it has.
    """
    if tls.ca_file is not None:
        context.load_verify_locations(tls.ca_file)
    if tls.cert_file is not None:
        context.load_cert_chain(tls.cert_file, tls.key_file)


def client_context(setting: str, url: str, tls: TlsClientConfig | None) -> ssl.SSLContext | None:
    """Make what connects to a URL with these options; None without TLS. Raises `StartError`."""
    if not url.startswith("https:"):
        return None
    tls = tls or TlsClientConfig()
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        read_tls_files(context, tls)
    except OSError as error:  # `load` could read them a moment ago
        msg = f"{setting}: its files can no longer be read ({error})"
        raise StartError(msg) from error
    if tls.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
