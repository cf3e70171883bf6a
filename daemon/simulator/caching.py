"""A prompt cache that counts: what a request writes to it and reads from it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from daemon.simulator.prompts import prompt_blocks

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
        for block, mark in prompt_blocks(request):
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
