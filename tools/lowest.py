"""Tests the lowest versions that pyproject.toml declares: `python3 tools/lowest.py`.

Makes an environment in .cache/lowest in which every direct dependency has the lowest version that
there is at or above its bound, whatever the lock file says, and runs the unit tests in it. A bound
that is too low fails here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

_CHECKOUT = Path(__file__).parents[1]
_ENVIRONMENT = _CHECKOUT / ".cache/lowest"
_BOUND = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?>=([0-9.]+)")
_PYTHON = _ENVIRONMENT / "bin/python"


def _release(version: str) -> tuple[int, ...]:
    """Return a version's numbers, without zeros at the end; () for one that is no release."""
    if not re.fullmatch(r"[0-9.]+", version):
        return ()
    numbers = [int(number) for number in version.split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def lowest(bound: str, available: list[str]) -> str:
    """Return the lowest of the available releases that is not below `bound`."""
    releases = [version for version in available if _release(version) >= _release(bound)]
    return min(releases, key=_release)


def _available(name: str) -> list[str]:
    command: list[str | Path] = [_PYTHON, "-m", "pip", "index", "versions", name]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"^Available versions: (.*)$", printed, re.MULTILINE)
    return found[1].split(", ") if found is not None else []


def _constraints() -> list[str]:
    """Return a line `name==version` for each dependency."""
    project = tomllib.loads((_CHECKOUT / "pyproject.toml").read_text())["project"]
    lines = []
    for dependency in project["dependencies"]:
        bound = _BOUND.fullmatch(dependency)
        if bound is None:
            sys.exit(f"pyproject.toml: {dependency!r} has no lower bound: write NAME>=VERSION")
        lines.append(f"{bound[1]}=={lowest(bound[2], _available(bound[1]))}")
    return lines


def main() -> int:
    """Make the environment and run the tests; return their exit code."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", _ENVIRONMENT], check=True)
    lines = _constraints()
    sys.stdout.write(f"the lowest versions: {' '.join(lines)}\n")
    sys.stdout.flush()
    constraints = _ENVIRONMENT / "constraints.txt"
    constraints.write_text("\n".join(lines) + "\n")
    install: list[str | Path] = [
        _PYTHON,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--constraint",
        constraints,
    ]
    # What the checkout has compiled stays as it is.
    environ = os.environ | {"GATEWAY_PURE_PYTHON": "1"}
    subprocess.run([*install, "--editable", f"{_CHECKOUT}[test]"], env=environ, check=True)
    # Not the clients that are generated: they depend on our dependencies, too, on later versions.
    tests = ["-n", "logical", "--dist", "loadscope", "tests/unit", "tests/contract/test_wire.py"]
    tests += sys.argv[1:]
    command = [str(_PYTHON), "-m", "pytest", *tests]
    return subprocess.run(command, cwd=_CHECKOUT, env=environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
