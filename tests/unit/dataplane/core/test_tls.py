from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from gateway.dataplane.core.tls import TlsFileError, client_context, server_context
from gateway.settings import TlsClientSettings, TlsServerSettings
from tests.support.certs import Authority, Certificate


@pytest.fixture(name="authority")
def _authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path)


@pytest.fixture(name="certificate")
def _certificate(authority: Authority) -> Certificate:
    return authority.issue("server", ["localhost"])


def settings(certificate: Certificate, **changes: str) -> TlsServerSettings:
    return TlsServerSettings(
        **{
            "cert_file": str(certificate.cert_file),
            "key_file": str(certificate.key_file),
            **changes,
        }  # type: ignore[arg-type]  # min_version is a literal
    )


def test_a_listener_offers_forward_secrecy_and_aead_only(certificate: Certificate) -> None:
    ciphers = {cipher["name"] for cipher in server_context(settings(certificate)).get_ciphers()}
    tls12 = {name for name in ciphers if not name.startswith("TLS_")}
    assert tls12
    assert all(name.startswith("ECDHE-") for name in tls12)
    assert all("GCM" in name or "CHACHA20" in name for name in tls12)


def test_client_certificates_are_demanded_where_their_authority_is_configured(
    certificate: Certificate, authority: Authority
) -> None:
    assert server_context(settings(certificate)).verify_mode == ssl.CERT_NONE
    strict = settings(certificate, client_ca_file=str(authority.cert_file))
    assert server_context(strict).verify_mode == ssl.CERT_REQUIRED


def test_a_backend_is_verified_unless_configured_otherwise() -> None:
    context = client_context(None, ["h2"])
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    blind = client_context(TlsClientSettings(insecure_skip_verify=True), ["h2"])
    assert blind.verify_mode == ssl.CERT_NONE


def encrypted_key(certificate: Certificate, folder: Path) -> Path:
    key = serialization.load_pem_private_key(certificate.key_file.read_bytes(), None)
    path = folder / "encrypted.key"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    return path


def test_files_that_cannot_be_used_are_named_with_what_to_do(
    certificate: Certificate, authority: Authority, tmp_path: Path
) -> None:
    other = authority.issue("other", ["localhost"])
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    cases = {
        "/nowhere.crt": settings(certificate, cert_file="/nowhere.crt"),
        "/nowhere.key": settings(certificate, key_file="/nowhere.key"),
        "KEY_VALUES_MISMATCH": settings(certificate, key_file=str(other.key_file)),
        "PEM certificate chain": settings(certificate, cert_file=str(garbage)),
        "encrypted": settings(certificate, key_file=str(encrypted_key(certificate, tmp_path))),
        "/nowhere-ca.crt": settings(certificate, client_ca_file="/nowhere-ca.crt"),
        "garbage.pem": settings(certificate, client_ca_file=str(garbage)),
    }
    for words, faulty in cases.items():
        with pytest.raises(TlsFileError, match=words):
            server_context(faulty)


def test_files_for_a_backend_that_cannot_be_used_are_named(certificate: Certificate) -> None:
    with pytest.raises(TlsFileError, match=r"/nowhere\.crt"):
        client_context(TlsClientSettings(ca_file="/nowhere.crt"), ["h2"])
    with pytest.raises(TlsFileError, match=r"/nowhere\.key"):
        client_context(
            TlsClientSettings(cert_file=str(certificate.cert_file), key_file="/nowhere.key"), ["h2"]
        )
