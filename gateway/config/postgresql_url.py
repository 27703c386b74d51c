"""The url of a PostgreSQL store: libpq's, with those of its parameters that the gateway has.

Errors never quote a value: it may contain a password.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

_FORM: Final = "write postgresql://user@host/database"
_FILES: Final = ("passfile", "sslcert", "sslcrl", "sslkey", "sslrootcert")
_VALUES: Final[Mapping[str, tuple[str, ...]]] = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "channel_binding": ("disable", "prefer"),
    "target_session_attrs": (
        "any",
        "primary",
        "standby",
        "read-write",
        "read-only",
        "prefer-standby",
    ),
}
_OTHERS: Final = ("application_name", "connect_timeout", "host", "options", "port", "user")
_PARAMETERS: Final = frozenset({*_FILES, *_VALUES, *_OTHERS})
_LAST_PORT: Final = 65_535


def check_postgresql_url(url: str) -> str:
    """Return the url. Raises `ValueError` that says how to write it; opens no files."""
    try:
        parts = urlsplit(url)
    except ValueError:
        msg = f"invalid URL: {_FORM}"
        raise ValueError(msg) from None
    parameters = _parameters(url)
    hosts = parts.netloc.rpartition("@")[2]
    if not (hosts or parameters.get("host")):
        msg = f"the URL has no host: {_FORM}"
        raise ValueError(msg)
    if not parts.path.strip("/"):
        msg = f"the URL has no database: {_FORM}"
        raise ValueError(msg)
    if parts.fragment:
        msg = "the URL contains a '#': write it as %23"
        raise ValueError(msg)
    for problem in _problems_with(parameters, hosts):
        raise ValueError(problem)
    return url


def missing_files(url: str) -> Iterator[str]:
    """Say which files that a url names cannot be read."""
    parameters = _parameters(url)
    for name in _FILES:
        file = parameters.get(name)
        if not file:
            continue
        if not Path(file).is_absolute():
            yield f"{name}: the path is not absolute: write /path/to/file"
        elif not Path(file).is_file():
            yield f"{name}: there is no file {file}: check the path"
        elif not os.access(file, os.R_OK):
            yield f"{name}: {file} cannot be read: check its permissions"


def _parameters(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))


def _problems_with(parameters: Mapping[str, str], hosts: str) -> Iterator[str]:
    if not set(parameters) <= _PARAMETERS:
        possible = ", ".join(sorted(_PARAMETERS))
        yield f"unknown parameter after the '?': valid parameters are {possible}"
    for name, value in parameters.items():
        if not value:
            yield f"the parameter {name} has no value: write one, or remove it"
        elif name == "channel_binding" and value == "require":
            yield (
                "channel_binding=require is not supported: remove it, and let sslmode=verify-full"
                " make sure that it is the right server"
            )
        elif value not in _VALUES.get(name, (value,)):
            yield f"unknown {name}: valid values are {', '.join(_VALUES[name])}"
    timeout = parameters.get("connect_timeout", "1")
    if not timeout.isascii() or not timeout.isdigit() or not int(timeout):
        yield "invalid connect_timeout: write whole seconds, 1 or more"
    ports = parameters.get("port", "1").split(",")
    ports += [port for port in map(_port_in, hosts.split(",")) if port is not None]
    if not all(port.isascii() and port.isdigit() and 0 < int(port) <= _LAST_PORT for port in ports):
        yield f"invalid port: write a number from 1 to {_LAST_PORT}"


def _port_in(host: str) -> str | None:
    """Return what stands after the host's colon; an IPv6 address stands in brackets."""
    _, colon, port = host.rpartition("]")[2].rpartition(":")
    return port if colon else None
