"""Every fenced block of README and docs/ is followed or checked by a test, or named with a reason.

Pages that are followed step by step: tests/integration/test_followed_pages.py and
tests/interop/test_followed_pages.py. Of the others, this module checks configurations and commands.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from typer.core import TyperCommand, TyperGroup

from gateway.cli.main import build, load_command
from gateway.config import ConfigError, load
from gateway.config.tree import Config
from tests.support.pages import DOCS, PROJECT, Block, all_blocks

FOLLOWED: Final = {
    "docs/tutorial.md",
    *(f"docs/howto/{file.name}" for file in (DOCS / "howto").iterdir()),
} - {"docs/howto/compose.md"}
"""Pages that `tests/support/pages.py` follows to the letter."""

FOLLOWED_BY_A_TEST: Final = {
    page
    for test in (PROJECT / "tests").rglob("test_*_page.py")
    for page in re.findall(r"The steps of (docs/[\w/-]+\.md)", test.read_text(encoding="utf-8"))
}
"""Pages with a test of their own that does each of their steps."""

OF_OTHERS: Final = {
    "http_filters": "Envoy: tests/integration/test_envoy.py runs one with these filters",
    "clusters": "Envoy: tests/integration/test_envoy.py runs one with such clusters",
    "rule_files": "Prometheus: tests/interop/test_followed_pages.py has promtool check it",
    "remote_write": "Prometheus: tests/interop/test_followed_pages.py has promtool check it",
    "service": "Collector: tests/interop/test_followed_pages.py has it validated",
    "extensions": "part of a Collector's configuration, in a distribution with StackState's parts",
}
"""A setting of configurations that are not the gateway's: who checks them, or why nobody."""

COMMANDS_OF_OTHERS: Final = {
    "curl": "needs a running gateway: the pages that are followed have the same requests",
    "docker": "needs a container engine; unit tests check the Dockerfile and the compose file",
    "helm": "tests/interop/test_helm.py renders and checks the chart",
    "kubectl": "needs a cluster",
    "ssh": "needs another machine",
    "sts": "StackState's command: tests/contract/test_cli.py replays what it sends",
}
"""Programs that are not run, each with the reason."""

VARIABLES: Final = {"HOME": "/h", "BACKEND_API_KEY": "abc", "RECEIVER_API_KEY": "def"}
NO_FILE: Final = "(no such file or directory)"
BLOCKS: Final = all_blocks()


def _of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def _ids(block: Block) -> str:
    return block.place


def test_every_block_has_a_language_that_says_how_it_is_checked() -> None:
    known = {"", "text", "sh", "console", "yaml", "json", "csv", "nginx", "python"}
    assert [block.place for block in BLOCKS if block.language not in known] == []


@pytest.mark.parametrize("block", _of("", "text"), ids=_ids)
def test_drawings_and_output_hold_no_commands(block: Block) -> None:
    commands = re.compile(
        r"^\$ |^(?:gateway|make|curl|otelcol|helm|kubectl) [a-z-]+ ", re.MULTILINE
    )
    assert not commands.search(block.text), f"{block.place}: say sh or console"


@pytest.mark.parametrize("block", _of("yaml"), ids=_ids)
def test_a_configuration_of_the_gateway_can_be_used(block: Block, tmp_path: Path) -> None:
    tree = yaml.safe_load(block.text)
    if isinstance(tree, list):
        assert {"digest", "key"} & set(tree[0]), f"{block.place}: a list that is no file of keys"
        return
    if set(tree) & set(OF_OTHERS) or block.page in FOLLOWED_BY_A_TEST:
        return
    if {"apiVersion", "kind"} <= set(tree):
        assert _tests_that_read(block.page), f"{block.place}: no test reads these objects"
        return
    assert set(tree) <= set(Config.model_fields), f"{block.place}: whose configuration is this?"
    file = tmp_path / "gateway.yaml"
    file.write_text(block.text)
    assert [each for each in _problems(file, _named(block.text)) if NO_FILE not in each] == []


def _tests_that_read(page: str) -> list[Path]:
    tests = (PROJECT / "tests").rglob("*.py")
    return [test for test in tests if page in test.read_text(encoding="utf-8")]


def _problems(file: Path, named: dict[str, str]) -> list[str]:
    """Return what is wrong with a configuration; certificates that it names are not here."""
    try:
        load(file, (), VARIABLES | named)
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


def _named(text: str) -> dict[str, str]:
    return dict.fromkeys(re.findall(r"\$\{env:(\w+)\}", text), "a-value")


@pytest.mark.parametrize("block", _of("json", "csv"), ids=_ids)
def test_data_can_be_read(block: Block) -> None:
    if block.language == "json":
        assert json.loads(block.text)
    else:
        header, *rows = csv.reader(block.text.splitlines())
        assert rows
        assert all(len(row) == len(header) for row in rows)


# Commands


def _commands() -> list[tuple[Block, str]]:
    found: list[tuple[Block, str]] = []
    for block in _of("sh", "console"):
        if block.page in FOLLOWED | FOLLOWED_BY_A_TEST:
            continue
        for text, _ in block.commands():
            joined = text.replace("\\\n", " ")
            found += [(block, line) for line in joined.splitlines() if line.split("#")[0].strip()]
    return found


@pytest.mark.parametrize("block, line", _commands(), ids=lambda each: getattr(each, "place", ""))
def test_a_command_exists_and_has_its_options(block: Block, line: str) -> None:
    for words in _simple_commands(line):
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if not words:
            continue
        program = words[0]
        if program == "gateway":
            _parse(words[1:])
        elif program == "make":
            assert words[1] in _targets(), f"{block.place}: make has no {words[1]}"
        else:
            assert program in COMMANDS_OF_OTHERS, f"{block.place}: nothing checks {program}"


def _simple_commands(line: str) -> list[list[str]]:
    """Split a line of a shell into commands, each a list of words, without redirections."""
    lexer = shlex.shlex(re.sub(r"\$\([^)]*\)", "TEXT", line), posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    words = iter(lexer)
    for word in words:
        if set(word) <= set("|&;"):
            commands.append([])
        elif set(word) <= set("<>"):
            next(words)
        else:
            commands[-1].append(word)
    return [words for words in commands if words]


def _targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))


def _parse(words: list[str]) -> None:
    """Have the command line read the words as it does, without doing anything."""
    group: Any = build()
    if words[0].startswith("-"):
        return
    command: TyperCommand | TyperGroup = load_command(words[0])
    rest = words[1:]
    if isinstance(command, TyperGroup):
        command, rest = command.commands[rest[0]], rest[1:]  # type: ignore[assignment] # typer's own type
    with group.make_context("gateway", [], resilient_parsing=True) as parent:
        command.make_context(words[0], _plain(rest), parent=parent)


def _plain(words: list[str]) -> list[str]:
    """Leave out the brackets of a synopsis; an id is a number, whatever stands for it."""
    return ["1" if word == "ID" else word.strip("[]") for word in words]


def test_every_reason_is_needed() -> None:
    used = {words[0] for _, line in _commands() for words in _simple_commands(line) if words}
    assert set(COMMANDS_OF_OTHERS) <= used
    settings = {name for block in _of("yaml") for name in _names(yaml.safe_load(block.text))}
    assert set(OF_OTHERS) <= settings


def _names(tree: Any) -> list[str]:
    return list(tree) if isinstance(tree, dict) else []
