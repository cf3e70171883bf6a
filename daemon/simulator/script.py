"""What a simulated provider is told to do, request by request."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool the simulated model asks for."""

    name: str
    input: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One answer. Unset fields mean a plain, successful answer."""

    text: str = "Hello from the simulator."
    thinking: str | None = None
    tool_uses: tuple[ToolUse, ...] = ()
    usage: Mapping[str, int] = field(default_factory=dict)
    model: str | None = None
    status: int = 200
    error_type: str = "api_error"
    message: str = "simulated error"
    headers: Mapping[str, str] = field(default_factory=dict)
    html: bool = False  # answer with a page, as a CDN does
    delay: float = 0.0  # seconds before the head
    event_delay: float = 0.0  # seconds between two events
    hang: bool = False  # take the request and never answer
    cut_at: int | None = None  # close after so many bytes of the body
    error_event: str | None = None  # error type of an event sent instead of the content


def step_from(document: str | bytes) -> Step:
    """A step from JSON.

    Raises:
        ValueError: naming the field that does not exist.
    """
    raw = json.loads(document)
    unknown = set(raw) - {item.name for item in fields(Step)}
    if unknown:
        raise ValueError(f"unknown field {min(unknown)!r}")
    raw["tool_uses"] = tuple(ToolUse(**tool) for tool in raw.get("tool_uses", ()))
    return Step(**raw)


def scenario(body: Mapping[str, Any]) -> Step:
    """The answer when nobody scripted one: a tool loop when the prompt asks for it with `[[tool-loop]]`, else text.

    The loop runs a command, reads a file and then says so; how far it is shows in the tool results that came back.
    """
    messages = body.get("messages") or []
    text = json.dumps(messages)
    tools = {tool.get("name") for tool in body.get("tools") or [] if isinstance(tool, dict)}
    if "[[tool-loop]]" not in text or not {"Bash", "Read"} <= tools:
        return Step(text=f"Simulated answer to {len(messages)} messages.")
    results = sum(
        1
        for message in messages
        if isinstance(message.get("content"), list)
        for block in message["content"]
        if isinstance(block, dict) and block.get("type") == "tool_result"
    )
    match results:
        case 0:
            return Step(text="First a command.", tool_uses=(ToolUse("Bash", {"command": "echo proxyctl-was-here"}),))
        case 1:
            return Step(text="Now a file.", tool_uses=(ToolUse("Read", {"file_path": _file_named_in(text)}),))
        case _:
            return Step(text="The tool loop is done.")


def _file_named_in(text: str) -> str:
    """The path between `[[file:` and `]]` in the prompt."""
    _, found, rest = text.partition("[[file:")
    return rest.partition("]]")[0] if found else "/etc/hostname"
