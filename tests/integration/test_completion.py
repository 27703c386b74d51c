"""Completion in a real shell, with the script that `gateway completion` prints."""

from __future__ import annotations

import os
import shlex
import subprocess
from typing import Final

import pytest

from tests.support.process import COMMAND

ASK: Final = """
source <(gateway completion bash)
COMP_WORDS=({words}); COMP_CWORD={last}
$(complete -p {program} | sed -E 's/.*-F ([^ ]+).*/\\1/') {program}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    "words, expected",
    [
        ("gateway ke", ["keys"]),
        ("gateway keys cr", ["create"]),
        ("gateway keys create --sig", ["--signals"]),
        ("otlp-gateway check-c", ["check-config"]),
        ("gateway init c", ["collector"]),
        ("gateway completion z", ["zsh"]),
    ],
)
def test_bash_completes(words: str, expected: list[str]) -> None:
    typed = shlex.split(words)
    ask = ASK.format(words=words, last=len(typed) - 1, program=typed[0])
    done = subprocess.run(
        ["/bin/bash", "--norc", "-c", ask],
        env={"PATH": f"{COMMAND.parent}:{os.environ['PATH']}", "HOME": "/nowhere"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = [line for line in done.stdout.splitlines() if line]
    assert found == expected, done.stderr
