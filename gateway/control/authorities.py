"""From the configuration to the authorities that are asked, and what is remembered of them."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from gateway.channel import Down
from gateway.config import Config
from gateway.config.authority import dialect_of
from gateway.config.tree import Keys, TlsClient
from gateway.control.announce import store_changed
from gateway.control.lookups import Lookups
from gateway.control.slot import StartError
from gateway.control.tasks import Tasks
from gateway.control.totals import Totals
from gateway.keys.authority import AuthoritySettings
from gateway.keys.verdict_file import VerdictFile
from gateway.keys.verdicts import CacheLimits


def lookups_of(
    config: Config, totals: Totals, tasks: Tasks, send_to_all: Callable[[Down], None]
) -> Lookups | None:
    """Make what asks the configured authorities, in their order; None where there is none.

    The arguments are those of `Lookups`. Raises `StartError`.
    """
    keys = config.keys
    authorities = [_settings(keys, store.url) for store in keys.stores if store.kind == "authority"]
    if not authorities:
        return None
    limits = _limits(keys)
    file = VerdictFile(config.state_dir, [settings.url for settings in authorities])
    return Lookups(authorities, limits, totals, tasks, send_to_all, store_changed, file)


def _limits(keys: Keys) -> CacheLimits:
    return CacheLimits(
        size=keys.cache.size,
        ttl_s=keys.cache.ttl,
        negative_size=keys.cache.negative_size,
        negative_ttl_s=keys.cache.negative_ttl,
        max_stale_s=keys.max_stale,
        unknown_rate=keys.authority.unknown_rate,
    )


def _settings(keys: Keys, url: str) -> AuthoritySettings:
    authority = keys.authority
    return AuthoritySettings(
        url=url,
        dialect=dialect_of(keys, url) or "authorize",  # a configuration without one is refused
        with_receiver_key=authority.with_receiver_key,
        headers={name: value.get_secret_value() for name, value in authority.headers.items()},
        timeout_s=authority.timeout,
        max_concurrent=authority.max_concurrent,
        tls=_context(authority.tls) if authority.tls is not None else None,
        server_name=authority.tls.server_name if authority.tls is not None else None,
    )


def _context(tls: TlsClient) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        if tls.cert_file is not None:
            context.load_cert_chain(tls.cert_file, tls.key_file)
    except OSError as error:  # `load` could read them a moment ago
        msg = f"keys.authority.tls: its files cannot be used any more ({error})"
        raise StartError(msg) from error
    if tls.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
