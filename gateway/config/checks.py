"""What no key can know alone: whether the configuration's parts fit each other and this machine.

Every check yields faults or warnings with the path to mend. None of them needs the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations
from typing import Final, NamedTuple

from pydantic import SecretStr

from gateway.config import authority
from gateway.config.addresses import is_loopback, is_overlap, is_reached_by
from gateway.config.faults import Path
from gateway.config.tls_files import check_ca, check_chain
from gateway.config.tree import Backend, Config, TlsClient, TlsServer
from gateway.config.values import port_of, split_address, split_url
from gateway.intake import SIZE_KEYS


class Remark(NamedTuple):
    """A fault or a warning, before it is known on which line it stands."""

    path: Path
    message: str
    other: Path | None = None
    """Another place that the message speaks of as `{other}`."""


Check = Callable[[Config], Iterator[Remark]]


def faults_in(config: Config) -> list[Remark]:
    """Run all checks; what is returned keeps the gateway from starting."""
    return [remark for check in _FAULT_CHECKS for remark in check(config)]


def warnings_about(config: Config) -> list[Remark]:
    """List what is allowed and yet probably not meant."""
    return [remark for check in _WARNING_CHECKS for remark in check(config)]


def _listening(config: Config) -> list[tuple[Path, str]]:
    """List every address that is bound."""
    found: list[tuple[Path, str]] = [
        (("listen", place, "address"), listener.address)
        for place, listener in enumerate(config.listen)
    ]
    for name in ("address", "metrics_address", "authorize_address"):
        address = getattr(config.admin, name)
        if address is not None:
            found.append((("admin", name), address))
    return found


def _backends(config: Config) -> list[tuple[Path, Backend]]:
    found = {name: getattr(config.backends, name) for name in type(config.backends).model_fields}
    return [(("backends", name), backend) for name, backend in found.items() if backend is not None]


def _check_overlaps(config: Config) -> Iterator[Remark]:
    for (first, one), (second, other) in combinations(_listening(config), 2):
        if is_overlap(split_address(one), split_address(other)):
            message = f"{other} overlaps {one} of {{other}}: choose another port or host"
            yield Remark(second, message, first)


def _check_own_backends(config: Config) -> Iterator[Remark]:
    listening = _listening(config)
    for path, backend in _backends(config):
        for place, url in enumerate(backend.urls):
            parts = split_url(url)
            target = (parts.hostname or "", port_of(parts))
            for where, address in listening:
                if is_reached_by(split_address(address), target):
                    message = (
                        "this is the gateway itself ({other}): name the backend, or move the "
                        "gateway to another port"
                    )
                    yield Remark((*path, "urls", place), message, where)
                    break


def _check_backends(config: Config) -> Iterator[Remark]:
    for path, backend in _backends(config):
        if backend.min_connections > backend.connection_limit:
            message = f"must be at most max_connections, which is {backend.connection_limit}"
            yield Remark((*path, "min_connections"), message)
        yield from _repeated((*path, "urls"), [url.rstrip("/") for url in backend.urls], "url")
        if backend.tls is not None:
            if not any(url.startswith("https://") for url in backend.urls):
                message = (
                    "no url of this backend is https://, so this has no effect: write https://"
                )
                yield Remark((*path, "tls"), message)
            yield from _check_client_tls((*path, "tls"), backend.tls)


def _check_intake(config: Config) -> Iterator[Remark]:
    backend = config.backends.intake
    for path in backend.max_body if backend is not None else ():
        if path not in SIZE_KEYS:
            message = (
                "no such path of the intake: write it without the agents' base url and without a "
                f"closing slash; there are {', '.join(sorted(SIZE_KEYS))}"
            )
            yield Remark(("backends", "intake", "max_body", path), message)


def _repeated(path: Path, values: Iterable[str], what: str) -> Iterator[Remark]:
    seen: dict[str, int] = {}
    for place, value in enumerate(values):
        if value in seen:
            first = (*path, seen[value])
            yield Remark((*path, place), f"the same {what} as {{other}}: leave out one", first)
        seen.setdefault(value, place)


def _check_client_tls(path: Path, tls: TlsClient) -> Iterator[Remark]:
    if tls.ca_file is not None and (ca_problem := check_ca(tls.ca_file)) is not None:
        yield Remark((*path, "ca_file"), ca_problem)
    if tls.cert_file is not None and tls.key_file is not None:
        for name, problem in check_chain(tls.cert_file, tls.key_file).items():
            yield Remark((*path, name), problem)
    elif tls.cert_file is not None or tls.key_file is not None:
        missing = "key_file" if tls.key_file is None else "cert_file"
        yield Remark((*path, missing), "cert_file and key_file belong together: name both or none")


def _check_server_tls(path: Path, tls: TlsServer) -> Iterator[Remark]:
    for name, problem in check_chain(tls.cert_file, tls.key_file).items():
        yield Remark((*path, name), problem)
    if tls.client_ca_file is not None and (ca_problem := check_ca(tls.client_ca_file)) is not None:
        yield Remark((*path, "client_ca_file"), ca_problem)


def _check_tls(config: Config) -> Iterator[Remark]:
    for place, listener in enumerate(config.listen):
        if listener.tls is not None:
            yield from _check_server_tls(("listen", place, "tls"), listener.tls)
    if config.admin.tls is not None:
        yield from _check_server_tls(("admin", "tls"), config.admin.tls)
    if config.keys.authority.tls is not None:
        yield from _check_client_tls(("keys", "authority", "tls"), config.keys.authority.tls)


def _check_forward(config: Config) -> Iterator[Remark]:
    if config.forward.key == "gateway" and config.forward.gateway_key is None:
        message = (
            "is missing: forward.key is 'gateway', so name the backend's key here, such as "
            "${env:BACKEND_API_KEY}"
        )
        yield Remark(("forward", "gateway_key"), message)


def _check_keys(config: Config) -> Iterator[Remark]:
    keys, tokens = config.auth.receiver_keys, config.admin.tokens
    yield from _check_secrets(("auth", "receiver_keys"), "key", [(k.name, k.key) for k in keys])
    yield from _check_secrets(("admin", "tokens"), "token", [(t.name, t.token) for t in tokens])
    yield from _repeated(("keys", "stores"), map(str, config.keys.stores), "store")
    schemes = [scheme.lower() for scheme in config.auth.schemes]
    yield from _repeated(("auth", "schemes"), schemes, "scheme (case does not count)")


def _check_secrets(
    path: Path, what: str, named: Sequence[tuple[str, SecretStr]]
) -> Iterator[Remark]:
    yield from _repeated(path, [secret.get_secret_value() for _, secret in named], what)
    for remark in _repeated(path, [name for name, _ in named], "name"):
        yield remark._replace(path=(*remark.path, "name"))


def _check_authorities(config: Config) -> Iterator[Remark]:
    yield from (Remark(path, message) for path, message in authority.problems(config))


def _check_proxy_protocol(config: Config) -> Iterator[Remark]:
    for place, listener in enumerate(config.listen):
        if listener.proxy_protocol and not config.trusted_networks:
            message = (
                "believes nobody while trusted_networks is empty: name there the networks of "
                "the proxies"
            )
            yield Remark(("listen", place, "proxy_protocol"), message)


_FAULT_CHECKS: Final[tuple[Check, ...]] = (
    _check_overlaps,
    _check_own_backends,
    _check_backends,
    _check_intake,
    _check_tls,
    _check_forward,
    _check_keys,
    _check_authorities,
    _check_proxy_protocol,
)


def _warn_of_cleartext(config: Config) -> Iterator[Remark]:
    for place, listener in enumerate(config.listen):
        if listener.tls is None and not is_loopback(split_address(listener.address)[0]):
            message = (
                f"{listener.address} is reached from other machines without TLS: keys cross the "
                "network readable; set tls, or let a proxy in front do it"
            )
            yield Remark(("listen", place, "address"), message)
    admin = config.admin
    if admin.tls is None and not is_loopback(split_address(admin.address)[0]):
        message = (
            f"{admin.address} is reached from other machines without TLS: tokens cross the "
            "network readable; set admin.tls, or give other machines admin.metrics_address only"
        )
        yield Remark(("admin", "address"), message)


def _warn_of_unshared_keys(config: Config) -> Iterator[Remark]:
    """Think of a backend that checks keys: it cannot know ours and would refuse everything."""
    if config.forward.key != "client" or not _backends(config):
        return
    stores = [str(store) for store in config.keys.stores if store.kind != "authority"]
    if config.auth.receiver_keys:
        stores.append("auth.receiver_keys")
    if not stores:
        return
    message = (
        f"the backend gets the caller's own key, but cannot know the keys in {', '.join(stores)}: "
        "if it checks keys, set forward.key to gateway; if it needs none, to none"
    )
    yield Remark(("forward", "key"), message)


def _warn_of_no_effect(config: Config) -> Iterator[Remark]:
    forward = config.forward
    if forward.gateway_key is not None and forward.key != "gateway":
        message = f"has no effect while forward.key is {forward.key}: set forward.key to gateway"
        yield Remark(("forward", "gateway_key"), message)


def _warn_of_unverified_backends(config: Config) -> Iterator[Remark]:
    for path, backend in _backends(config):
        if backend.tls is not None and backend.tls.insecure_skip_verify:
            message = "anybody can pose as the backend: name its authority in ca_file instead"
            yield Remark((*path, "tls", "insecure_skip_verify"), message)


def _warn_of_authorities(config: Config) -> Iterator[Remark]:
    yield from (Remark(path, message) for path, message in authority.warnings(config))


_WARNING_CHECKS: Final[tuple[Check, ...]] = (
    _warn_of_authorities,
    _warn_of_cleartext,
    _warn_of_unshared_keys,
    _warn_of_no_effect,
    _warn_of_unverified_backends,
)
