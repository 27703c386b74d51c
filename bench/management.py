"""A gateway's management API, as the bench uses it to hand over keys."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable

from bench.process import ProgramError

TOKEN = "bench-token-0123456789"  # noqa: S105 - of a gateway that lives as long as a run
_PATH = "/api/security/ingestion/adopt"
_TIMEOUT_S = 30


def adopt(admin_port: int, keys: Iterable[str]) -> None:
    """Let the gateway with the token TOKEN accept keys that exist already.

    Raises:
        ProgramError: it answers otherwise than with 200, or not at all.
    """
    connection = http.client.HTTPConnection("127.0.0.1", admin_port, timeout=_TIMEOUT_S)
    headers = {"X-API-Token": TOKEN, "Content-Type": "application/json"}
    try:
        for number, key in enumerate(keys):
            body = json.dumps({"apiKey": key, "name": f"bench {number}"})
            connection.request("POST", _PATH, body, headers)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
            if answer.status != http.HTTPStatus.OK:
                message = f"{_PATH} answers {answer.status}: {text}"
                raise ProgramError(message)
    except (OSError, http.client.HTTPException) as error:
        message = f"{_PATH} does not answer: {error}"
        raise ProgramError(message) from error
    finally:
        connection.close()
