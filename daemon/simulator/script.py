"""What a simulated provider is told to do, request by request."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints


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
    usage: Mapping[str, int] = field(default_factory=dict)  # input, output, cache_read, cache_write_5m/_1h, thinking
    model: str | None = None
    stop_reason: str | None = None
    status: int = 200
    error_type: str = "api_error"
    message: str = "simulated error"
    aws_error: str | None = None  # name of an AWS exception; sets the status
    raw_error: Mapping[str, Any] | None = None  # exact JSON body of an answer with `status`
    headers: Mapping[str, str] = field(default_factory=dict)
    html: bool = False  # answer with a page, as a CDN does
    unknown_operation: bool = False  # HTTP 200 with the body of an operation that does not exist
    delay: float = 0.0  # seconds before the head
    event_delay: float = 0.0  # seconds between two events
    hang: bool = False  # take the request and never answer
    reset: bool = False  # reset the connection instead of answering
    cut_at: int | None = None  # close after so many bytes of the body
    flip_at: int | None = None  # flip one bit of the byte at this offset of the body
    error_event: str | None = None  # error type of an event sent instead of the content
    error_event_after: int | None = None  # send the error event after so many events
    exception_frame: str | None = None  # modeled exception of the event stream sent instead of the content
    exception_after: int | None = None  # send the exception after so many events


def step_from(document: str | bytes) -> Step:
    """A step from a JSON object.

    Raises:
        ValueError: naming what is wrong with it.
    """
    return _step(json.loads(document))


def steps_from(document: str | bytes) -> tuple[Step, ...]:
    """The steps of a JSON object, or of a list of them.

    Raises:
        ValueError: naming what is wrong with them.
    """
    raw = json.loads(document)
    return tuple(_step(item) for item in (raw if isinstance(raw, list) else [raw]))


def _step(raw: object) -> Step:
    if not isinstance(raw, dict):
        raise ValueError("a step is a JSON object")  # noqa: TRY004 - the caller answers 400 to a ValueError
    given = dict(raw)
    unknown = set(given) - {item.name for item in fields(Step)}
    if unknown:
        raise ValueError(f"unknown field {min(unknown)!r}")
    if "tool_uses" in given:
        given["tool_uses"] = _tool_uses(given["tool_uses"])
    for name, value in given.items():
        if not isinstance(value, _TYPES[name]):
            raise ValueError(f"wrong type of field {name!r}")  # noqa: TRY004
    return Step(**given)


def _tool_uses(raw: object) -> tuple[ToolUse, ...]:
    try:
        return tuple(ToolUse(name=str(tool["name"]), input=dict(tool["input"])) for tool in list(raw))  # type: ignore[call-overload]
    except (TypeError, KeyError, ValueError) as problem:
        raise ValueError("tool_uses is a list of objects with name and input") from problem


def _accepted(hint: Any) -> tuple[type, ...]:
    """The classes a JSON value of this annotation may have."""
    if isinstance(hint, UnionType):
        return tuple(kind for part in get_args(hint) for kind in _accepted(part))
    plain = get_origin(hint) or hint
    return (int, float) if plain is float else (plain,)


_TYPES = {name: _accepted(hint) for name, hint in get_type_hints(Step).items()}
