"""Counts the items of one sample, whatever is in it."""

from __future__ import annotations

from typing import Final

from google.protobuf.message import DecodeError

from gateway.model import Signal
from gateway.otlp import json_codec
from gateway.otlp.encodings import (
    EncodingError,
    TooLargeError,
    UnknownEncodingError,
    decompress,
)
from gateway.otlp.framing import FramingError, unframe
from gateway.otlp.services import SERVICES, item_count
from gateway.samples import Counted, Sample, SampleResult

MAX_DECODED_BYTES: Final = 16 * 1024 * 1024
"""The longest body after decompression: sixteen times the longest sample,"""
_MOST_TIMES: Final = 100
"""and a hundred times its own length; no telemetry is as uniform."""
_SMALL_BYTES: Final = 64 * 1024
"""What every body may have after decompression."""
_PROTOBUF: Final = "application/x-protobuf"
_JSON: Final = "application/json"
_GRPC_JSON: Final = "+json"


def count(sample: Sample) -> Counted:
    """Count a sample's items. Raises nothing that a sender can cause, but `MemoryError`."""
    try:
        service = SERVICES[Signal(sample.signal)]
        body, is_json = _message(sample)
        if is_json:
            request = json_codec.decode(service.request, body)
        else:
            request = service.request.FromString(body)
        return Counted(SampleResult.COUNTED, item_count(request))
    except TooLargeError:
        return Counted(SampleResult.TOO_LARGE)
    except (UnknownEncodingError, _UnknownTypeError):
        return Counted(SampleResult.UNSUPPORTED)
    except (EncodingError, FramingError, DecodeError, json_codec.OtlpJsonError, RecursionError):
        return Counted(SampleResult.DAMAGED)


class _UnknownTypeError(Exception):
    """Neither protobuf nor JSON."""


def _message(sample: Sample) -> tuple[bytes, bool]:
    """Return the decompressed message, and whether it is JSON."""
    limit = min(MAX_DECODED_BYTES, max(_SMALL_BYTES, _MOST_TIMES * len(sample.body)))
    media_type = sample.content_type.partition(";")[0].strip().lower()
    if sample.is_grpc:
        message = unframe(sample.body)
        encoding = sample.encoding if message.is_compressed else ""
        body = decompress(encoding, message.payload, limit)
        if media_type.endswith(_GRPC_JSON):
            raise _UnknownTypeError
        return body, False
    if media_type not in {_PROTOBUF, _JSON}:
        raise _UnknownTypeError
    return decompress(sample.encoding, sample.body, limit), media_type == _JSON
