"""The configuration: one typed tree, loaded and validated once, with all faults reported together.

`load` is the way in, `worker_settings` the way to a worker, `effective` what people are shown.
Nothing here needs the network, and nothing here knows the data path or control.
"""

from __future__ import annotations

from gateway.config.cores import usable_cores
from gateway.config.faults import ConfigError, Fault
from gateway.config.loading import Loaded, default_state_dir, load
from gateway.config.tree import Config, effective
from gateway.config.units import parse_duration, parse_size
from gateway.config.values import Store, join_address, split_address
from gateway.config.worker import worker_settings

__all__ = [
    "Config",
    "ConfigError",
    "Fault",
    "Loaded",
    "Store",
    "default_state_dir",
    "effective",
    "join_address",
    "load",
    "parse_duration",
    "parse_size",
    "split_address",
    "usable_cores",
    "worker_settings",
]
