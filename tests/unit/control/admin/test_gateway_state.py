from __future__ import annotations

import pytest

from gateway.control.admin.gateway_state import is_up, store_detail
from gateway.keys.following.status import StoreStatus


def test_a_store_is_described_for_people() -> None:
    status = StoreStatus("sqlite", "/keys.db", up=False, last_sync_ms=5, error="disk full")
    status.revision = 7
    assert store_detail(status) == {
        "store": "sqlite",
        "location": "/keys.db",
        "up": False,
        "last_sync_ms": 5,
        "revision": 7,
        "error": "disk full",
        "loaded": False,
        "read_only": False,
        "cut_off": False,
        "suspended": False,
    }


@pytest.mark.parametrize("value,expected", [(None, None), (0.0, False), (1.0, True)])
def test_a_backend_is_up_down_or_not_known_yet(value: float | None, expected: bool | None) -> None:
    assert is_up(value) is expected
