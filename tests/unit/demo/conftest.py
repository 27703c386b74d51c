from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.demo.certificates import ensure_certificates
from gateway.demo.layout import DemoLayout, Ports


@pytest.fixture(name="layout", params=["plain", "with space ${HOME} and 'quote"])
def _setting(tmp_path: Path, request: pytest.FixtureRequest) -> DemoLayout:
    folder = tmp_path / request.param
    certificates = ensure_certificates(folder, datetime.now(UTC))
    ports = Ports(4317, 4318, 4443, 8090, (14317, 14318, 24317, 24318))
    return DemoLayout(folder, ports, certificates)
