"""Why there is no response: the ways in which a connection fails, derived from library errors.

Library errors are translated here and nowhere else. If an error does not say enough ("the
connection was closed"), `probe` checks which protocol the port speaks, so that the advice is exact.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import errno
import os
import socket
import ssl
from collections.abc import Awaitable
from typing import Final, TypeVar

import aiohttp

from gateway.sender.target import Endpoint

T = TypeVar("T")

_PROBE_S: Final = 2.0
_HTTP2_HELLO: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""Connection preface and an empty SETTINGS frame (RFC 9113 §3.4)."""
_HTTP1_HELLO: Final = b"OPTIONS * HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n"
_SETTINGS_TYPE: Final = 4
_FRAME_TYPE_AT: Final = 3


class Cause(enum.Enum):
    """Reasons why a request gets no response."""

    REFUSED = enum.auto()
    NO_SUCH_HOST = enum.auto()
    NO_ROUTE = enum.auto()
    CONNECT_TIMEOUT = enum.auto()
    NO_ANSWER = enum.auto()
    UNKNOWN_CA = enum.auto()
    WRONG_NAME = enum.auto()
    CERTIFICATE_EXPIRED = enum.auto()
    CLIENT_CERTIFICATE = enum.auto()
    TLS_OTHER = enum.auto()
    NOT_TLS = enum.auto()
    NEEDS_TLS = enum.auto()
    NO_HTTP2 = enum.auto()
    """TLS works, but the server does not agree on HTTP/2 by ALPN."""
    ONLY_HTTP1 = enum.auto()
    ONLY_HTTP2 = enum.auto()
    NOT_HTTP = enum.auto()
    BROKEN_OFF = enum.auto()
    GOING_AWAY = enum.auto()
    """The server has sent GOAWAY: it is restarting, or has reached its connection limit."""


class UnreachableError(Exception):
    """There is no response. `cause` is the reason, `detail` the library's error message."""

    def __init__(self, cause: Cause, detail: str = "") -> None:
        super().__init__(f"{cause.name}: {detail}" if detail else cause.name)
        self.cause = cause
        self.detail = detail


_CERTIFICATE_CAUSES: Final = {
    9: Cause.CERTIFICATE_EXPIRED,  # X509_V_ERR_CERT_NOT_YET_VALID
    10: Cause.CERTIFICATE_EXPIRED,  # X509_V_ERR_CERT_HAS_EXPIRED
    62: Cause.WRONG_NAME,  # X509_V_ERR_HOSTNAME_MISMATCH
    64: Cause.WRONG_NAME,  # X509_V_ERR_IP_ADDRESS_MISMATCH
}
"""OpenSSL's verification results that are not about the CA."""

_TLS_CAUSES: Final = {
    "WRONG_VERSION_NUMBER": Cause.NOT_TLS,
    "HTTP_REQUEST": Cause.NOT_TLS,
    "PACKET_LENGTH_TOO_LONG": Cause.NOT_TLS,
    "RECORD_LAYER_FAILURE": Cause.NOT_TLS,
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": Cause.ONLY_HTTP2,
    "TLSV1_ALERT_UNKNOWN_CA": Cause.CLIENT_CERTIFICATE,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": Cause.CLIENT_CERTIFICATE,
    "SSLV3_ALERT_BAD_CERTIFICATE": Cause.CLIENT_CERTIFICATE,
}

_OS_CAUSES: Final = {
    errno.ECONNREFUSED: Cause.REFUSED,
    errno.ENETUNREACH: Cause.NO_ROUTE,
    errno.EHOSTUNREACH: Cause.NO_ROUTE,
    errno.ETIMEDOUT: Cause.CONNECT_TIMEOUT,
}


def cause_of(error: BaseException) -> UnreachableError:
    """Translate a library error; unknown ones become BROKEN_OFF, which is then probed."""
    if isinstance(error, UnreachableError):
        return error
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return UnreachableError(Cause.NO_SUCH_HOST, error.os_error.strerror or "")
    inner = _unwrapped(error)
    return _tls_cause(inner) if isinstance(inner, ssl.SSLError) else _os_cause(inner)


def _unwrapped(error: BaseException) -> BaseException:
    """Return the error that aiohttp has wrapped."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return error.certificate_error
        case aiohttp.ClientConnectorError():
            return error.os_error
        case aiohttp.ClientOSError() if isinstance(error.__cause__, OSError):
            return error.__cause__
        case _:
            return error


def _tls_cause(error: ssl.SSLError) -> UnreachableError:
    if isinstance(error, ssl.SSLCertVerificationError):
        cause = _CERTIFICATE_CAUSES.get(error.verify_code, Cause.UNKNOWN_CA)
        return UnreachableError(cause, error.verify_message)
    # OpenSSL's errors have a reason; Python's own do not.
    reason: str = getattr(error, "reason", None) or str(error)
    return UnreachableError(_TLS_CAUSES.get(reason, Cause.TLS_OTHER), reason)


def _os_cause(error: BaseException) -> UnreachableError:
    if isinstance(error, socket.gaierror):
        return UnreachableError(Cause.NO_SUCH_HOST, error.strerror or "")
    if isinstance(error, OSError) and error.errno in _OS_CAUSES:
        return UnreachableError(_OS_CAUSES[error.errno], os.strerror(error.errno))
    if isinstance(error, TimeoutError):
        return UnreachableError(Cause.NO_ANSWER)
    return UnreachableError(Cause.BROKEN_OFF, str(error))


async def open_stream(
    endpoint: Endpoint, context: ssl.SSLContext | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the first address of a host that accepts the connection.

    `asyncio.open_connection` does the same, but hides the errors' codes when several addresses
    fail.

    Raises:
        OSError: the last address's error (`ssl.SSLError` and `socket.gaierror` are among them).
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    for position, (*_, where) in enumerate(found, start=1):
        try:
            return await asyncio.open_connection(
                str(where[0]),
                endpoint.port,
                ssl=context,
                server_hostname=endpoint.host if context is not None else None,
            )
        except ssl.SSLError:
            raise
        except OSError:
            if position == len(found):
                raise
    raise OSError(errno.EADDRNOTAVAIL, "the name has no address")


async def speaks_cleartext(endpoint: Endpoint) -> bool:
    """Whether a port that closes on a TLS handshake speaks HTTP/1.1 or HTTP/2 without TLS.

    TLS servers may respond to a cleartext HTTP/1.1 request with a hint (nginx and Go do, with 400):
    call `speaks_tls` first.
    """
    if _is_settings_frame(await _reply(endpoint, _HTTP2_HELLO)):
        return True
    return (await _reply(endpoint, _HTTP1_HELLO)).startswith(b"HTTP/1.")


async def probe(endpoint: Endpoint, *, wants_http2: bool) -> Cause:
    """Find out why a cleartext connection was closed or got something other than HTTP.

    Checks, in this order, whether the port speaks TLS, HTTP/2 and HTTP/1.1. Each check takes its
    own connection and at most two seconds.
    """
    if await speaks_tls(endpoint):
        return Cause.NEEDS_TLS
    speaks_http2 = _is_settings_frame(await _reply(endpoint, _HTTP2_HELLO))
    speaks_http1 = (await _reply(endpoint, _HTTP1_HELLO)).startswith(b"HTTP/1.")
    if speaks_http2 if wants_http2 else speaks_http1:
        return Cause.BROKEN_OFF
    if speaks_http1 or speaks_http2:
        return Cause.ONLY_HTTP1 if speaks_http1 else Cause.ONLY_HTTP2
    return Cause.NOT_HTTP


def _is_settings_frame(data: bytes) -> bool:
    """Whether this starts with the SETTINGS frame of an HTTP/2 server (RFC 9113 §3.4)."""
    return data[_FRAME_TYPE_AT : _FRAME_TYPE_AT + 1] == bytes([_SETTINGS_TYPE])


async def speaks_tls(endpoint: Endpoint) -> bool:
    """Whether the port speaks TLS, with any certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        _, writer = await _within(open_stream(endpoint, context))
    except ssl.SSLError as error:
        # An alert (no shared version, a client certificate is required) is TLS as well.
        return "ALERT" in str(error)
    except OSError:
        return False
    writer.close()
    return True


async def _reply(endpoint: Endpoint, hello: bytes) -> bytes:
    """Send a hello in cleartext and read the first bytes of the reply; empty if there is none."""
    try:
        reader, writer = await _within(open_stream(endpoint))
    except OSError:
        return b""
    try:
        writer.write(hello)
        return await _within(reader.read(4096))
    except OSError:
        return b""
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _within(operation: Awaitable[T]) -> T:
    async with asyncio.timeout(_PROBE_S):
        return await operation
