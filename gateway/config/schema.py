"""A JSON schema of the configuration file, for editors: made from the tree that validates it.

What a value looks like stands beside the function that checks it (`units`, `values`). What a
setting means comes from `meanings.json`, which `tools/meanings.py` takes from the reference page. A
schema sees less than `gateway check-config`: neither how settings fit together, nor files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any, Final, get_args

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from gateway.config.tree import Config

Schema = dict[str, Any]

DIALECT: Final = "http://json-schema.org/draft-07/schema#"
"""The one that all editors know."""
FILLED_IN: Final = frozenset(
    {"keys", "keys.stores", "state_dir", "auth.receiver_keys[].name", "admin.tokens[].name"}
)
"""Settings without a default in the tree that need not be written: loading fills them in."""
SHORT: Final = frozenset({"auth.receiver_keys", "admin.tokens"})
"""Lists whose entries may be written as plain text."""
_EXPRESSION: Final = {"$ref": "#/definitions/expression"}
_NULL: Final = {"type": "null"}
"""A setting without a value has its default."""
_BOUNDS: Final = {"ge", "gt", "le", "lt"}
"""Of values in seconds and bytes, where the file has text with units."""


def config_schema() -> Schema:
    """Return the schema of a configuration file."""
    return {
        "$schema": DIALECT,
        "title": "otlp-gateway",
        **_of_model(Config, "", meanings()),
        "description": "The configuration of otlp-gateway.",
        "definitions": {
            "expression": {
                "type": "string",
                "pattern": r"\$\{(env|file):[^{}]+\}",
                "description": "${env:NAME}, ${env:NAME:-default} or ${file:PATH}",
            }
        },
    }


def meanings() -> dict[str, str]:
    """Read what each setting means: path, such as `listen[].address`, → plain text."""
    file = resources.files("gateway.config") / "meanings.json"
    found: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _of_model(model: type[BaseModel], path: str, texts: Mapping[str, str]) -> Schema:
    places = {name: f"{path}.{name}" if path else name for name in model.model_fields}
    defaults = model.model_construct().model_dump(mode="json", exclude_none=True, warnings=False)
    properties = {}
    for name, field in model.model_fields.items():
        property_ = _of_field(field, places[name], texts)
        if (text := _meaning(places[name], texts) or property_.get("description")) is not None:
            property_["description"] = text
        if name in defaults and _model_in(field.annotation) is None:
            property_["default"] = defaults[name]
        properties[name] = property_
    required = [
        name
        for name, field in model.model_fields.items()
        if field.is_required() and places[name] not in FILLED_IN
    ]
    schema: Schema = {
        "type": "object",
        "description": (model.__doc__ or "").partition("\n")[0],
        "additionalProperties": False,
        "properties": properties,
    }
    return schema | ({"required": required} if required else {})


def _of_field(field: FieldInfo, place: str, texts: Mapping[str, str]) -> Schema:
    model = _model_in(field.annotation)
    if model is None:
        return _choices(_of_value(TypeAdapter(field.rebuild_annotation()).json_schema()))
    if "list[" not in str(field.annotation):
        inside = _of_model(model, place, texts)
        return inside | {"type": ["object", "null"]}
    entry = _of_model(model, f"{place}[]", texts)
    if place in SHORT:
        entry = {"anyOf": [{"type": "string"}, entry]}
    return {"type": ["array", "null"], "items": entry}


def _model_in(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401 - an annotation is any object
    """Return the mapping of the tree that an annotation contains, if any."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def _of_value(schema: Schema) -> list[Schema]:
    """Return the forms that a value may have in the file, of which one must fit."""
    if "anyOf" in schema:
        return [form for each in schema["anyOf"] for form in _of_value(each)]
    clean = {name: part for name, part in schema.items() if name not in _BOUNDS}
    if "enum" in clean:
        return [{"enum": _written(clean["enum"])}, _EXPRESSION]
    for inside in ("items", "additionalProperties"):
        if isinstance(clean.get(inside), dict):
            clean[inside] = _choices(_of_value(clean[inside]), may_be_null=False)
    if clean.get("type") in {"array", "object", "null"} or clean == {"type": "string"}:
        return [clean]
    return [clean, _EXPRESSION]


def _written(values: list[object]) -> list[object]:
    """Add to choices how YAML reads them without quotation marks, and with."""
    found: list[object] = []
    for value in values:
        found.append(value)
        text = str(value)
        if text.replace(".", "", 1).isdigit():
            number = float(text) if "." in text else int(text)
            found.append(number if isinstance(value, str) else text)
    return list({repr(value): value for value in found}.values())


def _choices(forms: list[Schema], *, may_be_null: bool = True) -> Schema:
    unique: list[Schema] = []
    for form in [*forms, _NULL] if may_be_null else forms:
        if form not in unique:
            unique.append(form)
    return dict(unique[0]) if len(unique) == 1 else {"anyOf": unique}


def _meaning(place: str, texts: Mapping[str, str]) -> str | None:
    """Return the text about a setting; what backends and TLS share is described once."""
    return next((texts[name] for name in _names(place) if name in texts), None)


def _names(place: str) -> Iterator[str]:
    yield place
    for start in ("backends.routes[].", "backends."):
        if place.startswith(start):
            yield f"backends.*.{place.removeprefix(start).partition('.')[2]}"
    if place.startswith("keys.jwt.issuers[].map."):
        yield place.replace(".issuers[]", "")
    above, _, name = place.rpartition(".")
    if above in {"admin.tls", "admin.grpc_tls"}:
        yield f"listen[].tls.{name}"
    if above.endswith(".tls"):
        yield f"backends.*.tls.{name}"
