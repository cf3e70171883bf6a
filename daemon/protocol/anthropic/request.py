"""What the gateway needs to know of a message request. The body itself stays bytes and is never re-modelled."""

import json
import re
from dataclasses import dataclass
from typing import Any

import orjson

MODEL_LIMIT = 256
_DECIDING = ("model", "stream")
_QUOTED = tuple(f'"{name}"'.encode() for name in _DECIDING)
_WINDOW = 29_000
_ESCAPED_LETTER = re.compile(rb"\\u00(?:6[1-9a-fA-F]|7[0-9aA])")


@dataclass(frozen=True, slots=True)
class MessageFacts:
    """The few fields that decide something here."""

    model: str
    stream: bool
    max_tokens: int | None
    session_id: str | None


@dataclass(frozen=True, slots=True)
class BadRequest:
    """Why a body cannot be forwarded, naming the field and what was expected."""

    message: str


def inspect(body: bytes) -> MessageFacts | BadRequest:
    """Read a request body. What does not decide anything here is for the provider to judge."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return BadRequest(f"body must be one JSON object: {_shorten(str(error))}")
    if not isinstance(document, dict):
        return BadRequest(f"body must be one JSON object: got {_kind(document)}")
    try:
        duplicate = _duplicate(body, document)
    except RecursionError:
        return BadRequest("body must be one JSON object: nested too deeply")
    if duplicate:
        return BadRequest(f"{duplicate}: given twice, expected once")
    model = document.get("model")
    if not isinstance(model, str) or not model:
        return BadRequest(f"model: expected a model id, got {_kind(model) if 'model' in document else 'nothing'}")
    if len(model) > MODEL_LIMIT or not model.isprintable():
        return BadRequest(f"model: expected at most {MODEL_LIMIT} printable characters")
    max_tokens = document.get("max_tokens")
    return MessageFacts(
        model=model,
        stream=document.get("stream") is True,
        max_tokens=max_tokens if type(max_tokens) is int else None,
        session_id=_session(document.get("metadata")),
    )


def _duplicate(body: bytes, document: dict[str, Any]) -> str | None:
    """The deciding key that stands twice at the top level: the provider might use the other one.

    Only a body that may hold one is parsed again. A key inside a JSON string has a backslash before its closing quote,
    so it is not counted; a key written with escapes (`"mod\\u0065l"`) could hide from counting.
    """
    if not (b"\\u00" in body and _ESCAPED_LETTER.search(body)) and not _lost_key(body, document):
        return None
    pairs: list[tuple[str, Any]] = []

    def keep(found: list[tuple[str, Any]]) -> None:
        nonlocal pairs
        pairs = found  # the outermost object is finished last

    json.loads(body, object_pairs_hook=keep)
    names = [name for name, _ in pairs]
    return next((name for name in _DECIDING if names.count(name) > 1), None)


def _lost_key(body: bytes, document: dict[str, Any]) -> bool:
    """Whether a deciding key stands more often in the body than in what was parsed, where a later twin replaces it.

    Tools have parameters called `model`, so the name alone says nothing.
    """
    counts = [_occurrences(body, name) for name in _QUOTED]
    if max(counts) <= 1:
        return False
    try:
        parsed = orjson.dumps(document)
    except orjson.JSONEncodeError:  # it writes fewer levels than it reads
        return True
    return counts != [_occurrences(parsed, name) for name in _QUOTED]


def _occurrences(body: bytes, name: bytes) -> int:
    """`body.count(name)`, in windows: CPython searches more than 30,000 bytes with an algorithm that is slower here."""
    overlap = len(name) - 1
    return sum(body.count(name, start, start + _WINDOW + overlap) for start in range(0, len(body), _WINDOW))


def _session(metadata: object) -> str | None:
    """Claude Code writes a JSON object with `session_id` into `metadata.user_id`."""
    user_id = metadata.get("user_id") if isinstance(metadata, dict) else None
    if not isinstance(user_id, str) or not user_id.startswith("{"):
        return None
    try:
        session = orjson.loads(user_id).get("session_id")
    except (orjson.JSONDecodeError, AttributeError):
        return None
    return session[:MODEL_LIMIT] if isinstance(session, str) and session.isprintable() else None


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number") if value != "" else "an empty string"


def _shorten(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:99]}…"
