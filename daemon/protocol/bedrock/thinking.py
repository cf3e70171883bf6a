"""Thinking blocks that a provider does not recognise.

A thinking block is bound to the provider, and on newer models to the conversation, that it came from. Blocks are
passed on as they are; only when a provider refuses them by their signature is the recovery that its message names
applied, and from then on to every later turn of the session, or the next turn would be refused for the difference.
Source: Anthropic, "Preserved thinking"; the wording of the error.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

Healing = Literal["drop_block", "strip_thinking"]
BINDING_BETA = "thinking-binding-controls-2026-08-01"
_SIGNATURE = re.compile(r"Invalid [`']?signature[`']? in [`']?thinking|thinking block.{0,80}signature", re.IGNORECASE)
_THINKING = ("thinking", "redacted_thinking")


def healing_for(message: str, current: str | None) -> Healing | None:
    """The recovery for an error message; None when it is not about signatures, or everything has been tried."""
    if not _SIGNATURE.search(message) or current == "strip_thinking":
        return None
    return "drop_block" if "prefix_mismatch_behavior" in message and current is None else "strip_thinking"


def heal(document: dict[str, Any], betas: Sequence[str], healing: str | None) -> list[str]:
    """Apply a recovery in place; returns the betas that go with it."""
    if healing == "drop_block":
        thinking = document.get("thinking")
        if isinstance(thinking, dict) and thinking.get("type") != "disabled":
            thinking["block_binding"] = {"prefix_mismatch_behavior": "drop_block"}
            return [*betas, *([BINDING_BETA] if BINDING_BETA not in betas else [])]
        healing = "strip_thinking"
    if healing == "strip_thinking":
        for message in document.get("messages") or ():
            _strip(message)
    return list(betas)


def _strip(message: Any) -> None:
    content = message.get("content") if isinstance(message, dict) and message.get("role") == "assistant" else None
    if not isinstance(content, list):
        return
    kept = [block for block in content if not (isinstance(block, dict) and block.get("type") in _THINKING)]
    # A turn has to say something: one that was all thinking keeps a word in its place.
    message["content"] = kept or [{"type": "text", "text": "(thinking)"}]
