"""Certificates that somebody renews are used without a word; wrong ones change nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from gateway.config import load
from gateway.control.lifecycle.control import Control, open_gateway
from gateway.dataplane.core.tls import server_context
from gateway.settings import TlsServerSettings
from tests.support.certs import Authority, Certificate
from tests.support.polling import until


class Renewed:
    """A gateway whose certificate stands in a folder that a link leads to, as in Kubernetes."""

    def __init__(self, folder: Path, control: Control, authority: Authority, links: Path) -> None:
        self.control = control
        self._folder = folder
        self._authority = authority
        self._links = links
        self._count = 1

    async def serial(self) -> int:
        """Return the serial number of the certificate that a new connection gets."""
        host, port = self.control.addresses[0].rsplit(":", 1)
        context = self._authority.client_context()
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        pem = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        assert reader is not None
        return x509.load_der_x509_certificate(pem).serial_number

    def renew(self) -> int:
        """Exchange the folder behind the link; return the new certificate's serial number."""
        self._count += 1
        new = self._authority.issue(f"server{self._count}", ["127.0.0.1"])
        return self.exchange(new.cert_file.read_bytes(), new.key_file.read_bytes())

    def exchange(self, cert: bytes, key: bytes) -> int:
        self._count += 1
        target = self._folder / f"version-{self._count}"
        target.mkdir()
        (target / "tls.crt").write_bytes(cert)
        (target / "tls.key").write_bytes(key)
        link = self._folder / "next"
        link.symlink_to(target)
        link.rename(self._links)
        try:
            return x509.load_pem_x509_certificate(cert).serial_number
        except ValueError:
            return 0

    async def look(self) -> None:
        """Look as often as it takes to use a set that does not change any more, and wait until the
        worker that was replaced has gone: it may still accept a connection.
        """
        await self.control.parts.tls_watch.look()
        await self.control.parts.tls_watch.look()
        await until(lambda: len(list(self.control.parts.base.workers)) == 1)

    def metric(self) -> float:
        """Return `gateway_tls_files_last_read_successful`."""
        _, pieces = self.control.parts.counting.exposition.pieces("")
        text = b"".join(pieces).decode()
        name = "gateway_tls_files_last_read_successful "
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(name))


@pytest.fixture(name="renewed")
async def _renewed(tmp_path: Path) -> AsyncIterator[Renewed]:
    authority = Authority.create(tmp_path / "ca")
    first = authority.issue("server", ["127.0.0.1"])
    target = tmp_path / "version-1"
    target.mkdir()
    shutil.copy(first.cert_file, target / "tls.crt")
    shutil.copy(first.key_file, target / "tls.key")
    links = tmp_path / "tls"
    links.symlink_to(target)
    tls = {"cert_file": str(links / "tls.crt"), "key_file": str(links / "tls.key")}
    tree: dict[str, Any] = {
        "listen": [{"address": "127.0.0.1:0", "tls": tls}],
        "admin": {"address": "127.0.0.1:0"},
        "limits": {"drain_delay": "0s", "drain_timeout": "1s"},
        "state_dir": str(tmp_path / "state"),
        "workers": 1,
    }
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(tree))
    async with open_gateway(load(file, (), os.environ)) as control:
        yield Renewed(tmp_path, control, authority, links)


async def test_a_renewed_certificate_is_used_though_only_a_link_has_changed(
    renewed: Renewed,
) -> None:
    before = await renewed.serial()
    new = renewed.renew()
    assert new != before
    await renewed.look()
    assert await renewed.serial() == new
    assert renewed.metric() == 1


async def test_a_set_is_not_used_before_whoever_writes_it_has_finished(renewed: Renewed) -> None:
    before = await renewed.serial()
    renewed.renew()
    await renewed.control.parts.tls_watch.look()
    assert await renewed.serial() == before


def _expired(authority: Authority) -> Certificate:
    return authority.issue("expired", ["127.0.0.1"], expired=True)


@pytest.mark.parametrize("wrong", ["no PEM", "another key", "expired", "missing"])
async def test_a_wrong_set_changes_nothing_also_for_workers_that_are_started_later(
    renewed: Renewed, tmp_path: Path, wrong: str
) -> None:
    before = await renewed.serial()
    other = Authority.create(tmp_path / "other").issue("server", ["127.0.0.1"])
    expired = _expired(renewed._authority)
    if wrong == "missing":
        (tmp_path / "tls").unlink()
    else:
        cert, key = {
            "no PEM": (b"cert", b"key"),
            "another key": (other.cert_file.read_bytes(), expired.key_file.read_bytes()),
            "expired": (expired.cert_file.read_bytes(), expired.key_file.read_bytes()),
        }[wrong]
        renewed.exchange(cert, key)
    await renewed.look()
    assert renewed.metric() == 0
    assert await renewed.serial() == before
    workers = renewed.control.parts.base.workers
    (old,) = workers
    os.kill(old.pid, signal.SIGKILL)
    await until(lambda: old not in workers and workers.accepting() == 1)
    assert await renewed.serial() == before


async def test_after_a_wrong_set_a_good_one_is_used(renewed: Renewed) -> None:
    renewed.exchange(b"cert", b"key")
    await renewed.look()
    new = renewed.renew()
    await renewed.look()
    assert await renewed.serial() == new
    assert renewed.metric() == 1


def test_contents_that_control_has_read_are_used_instead_of_the_files(tmp_path: Path) -> None:
    certificate = Authority.create(tmp_path / "ca").issue("server", ["127.0.0.1"])
    contents = {
        str(file): file.read_bytes() for file in (certificate.cert_file, certificate.key_file)
    }
    for file in (certificate.cert_file, certificate.key_file):
        file.unlink()
    settings = TlsServerSettings(
        str(certificate.cert_file), str(certificate.key_file), contents=contents
    )
    assert isinstance(server_context(settings), ssl.SSLContext)
