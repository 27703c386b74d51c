"""Errors and warnings in a configuration: they are collected and reported all at once.

A message says what is wrong and how to fix it, and never repeats a value that may be a secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""The path of a value in the tree: keys of mappings and positions in lists."""


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One error or warning."""

    path: str
    """As users write it: `listen[0].tls.cert_file`; empty for the file as a whole."""
    message: str
    line: int | None = None
    """Line of the YAML file, counted from 1; None if the value is not in the file."""

    def __str__(self) -> str:
        """Render as one line: `limits.max_body (line 12): …`."""
        where = f" (line {self.line})" if self.line is not None else ""
        return f"{self.path}{where}: {self.message}" if self.path else f"{self.message}{where}"


class ConfigError(Exception):
    """The configuration is invalid. `problems` contains all errors; it is never empty."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


def path_text(path: Path) -> str:
    """Write a path as users do: `listen[0].address`, `backends.intake.max_body["/x"]`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step.replace("_", "").replace("-", "").isalnum():
            text += f".{step}" if text else step
        else:
            text += f'["{step}"]'
    return text
