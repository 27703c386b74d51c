"""Lists of revoked certificates (CRL, RFC 5280 §5): read, checked, and turned into ids.

A list counts only if an authority that the listener trusts has signed it. One that is out of date
still counts: what it names stays revoked. Import this only where lists are configured, because the
library takes 9 MB.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.certificate_ids import certificate_id, issuer_id, names_in, serial_bytes

MAX_BYTES: Final = 64 * 1024 * 1024
"""Of one file; about a million certificates."""
_BEGIN: Final = b"-----BEGIN X509 CRL-----"
_END: Final = b"-----END X509 CRL-----"
_EXPORT: Final = "have the authority issue it as PEM or DER, for example with openssl ca -gencrl"


class RevocationListError(Exception):
    """A file cannot be used; the text says what is wrong, and nothing of what is in it."""


class Revoked(NamedTuple):
    """What one file says."""

    ids: frozenset[bytes]
    """See `certificate_ids`."""
    next_update_s: float | None
    """When the first of its lists is out of date, in Unix seconds; None: never."""


class Authority(NamedTuple):
    """A certificate that may sign lists."""

    certificate: x509.Certificate
    subject: bytes
    """In DER."""
    issuer: bytes
    own: bytes
    """The id of the certificate itself."""


def read_authorities(content: bytes) -> list[Authority]:
    """Read the certificates of a CA file in PEM. Raises `RevocationListError`."""
    try:
        certificates = x509.load_pem_x509_certificates(content)
        return [_authority(certificate) for certificate in certificates]
    except ValueError as error:
        msg = "the CA file contains no readable certificate: export it as PEM again"
        raise RevocationListError(msg) from error


def read_lists(content: bytes, authorities: Sequence[Authority]) -> Revoked:
    """Read a file with lists in PEM, or with one in DER. Raises `RevocationListError`."""
    if len(content) > MAX_BYTES:
        msg = f"is larger than {MAX_BYTES} bytes: have the authority leave out expired certificates"
        raise RevocationListError(msg)
    ids: set[bytes] = set()
    ends: list[float] = []
    for crl in _lists(content):
        signers = _signers(crl, authorities)
        ids.update(_ids(crl, signers))
        if crl.next_update_utc is not None:
            ends.append(crl.next_update_utc.timestamp())
    ids.update(_of_revoked_authorities(ids, authorities))
    return Revoked(frozenset(ids), min(ends, default=None))


def _lists(content: bytes) -> list[x509.CertificateRevocationList]:
    try:
        if _BEGIN not in content:
            return [x509.load_der_x509_crl(content)]
        blocks = content.split(_BEGIN)[1:]
        texts = [_BEGIN + block.partition(_END)[0] + _END + b"\n" for block in blocks]
        return [x509.load_pem_x509_crl(text) for text in texts]
    except ValueError as error:
        msg = f"contains no readable list of revoked certificates: {_EXPORT}"
        raise RevocationListError(msg) from error


def _signers(
    crl: x509.CertificateRevocationList, authorities: Sequence[Authority]
) -> list[Authority]:
    """Return the authorities whose list it is: those with the name of the one that signed it."""
    _refuse_kinds(crl)
    for each in authorities:
        try:
            is_its = crl.is_signature_valid(each.certificate.public_key())  # type: ignore[arg-type]
        except (TypeError, ValueError, UnsupportedAlgorithm):
            continue
        if is_its:
            return [other for other in authorities if other.subject == each.subject]
    msg = "is signed by no certificate in client_ca_file: add the one of the authority that made it"
    raise RevocationListError(msg)


def _refuse_kinds(crl: x509.CertificateRevocationList) -> None:
    """Refuse lists that mean something else than they seem to, without what they refer to."""
    try:
        for extension in crl.extensions:
            value = extension.value
            is_partial = isinstance(value, x509.IssuingDistributionPoint) and (
                value.indirect_crl
                or value.only_contains_ca_certs
                or value.only_contains_attribute_certs
            )
            if isinstance(value, x509.DeltaCRLIndicator) or is_partial:
                msg = "is a delta, indirect or partial list: use a full one of the authority itself"
                raise RevocationListError(msg)
    except ValueError as error:
        msg = f"has extensions that cannot be read: {_EXPORT}"
        raise RevocationListError(msg) from error


def _ids(crl: x509.CertificateRevocationList, signers: Iterable[Authority]) -> Iterable[bytes]:
    issuers = {each.subject for each in signers}
    for entry in crl:
        serial = serial_bytes(entry.serial_number)
        for issuer in issuers:
            yield certificate_id(issuer, serial)


def _of_revoked_authorities(ids: set[bytes], authorities: Sequence[Authority]) -> set[bytes]:
    """Return the ids of all certificates below authorities that are revoked themselves."""
    found: set[bytes] = set()
    while True:
        more = {
            issuer_id(each.subject)
            for each in authorities
            if each.subject != each.issuer and (each.own in ids or issuer_id(each.issuer) in found)
        }
        if more <= found:
            return found
        found |= more


def _authority(certificate: x509.Certificate) -> Authority:
    names = names_in(certificate.public_bytes(Encoding.DER))
    return Authority(
        certificate,
        names.subject,
        names.issuer,
        certificate_id(names.issuer, names.serial),
    )
