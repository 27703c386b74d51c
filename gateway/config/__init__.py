"""The configuration: one typed tree, loaded and validated once, with all errors reported together.

`load` reads it, `worker_settings` turns it into a worker's settings, `effective` renders it for
people. Nothing here needs the network, the data path or control.
"""

from __future__ import annotations

from gateway.config.checks import tls_problems
from gateway.config.cores import usable_cores
from gateway.config.loading import Loaded, default_state_dir, load
from gateway.config.problems import ConfigError, ConfigProblem
from gateway.config.tls_contents import TlsContents, read_tls_contents
from gateway.config.tree import Config, effective
from gateway.config.units import parse_duration, parse_size
from gateway.config.values import Store, join_address, split_address
from gateway.config.worker import worker_settings

__all__ = [
    "Config",
    "ConfigError",
    "ConfigProblem",
    "Loaded",
    "Store",
    "TlsContents",
    "default_state_dir",
    "effective",
    "join_address",
    "load",
    "parse_duration",
    "parse_size",
    "read_tls_contents",
    "split_address",
    "tls_problems",
    "usable_cores",
    "worker_settings",
]
