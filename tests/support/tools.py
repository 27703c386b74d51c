"""Where the programs are that `tests/interop/tools/build.py` builds, and what to do without one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

from tests.interop.tools.build import bin_dir


def find_tool(name: str) -> Path:
    """Return a program's path; where there is none, skip the test, or fail it as `missing` says."""
    given = os.environ.get("OTLP_GATEWAY_TOOLS")
    path = (Path(given) if given else bin_dir()) / name
    if not os.access(path, os.X_OK):
        missing(name, "run `make interop`, or set OTLP_GATEWAY_TOOLS")
    return path


def missing(name: str, advice: str) -> NoReturn:
    """Skip a test that needs a program; under REQUIRE_TOOLS=1 fail it instead."""
    text = f"{name} is not here: {advice}"
    if os.environ.get("REQUIRE_TOOLS") == "1":
        pytest.fail(text)
    pytest.skip(text)
