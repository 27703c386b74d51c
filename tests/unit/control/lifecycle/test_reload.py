from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.control.lifecycle.reload import needs_restart
from tests.support.certs import Authority
from tests.support.config import config_from


@pytest.mark.parametrize(
    "changes,note",
    [
        ({"keys": {"stores": ["sqlite:///somewhere/else/keys.db"]}}, "keys.stores"),
        ({"keys": {"tombstones": "1d"}}, "keys.tombstones"),
        ({"admin": {"address": "127.0.0.1:9999"}}, "admin.address"),
        ({"admin": {"metrics_address": "127.0.0.1:9999"}}, "admin.metrics_address"),
    ],
)
def test_a_setting_that_is_read_only_at_the_start_is_named(
    tmp_path: Path, changes: dict[str, Any], note: str
) -> None:
    notes = list(needs_restart(config_from(tmp_path), config_from(tmp_path, changes)))
    assert [text.startswith(f"{note} has changed: ") for text in notes] == [True]


def test_a_setting_that_a_reload_applies_is_not_named(tmp_path: Path) -> None:
    changes = {
        "listen": [{"address": "127.0.0.1:1"}],
        "limits": {"max_body": "1MiB"},
        "auth": {"receiver_keys": ["a-key"]},
        "admin": {"tokens": ["a-token"]},
        "workers": 7,
    }
    assert not list(needs_restart(config_from(tmp_path), config_from(tmp_path, changes)))


def test_new_admin_tls_needs_a_restart_and_a_new_certificate_does_not(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca")
    certificates = [authority.issue(name, ["localhost"]) for name in ("first", "second")]
    plain = config_from(tmp_path)
    first, second = (
        config_from(
            tmp_path,
            {"admin": {"tls": {"cert_file": str(c.cert_file), "key_file": str(c.key_file)}}},
        )
        for c in certificates
    )
    assert len(list(needs_restart(plain, first))) == 1
    assert not list(needs_restart(first, second))
