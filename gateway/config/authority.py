"""Checks for remote authorities among the stores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal
from urllib.parse import urlsplit

from gateway.config.problems import Path
from gateway.config.tree import Config, KeysConfig

Dialect = Literal["authorize", "validate"]

_DIALECTS: Final[tuple[Dialect, ...]] = ("authorize", "validate")

_LAST: Final = "must not come after an authority: put authorities last"
_NO_DIALECT: Final = (
    "the URL's path ends neither in /authorize nor in /validate: set keys.authority.dialect to "
    "authorize or validate"
)


def dialect_of(keys: KeysConfig, url: str) -> Dialect | None:
    """Return the dialect of the authority at `url`; None if neither setting nor path says it."""
    if keys.authority.dialect != "auto":
        return keys.authority.dialect
    last = urlsplit(url).path.rstrip("/").rpartition("/")[2]
    return next((dialect for dialect in _DIALECTS if dialect == last), None)


def problems(config: Config) -> Iterator[tuple[Path, str]]:
    """List the errors in the authorities, each with its path."""
    keys = config.keys
    has_authority = False
    for place, store in enumerate(keys.stores):
        is_authority = store.kind == "authority"
        path: Path = ("keys", "stores", place)
        if has_authority and store.kind not in {"authority", "jwt"}:
            yield path, _LAST
        if is_authority and dialect_of(keys, store.url) is None:
            yield path, _NO_DIALECT
        if is_authority and keys.authority.tls is not None and store.url.startswith("http://"):
            yield path, "has no TLS, but keys.authority.tls is set: use authority+https://"
        has_authority = has_authority or is_authority


def warnings(config: Config) -> Iterator[tuple[Path, str]]:
    """List what is valid but probably not intended."""
    keys = config.keys
    has_authority = any(store.kind == "authority" for store in keys.stores)
    if not has_authority and keys.authority.model_fields_set:
        message = "has no effect: keys.stores contains no authority (authority+https://…)"
        yield ("keys", "authority"), message
