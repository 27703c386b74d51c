from __future__ import annotations

import json
import traceback
from pathlib import Path

import pytest

from gateway.config import ConfigError, effective, load, worker_settings
from tests.unit.config.support import HOME, load_text

CANARY = "canary-3f9c1e-secret"

ALL_SECRETS = f"""\
auth: {{receiver_keys: [{CANARY}, {{name: second, key: {CANARY}-2}}]}}
forward: {{key: gateway, gateway_key: {CANARY}-3}}
admin: {{tokens: [{CANARY}-4]}}
keys: {{authority: {{headers: {{X-API-Key: {CANARY}-5}}}}}}
"""


def test_a_secret_never_shows_in_what_is_printed(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, ALL_SECRETS, [f"admin.tokens=[{CANARY}-6]"])
    settings = worker_settings(loaded.config, 0, 1, [], 3, 10)
    shown = [
        repr(loaded),
        str(loaded),
        repr(loaded.config),
        str(loaded.config),
        repr(loaded.warnings),
        json.dumps(effective(loaded.config)),
        repr(settings),
    ]
    assert [text for text in shown if CANARY in text] == []


def test_the_effective_configuration_masks_secrets_and_writes_units(tmp_path: Path) -> None:
    shown = effective(load_text(tmp_path, ALL_SECRETS).config)
    assert shown["forward"] == {
        "key": "gateway",
        "gateway_key": "**********",
        "scheme": "StackState",
        "identity_headers": False,
        "sender_address": False,
        "drop_headers": ["X-Scope-OrgID"],
    }
    limits = shown["limits"]
    assert isinstance(limits, dict)
    assert (limits["max_body"], limits["drain_delay"]) == ("64MiB", "5s")


@pytest.mark.parametrize(
    "text",
    [
        f"auth: {{receiver_keys: ['{CANARY} with spaces']}}",
        f"auth: {{receiver_keys: [{{nme: a, key: '{CANARY}\\u00e9'}}]}}",
        f"auth: {{receiver_keys: {CANARY}}}",
        f"auth: {{receiver_keys: [[{CANARY}]]}}",
        f"forward: {{key: gateway, gateway_key: ['{CANARY}']}}",
        f"forward: {{key: gateway, gateway_key: {{a: '{CANARY}'}}}}",
        f"admin: {{tokens: {CANARY}}}",
        f"admin: {{tokens: ['{CANARY} ']}}",
        f"keys: {{stores: ['postgresql://someone:{CANARY}@h/d', 'what:{CANARY}']}}",
        f"keys: {{authority: {{headers: ['{CANARY}']}}}}",
        f"backends: {{otlp_grpc: {{urls: ['http://u:{CANARY}@h:1', '{CANARY}']}}}}",
        f"limits: {{max_body: '${{env:{CANARY.replace('-', '_').upper()}:-{CANARY}}}'}}",
        "workers: ${file:secret}",
        f"forward: {{gateway_key: '{CANARY}\n",
    ],
)
def test_a_secret_never_shows_in_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "secret").write_text(CANARY)
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, text)
    shown = "".join(traceback.format_exception(caught.value))
    assert CANARY not in shown
    assert CANARY not in repr(caught.value.problems)


def test_a_secret_in_a_invalid_override_never_shows() -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, [f"auth.receiver_keys=['{CANARY} x']", f"forward.gateway_key=[{CANARY}"], HOME)
    assert CANARY not in str(caught.value)
