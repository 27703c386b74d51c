"""What the configuration says about each issuer of tokens, and checks of that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from gateway.config.addresses import is_loopback
from gateway.config.jwt_values import Algorithm
from gateway.config.problems import Path
from gateway.config.tree import ClaimMapConfig, Config, KeysConfig
from gateway.config.values import split_url

_NO_AUDIENCE: Final = (
    "is missing: without it, tokens that an issuer makes for other services would be accepted; set "
    "it to what your tokens have in 'aud'"
)


class IssuerSettings(NamedTuple):
    """One issuer's settings, what is set for it alone first."""

    url: str
    jwks_uri: str | None
    audience: list[str]
    algorithms: list[Algorithm]
    map: ClaimMapConfig


def issuers(keys: KeysConfig) -> list[IssuerSettings]:
    """Return the settings of each issuer among the stores, in their order."""
    return [_issuer(keys, store.url) for store in keys.stores if store.kind == "jwt"]


def _issuer(keys: KeysConfig, url: str) -> IssuerSettings:
    common = keys.jwt
    own = next((each for each in common.issuers if each.url == url), None)
    if own is None:
        return IssuerSettings(url, None, common.audience, common.algorithms, common.map)
    return IssuerSettings(
        url,
        own.jwks_uri,
        common.audience if own.audience is None else own.audience,
        common.algorithms if own.algorithms is None else own.algorithms,
        common.map if own.map is None else own.map,
    )


def problems(config: Config) -> Iterator[tuple[Path, str]]:
    """List the errors in the issuers, each with its path."""
    keys = config.keys
    for place, store in enumerate(keys.stores):
        if store.kind == "jwt" and _is_open(store.url):
            message = "keys that come without TLS could be anybody's: write jwt+https://…"
            yield ("keys", "stores", place), message
    if not all(issuer.audience for issuer in issuers(keys)):
        yield ("keys", "jwt", "audience"), _NO_AUDIENCE
    known = {store.url for store in keys.stores if store.kind == "jwt"}
    for place, issuer in enumerate(keys.jwt.issuers):
        path: Path = ("keys", "jwt", "issuers", place)
        if issuer.url not in known:
            yield (*path, "url"), "is no issuer in keys.stores: write it there as jwt+https://…"
        if issuer.jwks_uri is not None and _is_open(issuer.jwks_uri):
            yield (*path, "jwks_uri"), "keys that come without TLS could be anybody's: use https://"
        if issuer.url in {other.url for other in keys.jwt.issuers[:place]}:
            yield (*path, "url"), "this issuer is there twice: remove one"


def _is_open(url: str) -> bool:
    parts = split_url(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def warnings(config: Config) -> Iterator[tuple[Path, str]]:
    """List what is valid but probably not intended."""
    keys = config.keys
    if keys.jwt.model_fields_set and all(store.kind != "jwt" for store in keys.stores):
        yield ("keys", "jwt"), "has no effect: keys.stores contains no issuer (jwt+https://…)"
