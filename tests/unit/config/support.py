"""Loading configurations from text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from gateway.config import ConfigError, ConfigProblem, Loaded, load

HOME = {"HOME": "/home/someone"}


def load_text(
    folder: Path,
    text: str,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] = HOME,
) -> Loaded:
    file = folder / "gateway.yaml"
    file.write_text(text, encoding="utf-8")
    return load(file, overrides, environ)


def problems_of(
    folder: Path,
    text: str,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] = HOME,
) -> list[ConfigProblem]:
    with pytest.raises(ConfigError) as caught:
        load_text(folder, text, overrides, environ)
    return list(caught.value.problems)
