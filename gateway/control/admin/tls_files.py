"""The certificate of an admin address, read again by a reload."""

from __future__ import annotations

import ssl
from typing import Final

from gateway.config.tree import TlsServerConfig
from gateway.control.core.errors import StartError

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class TlsFiles:
    """An SSL context that can read its files again: new handshakes get the new certificate.

    CA certificates are added to those it has.
    """

    def __init__(
        self, cert_file: str, key_file: str, client_ca_file: str | None, min_version: str
    ) -> None:
        """Raise `OSError` (`ssl.SSLError`) where a file cannot be used."""
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.minimum_version = _VERSIONS[min_version]
        if client_ca_file is not None:
            self.context.verify_mode = ssl.CERT_REQUIRED
        self.read(cert_file, key_file, client_ca_file)

    def read(self, cert_file: str, key_file: str, client_ca_file: str | None) -> None:
        """Take certificate, key and CA certificates from these files."""
        self.context.load_cert_chain(cert_file, key_file)
        if client_ca_file is not None:
            self.context.load_verify_locations(client_ca_file)


def read_tls_files(tls: TlsServerConfig | None) -> TlsFiles | None:
    """Read the certificate of an admin address, if it has one. Raises `StartError`."""
    if tls is None:
        return None
    client_ca = str(tls.client_ca_file) if tls.client_ca_file is not None else None
    try:
        return TlsFiles(str(tls.cert_file), str(tls.key_file), client_ca, tls.min_version)
    except OSError as error:  # `load` could read them a moment ago
        msg = f"admin.tls: {tls.cert_file} and {tls.key_file} can no longer be read ({error})"
        raise StartError(msg) from error
