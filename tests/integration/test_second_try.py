"""What failed under load gets one more try, alone; what is broken stays broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools/second_try.py"


def _run(folder: Path, *command: str | Path) -> int:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | {"PYTEST_ADDOPTS": "-p no:randomly"},
        stdout=subprocess.DEVNULL,
        check=False,
    ).returncode


@pytest.mark.parametrize(
    "body, count, passes",
    [
        ("assert not FIRST.exists() or FIRST.unlink()", 1, True),
        ("assert False", 1, False),
        ("assert not FIRST.exists() or FIRST.unlink()", 6, False),
    ],
    ids=["passes alone", "fails again", "too many"],
)
def test_a_test_that_failed_passes_only_if_it_passes_alone(
    tmp_path: Path, body: str, count: int, *, passes: bool
) -> None:
    tests = "\n".join(
        f"def test_{n}():\n    FIRST = Path('first-{n}')\n    {body}" for n in range(count)
    )
    (tmp_path / "test_some.py").write_text(f"from pathlib import Path\n{tests}\n")
    (tmp_path / "pytest.ini").touch()
    for number in range(count):
        (tmp_path / f"first-{number}").touch()
    assert _run(tmp_path, "-m", "pytest") == 1
    for number in range(count):
        (tmp_path / f"first-{number}").unlink(missing_ok=True)

    assert (_run(tmp_path, TOOL) == 0) is passes


def test_without_failed_tests_a_failed_run_has_failed(tmp_path: Path) -> None:
    assert _run(tmp_path, TOOL) == 1
