from __future__ import annotations

from pathlib import Path

from gateway.control.lifecycle.key_stores import configured_static_keys
from gateway.model import digest_of
from tests.support.config import config_from


def test_static_keys_are_hashed(tmp_path: Path) -> None:
    config = config_from(tmp_path, {"auth": {"receiver_keys": [{"name": "eu", "key": "a-key"}]}})
    [static] = configured_static_keys(config)
    assert (static.key_id, static.digest) == ("static:eu", digest_of(b"a-key"))
