"""The bench's backend and proxies, for its tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import collector, envoy, haproxy
from bench.backend import Backend
from bench.collector import Collector
from bench.envoy import Envoy
from bench.haproxy import HaProxy
from bench.nginx import Nginx
from bench.nginx_stream import NginxStream
from bench.process import ProgramError
from bench.proxies import Proxy
from bench.running import Running
from tests.support.tools import missing
from tools import debian


def need_nginx() -> None:
    """Skip a test that measures nginx where it is missing."""
    if debian.find("nginx") is None:
        missing("nginx", "run `python3 tools/debian.py nginx`, or set NGINX")


def started_or_skipped(proxy: Proxy, folder: Path, backend_port: int) -> Running:
    """Start a proxy, or skip the test where its program is missing."""
    if isinstance(proxy, Nginx | NginxStream):
        need_nginx()
    if isinstance(proxy, NginxStream) and debian.find("nginx-stream") is None:
        missing("nginx-stream", "run `python3 tools/debian.py nginx-stream`")
    try:
        if isinstance(proxy, HaProxy):
            haproxy.program()
        elif isinstance(proxy, Envoy):
            envoy.program()
        elif isinstance(proxy, Collector):
            collector.program()
    except ProgramError as error:
        missing(proxy.name, str(error))
    return proxy.start(folder, backend_port, None)


@pytest.fixture(name="backend", scope="module")
def a_backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    backend = Backend.start(tmp_path_factory.mktemp("sink"), None)
    yield backend
    backend.program.stop()


@pytest.fixture(name="start")
def a_starter(backend: Backend, tmp_path: Path) -> Iterator[Callable[[Proxy], Running]]:
    running: list[Running] = []

    def start(proxy: Proxy) -> Running:
        running.append(started_or_skipped(proxy, tmp_path, backend.port))
        return running[-1]

    yield start
    for each in running:
        each.program.stop()
