"""What commands take from the server that they ask: checked before use.

The server may be any program. What it sends that a gateway would not is an error with a text, not a
surprise in the middle of a command.
"""

from __future__ import annotations

from typing import Any

import msgspec


class WrongShapeError(Exception):
    """An answer is not what a gateway sends; the text says what is wrong, in the words of JSON."""


def decoded(raw: bytes, shape: Any) -> Any:  # noqa: ANN401 - JSON, a type
    """Read JSON that has `shape`; return it with all its members. Raises `WrongShapeError`."""
    try:
        value = msgspec.json.decode(raw)
        msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise WrongShapeError(str(error)) from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        msg = "it is not JSON"
        raise WrongShapeError(msg) from error
    return value
