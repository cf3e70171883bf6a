"""Both of Bedrock's wires as bytes: one answer with two blocks, and what the client has to get of it."""

import json
from typing import Any

from daemon.core.tokens import TokenCounts
from daemon.simulator import eventstream
from tests.support.plane import KEY

MODEL, SERVED = "claude-opus-5-5", "claude-opus-5-5-20261001"
PATH = f"/ak/{KEY}/v1/messages"
ROUTES = ("messages", "invoke")
START: dict[str, Any] = {
    "type": "message_start",
    "message": {
        "id": "msg_bdrk_1",
        "type": "message",
        "role": "assistant",
        "model": SERVED,
        "content": [],
        "usage": {"input_tokens": 9, "cache_read_input_tokens": 400, "output_tokens": 1},
    },
}
DELTA: dict[str, Any] = {
    "type": "content_block_delta",
    "index": 0,
    "delta": {"type": "text_delta", "text": "grüße 你好 😀"},
}
STOP: dict[str, Any] = {
    "type": "message_stop",
    "amazon-bedrock-invocationMetrics": {
        "inputTokenCount": 9,
        "outputTokenCount": 57,
        "cacheReadInputTokenCount": 400,
        "invocationLatency": 10,
        "firstByteLatency": 2,
    },
}
EVENTS: list[dict[str, Any]] = [
    START,
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    DELTA,
    {"type": "content_block_stop", "index": 0},
    {
        "type": "content_block_start",
        "index": 1,
        "content_block": {"type": "tool_use", "id": "toolu_bdrk_1", "name": "Bash", "input": {}},
    },
    {
        "type": "content_block_delta",
        "index": 1,
        "delta": {"type": "input_json_delta", "partial_json": '{"command": "rm -rf build"}'},
    },
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 57}},
    STOP,
]
TOKENS = TokenCounts(input=9, output=57, cache_read=400)


def compact(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def event(document: dict[str, Any]) -> bytes:
    """An event as server-sent events carry it."""
    return b"event: %b\ndata: %b\n\n" % (document["type"].encode(), compact(document))


def wire(route: str, events: list[dict[str, Any]] = EVENTS) -> list[bytes]:
    """Events as they come from Bedrock."""
    if route == "messages":
        return [event(document) for document in events]
    return [eventstream.chunk(compact(document), "abcdefgh"[: 1 + i % 8]) for i, document in enumerate(events)]


def relayed(events: list[dict[str, Any]] = EVENTS) -> bytes:
    """The same events as the client gets them."""
    return b"".join(event(_public(document)) for document in events)


def head(route: str, length: int | None) -> bytes:
    """The head of a streaming answer; without a length it ends with the connection."""
    kind = "text/event-stream" if route == "messages" else eventstream.CONTENT_TYPE
    size = "connection: close" if length is None else f"content-length: {length}"
    return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nx-amzn-requestid: aws-1\r\n{size}\r\n\r\n".encode()


def whole(status: int, body: bytes, kind: str = "application/json", extra: str = "") -> bytes:
    """An answer that is one document."""
    lines = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
    return lines.encode() + body


def request(text: str = "hi", *, stream: bool = True) -> bytes:
    """The client's request; the scripted Bedrock finds `text` in what it gets."""
    fields = {"model": MODEL, "max_tokens": 100, "stream": stream}
    return compact(fields | {"messages": [{"role": "user", "content": text}]})


def text_of(body: bytes) -> str:
    """The text of a request as Bedrock got it."""
    content = json.loads(body)["messages"][0]["content"]
    return str(content if isinstance(content, str) else content[0]["text"])


def _public(document: dict[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in document.items() if name != "amazon-bedrock-invocationMetrics"}
    if "message" in shown:
        shown["message"] = shown["message"] | {"model": MODEL}
    return shown
