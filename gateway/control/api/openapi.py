"""The API's description (OpenAPI 3.1), made of the operations that answer it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from gateway import __version__
from gateway.control.api.operations import Answer, Operation, Parameter
from gateway.control.web import JSON, TOKEN_FIELDS

_SCHEMAS: Final = "#/components/schemas/{name}"
_ABOUT: Final = (
    "Keys by which senders of telemetry are let in. StackState's ingestion API keys, as the `sts`"
    " CLI 3.0 speaks, and what goes beyond. Times are Unix milliseconds; what is absent is left"
    " out; clients must ignore members that they do not know."
)


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """Describe `operations`."""
    types = list(_types(operations))
    schemas, components = msgspec.json.schema_components(types, ref_template=_SCHEMAS)
    schema_of = {id(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        for number, path in enumerate(operation.paths):
            described = _operation(operation, number, schema_of)
            paths.setdefault(path, {})[operation.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {"title": "otlp-gateway", "version": __version__, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                name: {"type": "apiKey", "in": "header", "name": name} for name in TOKEN_FIELDS
            },
        },
    }


def _types(operations: Sequence[Operation]) -> Iterator[Any]:
    """Give every type that has a schema; the same object may come more than once."""
    for operation in operations:
        if operation.takes is not None:
            yield operation.takes
        yield from (parameter.type for parameter in operation.parameters)
        for answer in operation.answers.values():
            if answer.type is not None:
                yield answer.type


def _operation(
    operation: Operation, number: int, schema_of: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    """Describe an operation under its path number `number`; ids must differ between paths."""
    described: dict[str, Any] = {
        "operationId": operation.id if number == 0 else f"{operation.id}Internally",
        "summary": operation.summary,
        "security": [{name: []} for name in TOKEN_FIELDS] if operation.needs_token else [],
        "responses": {
            str(status): _answer(answer, schema_of) for status, answer in operation.answers.items()
        },
    }
    if operation.parameters:
        described["parameters"] = [
            _parameter(parameter, schema_of) for parameter in operation.parameters
        ]
    if operation.takes is not None:
        content = {JSON: {"schema": schema_of[id(operation.takes)]}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _parameter(parameter: Parameter, schema_of: dict[int, dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.description,
        "schema": schema_of[id(parameter.type)],
    }


def _answer(answer: Answer, schema_of: dict[int, dict[str, Any]]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.description}
    if answer.type is not None:
        described["content"] = {JSON: {"schema": schema_of[id(answer.type)]}}
    if answer.headers:
        described["headers"] = {
            name: {"description": text, "schema": {"type": "string"}}
            for name, text in answer.headers.items()
        }
    return described
