"""The gateway that is measured: the wheel of these sources, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import installed
from bench.process import ProgramError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(installed, "_CACHE", tmp_path)
    (tmp_path / "gateway" / "bin").mkdir(parents=True)
    return tmp_path / "gateway"


def test_an_installed_gateway_of_other_sources_is_not_measured(cache: Path) -> None:
    assert installed.command() is None
    (cache / "made-from").write_text("0" * 64, encoding="utf-8")
    assert installed.command() is None


def test_the_result_says_on_which_python_a_gateway_was_installed(cache: Path) -> None:
    assert installed.origin(str(cache / "bin" / "gateway")).startswith("installed from its wheel")
    assert installed.origin("/opt/gateway/bin/gateway") == "/opt/gateway/bin/gateway"


def test_without_such_a_python_it_says_what_is_missing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installed, "PYTHON", cache / "no-python")
    with pytest.raises(ProgramError, match="the gateway of this environment is measured instead"):
        installed.install()
