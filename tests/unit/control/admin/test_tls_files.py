from __future__ import annotations

from pathlib import Path

import pytest

from gateway.control.admin.tls_files import read_tls_files
from gateway.control.core.errors import StartError
from tests.support.certs import Authority
from tests.support.config import config_from


def test_a_certificate_that_no_longer_exists_is_an_error(tmp_path: Path) -> None:
    certificate = Authority.create(tmp_path / "ca").issue("server", ["localhost"])
    files = {"cert_file": str(certificate.cert_file), "key_file": str(certificate.key_file)}
    tls = config_from(tmp_path, {"admin": {"tls": files}}).admin.tls
    certificate.cert_file.unlink()
    with pytest.raises(StartError, match=r"admin\.tls: .*server\.crt .* can no longer be read"):
        read_tls_files(tls)


def test_without_tls_there_is_nothing_to_read() -> None:
    assert read_tls_files(None) is None
