"""What the configuration says about issuers of tokens: their rules, their addresses, the caches."""

from __future__ import annotations

from gateway.config import Config
from gateway.config.jwt import IssuerSettings, issuers
from gateway.config.tree import ClaimMapConfig
from gateway.control.authorities.authority_settings import client_context
from gateway.keys.jwt.claim_paths import ClaimPath
from gateway.keys.jwt.identity import ClaimMap
from gateway.keys.jwt.issuer_client import IssuerOptions
from gateway.keys.jwt.token import IssuerRules
from gateway.keys.jwt.verdicts import TokenLimits


def issuer_settings(config: Config) -> list[tuple[IssuerRules, IssuerOptions]]:
    """Return what tokens of each issuer must be like, and where its keys are.

    Raises `StartError`.
    """
    options = config.keys.jwt
    tls = client_context("keys.jwt.tls", "https:", options.tls)
    server_name = options.tls.server_name if options.tls is not None else None
    return [
        (
            _rules(issuer, options.clock_skew),
            IssuerOptions(issuer.url, issuer.jwks_uri, options.timeout, tls, server_name),
        )
        for issuer in issuers(config.keys)
    ]


def token_limits(config: Config) -> TokenLimits:
    """Return how many verdicts are remembered, for how long, and how many tokens are checked."""
    cache = config.keys.cache
    return TokenLimits(
        size=cache.size,
        negative_size=cache.negative_size,
        negative_ttl_s=cache.negative_ttl,
        rate=config.keys.jwt.unknown_rate,
    )


def _rules(issuer: IssuerSettings, skew_s: float) -> IssuerRules:
    return IssuerRules(
        issuer.url,
        frozenset(issuer.audience),
        frozenset(issuer.algorithms),
        skew_s,
        _claim_map(issuer.map),
    )


def _claim_map(configured: ClaimMapConfig) -> ClaimMap:
    return ClaimMap(
        id=ClaimPath.parse(configured.id),
        name=ClaimPath.parse(configured.name),
        signals=ClaimPath.parse(configured.signals) if configured.signals is not None else None,
        limits={
            name: ClaimPath.parse(path)
            for name, path in configured.limits.model_dump(exclude_none=True).items()
        },
        owner=ClaimPath.parse(configured.owner) if configured.owner is not None else None,
        labels={name: ClaimPath.parse(path) for name, path in configured.labels.items()},
        headers={name: ClaimPath.parse(path) for name, path in configured.headers.items()},
    )
