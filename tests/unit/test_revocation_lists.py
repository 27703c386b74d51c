"""Lists of revoked certificates: which count, what they name, and what is wrong with others."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from gateway.certificate_ids import ids_of, names_in, serial_bytes
from gateway.revocation_lists import RevocationListError, Revoked, read_authorities, read_lists
from tests.support.certs import Authority, Certificate

NOW = dt.datetime.now(dt.UTC)


@pytest.fixture(name="authority")
def _authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path)


def read(authority: Authority, file: Path) -> Revoked:
    return read_lists(file.read_bytes(), read_authorities(authority.cert_file.read_bytes()))


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_a_list_names_certificates_as_they_name_themselves(
    authority: Authority, encoding: Encoding
) -> None:
    one, other = authority.issue("one"), authority.issue("other")
    revoked = read(authority, authority.revoke(one, encoding=encoding))
    assert ids_of(one.der).own in revoked.ids
    assert ids_of(other.der).own not in revoked.ids
    assert ids_of(other.der).issuer not in revoked.ids
    assert revoked.next_update_s is not None


def test_a_file_may_hold_several_lists_and_is_out_of_date_with_the_first(
    authority: Authority,
) -> None:
    one, two = authority.issue("one"), authority.issue("two")
    first = authority.revoke(one).read_bytes()
    second = authority.revoke(two, life=dt.timedelta(minutes=-5)).read_bytes()
    authorities = read_authorities(authority.cert_file.read_bytes())
    revoked = read_lists(b"comment\n" + first + b"\n" + second, authorities)
    assert {ids_of(one.der).own, ids_of(two.der).own} <= revoked.ids
    assert revoked.next_update_s is not None
    assert revoked.next_update_s < dt.datetime.now(dt.UTC).timestamp()


def test_a_list_of_somebody_else_does_not_count(authority: Authority, tmp_path: Path) -> None:
    """Not even of an authority with the same name."""
    forged = Authority.create(tmp_path / "other").revoke(authority.issue("one"))
    with pytest.raises(RevocationListError, match="signed by no certificate in client_ca_file"):
        read(authority, forged)


@pytest.mark.parametrize(
    "content", [b"", b"canary", b"-----BEGIN X509 CRL-----\ncanary\n-----END X509 CRL-----\n"]
)
def test_what_is_no_list_is_refused_and_not_repeated(authority: Authority, content: bytes) -> None:
    with pytest.raises(RevocationListError) as wrong:
        read_lists(content, read_authorities(authority.cert_file.read_bytes()))
    assert "no readable list" in str(wrong.value)
    assert "canary" not in str(wrong.value)


@pytest.mark.parametrize(
    "extension",
    [
        x509.DeltaCRLIndicator(1),
        x509.IssuingDistributionPoint(
            None,
            None,
            only_contains_user_certs=False,
            only_contains_ca_certs=False,
            only_some_reasons=None,
            indirect_crl=True,
            only_contains_attribute_certs=False,
        ),
    ],
)
def test_a_list_that_means_something_else_is_refused(
    authority: Authority, extension: x509.ExtensionType
) -> None:
    file = authority.revoke(authority.issue("one"), extensions=[extension])
    with pytest.raises(RevocationListError, match="use a full one"):
        read(authority, file)


def test_all_certificates_below_a_revoked_authority_are_revoked(tmp_path: Path) -> None:
    root = Authority.create(tmp_path)
    between = _intermediate(root)
    bundle = root.cert_file.read_bytes() + between.public_bytes(Encoding.PEM)
    file = tmp_path / "between.crt"
    file.write_bytes(between.public_bytes(Encoding.PEM))
    revoked = root.revoke(Certificate(file, file))
    ids = read_lists(revoked.read_bytes(), read_authorities(bundle)).ids
    of_between = names_in(between.public_bytes(Encoding.DER))
    leaf = _leaf(between)
    assert names_in(leaf).issuer == of_between.subject
    assert ids_of(leaf).issuer in ids
    assert ids_of(root.issue("other").der).issuer not in ids


KEY = ec.generate_private_key(ec.SECP256R1())
BETWEEN = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "between")])


def _build(subject: x509.Name, issuer: x509.Name, serial: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(KEY.public_key())
        .serial_number(serial)
        .not_valid_before(NOW)
        .not_valid_after(NOW + dt.timedelta(days=1))
    )


def _intermediate(root: Authority) -> x509.Certificate:
    issuer = x509.load_pem_x509_certificate(root.cert_file.read_bytes()).subject
    return _build(BETWEEN, issuer, 7).sign(KEY, hashes.SHA256())


def _leaf(between: x509.Certificate, serial: int = 1) -> bytes:
    leaf = _build(x509.Name([]), between.subject, serial).sign(KEY, hashes.SHA256())
    return leaf.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("serial", [1, 127, 128, 255, 256, 2**63, 2**159 - 1])
def test_a_serial_number_is_written_as_certificates_do(tmp_path: Path, serial: int) -> None:
    between = _intermediate(Authority.create(tmp_path))
    assert names_in(_leaf(between, serial)).serial == serial_bytes(serial)


def test_what_is_cut_off_or_no_certificate_is_an_error(tmp_path: Path) -> None:
    whole = Authority.create(tmp_path).issue("one").der
    names = names_in(whole)
    needed = whole.index(names.subject, whole.index(names.issuer) + 1) + len(names.subject)
    for length in range(needed):
        with pytest.raises(ValueError, match="no certificate"):
            ids_of(whole[:length])
    for odd in (b"\x30\x84\xff\xff\xff\xff", b"\x30\x80", b"\x02\x01\x01"):
        with pytest.raises(ValueError, match="no certificate"):
            ids_of(odd)
