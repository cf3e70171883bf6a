"""What the simulated Bedrock refuses in a request, and in which words."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from daemon.simulator.models import Model

INVOKE_FIELDS = frozenset(
    [
        "anthropic_version",
        "max_tokens",
        "messages",
        "anthropic_beta",
        "system",
        "stop_sequences",
        "temperature",
        "top_p",
        "top_k",
        "tools",
        "tool_choice",
        "thinking",
        "metadata",
        "output_config",
        "safeguards",
        "context_management",
        "user_profile_id",
    ]
)
REFUSED_BETAS = (
    "oauth-*",
    "prompt-caching-scope-*",
    "fast-mode-*",
    "redact-thinking-*",
    "token-efficient-tools-*",
    "advisor-tool-*",
    "code-execution-*",
    "files-api-*",
    "mcp-client-*",
    "skills-*",
    "web-fetch-*",
    "web-search-*",
    "per-turn-control-*",
    "extended-cache-ttl-2025-04-11",
    "fallback-credit-2026-07-01",
)
_SERVER_TOOLS = ("web_search_", "web_fetch_", "code_execution_", "advisor_", "mcp_toolset")
_USER_ID = r"[a-zA-Z0-9\s:_@$#=/+,-.]{0,256}"
_EXTRA = "Extra inputs are not permitted"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for a message, on either route."""

    route: Literal["messages", "invoke"]
    model: Model
    body: Mapping[str, Any]
    betas: tuple[str, ...]


def refusal(asked: Asked, refused_betas: tuple[str, ...] = REFUSED_BETAS) -> str | None:
    """The first thing Bedrock has against a request, in its words."""
    return next(_objections(asked, refused_betas), None)


def _objections(asked: Asked, refused_betas: tuple[str, ...]) -> Iterator[str]:
    yield from _betas(asked, refused_betas)
    yield from _fields(asked)
    yield from _metadata(asked)
    yield from _tools(asked)
    yield from _cache_scopes(asked.body)
    yield from _thinking(asked)
    yield from _sampling(asked)


def _betas(asked: Asked, refused_betas: tuple[str, ...]) -> Iterator[str]:
    bad = [name for name in asked.betas if any(fnmatchcase(name, pattern) for pattern in refused_betas)]
    if bad and asked.route == "invoke":
        yield "invalid beta flag"
    elif bad:
        listed = ", ".join(f"`{name}`" for name in bad)
        yield (
            f"Unexpected value(s) {listed} for the `anthropic-beta` header. Please consult our documentation at "
            "docs.anthropic.com or try again without the header."
        )


def _fields(asked: Asked) -> Iterator[str]:
    body = asked.body
    required = ("anthropic_version",) if asked.route == "invoke" else ()
    for name in (*required, "max_tokens", "messages"):
        if name not in body:
            yield f"{name}: Field required"
    if asked.route == "invoke":
        for name in sorted(set(body) - INVOKE_FIELDS):
            yield f"{name}: {_EXTRA}"
        if not asked.model.recent and body["anthropic_version"] != "bedrock-2023-05-31":
            yield "anthropic_version: Input should be 'bedrock-2023-05-31'"
    for name in ("inference_geo", "fallbacks"):
        if name in body:
            yield f"{name}: {_EXTRA}"
    if "context_management" in body and not _has(asked, "context-management-*", "compact-*"):
        yield f"context_management: {_EXTRA}"
    if "safeguards" in body and not _has(asked, "dangerous-tool-use-*"):
        yield f"safeguards: {_EXTRA}"
    output = body.get("output_config")
    structured = asked.route == "invoke" and not asked.model.recent  # older models take a format when invoked
    if isinstance(output, Mapping) and "format" in output and not structured:
        yield f"output_config.format: {_EXTRA}"


def _metadata(asked: Asked) -> Iterator[str]:
    """Only the Messages route minds: Claude Code sends its JSON when it invokes, and that works."""
    metadata = asked.body.get("metadata") if asked.route == "messages" else None
    user = metadata.get("user_id") if isinstance(metadata, Mapping) else None
    if isinstance(user, str) and not re.fullmatch(_USER_ID, user):
        yield f"Request metadata contains a value that violates the regular expression {_USER_ID}"


def _tools(asked: Asked) -> Iterator[str]:
    for index, tool in enumerate(_objects(asked.body.get("tools"))):
        kind = str(tool.get("type") or "custom")
        if kind.startswith(_SERVER_TOOLS):
            yield f"tool type '{kind}' is not supported"
        where = f"tools.{index}.{kind}"
        if "strict" in tool:
            yield f"{where}.strict: {_EXTRA}"
        if "eager_input_streaming" in tool and asked.route == "invoke" and not asked.model.recent:
            yield f"{where}.eager_input_streaming: {_EXTRA}"
        if "input_examples" in tool and not _has(asked, "tool-examples-*", "advanced-tool-use-*"):
            yield f"{where}.input_examples: {_EXTRA}"
    choice = asked.body.get("tool_choice")
    forced = isinstance(choice, Mapping) and choice.get("type") in ("any", "tool")
    if forced and not asked.model.can_force_tools:
        yield "Thinking may not be enabled when tool_choice forces tool use."


def _cache_scopes(body: Mapping[str, Any]) -> Iterator[str]:
    """Every place where a cache mark has a scope."""
    for where, block in _marked_places(body):
        mark = block.get("cache_control")
        if isinstance(mark, Mapping) and "scope" in mark:
            yield f"{where}cache_control.ephemeral.scope: {_EXTRA}"


def _marked_places(body: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "", body
    for index, tool in enumerate(_objects(body.get("tools"))):
        yield f"tools.{index}.{tool.get('type') or 'custom'}.", tool
    for index, block in enumerate(_objects(body.get("system"))):
        yield f"system.{index}.", block
    for index, message in enumerate(_objects(body.get("messages"))):
        for place, block in enumerate(_objects(message.get("content"))):
            yield f"messages.{index}.content.{place}.{block.get('type')}.", block


def _thinking(asked: Asked) -> Iterator[str]:
    thinking = asked.body.get("thinking")
    kind = thinking.get("type") if isinstance(thinking, Mapping) else None
    if kind == "enabled" and asked.model.recent:
        yield (
            '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive" and '
            '"output_config.effort" to control thinking behavior.'
        )
    if kind == "adaptive" and asked.model.version < (4, 6):
        yield "adaptive thinking is not supported on this model"
    if isinstance(thinking, Mapping) and "block_binding" in thinking and not _has(asked, "thinking-binding-controls-*"):
        yield f"thinking.{kind}.block_binding: {_EXTRA}"


def _sampling(asked: Asked) -> Iterator[str]:
    """From 4.7 on sampling cannot be chosen; 4.7 and 4.8 still take the default temperature."""
    if not asked.model.recent:
        return
    for name in ("temperature", "top_p", "top_k"):
        harmless = name == "temperature" and asked.body.get(name) == 1 and asked.model.version < (5, 0)
        if name in asked.body and not harmless:
            yield f"`{name}` is deprecated for this model."


def _has(asked: Asked, *patterns: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in asked.betas for pattern in patterns)


def _objects(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
