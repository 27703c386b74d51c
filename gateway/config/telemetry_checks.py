"""Checks for the gateway's own telemetry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import Final, NamedTuple

from gateway.config.addresses import is_reached_by
from gateway.config.problems import Path
from gateway.config.tls_files import check_ca, check_chain
from gateway.config.tree import Config
from gateway.config.values import port_of, split_address, split_url

_LIBRARIES: Final = (
    "opentelemetry.sdk",
    "opentelemetry.exporter.otlp.proto.grpc",
    "opentelemetry.exporter.otlp.proto.http",
)
_ENDPOINT: Final = ("telemetry", "endpoint")


class Problem(NamedTuple):
    """What is wrong with a setting; `other` is a path that replaces `{other}` in the message."""

    path: Path
    message: str
    other: Path | None = None


def problems(config: Config, listening: Iterable[tuple[Path, str]]) -> Iterator[Problem]:
    """List the errors. `listening`: every address that the gateway binds, with its path."""
    telemetry = config.telemetry
    if telemetry.endpoint is None:
        return
    if not has_libraries():
        message = (
            "needs packages that are not installed: add them with  pip install"
            " 'otlp-gateway[telemetry]'  (in a checkout: '.[telemetry]'), or remove the endpoint"
        )
        yield Problem(_ENDPOINT, message)
    parts = split_url(telemetry.endpoint)
    target = (parts.hostname or "", port_of(parts))
    for where, address in listening:
        if is_reached_by(split_address(address), target):
            message = (
                "this is an address of the gateway itself ({other}), which would export what its"
                " own exports cause: set the address of a Collector or of the backend"
            )
            yield Problem(_ENDPOINT, message, where)
            break
    if telemetry.protocol == "grpc" and parts.path.strip("/"):
        message = (
            "has a path, which OTLP/gRPC does not use: write it without one, or set"
            " telemetry.protocol to http/protobuf"
        )
        yield Problem(_ENDPOINT, message)
    yield from _of_headers(config)
    yield from _of_tls(config)


def has_libraries() -> bool:
    """Whether what exports is installed."""
    try:
        return all(find_spec(name) is not None for name in _LIBRARIES)
    except ModuleNotFoundError:
        return False


def _of_headers(config: Config) -> Iterator[Problem]:
    for name, value in config.telemetry.headers.items():
        text = value.get_secret_value()
        if not (text.isascii() and text.isprintable()) or text != text.strip():
            message = "must be printable ASCII without spaces around it"
            yield Problem(("telemetry", "headers", name), message)


def _of_tls(config: Config) -> Iterator[Problem]:
    tls, path = config.telemetry.tls, ("telemetry", "tls")
    if tls is None:
        return
    if (config.telemetry.endpoint or "").startswith("http://"):
        message = "has no effect, because the endpoint starts with http://: use https://"
        yield Problem(path, message)
    if tls.ca_file is not None and (problem := check_ca(tls.ca_file)) is not None:
        yield Problem((*path, "ca_file"), problem)
    if tls.cert_file is not None and tls.key_file is not None:
        for name, problem in check_chain(tls.cert_file, tls.key_file).items():
            yield Problem((*path, name), problem)
    elif tls.cert_file is not None or tls.key_file is not None:
        missing = "key_file" if tls.key_file is None else "cert_file"
        yield Problem((*path, missing), "is missing: set both cert_file and key_file, or neither")


def warnings(config: Config) -> Iterator[tuple[Path, str]]:
    """List what is valid but probably not intended."""
    telemetry = config.telemetry
    if telemetry.endpoint is None:
        if telemetry.model_fields_set:
            yield ("telemetry",), "has no effect without telemetry.endpoint: set it"
        return
    parts = split_url(telemetry.endpoint)
    usual = {"grpc": 4318, "http/protobuf": 4317}[telemetry.protocol]
    if parts.port == usual:
        other = "http/protobuf" if telemetry.protocol == "grpc" else "grpc"
        message = f"port {usual} is usually that of {other}: check telemetry.protocol"
        yield _ENDPOINT, message
