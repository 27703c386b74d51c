"""`gateway monitoring` prints what is in `deploy`, with the runbooks' own address."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from gateway.cli import shipped
from gateway.cli.main import run
from tests.support.promql import ALERTS_FILE, DASHBOARD_FILE


def test_the_rules_and_the_dashboard_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["monitoring", "alerts"]) == 0
    assert capsys.readouterr().out == ALERTS_FILE.read_text(encoding="utf-8")
    assert run(["monitoring", "dashboard"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(DASHBOARD_FILE.read_text())


def test_runbooks_can_stand_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["monitoring", "alerts", "--runbooks", "https://wiki.example.com/run"]) == 0
    rules = [
        rule
        for group in yaml.safe_load(capsys.readouterr().out)["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    for rule in rules:
        place = f"https://wiki.example.com/run#{rule['alert'].lower()}"
        assert rule["annotations"]["runbook_url"] == place


@pytest.mark.parametrize(
    "url", ["", "wiki", "https://", "https://a/#b", "https://a/'\n", "ftp://a/b"]
)
def test_an_address_that_is_none_is_refused(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["monitoring", "alerts", "--runbooks", url]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "write a URL without '#'" in printed.err


def test_a_file_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shipped, "_INSTALLED", tmp_path)
    monkeypatch.setattr(shipped, "_CHECKOUT", tmp_path)
    assert run(["monitoring", "dashboard"]) == 1
    assert f"{tmp_path / 'dashboard.json'} is missing: install" in capsys.readouterr().err
