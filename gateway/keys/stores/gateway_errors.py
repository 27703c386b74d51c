"""What errors of gRPC mean for a store, in words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import grpc
import grpc.aio

from gateway.keys.errors import (
    StoreDeniedError,
    StoreError,
    StoreForeignError,
    StoreUnavailableError,
)

_MOST_SHOWN: Final = 200
_TOKEN: Final = (
    "the gateway refuses the admin token: set keys.feed.token to one of its admin.tokens"  # noqa: S105 - no token
)
_FOREIGN: Final = "this is no admin.grpc_address of a gateway: check the port"


@contextlib.contextmanager
def translated(location: str) -> Iterator[None]:
    """Turn errors of gRPC, and silence, into `StoreError`s that name `location`."""
    try:
        yield
    except TimeoutError as error:
        msg = f"{location}: the gateway does not answer"
        raise StoreUnavailableError(msg) from error
    except grpc.aio.AioRpcError as error:
        raise _explained(location, error) from error


def _explained(location: str, error: grpc.aio.AioRpcError) -> StoreError:
    match error.code():
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return StoreDeniedError(f"{location}: {_TOKEN}")
        case grpc.StatusCode.UNIMPLEMENTED:
            return StoreForeignError(f"{location}: {_FOREIGN}")
        case _:
            said = _printable(error.details() or error.code().name)
            return StoreUnavailableError(f"{location}: {said}")


def _printable(text: str) -> str:
    """Cut what a peer or a library says, and leave out what is no text."""
    return "".join(each if each.isprintable() else "?" for each in text[:_MOST_SHOWN])
