"""What the configuration says about clients' certificates: checks, and what workers need of it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Final, Literal

from gateway import settings
from gateway.config.identity_tree import (
    ClientIdentityConfig,
    IdentityLimitsConfig,
    IdentityRuleConfig,
)
from gateway.config.problems import Path
from gateway.config.tree import Config, ListenerTlsConfig
from gateway.keys.errors import InvalidInputError
from gateway.keys.tenancy_rules import check_header_value, check_label_value, check_owner
from gateway.model import ALL_SIGNALS, Signal

MAX_CERTIFICATE_NAME: Final = 200
_WILDCARD: Final = "*"
_URI_MARK: Final = "://"
_OF_A_PATH: Final = r"([A-Za-z0-9._~!&'()+,;=:@%-]+)"
"""One part of a URI's path (RFC 3986 §3.3), without `$` and `*`."""
_OF_A_HOST: Final = r"([a-z0-9_-]+)"
_FIELD: Final = re.compile(r"\$(.?)")
_MOST_WILDCARDS: Final = 9
_NAME: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")


def problems(config: Config) -> Iterator[tuple[Path, str]]:
    """List the errors in how listeners look at clients' certificates, each with its path."""
    for place, listener in enumerate(config.listen):
        tls = listener.tls
        if tls is not None:
            yield from _of_listener(("listen", place, "tls"), tls)


def _of_listener(path: Path, tls: ListenerTlsConfig) -> Iterator[tuple[Path, str]]:
    if tls.client_ca_file is None:
        for name in ("client_identity", "client_crl_files"):
            if getattr(tls, name):
                message = "requires client_ca_file: without it no client presents a certificate"
                yield (*path, name), message
    if tls.client_identity is None:
        return
    seen: dict[str, int] = {}
    for place, rule in enumerate(tls.client_identity.rules):
        where: Path = (*path, "client_identity", "rules", place)
        if rule.san in seen:
            message = f"is never used: rule {seen[rule.san] + 1} has the same names; remove one"
            yield (*where, "san"), message
        seen.setdefault(rule.san, place)
        yield from _of_rule(where, rule)


def _of_rule(path: Path, rule: IdentityRuleConfig) -> Iterator[tuple[Path, str]]:
    parts = re.split(r"/" if _URI_MARK in rule.san else r"\.", rule.san)
    if any(part.count(_WILDCARD) > 1 for part in parts):
        yield (*path, "san"), "has two * in one part: one is possible"
    wildcards = rule.san.count(_WILDCARD)
    if wildcards > _MOST_WILDCARDS:
        yield (*path, "san"), f"has {wildcards} wildcards: at most {_MOST_WILDCARDS} are possible"
    for where, template, check in _templates(rule):
        problem = _problem_of(template, wildcards, check)
        if problem is not None:
            yield (*path, *where), problem
    if rule.signals is not None and not rule.signals:
        yield (*path, "signals"), "is empty: name what may be sent, or leave it out for everything"


def _templates(
    rule: IdentityRuleConfig,
) -> Iterator[tuple[Path, str, Callable[[str], None]]]:
    yield ("name",), rule.name, _check_name
    if rule.owner is not None:
        yield ("owner",), rule.owner, check_owner
    for name, text in rule.labels.items():
        yield ("labels", name), text, partial(check_label_value, name)
    for name, text in rule.headers.items():
        yield ("headers", name), text, partial(check_header_value, name)


def _problem_of(template: str, wildcards: int, check: Callable[[str], None]) -> str | None:
    for field in _FIELD.findall(template):
        if field == "$":
            continue
        if field not in set("123456789"):
            return "has a $ that nothing follows: write $1 for what * matched, $$ for a dollar sign"
        if int(field) > wildcards:
            return f"has ${field}, but san has {wildcards} *: write as many, or another number"
    try:
        check(_FIELD.sub(lambda field: "$" if field[1] == "$" else "x", template))
    except InvalidInputError as error:
        return str(error)
    return None


def _check_name(name: str) -> None:
    if len(name) > MAX_CERTIFICATE_NAME or not _NAME.fullmatch(name):
        msg = (
            f"cannot be a name: use up to {MAX_CERTIFICATE_NAME} visible ASCII characters, with"
            " spaces only between them"
        )
        raise InvalidInputError(msg)


def identity_headers(config: Config) -> Iterator[str]:
    """Yield the headers that certificates set: no sender may state them."""
    for listener in config.listen:
        tls = listener.tls
        if tls is not None and tls.client_identity is not None:
            yield from chain.from_iterable(rule.headers for rule in tls.client_identity.rules)


def identity_settings(
    identity: ClientIdentityConfig, route_labels: frozenset[tuple[str, str]]
) -> settings.ClientIdentitySettings:
    """Return what a worker needs to know whom certificates name."""
    return settings.ClientIdentitySettings(
        is_needed=identity.require == "all",
        rules=tuple(_rule(rule) for rule in identity.rules),
        route_labels=tuple(sorted(route_labels)),
    )


def _rule(rule: IdentityRuleConfig) -> settings.IdentityRule:
    kind, pattern = pattern_of(rule.san)
    signals = ALL_SIGNALS
    if rule.signals is not None:
        signals = sum({Signal(each).bit for each in rule.signals})
    return settings.IdentityRule(
        kind=kind,
        pattern=pattern,
        name=rule.name,
        owner=rule.owner or "",
        labels=_pairs(rule.labels),
        headers=_pairs(rule.headers),
        signals=signals,
        limits=_limits(rule.limits),
    )


def pattern_of(san: str) -> tuple[Literal["DNS", "URI"], str]:
    """Return which kind of name a pattern is for, and a regular expression for the whole name."""
    if _URI_MARK in san:
        return "URI", _OF_A_PATH.join(map(re.escape, san.split(_WILDCARD)))
    return "DNS", _OF_A_HOST.join(map(re.escape, san.lower().split(_WILDCARD)))


def _pairs(texts: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(texts.items()))


def _limits(limits: IdentityLimitsConfig) -> tuple[int | None, int | None, int | None] | None:
    found = _whole(limits.requests), _whole(limits.bytes), limits.concurrent
    return None if found == (None, None, None) else found


def _whole(rate: float | None) -> int | None:
    """Round up: 0 means no limit."""
    return None if rate is None else math.ceil(rate)
