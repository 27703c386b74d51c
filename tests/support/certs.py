"""A certificate authority for tests: a fresh one in each folder, nothing shared, nothing kept."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

_LIFE = dt.timedelta(days=2)
_PAST = dt.timedelta(minutes=-1)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _alternative_name(host: str) -> x509.GeneralName:
    if "://" in host:
        return x509.UniformResourceIdentifier(host)
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    path.chmod(0o600)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, in PEM files."""

    cert_file: Path
    key_file: Path

    @property
    def serial(self) -> int:
        """Its serial number."""
        return x509.load_pem_x509_certificate(self.cert_file.read_bytes()).serial_number

    @property
    def der(self) -> bytes:
        """The certificate in DER."""
        parsed = x509.load_pem_x509_certificate(self.cert_file.read_bytes())
        return parsed.public_bytes(serialization.Encoding.DER)

    def server_context(self, client_ca_file: Path | None = None) -> ssl.SSLContext:
        """Return a server's context; with a CA it demands a client certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.cert_file, self.key_file)
        if client_ca_file is not None:
            context.load_verify_locations(client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority that keeps its files in one folder."""

    folder: Path
    cert_file: Path
    _certificate: x509.Certificate
    _key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, folder: Path) -> Self:
        """Make a new authority; `folder` is created if missing."""
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("test authority")
        certificate = (
            _builder(name, name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        cert_file = folder / "ca.crt"
        cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return cls(folder, cert_file, certificate, key)

    def issue(
        self,
        name: str,
        hosts: Sequence[str] = (),
        *,
        expired: bool = False,
        is_client: bool = False,
        life: dt.timedelta | None = None,
        raw_names: bytes | None = None,
    ) -> Certificate:
        """Issue a certificate for a server (with `hosts`: names and addresses) or a client.

        `is_client`: `hosts` are a client's names, which may be URIs. `raw_names`: the DER of names
        that cannot be.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        is_server = hosts and not is_client
        usage = ExtendedKeyUsageOID.SERVER_AUTH if is_server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            _builder(
                _name(name),
                self._certificate.subject,
                key.public_key(),
                life=life or (_PAST if expired else _LIFE),
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if raw_names is not None:
            oid = ExtensionOID.SUBJECT_ALTERNATIVE_NAME
            raw = x509.UnrecognizedExtension(oid, raw_names)
            builder = builder.add_extension(raw, critical=False)
        elif hosts:
            names = x509.SubjectAlternativeName([_alternative_name(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        issued = Certificate(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        issued.cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        _write_key(issued.key_file, key)
        return issued

    def revoke(
        self,
        *revoked: Certificate,
        file: Path | None = None,
        life: dt.timedelta = _LIFE,
        encoding: serialization.Encoding = serialization.Encoding.PEM,
        extensions: Sequence[x509.ExtensionType] = (),
    ) -> Path:
        """Write a list of revoked certificates, which is out of date after `life`; return its file.

        It takes the place of another one at once.
        """
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(now - dt.timedelta(hours=1))
            .next_update(now + life)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=True)
        for each in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(each.serial)
            builder = builder.add_revoked_certificate(entry.revocation_date(now).build())
        content = builder.sign(self._key, hashes.SHA256()).public_bytes(encoding)
        file = file or self.folder / "revoked.crl"
        new = file.with_suffix(".new")
        new.write_bytes(content)
        return new.replace(file)

    def client_context(self, own: Certificate | None = None) -> ssl.SSLContext:
        """Return a client's context that trusts this authority alone."""
        context = ssl.create_default_context(cafile=self.cert_file)
        if own is not None:
            context.load_cert_chain(own.cert_file, own.key_file)
        return context


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    life: dt.timedelta = _LIFE,
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + life)
    )
