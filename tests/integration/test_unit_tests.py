"""A unit test that starts a process fails, however it starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

UNIT = Path(__file__).parents[1] / "unit"
_TESTS = """
import asyncio, os, subprocess
import uvloop

kept = []

def test_waited_for():
    subprocess.run(["true"])

def test_forked():
    os.fork() or os._exit(0)
    os.wait()

def test_by_uvloop():
    async def start():
        await (await asyncio.create_subprocess_exec("true")).wait()
    uvloop.run(start())

def test_left_running():
    kept.append(subprocess.Popen(["sleep", "1"]))

def test_none():
    pass
"""


def test_a_process_in_a_unit_test_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((UNIT / "conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(_TESTS)
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    words = [line.split() for line in ended.stdout.splitlines()]
    errors = {each[1].partition("::")[2] for each in words if each[:1] == ["ERROR"]}
    assert errors == {"test_waited_for", "test_forked", "test_by_uvloop", "test_left_running"}
