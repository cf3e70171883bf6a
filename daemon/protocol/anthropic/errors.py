"""Errors in Anthropic's shape: `{"type":"error","error":{"type","message"},"request_id"}`."""

import orjson


def error_body(kind: str, message: str, request_id: str) -> bytes:
    """An error as a JSON document."""
    return orjson.dumps({"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id})


def error_event(kind: str, message: str, request_id: str) -> bytes:
    """An error as one server-sent event."""
    return b"event: error\ndata: " + error_body(kind, message, request_id) + b"\n\n"
