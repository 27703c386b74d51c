"""What must hold for remote authorities among the stores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal
from urllib.parse import urlsplit

from gateway.config.faults import Path
from gateway.config.tree import Config, Keys

Dialect = Literal["authorize", "validate"]

_DIALECTS: Final[tuple[Dialect, ...]] = ("authorize", "validate")

_LAST: Final = (
    "stands behind an authority: keys of this store are found without asking anybody, so put "
    "authorities last"
)
_NO_DIALECT: Final = (
    "the path ends neither in /authorize nor in /validate: set keys.authority.dialect to one of "
    "them"
)


def dialect_of(keys: Keys, url: str) -> Dialect | None:
    """Tell how the authority at `url` is asked; None where neither setting nor path says so."""
    if keys.authority.dialect != "auto":
        return keys.authority.dialect
    last = urlsplit(url).path.rstrip("/").rpartition("/")[2]
    return next((dialect for dialect in _DIALECTS if dialect == last), None)


def problems(config: Config) -> Iterator[tuple[Path, str]]:
    """List what is wrong with the authorities, each with the path to mend."""
    keys = config.keys
    has_authority = False
    for place, store in enumerate(keys.stores):
        is_authority = store.kind == "authority"
        path: Path = ("keys", "stores", place)
        if has_authority and not is_authority:
            yield path, _LAST
        if is_authority and dialect_of(keys, store.url) is None:
            yield path, _NO_DIALECT
        if is_authority and keys.authority.tls is not None and store.url.startswith("http://"):
            yield path, "has no TLS, but keys.authority.tls is set: write authority+https://"
        has_authority = has_authority or is_authority


def warnings(config: Config) -> Iterator[tuple[Path, str]]:
    """List what is allowed and yet probably not meant."""
    keys = config.keys
    has_authority = any(store.kind == "authority" for store in keys.stores)
    if not has_authority and keys.authority.model_fields_set:
        yield ("keys", "authority"), "has no effect: no store in keys.stores is an authority"
