"""TLS contexts of listeners and towards backends, made from settings once at the start.

Handshakes and their failures are the front door's and the pool's business.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from gateway.settings import TlsClientSettings, TlsServerSettings

HTTP2: Final = "h2"
HTTP1: Final = "http/1.1"
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: forward secrecy and AEAD only, as HTTP/2 requires (RFC 9113 §9.2.2)."""


class TlsFileError(Exception):
    """A certificate or key that cannot be used; the text names the file and says what to do."""


def server_context(settings: TlsServerSettings) -> ssl.SSLContext:
    """Make a listener's context: HTTP/2 preferred, HTTP/1.1 otherwise. Raises `TlsFileError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[settings.min_version]
    context.set_ciphers(_CIPHERS)
    # A renegotiation costs us a handshake and the peer nothing; TLS 1.3 has none any more.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols([HTTP2, HTTP1])
    _load_pair(context, settings.cert_file, settings.key_file, settings.contents)
    if settings.client_ca_file is not None:
        _load_authorities(context, settings.client_ca_file, settings.contents)
        # A client without one is told so in an answer, where a key may stand in for it.
        is_asked_only = settings.identity is not None
        context.verify_mode = ssl.CERT_OPTIONAL if is_asked_only else ssl.CERT_REQUIRED
    return context


def client_context(settings: TlsClientSettings | None, alpn: Sequence[str]) -> ssl.SSLContext:
    """Make the context for a backend's `https://` urls. Raises `TlsFileError`.

    Without a CA file the system's authorities count. `alpn` is what the connection will speak.
    """
    settings = settings or TlsClientSettings()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(list(alpn))
    if settings.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif settings.ca_file is not None:
        _load_authorities(context, settings.ca_file, settings.contents)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if settings.cert_file is not None:
        _load_pair(context, settings.cert_file, settings.key_file, settings.contents)
    return context


def _load_pair(
    context: ssl.SSLContext, cert_file: str, key_file: str | None, contents: Mapping[str, bytes]
) -> None:
    try:
        with _readable(cert_file, contents) as cert, _readable(key_file, contents) as key:
            # A password would be asked for on the terminal: a worker has none.
            context.load_cert_chain(cert or cert_file, key, password=_no_password)
    except ssl.SSLError as error:
        msg = (
            f"cannot use the certificate {cert_file!r} with the key {key_file or cert_file!r}: "
            f"{error.reason or error}; give a PEM certificate chain and its unencrypted PEM key"
        )
        raise TlsFileError(msg) from error
    except (OSError, ValueError) as error:
        msg = f"cannot read the certificate {cert_file!r} or the key {key_file!r}: {error}"
        raise TlsFileError(msg) from error


def _no_password() -> str:
    msg = "the key is encrypted; give it unencrypted, in a file that only the gateway may read"
    raise ValueError(msg)


@contextlib.contextmanager
def _readable(file: str | None, contents: Mapping[str, bytes]) -> Iterator[str | None]:
    """Yield a path at which OpenSSL reads what control has read of `file`, else `file` itself."""
    content = contents.get(file) if file is not None else None
    if content is None:
        yield file
        return
    with os.fdopen(os.memfd_create("tls", os.MFD_CLOEXEC), "wb") as memory:
        memory.write(content)
        memory.flush()
        yield f"/proc/self/fd/{memory.fileno()}"


def _load_authorities(context: ssl.SSLContext, ca_file: str, contents: Mapping[str, bytes]) -> None:
    try:
        with _readable(ca_file, contents) as readable:
            context.load_verify_locations(readable)
    except ssl.SSLError as error:
        msg = f"cannot use the CA file {ca_file!r}: {error.reason or error}; give PEM certificates"
        raise TlsFileError(msg) from error
    except OSError as error:
        msg = f"cannot read the CA file {ca_file!r}: {error.strerror}"
        raise TlsFileError(msg) from error
