"""`gateway init` writes a configuration that can be used; `gateway config schema` describes it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

import pytest
import yaml

from gateway.cli.init import Case
from gateway.cli.main import run
from gateway.config import ConfigError, load
from gateway.config.schema import config_schema
from tests.unit.config.support import HOME, load_text

IN_COMMENT: Final = re.compile(r" *# ((- )?[a-z_]+:( .*)?|  .*)")
NAMES_FILES: Final = {"cert_file", "key_file", "gateway_key"}


@pytest.mark.parametrize("case", Case)
def test_what_is_written_passes_the_check(
    tmp_path: Path, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gateway.yaml"
    assert run(["init", case, "--to", str(file)]) == 0
    assert (
        capsys.readouterr().out
        == f"[SUCCESS] {file} is written: replace its addresses by your own\n"
    )
    assert run(["check-config", str(file), "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    # Addresses for other machines without TLS, which the comments are about.
    assert all("without TLS" in each["message"] for each in found["warnings"])


def _blocks(lines: list[str]) -> list[list[int]]:
    """Group the lines that are settings in comments, by number."""
    blocks: list[list[int]] = []
    for number, line in enumerate(lines):
        if IN_COMMENT.fullmatch(line):
            if blocks and blocks[-1][-1] == number - 1:
                blocks[-1].append(number)
            else:
                blocks.append([number])
    return blocks


def _uncommented(lines: list[str], block: list[int]) -> str:
    """Take a block's comment signs away; it replaces the setting of its name above it."""
    changed = dict(enumerate(lines))
    for number in block:
        changed[number] = changed[number].replace("# ", "", 1)
    name = changed[block[0]].partition(":")[0]
    above = block[0] - 1
    if changed[above].startswith(f"{name}:"):
        del changed[above]
    return "\n".join(changed.values())


def _wrong(folder: Path, text: str) -> set[str]:
    """Return the names of the settings that have errors."""
    try:
        load_text(folder, text, environ=HOME | {"BACKEND_API_KEY": "a-key"})
    except ConfigError as invalid:
        return {each.path.rpartition(".")[2] for each in invalid.problems}
    return set()


@pytest.mark.parametrize("case", Case)
def test_what_stands_in_comments_can_be_used_too(tmp_path: Path, case: Case) -> None:
    """Alone, once the files that it names are there."""
    file = tmp_path / "gateway.yaml"
    assert run(["init", case, "--to", str(file)]) == 0
    lines = file.read_text().splitlines()
    blocks = _blocks(lines)
    assert blocks
    for block in blocks:
        text = _uncommented(lines, block)
        assert _wrong(tmp_path, text) <= NAMES_FILES, text


@pytest.mark.parametrize("case", Case)
def test_a_file_that_exists_stays(
    tmp_path: Path, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("workers: 3")
    assert run(["init", case, "--to", str(file)]) == 1
    assert f"{file} exists: choose another file" in capsys.readouterr().err
    assert file.read_text() == "workers: 3"
    assert run(["init", case, "--to", str(file), "--force"]) == 0
    assert load(file, (), HOME).config.workers == "auto"


def test_a_folder_that_is_missing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["init", "collector", "--to", str(tmp_path / "none" / "g.yaml")]) == 1
    assert "cannot be written (no such file or directory)" in capsys.readouterr().err


def test_an_unknown_case_is_refused_with_those_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["init", "nginx"]) == 1
    printed = capsys.readouterr().err
    assert all(case in printed for case in Case)


def test_it_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "kubernetes", "--to", "-"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# yaml-language-server: $schema=gateway.schema.json\n")
    assert yaml.safe_load(printed)["log"] == {"format": "json"}


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == config_schema()
