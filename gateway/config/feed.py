"""Checks for the gRPC address, and for central gateways among the stores."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.addresses import is_loopback
from gateway.config.problems import Path
from gateway.config.tree import Config
from gateway.config.values import split_address


def problems(config: Config) -> Iterator[tuple[Path, str]]:
    """List the errors, each with its path."""
    yield from _problems_of_address(config)
    tls = config.keys.feed.tls
    if tls is not None and tls.insecure_skip_verify:
        path: Path = ("keys", "feed", "tls", "insecure_skip_verify")
        yield path, "is not supported here: set ca_file to the CA of the central gateway instead"
    for place, store in enumerate(config.keys.stores):
        if store.kind == "gateway" and not store.is_tls and tls is not None:
            path = ("keys", "stores", place)
            yield path, "has no TLS, but keys.feed.tls is set: use gateway+grpcs://"


def _problems_of_address(config: Config) -> Iterator[tuple[Path, str]]:
    admin = config.admin
    if admin.grpc_tls is None:
        return
    if admin.grpc_address is None:
        message = "has no effect without admin.grpc_address: set it, or remove grpc_tls"
        yield ("admin", "grpc_tls"), message
    if admin.grpc_tls.min_version != "1.2":
        message = "cannot be set for the gRPC address, which allows TLS 1.2 and 1.3: remove it"
        yield ("admin", "grpc_tls", "min_version"), message


def warnings(config: Config) -> Iterator[tuple[Path, str]]:
    """List what is valid but probably not intended."""
    admin, keys = config.admin, config.keys
    stores = [store for store in keys.stores if store.kind == "gateway"]
    if not stores and keys.feed.model_fields_set:
        message = "has no effect: keys.stores contains no gateway (gateway+grpcs://…)"
        yield ("keys", "feed"), message
    for place, store in enumerate(keys.stores):
        if store.kind != "gateway":
            continue
        host, _ = split_address(store.address)
        if not store.is_tls and not is_loopback(host):
            message = (
                f"{store.address} is followed without TLS: the admin token and the keys' digests "
                "cross the network in cleartext; use gateway+grpcs://"
            )
            yield ("keys", "stores", place), message
    address = admin.grpc_address
    if (
        address is not None
        and admin.grpc_tls is None
        and not is_loopback(split_address(address)[0])
    ):
        message = (
            f"other machines can reach {address} without TLS: admin tokens and what is asked cross "
            "the network in cleartext; set admin.grpc_tls"
        )
        yield ("admin", "grpc_address"), message
