"""Where stdout is full, closed or left, or knows few characters: with real processes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.process import COMMAND


def _keys(
    folder: Path, *arguments: str, to: str | None = None, encoding: str = "utf-8"
) -> subprocess.CompletedProcess[bytes]:
    """Run `gateway keys`; `to` is the shell's redirection of stdout."""
    command: Sequence[str | Path] = [COMMAND, "keys", *arguments, "--data", folder]
    if to is not None:
        command = ["sh", "-c", f'exec "$@" {to}', "sh", *command]
    env = os.environ | {"PYTHONIOENCODING": encoding}
    return subprocess.run(command, capture_output=True, env=env, check=False)


def _listed(folder: Path) -> list[dict[str, object]]:
    listed = _keys(folder, "list", "--output", "json")
    assert listed.returncode == 0
    found: list[dict[str, object]] = json.loads(listed.stdout)["ingestion-api-keys"]
    return found


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    assert _keys(tmp_path, "create", "--name", "first").returncode == 0
    return tmp_path


@pytest.mark.parametrize("output", ["text", "json"])
@pytest.mark.parametrize("to, reason", [(">/dev/full", b"no space left"), (">&-", b"it is closed")])
def test_a_key_that_cannot_be_shown_is_not_left_behind(
    folder: Path, to: str, reason: bytes, output: str
) -> None:
    made = _keys(folder, "create", "--name", "unseen", "--output", output, to=to)
    assert made.returncode == 1
    assert reason in made.stderr
    assert b"it was deleted. No key was created." in made.stderr
    assert [key["name"] for key in _listed(folder)] == ["first"]


def test_a_successor_that_cannot_be_shown_is_not_left_behind(folder: Path) -> None:
    (key,) = _listed(folder)
    rotated = _keys(folder, "rotate", "--id", str(key["id"]), "--overlap", "1h", to=">/dev/full")
    assert rotated.returncode == 1
    assert f"rotate {key['id']} again".encode() in rotated.stderr
    assert [each["id"] for each in _listed(folder)] == [key["id"]]
    assert _keys(folder, "rotate", "--id", str(key["id"]), "--overlap", "1h").returncode == 0


@pytest.mark.parametrize("arguments", [("list",), ("list", "--help")])
def test_a_result_that_cannot_be_shown_is_an_error(
    folder: Path, arguments: tuple[str, ...]
) -> None:
    listed = _keys(folder, *arguments, to=">/dev/full")
    assert listed.returncode == 1
    assert b"stdout cannot be written (no space left on device)" in listed.stderr
    assert b"Traceback" not in listed.stderr


def test_a_reader_that_has_seen_enough_is_told_nothing(folder: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command: list[str | Path] = [COMMAND, "keys", "list", "--data", folder]
        listed = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)
    assert (listed.returncode, listed.stderr) == (1, b"")


def test_what_an_encoding_does_not_have_is_escaped(folder: Path) -> None:
    assert _keys(folder, "create", "--name", "é€").returncode == 0
    table = _keys(folder, "list", encoding="latin-1")
    assert "é\\u20ac".encode("latin-1") in table.stdout
    whole = _keys(folder, "list", "--output", "json", encoding="ascii")
    assert "é€" in [key["name"] for key in json.loads(whole.stdout)["ingestion-api-keys"]]
