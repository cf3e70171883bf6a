"""A Messages API answer, as one document and as events with the same content."""

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from daemon.simulator.binding import signature
from daemon.simulator.caching import CacheUse
from daemon.simulator.script import Step

_numbers = itertools.count(1)


def message(
    step: Step, request: Mapping[str, Any], *, model: object, prompt_bytes: int, cache: CacheUse, origin: str
) -> dict[str, Any]:
    """A complete message. Counts follow the sizes of prompt and answer unless the step says them."""
    number = next(_numbers)
    content: list[dict[str, Any]] = []
    if step.thinking is not None:
        signed = signature(origin, number, model, request)
        content.append({"type": "thinking", "thinking": step.thinking, "signature": signed})
    if step.text:
        content.append({"type": "text", "text": step.text})
    content += [
        {"type": "tool_use", "id": f"toolu_{origin}_{number}_{index}", "name": tool.name, "input": dict(tool.input)}
        for index, tool in enumerate(step.tool_uses)
    ]
    return {
        "id": f"msg_{origin}_{number:08d}",
        "type": "message",
        "role": "assistant",
        "model": step.model or model,
        "content": content,
        "stop_reason": step.stop_reason or ("tool_use" if step.tool_uses else "end_turn"),
        "stop_sequence": None,
        "usage": _usage(step, content, prompt_bytes, cache),
    }


def _usage(step: Step, content: list[dict[str, Any]], prompt_bytes: int, cache: CacheUse) -> dict[str, Any]:
    given = dict(step.usage)
    if given:  # a scripted step says all there is
        cache = CacheUse(given.get("cache_read", 0), given.get("cache_write_5m", 0), given.get("cache_write_1h", 0))
        uncached = prompt_bytes // 4
    else:
        uncached = prompt_bytes // 4 - cache.read - cache.written_5m - cache.written_1h
    usage = {
        "input_tokens": given.get("input", max(1, uncached)),
        "output_tokens": given.get("output", max(1, len(json.dumps(content)) // 4)),
        "cache_creation_input_tokens": cache.written_5m + cache.written_1h,
        "cache_read_input_tokens": cache.read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": cache.written_5m,
            "ephemeral_1h_input_tokens": cache.written_1h,
        },
        "service_tier": "standard",
    }
    if "thinking" in given:
        usage["output_tokens_details"] = {"thinking_tokens": given["thinking"]}
    return usage


def events(whole: Mapping[str, Any], *, ping: bool = True) -> Iterator[dict[str, Any]]:
    """The message as events, in the order and shape the API uses."""
    usage = whole["usage"]
    start = {name: value for name, value in usage.items() if name != "output_tokens_details"}
    opening = dict(whole) | {"content": [], "stop_reason": None, "usage": start | {"output_tokens": 1}}
    yield {"type": "message_start", "message": opening}
    if ping:
        yield {"type": "ping"}
    for index, block in enumerate(whole["content"]):
        yield {"type": "content_block_start", "index": index, "content_block": _opened(block)}
        for delta in _deltas(block):
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    closing = {name: usage[name] for name in usage if name not in ("cache_creation", "service_tier")}
    reason = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield {"type": "message_delta", "delta": reason, "usage": closing}
    yield {"type": "message_stop"}


def compact(document: object) -> bytes:
    """JSON without spaces."""
    return json.dumps(document, separators=(",", ":")).encode()


def sse(event: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return b"event: %s\ndata: %s\n\n" % (str(event["type"]).encode(), compact(event))


def error(kind: str, text: str, request_id: str | None = None) -> dict[str, Any]:
    """An error document."""
    document: dict[str, Any] = {"type": "error", "error": {"type": kind, "message": text}}
    return document if request_id is None else document | {"request_id": request_id}


def _opened(block: Mapping[str, Any]) -> dict[str, Any]:
    match block["type"]:
        case "thinking":
            return {"type": "thinking", "thinking": "", "signature": ""}
        case "tool_use":
            return dict(block) | {"input": {}}
        case _:
            return {"type": "text", "text": ""}


def _deltas(block: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    match block["type"]:
        case "thinking":
            for piece in _pieces(block["thinking"]):
                yield {"type": "thinking_delta", "thinking": piece}
            yield {"type": "signature_delta", "signature": block["signature"]}
        case "tool_use":
            for piece in _pieces(json.dumps(block["input"])):
                yield {"type": "input_json_delta", "partial_json": piece}
        case _:
            for piece in _pieces(block["text"]):
                yield {"type": "text_delta", "text": piece}


def _pieces(text: str, size: int = 12) -> Iterator[str]:
    for start in range(0, len(text), size):
        yield text[start : start + size]
