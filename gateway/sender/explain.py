"""Explains to the sender what a response, or a missing one, means and what to do about it.

No I/O: response in, explanation out. Every reason that the gateway can return has advice here (a
test walks `outcome.REFUSALS`); responses of other servers are explained by their codes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from gateway.otlp.services import Service
from gateway.otlp.text import printable
from gateway.outcome import ERROR_DOMAIN, GrpcCode
from gateway.sender.agents import AgentPath, what_agents_do
from gateway.sender.response import ExportResponse
from gateway.sender.target import Plan
from gateway.sender.unreachable import Cause, UnreachableError

_LONGEST_MESSAGE: Final = 500


class Verdict(enum.IntEnum):
    """How one request ended, from good to bad."""

    ACCEPTED = 0
    REFUSED = 1
    UNREACHABLE = 2


@dataclass(frozen=True, slots=True)
class Explanation:
    """The explanation of one outcome. `facts` describe the response, `advice` lists what to do."""

    verdict: Verdict
    headline: str
    facts: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()


_SEND_KEY = "pass the API key with --key-file FILE, or set GATEWAY_KEY"
_NEW_KEY = "create a key with 'gateway keys create --name NAME' and configure it in this sender"
_SCHEME = "use --scheme StackState (in a Collector: 'scheme: StackState' under bearertokenauth)"
_WHOLE_KEY = "copy the whole API key again, exactly as it was shown when it was created"
_AS_ISSUED = "send the token exactly as the identity provider issued it"
_RENEW = "get a new token from the identity provider"
_KEY_SCHEME = "for an API key use --scheme StackState"
_SMALLER = "send smaller batches (in a Collector: sending_queue.batch.max_size), or raise the limit"
_OPERATOR = "this sender is fine: the operator of the gateway must fix the problem"
_WAIT = "wait and try again; senders do this automatically"
_BACKEND = "the gateway works and accepts the API key: check the backend behind it"
_PROTOCOL = "check that --endpoint, its port and --protocol match"

REASON_ADVICE: Final[dict[str, tuple[str, ...]]] = {
    "KEY_MISSING": (_SEND_KEY,),
    "SCHEME_BEARER": (_SCHEME,),
    "SCHEME_UNKNOWN": (_SCHEME, "the gateway's setting auth.schemes lists the accepted schemes"),
    "KEY_PERCENT_ENCODED": ("write a space, not %20, between scheme and key for this sender",),
    "KEY_PLUS_ENCODED": ("write a space, not a plus sign, between scheme and key",),
    "KEY_QUOTED": ("remove the quotation marks around the API key, or around scheme and key",),
    "KEY_EMPTY": (_SEND_KEY,),
    "KEY_TOO_LONG": (_WHOLE_KEY,),
    "KEY_CHARACTERS": (_WHOLE_KEY,),
    "AUTHORIZATION_REPEATED": ("set the Authorization header in one place only",),
    "INTAKE_KEY_MISSING": (
        "set STS_API_KEY in the agent's environment, or send the header sts-api-key",
    ),
    "INTAKE_SCHEME": ("send the key in the header sts-api-key", _PROTOCOL),
    "KEY_BASIC": ("use apikey as the user name and the API key as the password",),
    "SERVICE_BEARER": ("send an API key instead of the Kubernetes token", _OPERATOR),
    "KEY_CONFLICT": ("remove one of the two keys: Authorization, sts-api-key or api_key",),
    "KEY_UNKNOWN": (
        "check that the API key belongs to this gateway: 'gateway keys list' shows all names",
        _NEW_KEY,
    ),
    "KEY_TYPO": (_WHOLE_KEY,),
    "KEY_EXPIRED": (_NEW_KEY,),
    "KEY_REVOKED": (_NEW_KEY,),
    "KEY_DISABLED": (_OPERATOR,),
    "TOKEN_MALFORMED": (_AS_ISSUED, _KEY_SCHEME),
    "TOKEN_TOO_LONG": ("have the identity provider put fewer claims into the token",),
    "TOKEN_ENCRYPTED": ("have the identity provider issue signed tokens, not encrypted ones",),
    "TOKEN_EXTENSION": ("have the identity provider issue tokens without 'crit'",),
    "TOKEN_ALGORITHM": ("the gateway's setting keys.jwt.algorithms lists the accepted algorithms",),
    "TOKEN_ISSUER": ("the gateway's setting keys.stores lists the accepted issuers",),
    "TOKEN_KEY": (_RENEW,),
    "TOKEN_SIGNATURE": (_AS_ISSUED, _RENEW),
    "TOKEN_AUDIENCE": ("request the token for the audience in the gateway's keys.jwt.audience",),
    "TOKEN_NOT_YET_VALID": ("check the clocks of the identity provider and of the gateway",),
    "TOKEN_CLAIMS": ("compare the token's claims with the gateway's setting keys.jwt.map",),
    "TOKEN_EXPIRED": (_RENEW,),
    "IDENTITY_MISSING": ("pass a key with --key-file, or a certificate with --client-cert-file",),
    "CERTIFICATE_MISSING": ("pass the certificate with --client-cert-file FILE",),
    "CERTIFICATE_UNKNOWN": (
        "compare the certificate's subjectAltName with tls.client_identity.rules of the listener",
    ),
    "CERTIFICATE_MALFORMED": ("have the certificate issued with shorter names",),
    "CERTIFICATE_EXPIRED": ("have a new certificate issued, and connect again",),
    "CERTIFICATE_REVOKED": ("have a new certificate issued",),
    "SIGNAL_NOT_ALLOWED": ("use an API key that may send this signal",),
    "UNDECIDED": (_WAIT, "if it persists: the gateway's key store or key authority is down"),
    "OVERLOADED": (
        _WAIT,
        "if it persists: the backend is slow, or limits.buffer_memory is too small",
    ),
    "CONNECTION_LIMIT": (_WAIT, "if it persists: raise limits.max_connections"),
    "QUOTA": (
        _WAIT,
        "if it persists: raise the key's limits or limits.per_key, or use several keys",
    ),
    "BODY_TOO_LARGE": (_SMALLER,),
    "NOT_FOUND": (_PROTOCOL,),
    "METHOD_NOT_ALLOWED": (_PROTOCOL,),
    "MEDIA_TYPE": ("use --protocol http (protobuf) or --protocol json",),
    "GRPC_MEDIA_TYPE": ("use --protocol grpc for this path",),
    "GRPC_NEEDS_HTTP2": ("look for a proxy that does not pass HTTP/2 on, or use --protocol http",),
    "TLS_NEEDED": ("write https:// in --endpoint",),
    "MALFORMED": ("look for a proxy between here and the gateway that changes requests",),
    "HEAD_TOO_LARGE": ("send fewer or shorter headers",),
    "STALLED": ("check the network between here and the gateway", _WAIT),
    "UPLOAD_TOO_SLOW": ("check the network between here and the gateway", _WAIT),
    "BACKEND_REFUSED": (_OPERATOR, "its setting forward.key does not match its backend"),
    "BACKEND_FOREIGN": (_OPERATOR, "something else answers in its backend's place"),
    "BACKEND_UNREACHABLE": (_BACKEND,),
    "NO_BACKEND_OTLP_GRPC": (_OPERATOR, "it has no backend for gRPC; --protocol http may work"),
    "NO_BACKEND_OTLP_HTTP": (_OPERATOR, "it has no backend for HTTP; --protocol grpc may work"),
    "NO_BACKEND_INTAKE": (_OPERATOR,),
    "NO_BACKEND_ROUTE": (_OPERATOR, "it has no backend of this protocol for the key's labels"),
    "BACKEND_LOST": (_BACKEND,),
    "BACKEND_TIMEOUT": (_BACKEND,),
    "CANCELED": ("allow more time with --timeout",),
    "INTERNAL": (_WAIT, "this is a bug in the gateway: its log has the details, please report it"),
}
"""By `ErrorInfo.reason` of the gateway's own responses."""

_GRPC_ADVICE: Final[dict[GrpcCode, tuple[str, ...]]] = {
    GrpcCode.UNAUTHENTICATED: ("the server does not accept the API key", _SEND_KEY, _SCHEME),
    GrpcCode.PERMISSION_DENIED: ("the API key is known, but may not send this",),
    GrpcCode.UNIMPLEMENTED: (
        "the server has no service for this signal or does not support this compression",
    ),
    GrpcCode.RESOURCE_EXHAUSTED: (_SMALLER,),
    GrpcCode.INVALID_ARGUMENT: ("the server cannot read the data: try --compression none",),
    GrpcCode.UNAVAILABLE: (_WAIT,),
    GrpcCode.DEADLINE_EXCEEDED: ("allow more time with --timeout",),
}
_HTTP_ADVICE: Final[dict[int, tuple[str, ...]]] = {
    400: ("the server cannot read the data: try --compression none, or --protocol http",),
    401: ("the server does not accept the API key", _SEND_KEY, _SCHEME),
    403: ("the server knows the API key, but does not allow this",),
    404: (
        "the path does not exist: --endpoint is the base URL, the signal's path is appended",
        _PROTOCOL,
    ),
    405: (_PROTOCOL,),
    408: ("allow more time with --timeout",),
    413: (_SMALLER,),
    415: ("the server does not support this content type or compression",),
    429: ("the server's rate limit is exceeded", _WAIT),
    502: ("a proxy cannot reach the server behind it",),
    503: (_WAIT,),
    504: ("the server behind a proxy did not respond in time",),
}
_FIRST_REDIRECT, _LAST_REDIRECT = 300, 399


def explain_response(response: ExportResponse, service: Service | AgentPath) -> Explanation:
    """Explain a response."""
    if not response.is_accepted:
        return _refused(response)
    if response.rejected:
        return Explanation(
            Verdict.REFUSED,
            f"partially accepted: the server rejected {service.count(response.rejected)}",
            _said(response.warning),
            ("senders must not retry rejected items: fix the problem that the server reports",),
        )
    if response.warning:
        return Explanation(Verdict.ACCEPTED, "accepted, with a warning", _said(response.warning))
    return Explanation(Verdict.ACCEPTED, "accepted")


def _refused(response: ExportResponse) -> Explanation:
    facts = [*_said(response.message)]
    facts.extend(f"at {printable(place, _LONGEST_MESSAGE)}" for place in response.violations)
    facts.append(_what_senders_do(response))
    if response.reason:
        headline = f"refused: {response.code} ({printable(response.reason)})"
    elif response.is_otlp:
        headline = f"refused: {response.code}"
    else:
        headline = f"refused: {response.code} (not an OTLP response)"
    return Explanation(Verdict.REFUSED, headline, tuple(facts), _advice(response))


def _said(text: str) -> tuple[str, ...]:
    return (f"the server says: {printable(text, _LONGEST_MESSAGE)}",) if text else ()


def _what_senders_do(response: ExportResponse) -> str:
    """Describe what senders do on this response (OTLP specification, "Failures"; `agents`)."""
    if response.is_agents:
        return what_agents_do(response.http)
    if not response.is_retryable:
        return "SDKs and Collectors drop the data and do not retry"
    if response.retry_after_s is None:
        return "SDKs and Collectors keep the data and retry"
    return f"SDKs and Collectors keep the data and retry after {response.retry_after_s:g} s"


def _advice(response: ExportResponse) -> tuple[str, ...]:
    if response.domain == ERROR_DOMAIN and response.reason in REASON_ADVICE:
        return REASON_ADVICE[response.reason]
    if _FIRST_REDIRECT <= response.http <= _LAST_REDIRECT:
        return (f"send to {printable(response.location, _LONGEST_MESSAGE)} instead",)
    advice = (
        _HTTP_ADVICE.get(response.http, ())
        if response.grpc is None
        else _GRPC_ADVICE.get(response.grpc, ())
    )
    return advice if response.is_otlp else (*advice, "this is not an OTLP server", _PROTOCOL)


def explain_failure(failure: UnreachableError, plan: Plan) -> Explanation:
    """Explain why there is no response."""
    headline, advice = _failure(failure.cause, plan)
    detail = printable(failure.detail, _LONGEST_MESSAGE)
    facts = (f"details: {detail}",) if detail else ()
    return Explanation(Verdict.UNREACHABLE, headline, facts, advice)


def _failure(cause: Cause, plan: Plan) -> tuple[str, tuple[str, ...]]:
    """Look up a cause in the tables and fill in its placeholders."""
    headline, advice = (_TLS_FAILURES | _NETWORK_FAILURES)[cause]
    words = {
        "address": plan.endpoint.authority,
        "host": plan.endpoint.host,
        "timeout": f"{plan.timeout_s:g}",
    }
    return headline.format(**words), tuple(line.format(**words) for line in advice)


_Words = tuple[str, tuple[str, ...]]

_TLS_FAILURES: Final[dict[Cause, _Words]] = {
    Cause.UNKNOWN_CA: (
        "TLS: this machine does not trust the CA that signed the certificate of {address}",
        (
            "pass the CA's certificate with --ca-file FILE (in a Collector: tls.ca_file)",
            "to skip the check: --insecure-skip-verify; the API key can then be stolen",
        ),
    ),
    Cause.WRONG_NAME: (
        "TLS: the certificate of {address} is for another name",
        ("use a name that is in the certificate, or add {host} to the certificate",),
    ),
    Cause.CERTIFICATE_EXPIRED: (
        "TLS: the certificate of {address} has expired or is not valid yet",
        ("renew the certificate; check the clocks of both machines",),
    ),
    Cause.CLIENT_CERTIFICATE: (
        "TLS: {address} requires a client certificate",
        ("pass one that its tls.client_ca_file has signed: --client-cert-file, --client-key-file",),
    ),
    Cause.TLS_OTHER: (
        "TLS: the handshake with {address} failed",
        ("check that both sides support a common TLS version (1.2 or 1.3)",),
    ),
    Cause.NOT_TLS: (
        "{address} does not speak TLS",
        ("use http:// instead of https://, or the port that has TLS",),
    ),
    Cause.NEEDS_TLS: (
        "{address} requires TLS, but the request was sent in cleartext",
        ("use https:// instead of http://, with --ca-file for a private CA",),
    ),
    Cause.NO_HTTP2: (
        "TLS: {address} does not offer HTTP/2 (ALPN h2), which gRPC needs",
        (
            "use --protocol http",
            "or enable HTTP/2 where TLS is terminated (ingress, load balancer)",
        ),
    ),
}

_NETWORK_FAILURES: Final[dict[Cause, _Words]] = {
    Cause.REFUSED: (
        "nothing is listening on {address}",
        (
            "check host and port: OTLP/gRPC is usually 4317, OTLP/HTTP 4318",
            "is the gateway running? 'gateway demo' starts one",
        ),
    ),
    Cause.NO_SUCH_HOST: (
        "the host name {host} is unknown",
        ("check the spelling, and that this machine's DNS resolves it",),
    ),
    Cause.NO_ROUTE: (
        "there is no route to {address}",
        ("check the network, VPN and firewall",),
    ),
    Cause.CONNECT_TIMEOUT: (
        "connecting to {address} timed out",
        ("check host and port; a firewall may drop packets",),
    ),
    Cause.NO_ANSWER: (
        "no response from {address} within {timeout} s",
        (
            "check host and port; a firewall may drop packets",
            "for a slow server, allow more time with --timeout",
        ),
    ),
    Cause.ONLY_HTTP1: (
        "{address} speaks only HTTP/1.1, but gRPC needs HTTP/2",
        ("use --protocol http, or the port for gRPC, usually 4317",),
    ),
    Cause.ONLY_HTTP2: (
        "{address} speaks only HTTP/2: it is a gRPC port",
        ("use --protocol grpc, or the port for OTLP/HTTP, usually 4318",),
    ),
    Cause.NOT_HTTP: (
        "the server on {address} does not speak HTTP",
        ("check the port: OTLP/gRPC is usually 4317, OTLP/HTTP 4318",),
    ),
    Cause.BROKEN_OFF: (
        "{address} closed the connection without a response",
        (
            "try again; if it persists, check the server's log and proxies in between",
            "with https://: the server may require a client certificate",
        ),
    ),
    Cause.GOING_AWAY: (
        "{address} is closing its connections: it is restarting or has reached its limit",
        ("try again; senders do this automatically",),
    ),
}
