from __future__ import annotations

from gateway.config import load
from gateway.demo.layout import DemoLayout, configuration


def test_the_configuration_is_one_that_the_gateway_takes(layout: DemoLayout) -> None:
    layout.config_file.write_text(configuration(layout, "127.0.0.1:5555"))
    config = load(layout.config_file, (), {}).config
    assert [listener.address for listener in config.listen] == [
        "127.0.0.1:4317",
        "127.0.0.1:4318",
        "127.0.0.1:4443",
    ]
    tls = config.listen[2].tls
    assert tls is not None
    assert tls.cert_file == layout.certificates.cert_file
    assert config.keys.stores[0].path == layout.store_file
    assert config.state_dir == layout.folder
    assert config.admin.address == "127.0.0.1:8090"
    assert config.worker_count == 2
    assert (config.forward.key, config.forward.identity_headers) == ("none", True)


def test_the_receiver_is_the_backend_of_both_protocols(layout: DemoLayout) -> None:
    layout.config_file.write_text(configuration(layout, "127.0.0.1:5555"))
    backends = load(layout.config_file, (), {}).config.backends
    assert backends.otlp_grpc is not None
    assert backends.otlp_http is not None
    urls = [*backends.otlp_grpc.urls, *backends.otlp_http.urls]
    assert [str(url) for url in urls] == ["http://127.0.0.1:5555"] * 2


def test_nothing_is_waited_for_at_the_end(layout: DemoLayout) -> None:
    layout.config_file.write_text(configuration(layout, "127.0.0.1:5555"))
    assert load(layout.config_file, (), {}).config.limits.drain_delay == 0
