"""The blocks of a prompt, in the order the model reads them."""

from collections.abc import Iterator, Mapping
from typing import Any

Mark = dict[str, Any] | None
_ATTRIBUTION = "x-anthropic-billing-header:"


def head_blocks(request: Mapping[str, Any]) -> Iterator[tuple[object, Mark]]:
    """Tools, then system, each without its cache mark and beside it."""
    for name in ("tools", "system"):
        for block in _listed(request.get(name)):
            yield unmarked(block)


def message_blocks(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The content of a message as blocks; text alone is one block, as the API reads it."""
    return [block for block in _listed(message.get("content")) if isinstance(block, dict)]


def prompt_blocks(request: Mapping[str, Any]) -> Iterator[tuple[object, Mark]]:
    """All blocks of a prompt, each without its cache mark and beside it."""
    yield from head_blocks(request)
    for message in _listed(request.get("messages")):
        if isinstance(message, dict):
            for block in message_blocks(message):
                plain, mark = unmarked(block)
                yield [message.get("role"), plain], mark


def unmarked(block: object) -> tuple[object, Mark]:
    """A block without its cache mark, and the mark."""
    if not isinstance(block, dict):
        return block, None
    mark = block.get("cache_control")
    plain = {name: value for name, value in block.items() if name != "cache_control"}
    return plain, mark if isinstance(mark, dict) else None


def _listed(value: object) -> list[Any]:
    if isinstance(value, list):
        return value
    return [{"type": "text", "text": value}] if isinstance(value, str) else []


def without_attribution(request: dict[str, Any]) -> dict[str, Any]:
    """The prompt as the model reads it at Anthropic: the first system block says who pays, and is taken out."""
    system = _listed(request.get("system"))
    first = system[0] if system else None
    if isinstance(first, dict) and str(first.get("text", "")).startswith(_ATTRIBUTION):
        return request | {"system": system[1:]}
    return request
