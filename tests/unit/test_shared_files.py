"""The man page, the completions and the schema that the package installs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from gateway.cli.completion import Shell, script
from tests.unit.test_docs import REAL_COMMANDS
from tools.shared_files import DEPLOY, files, manual

THERE: Final = {
    str(file.relative_to(DEPLOY)) for file in (DEPLOY / "share").rglob("*") if file.is_file()
}


def test_the_files_are_what_the_code_says_now() -> None:
    written = files()
    assert set(written) - {"gateway.schema.json"} == THERE
    stale = [name for name, text in written.items() if (DEPLOY / name).read_text() != text]
    assert stale == [], "run: .venv/bin/python -m tools.shared_files"


@pytest.mark.parametrize("command", sorted(set(REAL_COMMANDS) - {"gateway"}))
def test_the_man_page_has_every_command_with_its_options(command: str) -> None:
    sections = dict(part.split("\n", 1) for part in manual().split("\n.SS ")[1:])
    section = sections[command.replace("-", r"\-")].replace(r"\-", "-")
    for option in REAL_COMMANDS[command]:
        long = re.search(r"--[\w-]+", option)
        assert long is None or long[0] in section


def test_no_line_of_the_man_page_is_an_unknown_request() -> None:
    requests = {line.split()[0] for line in manual().splitlines() if line.startswith((".", "'"))}
    assert requests <= {".TH", ".SH", ".SS", ".PP", ".TP", ".B", ".I", ".nf", ".fi"}


@pytest.mark.parametrize("shell", list(Shell))
def test_a_script_serves_both_names_of_the_program(shell: Shell) -> None:
    assert re.search(r"\bgateway otlp-gateway\b", script(shell))
    assert "_GATEWAY_COMPLETE" in script(shell)


def test_the_image_and_the_archive_take_the_files_along() -> None:
    project = Path(__file__).parents[2]
    assert "COPY deploy/share ./deploy/share" in (project / "Dockerfile").read_text()
    assert "recursive-include deploy/share *" in (project / "MANIFEST.in").read_text()
