"""Checks of what the configuration says about callers of the admin API who manage some keys."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.problems import Path
from gateway.config.tree import AdminCertificateConfig, AdminTokenConfig, Config


def problems(config: Config) -> Iterator[tuple[Path, str]]:
    """Yield what is wrong: where, and what to do."""
    for place, token in enumerate(config.admin.tokens):
        yield from _problems(("admin", "tokens", place), token)
    for place, certificate in enumerate(config.admin.certificates):
        yield from _problems(("admin", "certificates", place), certificate)


def _problems(
    path: Path, caller: AdminTokenConfig | AdminCertificateConfig
) -> Iterator[tuple[Path, str]]:
    if caller.headers and not caller.labels:
        message = "requires labels: it sets the headers of the keys with these labels"
        yield (*path, "headers"), message
    if caller.labels and caller.role == "administrator":
        message = (
            "is administrator, who manages all keys: with labels, set it to key_manager or reader"
        )
        yield (*path, "role"), message
