"""Connections to a central gateway: where it is, and what this gateway shows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from gateway.keys.errors import StoreUnavailableError

_TOKEN_FIELD: Final = "x-api-token"  # noqa: S105 - the field's name
_OPTIONS: Final = (
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)


@dataclass(frozen=True, slots=True)
class FeedTls:
    """How the center is known, and this gateway to it. Files in PEM; they are read again for each
    connection.
    """

    ca_file: Path | None = None
    """None: the public authorities."""
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: str | None = None
    """What the center's certificate must be for; None: the address's host."""


@dataclass(frozen=True, slots=True)
class FeedSource:
    """Where the center is, and what this gateway shows it."""

    address: str
    """HOST:PORT."""
    tls: FeedTls | None
    """None: cleartext."""
    token: str | None = field(default=None, repr=False)

    @property
    def location(self) -> str:
        """Return the address as the configuration writes it."""
        scheme = "gateway+grpc" if self.tls is None else "gateway+grpcs"
        return f"{scheme}://{self.address}"


def new_channel(source: FeedSource) -> grpc.aio.Channel:
    """Make a connection to the center. Raises `StoreUnavailableError`: a file is missing."""
    tls, address = source.tls, source.address
    if tls is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    try:
        credentials = grpc.ssl_channel_credentials(
            _read(tls.ca_file), _read(tls.key_file), _read(tls.cert_file)
        )
    except OSError as error:
        msg = f"keys.feed.tls: {error.filename} cannot be read ({error.strerror})"
        raise StoreUnavailableError(msg) from error
    named = () if tls.server_name is None else (("grpc.ssl_target_name_override", tls.server_name),)
    return grpc.aio.secure_channel(address, credentials, options=(*_OPTIONS, *named))


def metadata_of(source: FeedSource) -> grpc.aio.Metadata:
    """Return what a call says of its caller: the admin token, if there is one."""
    if source.token is None:
        return grpc.aio.Metadata()
    return grpc.aio.Metadata((_TOKEN_FIELD, source.token))


def _read(file: Path | None) -> bytes | None:
    return None if file is None else file.read_bytes()
