"""A new key is shown once: one that nobody could see must not stay."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from gateway.cli.keys.access import KeyAccess
from gateway.cli.output import Exit, OutputError, fail
from gateway.keys.errors import KeysError


@contextlib.contextmanager
def deleted_unless_shown(keys: KeyAccess, key_id: int, result: str) -> Iterator[None]:
    """Delete the key again, and fail, where stdout cannot be written in this block.

    `result` says how things are then.
    """
    try:
        yield
    except OutputError as error:
        lost = f"the new key cannot be shown, because stdout cannot be written ({error})"
        try:
            keys.delete(key_id)
        except KeysError as failure:
            advice = f"delete it: gateway keys delete --id {key_id}"
            fail(f"{lost}, and it cannot be deleted ({failure}): {advice}", Exit.UNREACHABLE)
        fail(f"{lost}, so it was deleted. {result}", Exit.BAD_INPUT)
