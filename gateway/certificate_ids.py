"""By what certificates are compared with lists of revoked ones: issuer and serial number.

Control computes the same of what a list names as a worker of what a client presents. Only the few
elements of DER (ITU-T X.690) that a certificate begins with are read (RFC 5280 §4.1); whether it is
a certificate at all was checked by OpenSSL.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

_SEQUENCE: Final = 0x30
_INTEGER: Final = 0x02
_VERSION: Final = 0xA0
_LONG_FORM: Final = 0x80
ID_BYTES: Final = 16


class CertificateIds(NamedTuple):
    """Of one certificate; each `ID_BYTES` long."""

    own: bytes
    """Its issuer and its serial number."""
    issuer: bytes
    """All certificates of its issuer."""


class Names(NamedTuple):
    """What a certificate is told by: both names in DER, the number's bytes (big-endian, signed)."""

    serial: bytes
    issuer: bytes
    subject: bytes


def names_in(certificate: bytes) -> Names:
    """Read a certificate in DER. Raises `ValueError` where it cannot be one."""
    _, at, _ = _element(certificate, 0, _SEQUENCE)
    _, at, _ = _element(certificate, at, _SEQUENCE)
    if certificate[at : at + 1] == bytes([_VERSION]):
        _, _, at = _element(certificate, at, _VERSION)
    _, start, at = _element(certificate, at, _INTEGER)
    serial = certificate[start:at]
    _, _, at = _element(certificate, at, _SEQUENCE)  # the signature's algorithm
    start, _, at = _element(certificate, at, _SEQUENCE)
    issuer = certificate[start:at]
    _, _, at = _element(certificate, at, _SEQUENCE)  # the validity
    start, _, at = _element(certificate, at, _SEQUENCE)
    return Names(serial, issuer, certificate[start:at])


def ids_of(certificate: bytes) -> CertificateIds:
    """Return by what a certificate in DER is found in a list. Raises `ValueError`."""
    names = names_in(certificate)
    return CertificateIds(certificate_id(names.issuer, names.serial), issuer_id(names.issuer))


def certificate_id(issuer: bytes, serial: bytes) -> bytes:
    """Return the id of one certificate: its issuer's name in DER, and the number's bytes."""
    return _digest(len(issuer).to_bytes(4, "big") + issuer + serial)


def issuer_id(issuer: bytes) -> bytes:
    """Return the id of all certificates of an issuer, by its name in DER."""
    return _digest(issuer)


def serial_bytes(number: int) -> bytes:
    """Write a serial number as DER does: as few bytes as hold it with its sign."""
    bits = number.bit_length() if number >= 0 else (-number - 1).bit_length()
    return number.to_bytes(bits // 8 + 1, "big", signed=True)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=ID_BYTES).digest()


def _element(data: bytes, at: int, tag: int) -> tuple[int, int, int]:
    """Return where an element begins, where its content does, and where it ends."""
    if len(data) < at + 2 or data[at] != tag:
        raise ValueError(_NO_CERTIFICATE)
    length, start = data[at + 1], at + 2
    if length >= _LONG_FORM:
        more = length - _LONG_FORM
        length, start = int.from_bytes(data[start : start + more], "big"), start + more
    end = start + length
    if end > len(data):
        raise ValueError(_NO_CERTIFICATE)
    return at, start, end


_NO_CERTIFICATE: Final = "this is no certificate in DER"
