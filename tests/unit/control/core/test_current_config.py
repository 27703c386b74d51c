from __future__ import annotations

from pathlib import Path

from gateway.control.core.current_config import CurrentConfig
from gateway.control.lifecycle.worker_plan import worker_plan
from tests.support.config import loaded_from


def test_backends_are_named_with_their_addresses(tmp_path: Path) -> None:
    backends = {
        "otlp_grpc": {"urls": ["http://a:4317", "http://b:4317"]},
        "otlp_http": {"urls": ["https://[::1]/prefix"]},
    }
    assert CurrentConfig(loaded_from(tmp_path, {"backends": backends})).backends() == [
        ("otlp_grpc", ["a:4317", "b:4317"]),
        ("otlp_http", ["[::1]:443"]),
    ]


def test_backends_are_named_as_workers_name_them(tmp_path: Path) -> None:
    loaded = loaded_from(tmp_path, {"backends": {"otlp_http": {"urls": ["http://[::1]:1/x"]}}})
    [backend] = worker_plan(loaded.config, [], "json", {}).settings(0, 99).backends
    assert CurrentConfig(loaded).backends() == [
        (backend.name, [target.address for target in backend.targets])
    ]
