from __future__ import annotations

from pathlib import Path

from gateway.control.metrics.config_metrics import certificate_files
from tests.support.certs import Authority
from tests.support.config import config_from


def test_each_address_with_tls_has_its_certificate_s_file(tmp_path: Path) -> None:
    certificate = Authority.create(tmp_path / "ca").issue("server", ["localhost"])
    files = {"cert_file": str(certificate.cert_file), "key_file": str(certificate.key_file)}
    config = config_from(tmp_path, {"admin": {"tls": files}})
    assert certificate_files(config) == [(config.admin.address, str(certificate.cert_file))]
