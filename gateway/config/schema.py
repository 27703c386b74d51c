"""A JSON schema of the configuration file, for editors: made from the tree that validates it.

The schema of a single value stands beside the type that checks it (`units`, `values`); its meaning
comes from `meanings.json`, which `tools/meanings.py` takes from the reference page. A schema sees
less than `gateway check-config`: neither how settings fit together nor the files that they name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from gateway.config.tree import Config

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
FILLED_IN: Final = frozenset(
    {"keys", "keys.stores", "state_dir", "auth.receiver_keys[].name", "admin.tokens[].name"}
)
"""Settings that have no default in the tree, and need not be written either: `load` fills them in."""
SHORT: Final = {"auth.receiver_keys": "key", "admin.tokens": "token"}
"""Lists whose entries may be written as the text of one of their settings."""
_EXPRESSION: Final = {"$ref": "#/$defs/expression"}


def config_schema() -> Schema:
    """Return the schema of a whole configuration file."""
    title = "otlp-gateway"
    return {
        "$schema": DIALECT,
        "title": title,
        "description": "The configuration of otlp-gateway. All settings have defaults.",
        **_of_model(Config, "", meanings()),
        "$defs": {
            "expression": {
                "type": "string",
                "pattern": r"\$\{(env|file):[^{}]+\}",
                "description": "${env:NAME}, ${env:NAME:-default} or ${file:PATH}",
            }
        },
    }


def meanings() -> dict[str, str]:
    """Read what each setting means: path, as in `listen[].address` → plain text."""
    file = resources.files("gateway.config") / "meanings.json"
    found: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _of_model(model: type[BaseModel], path: str, texts: Mapping[str, str]) -> Schema:
    fields = {
        name: (f"{path}.{name}" if path else name, field)
        for name, field in model.model_fields.items()
    }
    defaults = _defaults(model)
    schema: Schema = {
        "type": ["object", "null"] if path and not path.endswith("[]") else "object",
        "additionalProperties": False,
        "properties": {
            name: _described(_of_field(field, where, texts), where, defaults.get(name), texts)
            for name, (where, field) in fields.items()
        },
    }
    required = [
        name
        for name, (where, field) in fields.items()
        if field.is_required() and where not in FILLED_IN
    ]
    return schema | ({"required": required} if required else {})


def _defaults(model: type[BaseModel]) -> dict[str, Any]:
    """Return the defaults as the file would have them, with units."""
    return model.model_construct().model_dump(mode="json", exclude_none=True, warnings=False)


def _described(schema: Schema, where: str, default: object, texts: Mapping[str, str]) -> Schema:
    described = dict(schema)
    if text := _meaning(where, texts):
        described["description"] = text
    if default is not None and "properties" not in schema:
        described["default"] = default
    return described


def _meaning(where: str, texts: Mapping[str, str]) -> str | None:
    """Find the text about a path; what backends and TLS share is described once."""
    for candidate in _names(where):
        if candidate in texts:
            return texts[candidate]
    return None


def _names(where: str) -> Iterator[str]:
    yield where
    parts = where.split(".")
    if parts[0] == "backends" and len(parts) > 2:  # noqa: PLR2004 - backends, which one, what
        yield ".".join(["backends", "*", *parts[2:]])
    if parts[-2:-1] == ["tls"]:
        yield f"listen[].tls.{parts[-1]}" if parts[0] == "admin" else f"backends.*.tls.{parts[-1]}"


def _of_field(field: FieldInfo, where: str, texts: Mapping[str, str]) -> Schema:
    model = _model_in(field.annotation)
    if model is None:
        annotation: Any = field.annotation
        for each in field.metadata:
            annotation = _annotated(annotation, each)
        return _or_expression(TypeAdapter(annotation).json_schema())
    if not _is_list(field.annotation):
        return _of_model(model, where, texts)
    entry = _of_model(model, f"{where}[]", texts)
    if where in SHORT:
        entry = {"anyOf": [{"type": "string"}, entry]}
    schema: Schema = {"type": "array", "items": entry}
    return schema | ({"minItems": 1} if any(hasattr(m, "min_length") for m in field.metadata) else {})
