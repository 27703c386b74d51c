"""Key files that are no key files: an error that says so, whatever the file holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.keys.errors import StoreDamagedError
from gateway.keys.stores.file_entries import read_entries


@pytest.mark.parametrize(
    "content",
    [
        b"- digest: [",
        b"\x0e",
        b"\xa3",
        b"- !!int ''",
        b"- !!bool x",
        b"- !!timestamp x",
        b"- digest: 2026-02-30",
        b"[" * 20_000,
    ],
)
def test_what_cannot_be_read_as_yaml_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "keys.yaml"
    file.write_bytes(content)

    with pytest.raises(StoreDamagedError, match="it is no YAML"):
        read_entries(file)
