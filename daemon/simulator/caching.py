"""A prompt cache that counts: what a request writes to it and reads from it."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_KEPT = 10_000  # prefixes remembered


@dataclass(frozen=True, slots=True)
class CacheUse:
    """Tokens of one prompt by where they came from."""

    read: int = 0
    written_5m: int = 0
    written_1h: int = 0


class PromptCache:
    """Remembers marked prefixes of prompts: tools, then system, then messages, without the marks themselves."""

    def __init__(self) -> None:
        self._known: dict[str, None] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._known.clear()

    def use(self, model: object, request: Mapping[str, Any]) -> CacheUse:
        """The longest known prefix is read, the rest up to the last mark is written."""
        read = size = 0
        written = {"5m": 0, "1h": 0}
        running = hashlib.sha256(str(model).encode())
        marks: list[tuple[str, int, str]] = []
        for block, mark in _blocks(request):
            text = json.dumps(block, sort_keys=True)
            running.update(text.encode())
            size += len(text)
            digest = running.hexdigest()
            if digest in self._known:
                read = size // 4
            if mark is not None:
                marks.append((digest, size // 4, "1h" if mark.get("ttl") == "1h" else "5m"))
        covered = read
        for digest, tokens, ttl in marks:
            written[ttl] += max(0, tokens - covered)
            covered = max(covered, tokens)
            self._remember(digest)
        return CacheUse(read if marks else 0, written["5m"], written["1h"])

    def _remember(self, digest: str) -> None:
        self._known[digest] = None
        if len(self._known) > _KEPT:
            del self._known[next(iter(self._known))]


def _blocks(request: Mapping[str, Any]) -> Iterator[tuple[object, dict[str, Any] | None]]:
    """The blocks of a prompt in the order the cache sees them, each with its mark."""
    for tool in _listed(request.get("tools")):
        yield _unmarked(tool)
    for block in _listed(request.get("system")):
        yield _unmarked(block)
    for message in _listed(request.get("messages")):
        role = message.get("role") if isinstance(message, dict) else None
        for block in _listed(message.get("content") if isinstance(message, dict) else message):
            plain, mark = _unmarked(block)
            yield [role, plain], mark


def _unmarked(block: object) -> tuple[object, dict[str, Any] | None]:
    if not isinstance(block, dict):
        return {"type": "text", "text": block}, None
    mark = block.get("cache_control")
    plain = {name: value for name, value in block.items() if name != "cache_control"}
    return plain, mark if isinstance(mark, dict) else None


def _listed(value: object) -> list[Any]:
    """A list as it is; text is a list of one, as the API reads it."""
    if isinstance(value, list):
        return value
    return [value] if isinstance(value, str) else []
