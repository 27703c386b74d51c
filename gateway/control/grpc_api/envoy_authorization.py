"""`envoy.service.auth.v3.Authorization`: Envoy, and what is built on it, uses our verdicts.

Here an answer of the gateway's is only put into Envoy's words; what is decided, and what the
sender is told, comes from `ext_authz`. No token is asked for, as on a listener: whoever reaches the
address may ask whether a key is good.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

import grpc
import grpc.aio
from google.protobuf.struct_pb2 import Struct
from google.rpc.status_pb2 import (  # type: ignore[import-untyped]  # no py.typed in it
    Status,
)

from gateway import metrics
from gateway.config import Config, worker_settings
from gateway.control.core.errors import ErrorReporter
from gateway.control.grpc_api.admission import Context
from gateway.control.grpc_api.known_keys import KnownKeys
from gateway.control.metrics.metric_totals import MetricTotals
from gateway.ext_authz.answers import Refused, internal_error, refused
from gateway.ext_authz.decisions import Ask, Asks, CheckToken, Decider, Decision
from gateway.ext_authz.heads import ForeignHead
from gateway.ext_authz.limits import Place
from gateway.keys.service import KeyService
from gateway.protos.envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from gateway.protos.envoy.service.auth.v3 import external_auth_pb2 as pb
from gateway.protos.envoy.service.auth.v3.attribute_context_pb2 import AttributeContext
from gateway.protos.envoy.type.v3.http_status_pb2 import HttpStatus

SERVICE: Final = pb.DESCRIPTOR.services_by_name["Authorization"].full_name
_HTTP1: Final = frozenset({"HTTP/1.1", "HTTP/1.0"})
_QUERY_KEY: Final = "api_key"


class AuthorizationService:
    """Decides by the keys of `keys`, which have been started; `use` comes first.

    `ask` is None without an authority, `check_token` without an issuer of tokens; `place` is where
    limits of keys are counted.
    """

    def __init__(
        self,
        keys: KeyService,
        totals: MetricTotals,
        errors: ErrorReporter,
        ask: Ask | None,
        check_token: CheckToken | None,
        place: Place,
    ) -> None:
        self._keys = keys
        self._known = KnownKeys(keys)
        self._place = place
        self._totals = totals
        self._errors = errors
        self._asks = Asks(ask, check_token)
        self._decider: Decider

    def use(self, config: Config) -> None:
        """Decide by this configuration from now on."""
        settings = worker_settings(config, 0, config.worker_count, [], -1, 0)
        self._decider = Decider(settings, self._known, self._asks, self._place)

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what a server answers with."""
        check: grpc.RpcMethodHandler[pb.CheckRequest, pb.CheckResponse]
        check = grpc.unary_unary_rpc_method_handler(
            self._check,
            request_deserializer=pb.CheckRequest.FromString,
            response_serializer=pb.CheckResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"Check": check})

    async def _check(self, request: pb.CheckRequest, _: Context) -> pb.CheckResponse:
        try:
            decision = await self._decider.decide(_head(request.attributes.request.http))
            self._count(decision)
            return _response(decision)
        except Exception as error:  # noqa: BLE001 - a bug is no "no": the sender tries again
            self._errors.report("ext_authz", error)
            return _denied(internal_error())

    def _count(self, decision: Decision) -> None:
        if decision.outcome:
            labels = (decision.protocol, decision.signal, decision.outcome, decision.source)
            self._totals.count(metrics.AUTH_DECISIONS, labels)
        if decision.principal is not None:
            is_allowed = decision.outcome == "allowed"
            self._keys.note_usage(
                decision.principal.key_id,
                allowed=is_allowed,
                requests=1,
                body_bytes=decision.body_bytes,
                last_used_ms=time.time_ns() // 1_000_000,
            )


def _head(http: AttributeContext.HttpRequest) -> ForeignHead:
    raw = http.header_map.headers
    if raw:
        fields = [
            (each.key.lower().encode(), each.raw_value or each.value.encode()) for each in raw
        ]
    else:
        fields = [(name.lower().encode(), value.encode()) for name, value in http.headers.items()]
    is_http2 = http.protocol not in _HTTP1
    return ForeignHead(http.method.encode(), http.path.encode(), is_http2, fields)


def _response(decision: Decision) -> pb.CheckResponse:
    if decision.refusal is not None:
        return _denied(refused(decision))
    query = [_QUERY_KEY] if decision.removes_query_key else []
    allowed = pb.OkHttpResponse(
        headers=_options(decision.set),
        headers_to_remove=decision.remove,
        query_parameters_to_remove=query,
    )
    metadata = Struct()
    if decision.principal is not None:
        metadata.update({"key_id": decision.principal.key_id, "key_name": decision.principal.name})
    metadata.update({"protocol": decision.protocol, "signal": decision.signal})
    return pb.CheckResponse(status=Status(), ok_response=allowed, dynamic_metadata=metadata)


def _denied(answer: Refused) -> pb.CheckResponse:
    denied = pb.DeniedHttpResponse(
        status=HttpStatus(code=answer.http_status),  # type: ignore[arg-type]  # any number may be
        headers=_options(answer.fields),
        body=answer.body,
    )
    status = Status(code=answer.grpc_status, message=answer.text)
    return pb.CheckResponse(status=status, denied_response=denied)


def _options(fields: Iterable[tuple[str, str]]) -> list[HeaderValueOption]:
    return [
        HeaderValueOption(
            header=HeaderValue(key=name, value=value),
            append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
        )
        for name, value in fields
    ]
