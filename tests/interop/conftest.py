"""What the interoperability tests share: the real programs, certificates, the recording backend."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.interop.fleet import Fleet, running_fleet
from tests.interop.tools.build import BuildError, find_go
from tests.support.certs import Authority, Certificate
from tests.support.sink import RawSink
from tests.support.tools import find_tool, missing
from tools import debian

Tool = Callable[[str], Path]


@pytest.fixture(scope="session", name="tool")
def _tool() -> Tool:
    """Return a function: name of a program → its path; skips or fails where it is missing."""
    return find_tool


@pytest.fixture(scope="session", name="go")
def _go() -> Path:
    try:
        return Path(find_go(os.environ.get("PATH", "")))
    except BuildError as error:
        missing("go", str(error))


@pytest.fixture(scope="session", name="prometheus")
def _prometheus() -> Path:
    found = debian.find("prometheus")
    if found is None:
        missing("prometheus", "run `make interop`, or install Debian's package")
    return found


@pytest.fixture(scope="session", name="curl")
def _curl() -> Path:
    found = shutil.which("curl")
    if found is None:
        missing("curl", "install it")
    return Path(found)


@pytest.fixture(scope="session", name="authority")
def _authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session", name="server_certificate")
def _server_certificate(authority: Authority) -> Certificate:
    return authority.issue("server", ["localhost", "127.0.0.1"])


@pytest.fixture(autouse=True)
def _own_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no bundle of the environment stand in for the authority that a test names.

    `requests` lets these two win over a session's own `verify`.
    """
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)


@pytest.fixture(name="raw_sink")
async def _raw_sink() -> AsyncIterator[RawSink]:
    async with RawSink() as sink:
        yield sink


@pytest_asyncio.fixture(loop_scope="module", scope="module", name="fleet")
async def _fleet(
    tmp_path_factory: pytest.TempPathFactory, server_certificate: Certificate, authority: Authority
) -> AsyncIterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    async with running_fleet(folder, server_certificate, authority.cert_file) as fleet:
        yield fleet
