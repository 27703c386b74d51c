from __future__ import annotations

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.demo.certificates import Certificates, ensure_certificates

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def _contents(files: Certificates) -> list[bytes]:
    return [file.read_bytes() for file in (files.ca_file, files.cert_file, files.key_file)]


def _handshake(files: Certificates, name: str) -> None:
    """Let a client that trusts the CA and a server with the certificate meet in memory.

    Raises:
        ssl.SSLError: the client does not accept it.
    """
    trusting = ssl.create_default_context(cafile=files.ca_file)
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(files.cert_file, files.key_file)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server, server_hostname=name)
    server = serving.wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    while waiting:
        side = waiting.pop(0)
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            waiting.append(side)


@pytest.mark.parametrize("name", ["127.0.0.1", "::1", "localhost"])
def test_a_client_that_trusts_the_ca_accepts_the_server(tmp_path: Path, name: str) -> None:
    _handshake(ensure_certificates(tmp_path / "new", datetime.now(UTC)), name)


def test_a_client_asking_for_another_name_does_not(tmp_path: Path) -> None:
    files = ensure_certificates(tmp_path, datetime.now(UTC))
    with pytest.raises(ssl.SSLCertVerificationError, match="otherhost"):
        _handshake(files, "otherhost")


def test_keys_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, NOW)
    for name in ("ca.key", "server.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_a_later_start_keeps_everything(tmp_path: Path) -> None:
    before = _contents(ensure_certificates(tmp_path, NOW))
    after = _contents(ensure_certificates(tmp_path, NOW + timedelta(days=300)))
    assert after == before


def test_a_server_certificate_near_its_end_is_renewed_by_the_same_ca(tmp_path: Path) -> None:
    ca, server, _ = _contents(ensure_certificates(tmp_path, NOW))
    later = NOW + timedelta(days=370)
    renewed_ca, renewed_server, _ = _contents(ensure_certificates(tmp_path, later))
    assert renewed_ca == ca
    assert renewed_server != server


def test_with_a_new_ca_the_server_certificate_is_made_anew(tmp_path: Path) -> None:
    ca, server, _ = _contents(ensure_certificates(tmp_path, NOW))
    later = NOW + timedelta(days=3640)
    renewed_ca, renewed_server, _ = _contents(ensure_certificates(tmp_path, later))
    assert renewed_ca != ca
    assert renewed_server != server


@pytest.mark.parametrize("name", ["ca.crt", "ca.key", "server.crt", "server.key"])
@pytest.mark.parametrize("damage", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n", None])
def test_a_damaged_or_missing_file_is_replaced(
    tmp_path: Path, name: str, damage: bytes | None
) -> None:
    now = datetime.now(UTC)
    ensure_certificates(tmp_path, now)
    file = tmp_path / name
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage)
    _handshake(ensure_certificates(tmp_path, now), "127.0.0.1")


def test_a_key_of_another_certificate_is_replaced(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    ensure_certificates(tmp_path, now)
    (tmp_path / "server.key").write_bytes((tmp_path / "ca.key").read_bytes())
    _handshake(ensure_certificates(tmp_path, now), "127.0.0.1")
