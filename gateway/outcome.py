"""The outcome table: every way a request can end, and the response for each protocol's client.

"No" and "cannot tell" are different rows, because OTLP clients drop data on the first and retry on
the second (OTLP specification, "Failures"; RFC 9110 §15). Nothing else in the gateway turns an
outcome into a code. Texts are fixed: they say what to do and never repeat what the sender sent.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

ERROR_DOMAIN: Final = "otlp-gateway"
"""`google.rpc.ErrorInfo.domain` of every error that the gateway itself returns."""


class GrpcCode(enum.IntEnum):
    """The gRPC status codes (grpc.io, "Status codes and their use in gRPC")."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class AuthOutcome(enum.StrEnum):
    """The `outcome` label of `gateway_auth_decisions_total`."""

    ALLOWED = "allowed"
    KEY_MISSING = "key_missing"
    KEY_MALFORMED = "key_malformed"
    KEY_CONFLICT = "key_conflict"
    KEY_UNKNOWN = "key_unknown"
    KEY_EXPIRED = "key_expired"
    KEY_REVOKED = "key_revoked"
    KEY_DISABLED = "key_disabled"
    TOKEN_MALFORMED = "token_malformed"  # noqa: S105 - a label, no password
    TOKEN_INVALID = "token_invalid"  # noqa: S105 - as above
    CERTIFICATE_MISSING = "certificate_missing"
    CERTIFICATE_INVALID = "certificate_invalid"
    CERTIFICATE_EXPIRED = "certificate_expired"
    CERTIFICATE_REVOKED = "certificate_revoked"
    SIGNAL_NOT_ALLOWED = "signal_not_allowed"
    UNDECIDED = "undecided"


class Result(enum.StrEnum):
    """The `result` label of `gateway_requests_total`."""

    ACCEPTED = "accepted"
    DENIED = "denied"
    UNDECIDED = "undecided"
    OVERLOADED = "overloaded"
    QUOTA = "quota"
    TOO_LARGE = "too_large"
    NOT_FOUND = "not_found"
    METHOD = "method"
    MEDIA_TYPE = "media_type"
    MALFORMED = "malformed"
    BACKEND_REFUSED = "backend_refused"
    BACKEND_UNREACHABLE = "backend_unreachable"
    BACKEND_TIMEOUT = "backend_timeout"
    CANCELED = "canceled"
    INTERNAL = "internal"


RETRY: Final = 0
"""In `Outcome.intake`: the response that makes the route's sender retry (503, or no response at
all; wire contract of the agents).
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row: the codes for each protocol's client.

    `retry_after_s` > 0 makes it retryable: `RetryInfo` in gRPC, `Retry-After` in HTTP. Hints stay
    within 1 to 5 s: an SDK with a 10 s budget drops data on longer ones.
    """

    name: str
    result: Result
    grpc: GrpcCode
    http: int
    intake: int
    retry_after_s: int = 0
    auth: AuthOutcome | None = None
    """Set if the row is a verdict on the API key."""

    @property
    def is_retryable(self) -> bool:
        """Whether clients keep their data and try again."""
        return self.retry_after_s > 0


_G = GrpcCode
_A = AuthOutcome
_R = Result

KEY_MISSING: Final = Outcome(
    "key_missing", _R.DENIED, _G.UNAUTHENTICATED, 401, 401, auth=_A.KEY_MISSING
)
KEY_MALFORMED: Final = Outcome(
    "key_malformed", _R.DENIED, _G.UNAUTHENTICATED, 401, 401, auth=_A.KEY_MALFORMED
)
KEY_CONFLICT: Final = Outcome(
    "key_conflict", _R.DENIED, _G.UNAUTHENTICATED, 401, 401, auth=_A.KEY_CONFLICT
)
KEY_UNKNOWN: Final = Outcome(
    "key_unknown", _R.DENIED, _G.UNAUTHENTICATED, 401, 403, auth=_A.KEY_UNKNOWN
)
KEY_EXPIRED: Final = Outcome(
    "key_expired", _R.DENIED, _G.UNAUTHENTICATED, 401, 403, auth=_A.KEY_EXPIRED
)
KEY_REVOKED: Final = Outcome(
    "key_revoked", _R.DENIED, _G.UNAUTHENTICATED, 401, 403, auth=_A.KEY_REVOKED
)
KEY_DISABLED: Final = Outcome(
    "key_disabled", _R.DENIED, _G.UNAUTHENTICATED, 401, 403, auth=_A.KEY_DISABLED
)
TOKEN_MALFORMED: Final = Outcome(
    "token_malformed", _R.DENIED, _G.UNAUTHENTICATED, 401, 401, auth=_A.TOKEN_MALFORMED
)
TOKEN_INVALID: Final = Outcome(
    "token_invalid", _R.DENIED, _G.UNAUTHENTICATED, 401, 403, auth=_A.TOKEN_INVALID
)
CERTIFICATE_MISSING: Final = Outcome(
    "certificate_missing", _R.DENIED, _G.UNAUTHENTICATED, 401, 401, auth=_A.CERTIFICATE_MISSING
)
CERTIFICATE_INVALID: Final = Outcome(
    "certificate_invalid", _R.DENIED, _G.UNAUTHENTICATED, 401, 403, auth=_A.CERTIFICATE_INVALID
)
CERTIFICATE_EXPIRED: Final = Outcome(
    "certificate_expired", _R.DENIED, _G.UNAUTHENTICATED, 401, 403, auth=_A.CERTIFICATE_EXPIRED
)
CERTIFICATE_REVOKED: Final = Outcome(
    "certificate_revoked", _R.DENIED, _G.UNAUTHENTICATED, 401, 403, auth=_A.CERTIFICATE_REVOKED
)
SIGNAL_NOT_ALLOWED: Final = Outcome(
    "signal_not_allowed", _R.DENIED, _G.PERMISSION_DENIED, 403, 403, auth=_A.SIGNAL_NOT_ALLOWED
)
UNDECIDED: Final = Outcome(
    "undecided", _R.UNDECIDED, _G.UNAVAILABLE, 503, RETRY, 2, auth=_A.UNDECIDED
)
OVERLOADED: Final = Outcome("overloaded", _R.OVERLOADED, _G.UNAVAILABLE, 503, RETRY, 2)
CONNECTION_LIMIT: Final = Outcome("connection_limit", _R.OVERLOADED, _G.UNAVAILABLE, 503, 503, 2)
QUOTA: Final = Outcome("quota", _R.QUOTA, _G.RESOURCE_EXHAUSTED, 429, RETRY, 1)
BODY_TOO_LARGE: Final = Outcome("body_too_large", _R.TOO_LARGE, _G.RESOURCE_EXHAUSTED, 413, 413)
NOT_FOUND: Final = Outcome("not_found", _R.NOT_FOUND, _G.UNIMPLEMENTED, 404, 404)
METHOD_NOT_ALLOWED: Final = Outcome("method_not_allowed", _R.METHOD, _G.UNIMPLEMENTED, 405, 405)
MEDIA_TYPE: Final = Outcome("media_type", _R.MEDIA_TYPE, _G.INVALID_ARGUMENT, 415, 415)
MALFORMED: Final = Outcome("malformed", _R.MALFORMED, _G.INVALID_ARGUMENT, 400, 400)
HEAD_TOO_LARGE: Final = Outcome("head_too_large", _R.MALFORMED, _G.RESOURCE_EXHAUSTED, 431, 431)
STALLED: Final = Outcome("stalled", _R.CANCELED, _G.UNAVAILABLE, 503, RETRY, 1)
BACKEND_REFUSED: Final = Outcome(
    "backend_refused", _R.BACKEND_REFUSED, _G.UNAVAILABLE, 503, RETRY, 5
)
BACKEND_FOREIGN: Final = Outcome(
    "backend_foreign", _R.BACKEND_UNREACHABLE, _G.UNAVAILABLE, 503, RETRY, 5
)
BACKEND_UNREACHABLE: Final = Outcome(
    "backend_unreachable", _R.BACKEND_UNREACHABLE, _G.UNAVAILABLE, 503, RETRY, 2
)
BACKEND_LOST: Final = Outcome("backend_lost", _R.BACKEND_UNREACHABLE, _G.UNAVAILABLE, 503, RETRY, 1)
BACKEND_TIMEOUT: Final = Outcome(
    "backend_timeout", _R.BACKEND_TIMEOUT, _G.DEADLINE_EXCEEDED, 504, RETRY, 1
)
CANCELED: Final = Outcome("canceled", _R.CANCELED, _G.CANCELLED, 499, 499)
INTERNAL: Final = Outcome("internal", _R.INTERNAL, _G.UNAVAILABLE, 503, RETRY, 1)

OUTCOMES: Final = (
    KEY_MISSING,
    KEY_MALFORMED,
    KEY_CONFLICT,
    KEY_UNKNOWN,
    KEY_EXPIRED,
    KEY_REVOKED,
    KEY_DISABLED,
    TOKEN_MALFORMED,
    TOKEN_INVALID,
    CERTIFICATE_MISSING,
    CERTIFICATE_INVALID,
    CERTIFICATE_EXPIRED,
    CERTIFICATE_REVOKED,
    SIGNAL_NOT_ALLOWED,
    UNDECIDED,
    OVERLOADED,
    CONNECTION_LIMIT,
    QUOTA,
    BODY_TOO_LARGE,
    NOT_FOUND,
    METHOD_NOT_ALLOWED,
    MEDIA_TYPE,
    MALFORMED,
    HEAD_TOO_LARGE,
    STALLED,
    BACKEND_REFUSED,
    BACKEND_FOREIGN,
    BACKEND_UNREACHABLE,
    BACKEND_LOST,
    BACKEND_TIMEOUT,
    CANCELED,
    INTERNAL,
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An outcome with the text for one reason: several texts can share one outcome.

    `reason` is `google.rpc.ErrorInfo.reason` (UPPER_SNAKE_CASE), for programs; `text` is for
    people.
    """

    reason: str
    outcome: Outcome
    text: str


def _refusals(*rows: tuple[str, Outcome, str]) -> dict[str, Refusal]:
    return {reason: Refusal(reason, outcome, text) for reason, outcome, text in rows}


_SEND_KEY = "send the header 'Authorization: StackState <key>'"

REFUSALS: Final = _refusals(
    ("KEY_MISSING", KEY_MISSING, f"no API key in the request: {_SEND_KEY}"),
    (
        "SCHEME_BEARER",
        KEY_MALFORMED,
        (
            "the Authorization header uses the scheme Bearer: set 'scheme: StackState' in the"
            " Collector's bearertokenauth extension"
        ),
    ),
    (
        "SCHEME_UNKNOWN",
        KEY_MALFORMED,
        f"this gateway does not accept the scheme of the Authorization header: {_SEND_KEY}",
    ),
    (
        "KEY_PERCENT_ENCODED",
        KEY_MALFORMED,
        (
            "the Authorization header is percent-encoded ('StackState%20<key>'): this sender "
            "does not decode OTEL_EXPORTER_OTLP_HEADERS; write a plain space between scheme "
            "and key"
        ),
    ),
    (
        "KEY_PLUS_ENCODED",
        KEY_MALFORMED,
        (
            "the Authorization header is form-encoded ('StackState+<key>'): nothing decodes the "
            "plus sign on the way; write a plain space between scheme and key"
        ),
    ),
    (
        "KEY_QUOTED",
        KEY_MALFORMED,
        (
            "the Authorization header or the API key has quotation marks around it: remove them "
            "from this sender's configuration or environment"
        ),
    ),
    (
        "KEY_EMPTY",
        KEY_MALFORMED,
        f"the Authorization header has a scheme but no API key: {_SEND_KEY}",
    ),
    (
        "INTAKE_KEY_MISSING",
        KEY_MISSING,
        (
            "no API key in the request: set STS_API_KEY in the agent's environment (the agent "
            "sends it in the header sts-api-key), or send api_key=<key> in the query"
        ),
    ),
    (
        "INTAKE_SCHEME",
        KEY_MALFORMED,
        (
            "this gateway does not accept the scheme of the Authorization header: send the header "
            "'sts-api-key: <key>', or 'Authorization: ApiKey <key>', or Basic credentials with "
            "the user name 'apikey'"
        ),
    ),
    (
        "KEY_BASIC",
        KEY_MALFORMED,
        (
            "the Basic credentials contain no API key: use 'apikey' as the user name and the key "
            "as the password"
        ),
    ),
    (
        "SERVICE_BEARER",
        KEY_MALFORMED,
        (
            "this gateway cannot check Kubernetes tokens (ServiceBearer): use an API key, or ask "
            "the operator to forward tokens for /rbac and /features with "
            "backends.intake.service_bearer: forward"
        ),
    ),
    (
        "KEY_TOO_LONG",
        KEY_MALFORMED,
        (
            "the API key is longer than 512 bytes: send it exactly as it was shown when it was "
            "created"
        ),
    ),
    (
        "KEY_CHARACTERS",
        KEY_MALFORMED,
        (
            "the API key contains characters outside visible ASCII: send it exactly as it was "
            "shown when it was created"
        ),
    ),
    (
        "AUTHORIZATION_REPEATED",
        KEY_MALFORMED,
        "the request has more than one Authorization header: send exactly one",
    ),
    ("KEY_CONFLICT", KEY_CONFLICT, "the request contains two different API keys: send only one"),
    (
        "KEY_UNKNOWN",
        KEY_UNKNOWN,
        (
            "the API key is unknown: check that it belongs to this gateway, or create one with "
            "'gateway keys create'"
        ),
    ),
    (
        "KEY_TYPO",
        KEY_UNKNOWN,
        (
            "the API key is mistyped or truncated (its checksum does not match): copy the whole "
            "key again"
        ),
    ),
    (
        "KEY_EXPIRED",
        KEY_EXPIRED,
        "the API key has expired: create a new one and configure it in this sender",
    ),
    (
        "KEY_REVOKED",
        KEY_REVOKED,
        "the API key was deleted: create a new one and configure it in this sender",
    ),
    (
        "KEY_DISABLED",
        KEY_DISABLED,
        "the API key is disabled: ask the operator of this gateway to enable it",
    ),
    (
        "TOKEN_MALFORMED",
        TOKEN_MALFORMED,
        (
            "the Bearer token is not a signed JWT: send the access token exactly as the identity "
            "provider issued it, or an API key with the header 'Authorization: StackState <key>'"
        ),
    ),
    (
        "TOKEN_TOO_LONG",
        TOKEN_MALFORMED,
        "the Bearer token is longer than 8192 bytes: have fewer claims put into it",
    ),
    (
        "TOKEN_ENCRYPTED",
        TOKEN_MALFORMED,
        "the Bearer token is encrypted (JWE): have the identity provider issue signed tokens",
    ),
    (
        "TOKEN_EXTENSION",
        TOKEN_MALFORMED,
        "the Bearer token requires a JWT extension ('crit') that this gateway does not support",
    ),
    (
        "TOKEN_ALGORITHM",
        TOKEN_MALFORMED,
        (
            "the Bearer token is signed with an algorithm that this gateway does not accept: the "
            "setting keys.jwt.algorithms lists those that it does"
        ),
    ),
    (
        "TOKEN_ISSUER",
        TOKEN_INVALID,
        (
            "the Bearer token is from an issuer ('iss') that this gateway does not accept: the "
            "setting keys.stores lists those that it does"
        ),
    ),
    (
        "TOKEN_KEY",
        TOKEN_INVALID,
        "the Bearer token is signed with a key that its issuer does not publish: get a new token",
    ),
    (
        "TOKEN_SIGNATURE",
        TOKEN_INVALID,
        (
            "the signature of the Bearer token is wrong: send the token exactly as the identity "
            "provider issued it"
        ),
    ),
    (
        "TOKEN_AUDIENCE",
        TOKEN_INVALID,
        (
            "the Bearer token is for another audience ('aud'): request it for one that the "
            "setting keys.jwt.audience lists"
        ),
    ),
    (
        "TOKEN_NOT_YET_VALID",
        TOKEN_INVALID,
        (
            "the Bearer token is not valid yet ('nbf'): check the clocks of the identity provider "
            "and of this gateway"
        ),
    ),
    (
        "TOKEN_CLAIMS",
        TOKEN_INVALID,
        (
            "the Bearer token lacks a claim that this gateway needs, or one has the wrong form: "
            "it needs iss, aud, exp and those that the setting keys.jwt.map names"
        ),
    ),
    (
        "TOKEN_EXPIRED",
        KEY_EXPIRED,
        "the Bearer token has expired: have this sender get a new one in time",
    ),
    (
        "IDENTITY_MISSING",
        CERTIFICATE_MISSING,
        (
            "the request has no API key, and the connection no client certificate: configure one "
            "of them in this sender"
        ),
    ),
    (
        "CERTIFICATE_MISSING",
        CERTIFICATE_MISSING,
        (
            "the connection has no client certificate, which this address needs besides the API "
            "key: configure a certificate and its key in this sender"
        ),
    ),
    (
        "CERTIFICATE_UNKNOWN",
        CERTIFICATE_INVALID,
        (
            "the client certificate is valid, but no rule of this gateway knows its names: check "
            "its subject alternative names (DNS, URI), or ask the operator of this gateway"
        ),
    ),
    (
        "CERTIFICATE_MALFORMED",
        CERTIFICATE_INVALID,
        (
            "the names in the client certificate are unreadable or too long: have it issued with "
            "other subject alternative names"
        ),
    ),
    (
        "CERTIFICATE_EXPIRED",
        CERTIFICATE_EXPIRED,
        (
            "the client certificate has expired since the connection began: have this sender "
            "connect again with a new one"
        ),
    ),
    (
        "CERTIFICATE_REVOKED",
        CERTIFICATE_REVOKED,
        (
            "the client certificate was revoked by the authority that has issued it: have a new "
            "one issued for this sender"
        ),
    ),
    (
        "SIGNAL_NOT_ALLOWED",
        SIGNAL_NOT_ALLOWED,
        (
            "this API key may not send this signal: use a key that may, or ask the operator of "
            "this gateway"
        ),
    ),
    (
        "UNDECIDED",
        UNDECIDED,
        "the gateway cannot check the API key right now: keep the data and try again",
    ),
    (
        "OVERLOADED",
        OVERLOADED,
        "the gateway is overloaded: keep the data and try again",
    ),
    (
        "CONNECTION_LIMIT",
        CONNECTION_LIMIT,
        "the gateway has reached its connection limit: keep the data and try again",
    ),
    ("QUOTA", QUOTA, "this API key has exceeded its quota: slow down and try again"),
    (
        "BODY_TOO_LARGE",
        BODY_TOO_LARGE,
        "the body is larger than this gateway accepts: send smaller batches",
    ),
    (
        "NOT_FOUND",
        NOT_FOUND,
        (
            "unknown path; this gateway accepts OTLP and what StackState agents send, and no other "
            "formats: OTLP/HTTP uses POST /v1/traces, /v1/metrics, /v1/logs, "
            "/v1development/profiles; OTLP/gRPC uses the Export method of the four collector "
            "services; the agents' base URL ends in /receiver/stsAgent"
        ),
    ),
    (
        "METHOD_NOT_ALLOWED",
        METHOD_NOT_ALLOWED,
        "this path accepts only the methods in the Allow header",
    ),
    (
        "MEDIA_TYPE",
        MEDIA_TYPE,
        "the Content-Type is not supported: send application/x-protobuf or application/json",
    ),
    (
        "GRPC_MEDIA_TYPE",
        MEDIA_TYPE,
        (
            "the Content-Type is not supported: Export methods over HTTP/2 accept only "
            "application/grpc and application/grpc+proto"
        ),
    ),
    (
        "GRPC_NEEDS_HTTP2",
        MEDIA_TYPE,
        (
            "gRPC needs HTTP/2 end to end: this request came over HTTP/1.1, sent so or changed by "
            "a proxy on the way; have the proxy use HTTP/2 (nginx: grpc_pass), or use OTLP/HTTP"
        ),
    ),
    (
        "TLS_NEEDED",
        MALFORMED,
        (
            "this port speaks TLS, and the request came in plain HTTP: use an https:// endpoint "
            "(and not 'insecure: true') in this sender"
        ),
    ),
    ("MALFORMED", MALFORMED, "the request is not well-formed HTTP"),
    (
        "HEAD_TOO_LARGE",
        HEAD_TOO_LARGE,
        "the request's headers are larger than this gateway accepts",
    ),
    ("STALLED", STALLED, "the upload made no progress for too long: try again"),
    (
        "UPLOAD_TOO_SLOW",
        STALLED,
        "the upload was too slow while other requests waited: try again",
    ),
    (
        "BACKEND_REFUSED",
        BACKEND_REFUSED,
        (
            "the backend behind the gateway refused the credential: keep the data and try again; "
            "the operator of this gateway must fix it"
        ),
    ),
    (
        "BACKEND_FOREIGN",
        BACKEND_FOREIGN,
        (
            "what answered the gateway is not the backend, but a proxy or a login page: keep the "
            "data and try again; the operator of this gateway must fix it"
        ),
    ),
    (
        "BACKEND_UNREACHABLE",
        BACKEND_UNREACHABLE,
        "the backend behind the gateway cannot be reached: keep the data and try again",
    ),
    (
        "NO_BACKEND_OTLP_GRPC",
        BACKEND_UNREACHABLE,
        "no backend is configured for OTLP/gRPC: the operator must set backends.otlp_grpc.urls",
    ),
    (
        "NO_BACKEND_OTLP_HTTP",
        BACKEND_UNREACHABLE,
        "no backend is configured for OTLP/HTTP: the operator must set backends.otlp_http.urls",
    ),
    (
        "NO_BACKEND_INTAKE",
        BACKEND_UNREACHABLE,
        "no backend is configured for the agent intake: the operator must set backends.intake.urls",
    ),
    (
        "NO_BACKEND_ROUTE",
        BACKEND_UNREACHABLE,
        (
            "no backend is configured for this protocol and the labels of the API key: the "
            "operator must add one to the entry in backends.routes"
        ),
    ),
    (
        "BACKEND_LOST",
        BACKEND_LOST,
        "the connection to the backend broke before it responded: try again",
    ),
    ("BACKEND_TIMEOUT", BACKEND_TIMEOUT, "the backend did not respond in time: try again"),
    ("CANCELED", CANCELED, "the sender disconnected"),
    ("INTERNAL", INTERNAL, "internal error in the gateway: keep the data and try again"),
)
"""Every refusal that the gateway itself returns, by reason."""
