"""Everything that can go wrong with keys, on one page.

Texts are for the person who typed the command: they say what to do and never contain a key. Errors
of database libraries are translated to these at the edge (`keys.stores`) and reach nobody else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final


class KeysError(Exception):
    """Any failure of this room."""


class KeyRefusedError(KeysError):
    """A request that the rules forbid; nothing was changed."""


class InvalidExpiryError(KeyRefusedError):
    """The expiration is not in the future."""


class DuplicateKeyError(KeyRefusedError):
    """The key to adopt exists, or existed, under `key_id`."""

    def __init__(self, text: str, key_id: int) -> None:
        super().__init__(text)
        self.key_id = key_id


class KeyNotFoundError(KeyRefusedError):
    """There is no key with this id, or it is deleted already."""


class InvalidInputError(KeysError):
    """A name, description, date or key of the wrong form."""


class StoreError(KeysError):
    """The store cannot be used. `reason` is the label of `gateway_key_store_errors_total`."""

    reason: ClassVar[str] = "unavailable"


class StoreUnavailableError(StoreError):
    """Missing, locked, unreadable, disk full: it may work later."""

    reason = "unavailable"


class StoreDeniedError(StoreUnavailableError):
    """The server is there, but refuses us: it will until somebody changes something."""


class StoreMissingError(StoreUnavailableError):
    """There is no store here, and none is to be made."""


class StoreDamagedError(StoreError):
    """It is a key store, but broken."""

    reason = "damaged"


class StoreForeignError(StoreError):
    """The file is something else."""

    reason = "foreign"


class AnotherStoreError(StoreForeignError):
    """It is a key store, but not the one that was here before."""


class UnstorableTextError(InvalidInputError, StoreError):
    """The database's encoding lacks a character: of what is written, a mistake of its writer's."""


class StoreTooNewError(StoreError):
    """A newer version of the gateway wrote the store."""

    reason = "too_new"


STORE_ERROR_REASONS: Final = tuple(
    error.reason
    for error in (StoreUnavailableError, StoreDamagedError, StoreForeignError, StoreTooNewError)
)
"""Values of the label `reason` of `gateway_key_store_errors_total`."""


@contextlib.contextmanager
def os_errors_translated(path: Path) -> Iterator[None]:
    """Turn errors of the system into `StoreUnavailableError`s that name `path`."""
    try:
        yield
    except FileNotFoundError as error:
        msg = f"{path}: there is no such file; check the path"
        raise StoreUnavailableError(msg) from error
    except OSError as error:
        msg = f"{path}: {error.strerror}; check it and its folder"
        raise StoreUnavailableError(msg) from error
