"""The API's own description: a client made of it works, and nothing the server does is outside it.

`aiopenapi3` builds a client from the served document and checks each answer by it: an
implementation of the API that shares no line with ours. `schemathesis` makes up requests, good and
bad ones, and checks each answer.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import aiopenapi3  # type: ignore[import-untyped] # it has no stubs
import pytest
from aiopenapi3.errors import HTTPClientError  # type: ignore[import-untyped] # it has no stubs

from tests.contract.conftest import AUTHORIZE, KEYS, STATIC_KEY, TOKEN, Gateway
from tests.support.child import start_child

DOCUMENT = "/api/openapi.json"
DAY_MS = 86_400_000
UNDERSTOOD = {"IngestionApiKeyInvalidExpiryError", "ErrorsResponse"}


# A client that is generated from the document


@pytest.fixture
async def client(gateway: Gateway) -> aiopenapi3.OpenAPI:
    made = await aiopenapi3.OpenAPI.load_async(gateway.url + DOCUMENT)
    made.authenticate(**{"X-API-Key": TOKEN})
    return made


async def call(client: Any, operation: str, data: object = None, **parameters: object) -> Any:
    """Call an operation of the generated client; answers are checked by their types."""
    return await client._[operation](data=data, parameters=parameters)


async def test_a_generated_client_does_all_that_there_is(
    gateway: Gateway, client: aiopenapi3.OpenAPI
) -> None:
    info = await call(client, "getServerInfo")
    assert (info.version.major, info.deploymentMode) == (7, "SelfHosted")

    new = {"name": "one", "signals": ["traces"], "limits": {"requests": 5}}
    made = await call(client, "generateIngestionApiKey", new)
    assert made.apiKey.startswith("iapikey-")
    assert made.limits.requests == 5
    adopted = await call(
        client, "adoptIngestionApiKey", {"name": "two", "apiKey": "key-from-elsewhere"}
    )
    listed = await call(client, "getIngestionApiKeys")
    assert {key.id: key.name for key in listed} == {made.id: "one", adopted.id: "two"}
    page = await call(client, "getIngestionApiKeys", limit=1, after=min(made.id, adopted.id))
    assert [key.id for key in page] == [max(made.id, adopted.id)]

    changes = {
        "name": "three",
        "description": "d",
        "enabled": False,
        "signals": None,
        "limits": None,
    }
    changed = await call(client, "updateIngestionApiKey", changes, id=made.id)
    assert (changed.name, changed.description, changed.enabled) == ("three", "d", False)
    shown = await call(client, "getIngestionApiKey", id=made.id)
    assert (shown.name, shown.enabled) == ("three", False)

    overlap = {"overlap": DAY_MS}
    rotated = await call(client, "rotateIngestionApiKey", overlap, id=adopted.id)
    assert (rotated.name, rotated.predecessor.id) == ("two", adopted.id)
    await call(client, "authorizeIngestionApiKey", {"apiKey": rotated.apiKey})
    await call(
        client, "authorizeIngestionApiKeyInternally", {"apiKey": STATIC_KEY}, withReceiverKey="true"
    )
    await call(client, "deleteIngestionApiKey", id=rotated.id)

    log = await call(client, "getIngestionApiKeyAudit", keyId=rotated.id)
    assert [(entry.action, entry.who) for entry in log] == [("delete", "alice")]
    usage = await call(client, "getIngestionApiKeyUsage", by="month", keyId=str(made.id))
    assert list(usage) == []
    assert {key["id"] for key in (await gateway.ask("GET", KEYS)).json} == {made.id, adopted.id}


@pytest.mark.parametrize(
    "operation, data, parameters, status",
    [
        ("generateIngestionApiKey", {"name": "n", "expiration": 1}, {}, 400),
        ("deleteIngestionApiKey", None, {"id": 1}, 404),
    ],
)
async def test_a_generated_client_understands_a_no(
    client: aiopenapi3.OpenAPI,
    operation: str,
    data: object,
    parameters: dict[str, object],
    status: int,
) -> None:
    with pytest.raises(HTTPClientError) as refused:
        await call(client, operation, data, **parameters)
    assert refused.value.status_code == status
    assert refused.value.data.model_dump(by_alias=True)["_type"] in UNDERSTOOD


async def test_a_generated_client_is_told_of_a_key_that_is_not_accepted(
    client: aiopenapi3.OpenAPI,
) -> None:
    operation: Any = client._["authorizeIngestionApiKey"]
    _, data, answer = await operation.request(data={"apiKey": "made-up"})
    assert (answer.status_code, answer.content) == (403, b"")
    assert not data


async def test_the_document_needs_no_token_and_names_every_type_once(gateway: Gateway) -> None:
    answered = await gateway.ask("GET", DOCUMENT, token=None)
    assert answered.status == 200
    assert answered.headers["Content-Type"] == "application/json"
    assert answered.json["openapi"] == "3.1.0"
    ids = [
        operation["operationId"]
        for path in answered.json["paths"].values()
        for operation in path.values()
    ]
    assert len(ids) == len(set(ids)) == 15


# Requests that are made up


async def test_nothing_that_the_server_does_is_outside_its_description(
    gateway: Gateway, tmp_path: Path
) -> None:
    """Left out: `positive_data_acceptance`, because no schema can say that a time is in the future
    or that a name has no control characters; `ignored_auth`, because wrong tokens are slowed down
    (both are tested in test_wire).
    """
    # Both header fields carry the token: else a made-up one stands in the other.
    tokens = [f"--header={name}: {TOKEN}" for name in ("X-API-Key", "X-API-Token")]
    tester = await start_child(
        Path(sys.executable).with_name("schemathesis"),
        "run",
        gateway.url + DOCUMENT,
        *tokens,
        "--checks=all",
        "--exclude-checks=positive_data_acceptance,ignored_auth",
        "--max-examples=10",
        "--no-color",
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await tester.communicate()
    assert tester.returncode == 0, said.decode()
    assert "Tested: 15" in said.decode()
    assert (await gateway.ask("POST", AUTHORIZE, {"apiKey": "x"}, token=None)).status == 403
