"""A configuration as the gateway loads it, from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gateway.config import Config, Loaded, load
from tests.support.process import merge


def loaded_from(folder: Path, changes: Mapping[str, Any] | None = None) -> Loaded:
    """Write a configuration with `changes` into `folder` and load it; it has 3 workers."""
    file = folder / "gateway.yaml"
    base = {"state_dir": str(folder / "state"), "workers": 3}
    file.write_text(yaml.safe_dump(merge(base, changes or {})))
    return load(file, (), {})


def config_from(folder: Path, changes: Mapping[str, Any] | None = None) -> Config:
    """As `loaded_from`; return the configuration alone."""
    return loaded_from(folder, changes).config
