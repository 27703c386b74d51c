"""The installed command, as a shell runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.process import COMMAND


def _gateway(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environ},
    )


def test_it_is_installed_and_shows_its_help() -> None:
    ended = _gateway("--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "gateway keys create --name my-collector" in ended.stdout


def test_its_exit_code_is_the_shells(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("limits: {max_body: 64Mi}")
    ended = _gateway("serve", "--config", str(file))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "limits.max_body" in ended.stderr


def test_help_loads_no_command() -> None:
    script = (
        "import sys, gateway.cli.main as main; main.run(['--help'])\n"
        "print([name for name in sys.modules if name.startswith(('gateway.sender', 'gateway.keys',"
        " 'gateway.config', 'aiohttp', 'aiosqlite', 'rich.'))])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines()[-1] == "[]"


def test_the_shell_completes_commands_and_their_options() -> None:
    words = _gateway(
        _GATEWAY_COMPLETE="complete_bash", COMP_WORDS="gateway se", COMP_CWORD="1"
    ).stdout.split()
    assert words == ["serve", "send"]
    options = _gateway(
        _GATEWAY_COMPLETE="complete_bash", COMP_WORDS="gateway serve --", COMP_CWORD="2"
    ).stdout.split()
    assert "--config" in options
