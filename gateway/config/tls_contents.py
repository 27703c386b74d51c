"""The certificate, key and CA files of a configuration: where they are, and what is in them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from gateway.config.tree import Config, TlsClientConfig, TlsServerConfig

TlsContents: TypeAlias = Mapping[str, bytes]
"""Path → what the file holds. Files that cannot be read are not in it."""


def tls_files(config: Config) -> set[Path]:
    """Return the files that the configuration names for TLS, wherever it is used."""
    servers = [listener.tls for listener in config.listen] + [config.admin.tls]
    servers.append(config.admin.grpc_tls)
    clients = [backend.tls for _, _, backend in config.backends.each()]
    clients += [config.keys.authority.tls, config.keys.jwt.tls, config.keys.feed.tls]
    found = [_files_of_server(tls) for tls in servers if tls is not None]
    found += [_files_of_client(tls) for tls in clients if tls is not None]
    return {file for files in found for file in files if file is not None}


def read_tls_contents(config: Config) -> TlsContents:
    """Read all of them. Blocks."""
    contents = {}
    for file in tls_files(config):
        with contextlib.suppress(OSError):
            contents[str(file)] = file.read_bytes()
    return contents


def _files_of_server(tls: TlsServerConfig) -> Iterable[Path | None]:
    return tls.cert_file, tls.key_file, tls.client_ca_file


def _files_of_client(tls: TlsClientConfig) -> Iterable[Path | None]:
    return tls.ca_file, tls.cert_file, tls.key_file
