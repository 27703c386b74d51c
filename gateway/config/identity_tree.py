"""The settings under `listen[].tls.client_identity`: whom clients' certificates name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from gateway.config.node import Node
from gateway.config.tenancy_values import HeaderName, LabelName, checked_header_names
from gateway.config.units import ByteRate, Rate
from gateway.config.values import CertificateName
from gateway.keys.tenancy_rules import MAX_PAIRS

Template = Annotated[str, Field(min_length=1, max_length=1024)]
"""A text in which `$1` stands for what the first wildcard of the rule's name matched."""


class IdentityLimitsConfig(Node):
    """A sender's own limits; what is not set is as in `limits.per_key`."""

    requests: Rate | None = None
    bytes: ByteRate | None = None
    concurrent: Annotated[int, Field(ge=0)] | None = None


class IdentityRuleConfig(Node):
    """Whom certificates with one of these names name."""

    san: CertificateName
    name: Template
    owner: Template | None = None
    labels: Annotated[dict[LabelName, Template], Field(max_length=MAX_PAIRS)] = {}
    headers: Annotated[
        dict[HeaderName, Template],
        Field(max_length=MAX_PAIRS),
        AfterValidator(checked_header_names),
    ] = {}
    signals: list[Literal["traces", "metrics", "logs", "profiles", "intake"]] | None = None
    limits: IdentityLimitsConfig = IdentityLimitsConfig()


class ClientIdentityConfig(Node):
    """How a listener takes senders' identities from their certificates."""

    require: Literal["any", "all"] = "any"
    rules: Annotated[list[IdentityRuleConfig], Field(min_length=1)]
