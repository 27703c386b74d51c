"""What has no connection: header blocks, PROXY headers, credentials, the channel, configuration."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from pathlib import Path

import hpack as library
import msgspec
import yaml
from cryptography import x509

from gateway import certificate_ids, config
from gateway.channel import Channel, ChannelError
from gateway.dataplane.accept import proxy_header
from gateway.dataplane.accept.proxy_header import ProxyHeader, ProxyHeaderError
from gateway.dataplane.auth import credentials
from gateway.dataplane.auth.credentials import CredentialReader
from gateway.model import MAX_KEY_BYTES, digest_of
from gateway.wire import hpack, huffman
from tests.fuzz.worlds import Reader, pieces

SCHEMES = ("StackState", "SUSEObservability")
_FOLDER = Path(tempfile.gettempdir()) / f"gateway-fuzz-{os.getpid()}"


def header_blocks(data: bytes) -> None:
    """Blocks on one connection: the same fields as the `hpack` library reads, or an error."""
    reader = Reader(data)
    ours, theirs = hpack.BlockDecoder(), library.Decoder(max_header_list_size=64 * 1024)
    while not reader.is_empty:
        block = reader.take(reader.byte())
        try:
            fields = ours.decode(block)
        except hpack.HeaderBlockError:
            return
        except hpack.HeaderListTooLargeError:
            with contextlib.suppress(library.OversizedHeaderListError):
                theirs.decode(block, raw=True)
            continue
        assert fields == [(bytes(n), bytes(v)) for n, v in theirs.decode(block, raw=True)]
        raws = hpack.split(block)
        if raws is not None and all(raws):
            assert [hpack.decode_field(raw) for raw in raws] == fields
            encoded = hpack.encode(fields)
            assert hpack.BlockDecoder().decode(encoded) == fields


def fields_alone(data: bytes) -> None:
    """What `split` cuts out is a field or an error, and the library agrees."""
    raws = hpack.split(data)
    if raws is None:
        return
    assert b"".join(raws) == data
    for raw in raws:
        try:
            pair = hpack.decode_field(raw)
        except hpack.HeaderBlockError:
            pair = None
        try:
            (field,) = library.Decoder(max_header_list_size=1 << 24).decode(raw, raw=True)
        except library.HPACKError:
            assert pair is None
        else:
            assert pair == (bytes(field[0]), bytes(field[1]))


def huffman_strings(data: bytes) -> None:
    """Huffman strings as the library reads them."""
    from hpack.huffman_table import decode_huffman  # noqa: PLC0415 - no part of its interface

    try:
        ours = huffman.decode(data)
    except huffman.HuffmanError:
        ours = None
    try:
        theirs = decode_huffman(data)
    except library.HPACKDecodingError:
        theirs = None
    assert ours == theirs


def _proxy(data: bytes) -> ProxyHeader | str | None:
    try:
        return proxy_header.parse(data)
    except ProxyHeaderError:
        return "error"


def proxy_headers(data: bytes) -> None:
    """However a header is cut, it is the same one, and nothing behind it counts."""
    whole = _proxy(data)
    if isinstance(whole, ProxyHeader):
        assert 0 < whole.length <= len(data)
        assert _proxy(data[: whole.length]) == whole
        assert _proxy(data[: whole.length] + b"GET / HTTP/1.1\r\n") == whole
        if whole.peer is not None:
            _check_peer(whole.peer)
    for length in range(min(len(data), 240)):
        part = _proxy(data[:length])
        if part == "error":
            assert whole == "error"
        elif part is not None:
            assert part == whole


def _check_peer(peer: str) -> None:
    host, _, port = peer.rpartition(":")
    assert 0 <= int(port) <= 65_535
    host = host.strip("[]")
    socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)


def credential_fields(data: bytes) -> None:
    """A field read from either protocol gives the same credential; a digest is a real key's."""
    reader = Reader(data)
    found = []
    for _ in range(1 + reader.byte() % 3):
        name = (b"authorization", b"sts-api-key", b"dd-api-key", b"x-api-key")[reader.byte() % 4]
        value = reader.take(reader.byte())
        one = CredentialReader(SCHEMES).read(name, value)
        other = CredentialReader(SCHEMES).read_raw(hpack.encode_field(name, value))
        assert one[:3] == other[:3]
        for credential in filter(None, (one, one.on_intake)):
            assert (credential.digest is None) == bool(credential.refusal)
            if credential.digest is not None:
                _check_digest(credential.digest, value)
        found.append(one)
    chosen = credentials.choose(found)
    assert (chosen.digest is None) == bool(chosen.refusal)
    if chosen.digest is not None:
        assert any(each.digest == chosen.digest for each in found)
        assert {each.digest for each in found if each.digest} == {chosen.digest}


def _check_digest(digest: bytes, value: bytes) -> None:
    """Check that it is of visible ASCII in the value, or of Basic credentials'."""
    words = value.strip(b" \t").split(b" ")
    if words[0].lower() == b"basic":
        return
    key = words[-1]
    assert digest == digest_of(key)
    assert 0 < len(key) <= MAX_KEY_BYTES
    assert all(0x21 <= byte <= 0x7E for byte in key)


def _received(data: bytes, size: int, *, is_worker: bool) -> tuple[list[bytes], bool]:
    """Return the messages, encoded again, and whether the stream is wrong behind them.

    Encoded, because a number that is none (NaN) is not equal to itself.
    """
    messages: list[bytes] = []
    make = Channel.for_worker if is_worker else Channel.for_control
    end = make(lambda message: messages.append(msgspec.msgpack.encode(message)), lambda: None)
    for piece in pieces(data, size):
        try:
            end.data_received(piece)
        except ChannelError:
            return messages, True
    return messages, False


def channel_messages(data: bytes) -> None:
    """However the stream is cut, the messages are the same, and can be sent again."""
    reader = Reader(data)
    is_worker, size = bool(reader.byte() & 1), reader.byte()
    stream = reader.rest()
    if size & 0x80:
        stream = len(stream).to_bytes(4, "big") + stream
    whole = _received(stream, 0, is_worker=is_worker)
    assert _received(stream, 1 + size % 64, is_worker=is_worker) == whole
    for encoded in whole[0]:
        framed = len(encoded).to_bytes(4, "big") + encoded
        assert _received(framed, 0, is_worker=is_worker) == ([encoded], False)


def configurations(data: bytes) -> None:
    """A file is a configuration or a list of errors that each say something."""
    _FOLDER.mkdir(exist_ok=True)
    file = _FOLDER / "gateway.yaml"
    file.write_bytes(data)
    try:
        loaded = config.load(file, environ={"HOME": "/nowhere"})
    except config.ConfigError as error:
        problems = error.problems
    else:
        assert yaml.safe_dump(config.effective(loaded.config))
        return
    assert problems
    assert all(problem.message for problem in problems)


def certificates(data: bytes) -> None:
    """Certificates in DER: what the library reads has the same number, else an error."""
    try:
        names = certificate_ids.names_in(data)
    except ValueError:
        names = None
    try:
        serial = x509.load_der_x509_certificate(data).serial_number
    except (ValueError, x509.InvalidVersion):
        return
    assert names is not None
    assert names.serial == certificate_ids.serial_bytes(serial)
