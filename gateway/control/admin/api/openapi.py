"""The API's description (OpenAPI 3.1), made of the operations that answer it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from gateway import __version__
from gateway.control.admin.api.operations import Operation, Parameter, Response
from gateway.control.admin.http_app import JSON, TOKEN_FIELDS

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
        for response in operation.responses.values():
            if response.type is not None:
                yield response.type


def _operation(
    operation: Operation, number: int, schema_of: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    """Describe an operation under its path number `number`; ids must differ between paths."""
    described: dict[str, Any] = {
        "operationId": operation.id if number == 0 else f"{operation.id}Internally",
        "summary": operation.summary,
        "security": [{name: []} for name in TOKEN_FIELDS] if operation.needs is not None else [],
        "responses": {
            str(status): _response(response, schema_of)
            for status, response in operation.responses.items()
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


def _response(response: Response, schema_of: dict[int, dict[str, Any]]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": response.description}
    if response.type is not None:
        described["content"] = {JSON: {"schema": schema_of[id(response.type)]}}
    if response.headers:
        described["headers"] = {
            name: {"description": text, "schema": {"type": "string"}}
            for name, text in response.headers.items()
        }
    return described
