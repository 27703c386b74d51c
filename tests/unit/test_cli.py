"""The frame of the commands: help, exit codes, how they speak. Commands themselves: elsewhere."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
import typer

from gateway import __version__, compiled
from gateway.cli import output
from gateway.cli.main import COMMANDS, load_command, run
from gateway.cli.output import Colour, Exit, paint
from gateway.terminal import is_fancy


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(name="terminal")
def _terminal(monkeypatch: pytest.MonkeyPatch) -> _Terminal:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return _Terminal()


class _Ended(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def _gateway(*arguments: str) -> _Ended:
    """Run the command in this process."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        code = run(list(arguments))
    return _Ended(code, stdout.getvalue(), stderr.getvalue())


def test_help_lists_every_command_with_examples() -> None:
    ended = _gateway("--help")
    assert ended.returncode == Exit.OK
    assert all(f"  {name} " in ended.stdout for name in COMMANDS)
    assert "gateway keys create --name my-collector" in ended.stdout
    assert ended.stderr == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(name: str) -> None:
    ended = _gateway(name, "--help")
    assert ended.returncode == Exit.OK
    assert "Usage: gateway" in ended.stdout
    if name != "keys":  # a group: its commands have them
        assert ended.stdout.count(f"gateway {name}") >= 2


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == Exit.OK
    said = capsys.readouterr().out
    assert said.startswith(f"gateway {__version__} (data path: {compiled.runs_as()}, ")
    assert run(["version"]) == Exit.OK
    assert capsys.readouterr().out == said
    assert run(["version", "--json"]) == Exit.OK
    found = json.loads(capsys.readouterr().out)
    assert (found["version"], found["data_path"]) == (__version__, compiled.runs_as())


def test_without_a_command_help_is_shown_and_the_arguments_are_wrong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run([]) == Exit.BAD_INPUT
    assert "Commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["keyz"], "No such command 'keyz'. Did you mean 'keys'?"),
        (["serve", "--bogus"], "No such option: --bogus"),
        (["serve", "surplus"], "unexpected extra argument"),
        (["keys", "create"], "Missing option '--name'"),
        (["send"], "Missing option '--endpoint'"),
    ],
)
def test_wrong_arguments_end_with_1_and_say_where_help_is(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == Exit.BAD_INPUT
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert "--help')" in shown.err


def test_a_group_without_its_command_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keys"]) == Exit.BAD_INPUT
    assert "create" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_loaded(name: str) -> None:
    assert load_command(name).name == name


# serve and check-config


def test_check_config_says_that_a_configuration_can_be_used(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("listen: [{address: '0.0.0.0:4317'}]")
    ended = _gateway("check-config", "--config", str(file))
    assert ended.returncode == Exit.OK
    assert ended.stdout == f"[SUCCESS] {file} is valid\n"
    assert ended.stderr.startswith("[WARNING] listen[0].address (line 1): ")


@pytest.mark.parametrize("command", ["check-config", "serve"])
def test_all_errors_are_printed_with_their_paths(tmp_path: Path, command: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("limits:\n  max_body: 64Mi\n  idle_timeout: 0\n")
    ended = _gateway(command, "--config", str(file), "--set", "workers=none")
    assert ended.returncode == Exit.BAD_INPUT
    assert ended.stdout == ""
    lines = ended.stderr.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "[ERROR] workers",
        "[ERROR] limits.max_body (line 2)",
        "[ERROR] limits.idle_timeout (line 3)",
        f"[ERROR] 3 errors in {file}",
    ]


def test_check_config_takes_the_file_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("workers: 1")
    assert _gateway("check-config", str(file)).stdout == f"[SUCCESS] {file} is valid\n"
    both = _gateway("check-config", str(file), "--config", str(file))
    assert (both.returncode, both.stdout) == (Exit.BAD_INPUT, "")
    assert "two files to check" in both.stderr


def test_check_config_writes_json(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("limits:\n  max_body: 64Mi\n  idle_timeout: 0\n")
    ended = _gateway("check-config", str(file), "--output", "json", "--set", "workers=none")
    found = json.loads(ended.stdout)
    assert (ended.returncode, ended.stderr) == (Exit.BAD_INPUT, "")
    assert (found["file"], found["valid"], found["warnings"]) == (str(file), False, [])
    assert [(each["path"], each["line"]) for each in found["errors"]] == [
        ("workers", None),
        ("limits.max_body", 2),
        ("limits.idle_timeout", 3),
    ]
    assert all(each["message"] for each in found["errors"])


def test_check_config_writes_warnings_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("listen: [{address: '0.0.0.0:4317'}]")
    monkeypatch.setenv("GATEWAY_CONFIG", str(file))
    ended = _gateway("check-config", "-o", "json")
    found = json.loads(ended.stdout)
    assert (ended.returncode, ended.stderr) == (Exit.OK, "")
    assert (found["file"], found["valid"], found["errors"]) == (str(file), True, [])
    assert [each["path"] for each in found["warnings"]] == ["listen[0].address"]


def test_check_config_names_the_missing_file_in_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_CONFIG", str(tmp_path / "none.yaml"))
    ended = _gateway("check-config", "-o", "json")
    (error,) = json.loads(ended.stdout)["errors"]
    assert ended.returncode == Exit.BAD_INPUT
    assert (error["path"], error["line"]) == ("", None)
    assert "none.yaml cannot be read" in error["message"]


def test_the_environment_names_the_configuration_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("workers: 1")
    monkeypatch.setenv("GATEWAY_CONFIG", str(file))
    ended = _gateway("check-config")
    assert ended.returncode == Exit.OK
    assert f"{file} is valid" in ended.stdout


def test_check_config_needs_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GATEWAY_CONFIG", raising=False)
    assert run(["check-config"]) == Exit.BAD_INPUT
    assert "no file to check" in capsys.readouterr().err


# How commands speak


def test_words_stand_for_emoji_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output.success("done")
    output.error("failed")
    output.warning("doubtful")
    output.info("plain")
    shown = capsys.readouterr()
    assert shown.out == "[SUCCESS] done\nplain\n"
    assert shown.err == "[ERROR] failed\n[WARNING] doubtful\n"


def test_a_terminal_gets_emoji_and_colours(
    terminal: _Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    output.success("done")
    output.error("failed")
    assert terminal.getvalue() == "✅ done\n❌ \x1b[31mfailed\x1b[0m\n"


@pytest.mark.parametrize("name, value", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_the_environment_can_forbid_colours(
    terminal: _Terminal, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    assert is_fancy(terminal)
    monkeypatch.setenv(name, value)
    assert not is_fancy(terminal)
    assert paint("x", Colour.RED, terminal) == "x"


def test_failing_says_why_and_ends_with_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        output.fail("nobody answers", Exit.UNREACHABLE)
    assert ended.value.exit_code == 3
    assert capsys.readouterr().err == "[ERROR] nobody answers\n"


def test_a_stream_that_cannot_show_a_character_gets_an_escape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    output.info("naïve ✅")
    assert raw.getvalue() == b"na\\xefve \\u2705\n"


def test_the_exit_codes_are_those_of_the_interface() -> None:
    assert [code.value for code in Exit] == [0, 1, 2, 3]
