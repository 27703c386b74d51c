"""Checks across settings: whether they fit together and fit this machine.

Every check yields errors or warnings with the path of a setting. None of them needs the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations
from typing import Final, NamedTuple

from pydantic import SecretStr

from gateway.config import authority, client_identity, feed, jwt, scopes, telemetry_checks
from gateway.config.addresses import is_loopback, is_overlap, is_reached_by
from gateway.config.postgresql_url import missing_files
from gateway.config.problems import Path, path_text
from gateway.config.tls_files import check_ca, check_chain, check_revocation_lists
from gateway.config.tree import BackendConfig, Config, TlsClientConfig, TlsServerConfig
from gateway.config.values import port_of, split_address, split_url
from gateway.intake import SIZE_KEYS
from gateway.model import BackendName

_LEAST_BODY: Final = 1024
"""Bytes. No request of a real sender stays below a smaller limit."""


class Finding(NamedTuple):
    """An error or a warning, before its line in the file is known."""

    path: Path
    message: str
    other: Path | None = None
    """Another path, which replaces `{other}` in the message."""


Check = Callable[[Config], Iterator[Finding]]


def errors_in(config: Config) -> list[Finding]:
    """Run all checks. The gateway does not start if one of them finds an error."""
    return [finding for check in _ERROR_CHECKS for finding in check(config)]


def warnings_about(config: Config) -> list[Finding]:
    """List what is valid but probably not intended."""
    return [finding for check in _WARNING_CHECKS for finding in check(config)]


def tls_problems(config: Config) -> list[str]:
    """Check the files that the configuration names for TLS, as they are now; return texts."""
    findings = list(_check_tls(config))
    for path, backend in _backends(config):
        if backend.tls is not None:
            findings += _check_client_tls((*path, "tls"), backend.tls)
    return [f"{path_text(finding.path)}: {finding.message}" for finding in findings]


def _listening(config: Config) -> list[tuple[Path, str]]:
    """List every address that is bound."""
    found: list[tuple[Path, str]] = [
        (("listen", place, "address"), listener.address)
        for place, listener in enumerate(config.listen)
    ]
    for name in ("address", "metrics_address", "authorize_address", "grpc_address"):
        address = getattr(config.admin, name)
        if address is not None:
            found.append((("admin", name), address))
    return found


def _backends(config: Config) -> list[tuple[Path, BackendConfig]]:
    return [(("backends", *path), backend) for path, _, backend in config.backends.each()]


def _check_routes(config: Config) -> Iterator[Finding]:
    routes = config.backends.routes
    for place, route in enumerate(routes):
        path: Path = ("backends", "routes", place)
        if route.otlp_grpc is None and route.otlp_http is None and route.intake is None:
            message = "has no backend: set otlp_grpc, otlp_http or intake, or remove the route"
            yield Finding(path, message)
        for first, earlier in enumerate(routes[:place]):
            if earlier.label.items() <= route.label.items():
                message = (
                    "is never used, because every key with these labels has those of {other},"
                    " which comes first: move it before that one, or remove it"
                )
                yield Finding((*path, "label"), message, ("backends", "routes", first))
                break


def _check_overlaps(config: Config) -> Iterator[Finding]:
    for (first, one), (second, other) in combinations(_listening(config), 2):
        if is_overlap(split_address(one), split_address(other)):
            message = f"{other} overlaps {one} ({{other}}): choose another port or host"
            yield Finding(second, message, first)


def _check_own_backends(config: Config) -> Iterator[Finding]:
    listening = _listening(config)
    for path, backend in _backends(config):
        for place, url in enumerate(backend.urls):
            parts = split_url(url)
            target = (parts.hostname or "", port_of(parts))
            for where, address in listening:
                if is_reached_by(split_address(address), target):
                    message = (
                        "this is an address of the gateway itself ({other}): set the backend's "
                        "address, or move the gateway to another port"
                    )
                    yield Finding((*path, "urls", place), message, where)
                    break


def _check_backends(config: Config) -> Iterator[Finding]:
    for path, backend in _backends(config):
        if backend.min_connections > backend.connection_limit:
            message = f"must be at most max_connections, which is {backend.connection_limit}"
            yield Finding((*path, "min_connections"), message)
        yield from _repeated((*path, "urls"), [url.rstrip("/") for url in backend.urls], "url")
        if backend.tls is not None:
            if not any(url.startswith("https://") for url in backend.urls):
                message = (
                    "has no effect, because no URL of this backend starts with https://: use "
                    "https:// or remove tls"
                )
                yield Finding((*path, "tls"), message)
            yield from _check_client_tls((*path, "tls"), backend.tls)


def _check_intake(config: Config) -> Iterator[Finding]:
    backend = config.backends.intake
    for path in backend.max_body if backend is not None else ():
        if path not in SIZE_KEYS:
            message = (
                "unknown intake path: write it without the base URL and without a trailing slash; "
                f"valid paths are {', '.join(sorted(SIZE_KEYS))}"
            )
            yield Finding(("backends", "intake", "max_body", path), message)


def _repeated(path: Path, values: Iterable[str], what: str) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for place, value in enumerate(values):
        if value in seen:
            first = (*path, seen[value])
            yield Finding((*path, place), f"the same {what} as {{other}}: remove one", first)
        seen.setdefault(value, place)


def _check_client_tls(path: Path, tls: TlsClientConfig) -> Iterator[Finding]:
    if tls.ca_file is not None and (ca_problem := check_ca(tls.ca_file)) is not None:
        yield Finding((*path, "ca_file"), ca_problem)
    if tls.cert_file is not None and tls.key_file is not None:
        for name, problem in check_chain(tls.cert_file, tls.key_file).items():
            yield Finding((*path, name), problem)
    elif tls.cert_file is not None or tls.key_file is not None:
        missing = "key_file" if tls.key_file is None else "cert_file"
        yield Finding((*path, missing), "is missing: set both cert_file and key_file, or neither")


def _check_server_tls(path: Path, tls: TlsServerConfig) -> Iterator[Finding]:
    for name, problem in check_chain(tls.cert_file, tls.key_file).items():
        yield Finding((*path, name), problem)
    if tls.client_ca_file is not None and (ca_problem := check_ca(tls.client_ca_file)) is not None:
        yield Finding((*path, "client_ca_file"), ca_problem)


def _check_revocation_lists(config: Config) -> Iterator[Finding]:
    """Not among `tls_problems`: a list that is wrong must not keep a certificate from renewal."""
    for number, listener in enumerate(config.listen):
        tls = listener.tls
        if tls is None or not tls.client_crl_files or tls.client_ca_file is None:
            continue
        for place, problem in check_revocation_lists(tls.client_crl_files, tls.client_ca_file):
            yield Finding(("listen", number, "tls", "client_crl_files", place), problem)


def _check_tls(config: Config) -> Iterator[Finding]:
    for place, listener in enumerate(config.listen):
        if listener.tls is not None:
            yield from _check_server_tls(("listen", place, "tls"), listener.tls)
    if config.admin.tls is not None:
        yield from _check_server_tls(("admin", "tls"), config.admin.tls)
    if config.admin.grpc_tls is not None:
        yield from _check_server_tls(("admin", "grpc_tls"), config.admin.grpc_tls)
    keys = config.keys
    clients = (("authority", keys.authority.tls), ("jwt", keys.jwt.tls), ("feed", keys.feed.tls))
    for name, client in clients:
        if client is not None:
            yield from _check_client_tls(("keys", name, "tls"), client)


def _check_forward(config: Config) -> Iterator[Finding]:
    if config.forward.key == "gateway" and config.forward.gateway_key is None:
        message = (
            "is missing, because forward.key is 'gateway': set it to the backend's API key, such "
            "as ${env:BACKEND_API_KEY}"
        )
        yield Finding(("forward", "gateway_key"), message)


def _check_keys(config: Config) -> Iterator[Finding]:
    keys, tokens = config.auth.receiver_keys, config.admin.tokens
    yield from _check_secrets(("auth", "receiver_keys"), "key", [(k.name, k.key) for k in keys])
    yield from _check_secrets(("admin", "tokens"), "token", [(t.name, t.token) for t in tokens])
    yield from _check_admin_certificates(config)
    yield from _repeated(("keys", "stores"), map(str, config.keys.stores), "store")
    schemes = [scheme.lower() for scheme in config.auth.schemes]
    yield from _repeated(("auth", "schemes"), schemes, "scheme (case-insensitive)")


def _check_admin_certificates(config: Config) -> Iterator[Finding]:
    admin, path = config.admin, ("admin", "certificates")
    if admin.certificates and (admin.tls is None or admin.tls.client_ca_file is None):
        message = "requires admin.tls.client_ca_file: without it no client presents a certificate"
        yield Finding(path, message)
    yield from _repeated(path, [each.san for each in admin.certificates], "name in a certificate")
    taken = {token.name for token in admin.tokens}
    for place, each in enumerate(admin.certificates):
        if each.name in taken:
            message = "a token or certificate has the same name: the audit log could not tell them"
            yield Finding((*path, place, "name"), message)
        taken.add(each.name)


def _check_secrets(
    path: Path, what: str, named: Sequence[tuple[str, SecretStr]]
) -> Iterator[Finding]:
    yield from _repeated(path, [secret.get_secret_value() for _, secret in named], what)
    for finding in _repeated(path, [name for name, _ in named], "name"):
        yield finding._replace(path=(*finding.path, "name"))


def _check_authorities(config: Config) -> Iterator[Finding]:
    for problems in (authority.problems, jwt.problems, client_identity.problems):
        yield from (Finding(path, message) for path, message in problems(config))


def _check_feed(config: Config) -> Iterator[Finding]:
    yield from (Finding(path, message) for path, message in feed.problems(config))


def _check_scopes(config: Config) -> Iterator[Finding]:
    yield from (Finding(path, message) for path, message in scopes.problems(config))


def _check_store_files(config: Config) -> Iterator[Finding]:
    for place, store in enumerate(config.keys.stores):
        if store.kind == "postgresql":
            for problem in missing_files(store.url):
                yield Finding(("keys", "stores", place), problem)


def _check_proxy_protocol(config: Config) -> Iterator[Finding]:
    for place, listener in enumerate(config.listen):
        if listener.proxy_protocol and not config.trusted_networks:
            message = "requires trusted_networks, which is empty: add the networks of your proxies"
            yield Finding(("listen", place, "proxy_protocol"), message)


def _check_telemetry(config: Config) -> Iterator[Finding]:
    for problem in telemetry_checks.problems(config, _listening(config)):
        yield Finding(*problem)


_ERROR_CHECKS: Final[tuple[Check, ...]] = (
    _check_overlaps,
    _check_own_backends,
    _check_backends,
    _check_routes,
    _check_intake,
    _check_tls,
    _check_revocation_lists,
    _check_forward,
    _check_keys,
    _check_authorities,
    _check_feed,
    _check_scopes,
    _check_store_files,
    _check_proxy_protocol,
    _check_telemetry,
)


def _warn_of_cleartext(config: Config) -> Iterator[Finding]:
    for place, listener in enumerate(config.listen):
        if listener.tls is None and not is_loopback(split_address(listener.address)[0]):
            message = (
                f"other machines can reach {listener.address} without TLS: API keys cross the "
                "network in cleartext; set tls, or terminate TLS in a proxy"
            )
            yield Finding(("listen", place, "address"), message)
    admin = config.admin
    if admin.tls is None and not is_loopback(split_address(admin.address)[0]):
        message = (
            f"other machines can reach {admin.address} without TLS: admin tokens cross the "
            "network in cleartext; set admin.tls, or expose only admin.metrics_address"
        )
        yield Finding(("admin", "address"), message)


def _warn_of_unshared_keys(config: Config) -> Iterator[Finding]:
    """A backend that checks keys cannot know the gateway's keys and refuses every request."""
    if config.forward.key != "client" or not _backends(config):
        return
    stores = [str(store) for store in config.keys.stores if store.kind != "authority"]
    if config.auth.receiver_keys:
        stores.append("auth.receiver_keys")
    if not stores:
        return
    message = (
        "the backend gets the sender's own API key, but cannot know the keys in "
        f"{', '.join(stores)}: if it checks keys, set forward.key to gateway; if it does not, set "
        "it to none"
    )
    yield Finding(("forward", "key"), message)


def _warn_of_incomplete_routes(config: Config) -> Iterator[Finding]:
    """No data of a tenant goes to the backend for all, so keys with these labels are refused."""
    for place, route in enumerate(config.backends.routes):
        for kind in BackendName:
            is_for_all = getattr(config.backends, kind.value) is not None
            if is_for_all and getattr(route, kind.value) is None:
                message = (
                    f"has no {kind.value}, and backends.{kind.value} is not used instead: keys with"
                    " these labels are told to keep such data; add it to the route if they send any"
                )
                yield Finding(("backends", "routes", place), message)


def _warn_of_no_effect(config: Config) -> Iterator[Finding]:
    forward = config.forward
    if forward.gateway_key is not None and forward.key != "gateway":
        message = f"has no effect while forward.key is {forward.key}: set forward.key to gateway"
        yield Finding(("forward", "gateway_key"), message)


def _warn_of_unverified_backends(config: Config) -> Iterator[Finding]:
    for path, backend in _backends(config):
        if backend.tls is not None and backend.tls.insecure_skip_verify:
            message = "anyone can impersonate the backend: set ca_file to its CA instead"
            yield Finding((*path, "tls", "insecure_skip_verify"), message)


def _warn_of_feed(config: Config) -> Iterator[Finding]:
    yield from (Finding(path, message) for path, message in feed.warnings(config))


def _warn_of_authorities(config: Config) -> Iterator[Finding]:
    for warnings in (authority.warnings, jwt.warnings):
        yield from (Finding(path, message) for path, message in warnings(config))


def _warn_of_unshared_limits(config: Config) -> Iterator[Finding]:
    """Where no store is shared there is no fleet."""
    shared = {"postgresql", "gateway"}
    is_shared = any(store.kind in shared for store in config.keys.stores)
    if config.limits.scope == "fleet" and not is_shared and config.admin.grpc_address is None:
        message = (
            "no other gateway can share the limits, because keys.stores has no postgresql://… and"
            " no gateway+grpcs://…, and no gateway can follow this one (admin.grpc_address): they"
            " hold for this host alone"
        )
        yield Finding(("limits", "scope"), message)


def _warn_of_bytes(config: Config) -> Iterator[Finding]:
    """A body of so few bytes lacks its unit."""
    sizes: list[tuple[Path, int]] = [(("limits", "max_body"), config.limits.max_body)]
    intake = config.backends.intake
    if intake is not None:
        of_intake = ("backends", "intake", "max_body")
        sizes += [((*of_intake, key), size) for key, size in intake.max_body.items()]
    for path, size in sizes:
        if size < _LEAST_BODY:
            message = f"allows only {size} bytes: write a unit, such as {size}MiB"
            yield Finding(path, message)


def _warn_of_telemetry(config: Config) -> Iterator[Finding]:
    yield from (Finding(path, message) for path, message in telemetry_checks.warnings(config))


_WARNING_CHECKS: Final[tuple[Check, ...]] = (
    _warn_of_authorities,
    _warn_of_feed,
    _warn_of_cleartext,
    _warn_of_unshared_keys,
    _warn_of_incomplete_routes,
    _warn_of_no_effect,
    _warn_of_unverified_backends,
    _warn_of_unshared_limits,
    _warn_of_bytes,
    _warn_of_telemetry,
)
