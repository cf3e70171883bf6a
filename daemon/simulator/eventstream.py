"""Frames of the AWS event stream, as Bedrock sends them.

Layout: total length, headers length, CRC of those two, headers, payload, CRC of everything before (all big-endian;
https://docs.aws.amazon.com/transcribe/latest/dg/event-stream.html).
"""

import base64
import json
import struct
import zlib
from collections.abc import Mapping

CONTENT_TYPE = "application/vnd.amazon.eventstream"
_STRING = 7
_OVERHEAD = 16  # two lengths and two checksums


def chunk(event: bytes, padding: str = "") -> bytes:
    """An event frame that carries one JSON document of the Messages API; `padding` hides its length."""
    payload = {"bytes": base64.b64encode(event).decode()} | ({"p": padding} if padding else {})
    headers = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
    return frame(headers, json.dumps(payload, separators=(",", ":")).encode())


def exception(kind: str, message: str) -> bytes:
    """A modeled exception such as `throttlingException`."""
    headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    return frame(headers, json.dumps({"message": message}, separators=(",", ":")).encode())


def error(code: str, message: str) -> bytes:
    """An unmodeled error: everything is in the headers."""
    return frame({":error-code": code, ":error-message": message, ":message-type": "error"}, b"")


def frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One frame with string headers."""
    packed = b"".join(_header(name, value) for name, value in headers.items())
    prelude = struct.pack(">II", _OVERHEAD + len(packed) + len(payload), len(packed))
    body = prelude + struct.pack(">I", zlib.crc32(prelude)) + packed + payload
    return body + struct.pack(">I", zlib.crc32(body))


def _header(name: str, value: str) -> bytes:
    key, text = name.encode(), value.encode()
    return struct.pack(">B", len(key)) + key + struct.pack(">BH", _STRING, len(text)) + text
