"""Thinking blocks that are bound to the conversation they were made in."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from daemon.simulator.prompts import head_blocks, message_blocks

BOUND_MODELS = frozenset({"claude-fable-5-1", "claude-fable-5-2", "claude-opus-5-5"})
_MISMATCH = (
    "messages.{}.content.{}: Invalid `signature` in `thinking` block. The block is bound to a different conversation. "
    'Remove the block, or set `thinking.block_binding.prefix_mismatch_behavior` to "drop_block". This setting '
    "requires the `thinking-binding-controls-2026-08-01` value in the `anthropic-beta` header."
)


def signature(origin: str, number: int, model: object, request: Mapping[str, Any]) -> str:
    """A signature that says which conversation its block belongs to; cache marks do not count."""
    return f"sig-{origin}-{number}-{_digests(model, request)[-1]}"


def mismatch(model: str, request: Mapping[str, Any], betas: Iterable[str]) -> str | None:
    """What a provider says to a thinking block whose conversation was rewritten, if there is one it minds."""
    if model not in BOUND_MODELS or _drops_blocks(request, betas):
        return None
    digests = _digests(model, request)
    for index, message in enumerate(_messages(request)):
        for place, block in enumerate(message_blocks(message)):
            if block.get("type") == "thinking" and _conversation(block) not in (None, digests[index]):
                return _MISMATCH.format(index, place)
    return None


def _drops_blocks(request: Mapping[str, Any], betas: Iterable[str]) -> bool:
    thinking = request.get("thinking")
    control = thinking.get("block_binding") if isinstance(thinking, Mapping) else None
    wanted = isinstance(control, Mapping) and control.get("prefix_mismatch_behavior") == "drop_block"
    return wanted and "thinking-binding-controls-2026-08-01" in betas


def _conversation(block: Mapping[str, Any]) -> str | None:
    """The conversation in a signature made here; of other signatures nothing is known."""
    parts = str(block.get("signature", "")).split("-")
    return parts[3] if len(parts) == 4 and parts[0] == "sig" else None


def _digests(model: object, request: Mapping[str, Any]) -> list[str]:
    """Digests of the conversation before each message, and of all of it."""
    running = hashlib.sha256(str(model).encode())
    for block, _ in head_blocks(request):
        running.update(json.dumps(block, sort_keys=True).encode())
    digests = [running.hexdigest()[:16]]
    for message in _messages(request):
        running.update(str(message.get("role")).encode())
        for block in message_blocks(message):
            plain = {name: value for name, value in block.items() if name != "cache_control"}
            running.update(json.dumps(plain, sort_keys=True).encode())
        digests.append(running.hexdigest()[:16])
    return digests


def _messages(request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    messages = request.get("messages")
    return [item if isinstance(item, Mapping) else {} for item in messages] if isinstance(messages, list) else []
