"""Whose client certificate it is, by the names in it."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.tree import AdminCertificateConfig
from gateway.control.admin.roles import Caller, KnownCertificates, Role

KNOWN = KnownCertificates.of(
    [
        AdminCertificateConfig(name="ops", san="ops.example.com", role="administrator"),
        AdminCertificateConfig(name="all", san="*.ci.example.com", role="key_manager"),
        AdminCertificateConfig(name="edge", san="spiffe://example.com/edge/*", role="reader"),
    ]
)


def _certificate(*names: tuple[str, str]) -> dict[str, Any]:
    return {"subject": ((("commonName", "ops.example.com"),),), "subjectAltName": names}


@pytest.mark.parametrize(
    "names, expected",
    [
        ([("DNS", "ops.example.com")], Caller("ops", Role.ADMINISTRATOR)),
        ([("DNS", "OPS.example.COM")], Caller("ops", Role.ADMINISTRATOR)),
        ([("DNS", "a.ci.example.com")], Caller("all", Role.KEY_MANAGER)),
        ([("DNS", "x"), ("URI", "spiffe://example.com/edge/a")], Caller("edge", Role.READER)),
        ([("URI", "ops.example.com")], None),
        ([("DNS", "ops.example.com.evil.example")], None),
        ([("DNS", "opsxexample.com")], None),
        ([("DNS", "a.b.ci.example.com")], None),
        ([("DNS", ".ci.example.com")], None),
        ([("DNS", "ops.example.com\n")], None),
        ([("URI", "spiffe://example.com/edge/")], None),
        ([("URI", "spiffe://example.com/edge/a/b")], None),
        ([("URI", "SPIFFE://example.com/edge/a")], None),
        ([("IP Address", "127.0.0.1")], None),
        ([], None),
    ],
    ids=str,
)
def test_a_certificate_is_known_by_its_alternative_names_only(
    names: list[tuple[str, str]], expected: Caller | None
) -> None:
    assert KNOWN.find(_certificate(*names)) == expected


def test_no_certificate_is_nobodys() -> None:
    assert KNOWN.find(None) is None
    assert KNOWN.find({}) is None
    assert KnownCertificates().find(_certificate(("DNS", "ops.example.com"))) is None
