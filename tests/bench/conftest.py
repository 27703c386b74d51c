"""The bench's backend and proxies, for its tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.backend import Backend
from bench.nginx import Nginx
from bench.proxies import Proxy
from bench.running import Running
from tools import debian


def need_nginx() -> None:
    """Skip a test that measures nginx where it is missing."""
    if debian.find("nginx") is None:
        pytest.skip("nginx is missing: run `python3 tools/debian.py nginx`, or set NGINX")


@pytest.fixture(name="backend", scope="module")
def a_backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    backend = Backend.start(tmp_path_factory.mktemp("sink"), None)
    yield backend
    backend.program.stop()


@pytest.fixture(name="start")
def a_starter(backend: Backend, tmp_path: Path) -> Iterator[Callable[[Proxy], Running]]:
    running: list[Running] = []

    def start(proxy: Proxy) -> Running:
        if isinstance(proxy, Nginx):
            need_nginx()
        running.append(proxy.start(tmp_path, backend.port, None))
        return running[-1]

    yield start
    for each in running:
        each.program.stop()
