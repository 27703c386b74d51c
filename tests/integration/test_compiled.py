"""Which code runs: the compiled data path, or the same sources as plain Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import compiled
from tests.conftest import REQUIRE_TOOLS

PROJECT = Path(__file__).parents[2]
SAY = "from gateway.cli.main import run; run(['version', '--json'])"


def runs_as(folder: Path = PROJECT, **environ: str) -> tuple[str, str]:
    """Return what a new process says of its data path, and what it writes to stderr."""
    inherited = {name: value for name, value in os.environ.items() if name != compiled.PURE_PYTHON}
    ended = subprocess.run(
        [sys.executable, "-c", SAY],
        cwd=folder,
        env=inherited | environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(ended.stdout)["data_path"], ended.stderr


@pytest.fixture(name="checkout")
def _checkout(tmp_path: Path) -> Path:
    """Copy the package, with what is compiled of it."""
    if not compiled.is_up_to_date():
        pytest.skip("the data path is not compiled: make compiled")
    shutil.copytree(PROJECT / "gateway", tmp_path / "gateway")
    return tmp_path


def test_the_whole_suite_runs_what_it_was_asked_to_run() -> None:
    asked_for_python = os.environ.get(compiled.PURE_PYTHON) == "1"
    if REQUIRE_TOOLS or asked_for_python:
        assert compiled.is_compiled() is not asked_for_python


def test_what_is_compiled_runs_unless_python_is_asked_for(checkout: Path) -> None:
    assert runs_as(checkout) == ("compiled", "")
    assert runs_as(checkout, GATEWAY_PURE_PYTHON="1") == ("python", "")


def test_a_source_that_was_edited_runs_and_says_so(checkout: Path) -> None:
    with (checkout / "gateway" / "wire" / "hpack.py").open("a") as source:
        source.write("\n# edited\n")
    kind, said = runs_as(checkout)
    assert kind == "python"
    assert "make compiled" in said


def test_without_a_compiler_the_build_says_why_and_goes_on(tmp_path: Path) -> None:
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(PROJECT / name, tmp_path)
    ignored = shutil.ignore_patterns("*.so", compiled.STAMP.name, "__pycache__")
    shutil.copytree(PROJECT / "gateway", tmp_path / "gateway", ignore=ignored)
    ended = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=tmp_path,
        env=os.environ | {"CC": "no-such-compiler", compiled.PURE_PYTHON: ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stderr == (
        "The data path stays plain Python, which takes two to three times the CPU: there is no "
        "C compiler (no-such-compiler).\n"
    )
    assert runs_as(tmp_path) == ("python", "")
