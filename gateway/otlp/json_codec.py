"""OTLP/JSON: protobuf's JSON mapping with OTLP's deviations.

Source: OTLP specification, "JSON Protobuf Encoding".

`traceId`, `spanId` and `parentSpanId` are hex, other bytes base64; enums are integers only; keys
are lowerCamelCase only; 64-bit integers are decimal strings on writing, strings or numbers on
reading; unknown keys are ignored. protobuf's own `json_format` does none of the first three, so
this module does both directions itself, with the messages' descriptors. Errors contain the path of
the field, because people write these bodies by hand.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, TypeVar, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

JsonObject = dict[str, Any]  # the types of JSON values are known only after a check
AnyMessage = TypeVar("AnyMessage", bound=Message)

_HEX_IDS: Final = {"trace_id": 16, "span_id": 8, "parent_span_id": 8}
"""Fields written in hex, with their sizes in bytes."""

_PROFILE_ID: Final = "profile_id"
"""In the specification it is base64, but Collectors write it as hex.

The two have different lengths for 16 bytes, so both are accepted.
"""
_PROFILE_ID_HEX_CHARS: Final = 32

_BODY: Final = "body"
"""The path of an error in the whole text."""

MAX_DEPTH: Final = 100
"""The deepest nesting that is accepted, as in protobuf's own parsers."""

_F = FieldDescriptor
_64_BIT: Final = frozenset(
    {_F.TYPE_INT64, _F.TYPE_UINT64, _F.TYPE_FIXED64, _F.TYPE_SFIXED64, _F.TYPE_SINT64}
)
_32_BIT: Final = frozenset(
    {_F.TYPE_INT32, _F.TYPE_UINT32, _F.TYPE_FIXED32, _F.TYPE_SFIXED32, _F.TYPE_SINT32}
)
_FLOATS: Final = frozenset({_F.TYPE_DOUBLE, _F.TYPE_FLOAT})
_FLOAT_NAMES: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class OtlpJsonError(ValueError):
    """The text is not OTLP/JSON.

    `path` is the field, `problem` says what is wrong and what is expected.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


def encode(message: Message) -> bytes:
    """Write a message as compact OTLP/JSON."""
    return json.dumps(to_object(message), ensure_ascii=False, separators=(",", ":")).encode()


def to_object(message: Message) -> JsonObject:
    """Turn a message into what `json.dumps` takes.

    Fields at their default are left out, as the mapping says.
    """
    return {
        field.json_name: [_to_json(field, item) for item in value]
        if field.is_repeated
        else _to_json(field, value)
        for field, value in message.ListFields()
    }


def _to_json(field: FieldDescriptor, value: Any) -> object:  # noqa: ANN401 - as ListFields gives it
    """Write one value; enums are integers already."""
    if field.type == _F.TYPE_MESSAGE:
        return to_object(value)
    if field.type == _F.TYPE_BYTES:
        is_hex = field.name in _HEX_IDS
        return value.hex() if is_hex else base64.b64encode(value).decode()
    if field.type in _64_BIT:
        return str(value)
    if field.type in _FLOATS and not math.isfinite(value):
        return next(name for name, number in _FLOAT_NAMES.items() if str(number) == str(value))
    return cast("object", value)


def decode(message_type: type[AnyMessage], data: bytes) -> AnyMessage:
    """Read OTLP/JSON.

    Raises:
        OtlpJsonError: the text is no JSON, or a value is not what its field takes.
    """
    try:
        fields = json.loads(data.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise OtlpJsonError(_BODY, "not UTF-8") from error
    except json.JSONDecodeError as error:
        problem = f"not JSON: {error.msg} at line {error.lineno} column {error.colno}"
        raise OtlpJsonError(_BODY, problem) from error
    except RecursionError as error:
        raise OtlpJsonError(_BODY, "nested too deeply") from error
    message = message_type()
    _fill(message, fields, "", 0)
    return message


def _refuse_constant(name: str) -> NoReturn:
    problem = (
        f'{name} is not JSON: write special numbers as strings, "NaN", "Infinity", "-Infinity"'
    )
    raise OtlpJsonError(_BODY, problem)


def _fill(message: Message, fields: object, path: str, depth: int) -> None:
    """Set a message's fields from a JSON object; keys that no field has are ignored."""
    if depth > MAX_DEPTH:
        raise OtlpJsonError(path[:200], f"nested deeper than {MAX_DEPTH} levels")
    if not isinstance(fields, dict):
        raise OtlpJsonError(path or _BODY, f"expected an object, found {_kind(fields)}")
    known = _fields_by_json_name(message)
    for key, value in fields.items():
        field = known.get(key)
        if field is not None and value is not None:
            _set_field(message, field, value, f"{path}.{key}" if path else key, depth)


def _set_field(
    message: Message, field: FieldDescriptor, value: object, path: str, depth: int
) -> None:
    if not field.is_repeated:
        if field.type == _F.TYPE_MESSAGE:
            child = getattr(message, field.name)
            child.SetInParent()
            _fill(child, value, path, depth + 1)
        else:
            _assign(lambda scalar: setattr(message, field.name, scalar), field, value, path)
        return
    if not isinstance(value, list):
        raise OtlpJsonError(path, f"expected an array, found {_kind(value)}")
    items = getattr(message, field.name)
    for position, item in enumerate(value):
        item_path = f"{path}[{position}]"
        if field.type == _F.TYPE_MESSAGE:
            _fill(items.add(), item, item_path, depth + 1)
        else:
            _assign(items.append, field, item, item_path)


def _assign(
    store: Callable[[object], object], field: FieldDescriptor, value: object, path: str
) -> None:
    """Convert a scalar and store it; protobuf itself checks ranges and that strings are Unicode."""
    try:
        store(_scalar(field, value, path))
    except OtlpJsonError:
        raise
    except (ValueError, TypeError) as error:
        raise OtlpJsonError(path, f"the value does not fit: {error}") from error


def _scalar(field: FieldDescriptor, value: object, path: str) -> object:
    if field.type in _64_BIT or field.type in _32_BIT:
        return _integer(value, path)
    if field.type in _FLOATS:
        return _float(value, path)
    if field.type == _F.TYPE_ENUM:
        return _enum(value, path)
    if field.type == _F.TYPE_BYTES:
        return _bytes(field.name, value, path)
    expected = bool if field.type == _F.TYPE_BOOL else str
    if not isinstance(value, expected):
        name = "true or false" if expected is bool else "a string"
        raise OtlpJsonError(path, f"expected {name}, found {_kind(value)}")
    return value


def _integer(value: object, path: str) -> int:
    """Read an integer: a number, or a decimal string as 64-bit integers are written."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.lstrip("-").isdecimal() and value.isascii():
        return int(value)
    raise OtlpJsonError(
        path, f"expected an integer (number or decimal string), found {_kind(value)}"
    )


def _float(value: object, path: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        try:
            return _FLOAT_NAMES[value] if value in _FLOAT_NAMES else float(value)
        except ValueError:
            pass
    raise OtlpJsonError(path, f"expected a number, found {_kind(value)}")


def _enum(value: object, path: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    problem = "expected an integer: OTLP/JSON writes enum values as numbers, never by name"
    raise OtlpJsonError(path, problem)


def _bytes(name: str, value: object, path: str) -> bytes:
    if not isinstance(value, str):
        raise OtlpJsonError(path, f"expected a string, found {_kind(value)}")
    if name in _HEX_IDS:
        return _hex_id(value, _HEX_IDS[name], path)
    if name == _PROFILE_ID and len(value) == _PROFILE_ID_HEX_CHARS:
        return _hex_id(value, _PROFILE_ID_HEX_CHARS // 2, path)
    try:
        standard = value.replace("-", "+").replace("_", "/").rstrip("=")
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise OtlpJsonError(path, "expected base64") from error


def _hex_id(text: str, size: int, path: str) -> bytes:
    """Read an id: empty (not set), or hex of exactly its size, in upper or lower case."""
    try:
        value = bytes.fromhex(text) if text.isalnum() else None
    except ValueError:
        value = None
    if text and (value is None or len(value) != size):
        problem = f"expected {2 * size} hex digits: OTLP/JSON writes ids in hex, not in base64"
        raise OtlpJsonError(path, problem)
    return value or b""


def _fields_by_json_name(message: Message) -> dict[str, FieldDescriptor]:
    descriptor = message.DESCRIPTOR
    found = _KNOWN_FIELDS.get(descriptor.full_name)
    if found is None:
        # The type stubs have two implementations of one interface.
        fields = cast("Sequence[FieldDescriptor]", descriptor.fields)
        found = {field.json_name: field for field in fields}
        _KNOWN_FIELDS[descriptor.full_name] = found
    return found


_KNOWN_FIELDS: Final[dict[str, dict[str, FieldDescriptor]]] = {}
"""Cache by message type: at most as many as OTLP has."""


def _kind(value: object) -> str:
    """Return a JSON value's kind for an error message, without the value."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"
