"""The configuration that the gateway runs with; a reload replaces it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway import settings
from gateway.config import Config, Loaded, TlsContents, effective
from gateway.config.values import port_of, split_url

Backends = Sequence[tuple[str, Sequence[str]]]
"""The configured backends, each with its addresses as host:port."""


class CurrentConfig:
    """Holds the configuration for everything that reads it more than once."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.tls_contents: TlsContents = {}
        """What the files for TLS held when those who use them read them."""

    @property
    def config(self) -> Config:
        """The configuration itself."""
        return self.loaded.config

    def masked(self) -> Any:  # noqa: ANN401 - JSON
        """Return all settings as they are in force, secrets masked."""
        return effective(self.config)

    def backends(self) -> Backends:
        """Return the configured backends with their addresses."""
        return backends_of(self.config)


def backends_of(config: Config) -> Backends:
    """Return a configuration's backends, each with its addresses as workers name them."""
    addresses: dict[str, dict[str, None]] = {}
    for _, kind, backend in config.backends.each():
        addresses.setdefault(kind, {}).update((_address(url), None) for url in backend.urls)
    return [(kind, list(found)) for kind, found in addresses.items()]


def _address(url: str) -> str:
    parts = split_url(url)
    return settings.Target(parts.hostname or "", port_of(parts)).address
