"""The demo's own CA and server certificate, stored in its directory and renewed in time.

They are only for loopback addresses. The CA stays the same across restarts, so that pasted
configurations with its `ca_file` keep working.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NAMES: Final = ("localhost",)
ADDRESSES: Final = ("127.0.0.1", "::1")
"""Names and addresses in the server certificate."""

_CA_LIFE: Final = timedelta(days=3650)
_SERVER_LIFE: Final = timedelta(days=397)
"""Some clients refuse server certificates with a longer lifetime (CA/Browser Forum, 398 days)."""
_RENEW_BEFORE: Final = timedelta(days=30)
_CLOCK_SKEW: Final = timedelta(hours=1)
"""Certificates are valid from a little in the past: clocks of containers and VMs differ."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """Paths of the PEM files; keys are readable only by their owner."""

    ca_file: Path
    cert_file: Path
    key_file: Path


@dataclass(frozen=True, slots=True)
class _Pair:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def ensure_certificates(folder: Path, now: datetime) -> Certificates:
    """Keep certificates that are valid for another 30 days, and create all others again.

    Args:
        folder: their directory; created if it does not exist.
        now: the current time, with a time zone.

    Raises:
        OSError: the directory or a file in it cannot be written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca = _load(folder / "ca.crt", folder / "ca.key", now)
    if ca is None:
        ca = _make_ca(now)
        _store(ca, folder / "ca.crt", folder / "ca.key")
    files = Certificates(folder / "ca.crt", folder / "server.crt", folder / "server.key")
    server = _load(files.cert_file, files.key_file, now)
    if server is None or not _is_signed_by(server.certificate, ca):
        _store(_make_server(ca, now), files.cert_file, files.key_file)
    return files


def _load(cert_file: Path, key_file: Path, now: datetime) -> _Pair | None:
    """Load a pair; None if it is invalid or expires soon."""
    try:
        certificate = x509.load_pem_x509_certificate(cert_file.read_bytes())
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        return None
    is_current = certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc
    is_ending = certificate.not_valid_after_utc - now < _RENEW_BEFORE
    is_pair = certificate.public_key() == key.public_key()
    return _Pair(certificate, key) if is_current and not is_ending and is_pair else None


def _is_signed_by(certificate: x509.Certificate, ca: _Pair) -> bool:
    try:
        certificate.verify_directly_issued_by(ca.certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _make_ca(now: datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("otlp-gateway demo CA")
    builder = _builder(name, name, key, now, _CA_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    return _Pair(builder.sign(key, hashes.SHA256()), key)


def _make_server(ca: _Pair, now: datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name("otlp-gateway demo"), ca.certificate.subject, key, now, _SERVER_LIFE)
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in NAMES]
    names.extend(x509.IPAddress(ipaddress.ip_address(address)) for address in ADDRESSES)
    identifier = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.SubjectAlternativeName(names), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(signs_certificates=False), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier.value),
            False,
        ),
    ]
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return _Pair(builder.sign(ca.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _store(pair: _Pair, cert_file: Path, key_file: Path) -> None:
    """Write both files; readers see the old or the new file, never a partial one."""
    key = pair.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _replace(key_file, key, 0o600)
    _replace(cert_file, pair.certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _replace(file: Path, content: bytes, mode: int) -> None:
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
    draft.replace(file)
