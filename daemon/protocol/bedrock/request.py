"""From a Messages API request to the one Bedrock takes: native body, everything kept that can be kept.

The same request is always translated alike: thinking blocks are bound to what stands before them, so an edit that
comes and goes between turns would break the session.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from daemon.core.mapping import Route
from daemon.protocol.bedrock.compat import NO_BETA, Learned, strip, translate_betas, without_partners
from daemon.protocol.bedrock.thinking import heal

INVOKE_VERSION = "bedrock-2023-05-31"
DEFAULT_MAX_TOKENS = 4096
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_FINE_GRAINED = "fine-grained-tool-streaming-2025-05-14"
_SMALLEST_BUDGET = 1024
# Fields that only Anthropic's own service knows.
_ANTHROPIC_ONLY = (
    "container",
    "diagnostics",
    "fallbacks",
    "inference_geo",
    "mcp_servers",
    "service_tier",
    "speed",
)
# Source: what botocore's and litellm's models of InvokeModel for Anthropic list.
_INVOKE_FIELDS = frozenset(
    (
        "max_tokens",
        "messages",
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
        "cache_control",
    )
)
# How the first system block of Claude Code begins: who pays. Anthropic takes the block out before the model reads it.
_ATTRIBUTION = "x-anthropic-billing-header:"
_SAMPLING = ("temperature", "top_p", "top_k")
_CLIENT_TOOLS = ("bash_", "text_editor_", "computer_", "memory_", "tool_search_tool_", "custom")


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What an operator allows at most; None: what the client says."""

    max_output_tokens: int | None = None
    max_thinking_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Translated:
    """A body for Bedrock, and the betas that go into a header on the messages route."""

    body: bytes
    betas: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Untranslatable:
    """Why Bedrock cannot serve a request."""

    reason: str


def translate(
    body: bytes,
    *,
    betas: Sequence[str],
    route: Route,
    bedrock_id: str,
    features: Mapping[str, Any],
    learned: Learned,
    healing: str | None,
    ceilings: Ceilings,
) -> Translated | Untranslatable:
    """Translate a request that `inspect` has accepted. `features` are what is known of the model on Bedrock."""
    document: dict[str, Any] = orjson.loads(body)
    _attribution(document)
    forced = _forced_tool(document)
    removed = _server_tools(document, learned.values("tool"))
    if forced in removed:
        return Untranslatable(f"tool {forced!r} runs at Anthropic only")
    kept, orphans = translate_betas(betas, learned)
    fields = orphans | learned.values("field") | _unknown_fields(document, features, kept)
    strip(document, fields)
    kept = without_partners(kept, learned.values("field") - orphans)
    if route == "invoke":
        kept = _fine_grained(document, kept, allowed=NO_BETA not in learned.values("beta"))
    _plain_tools(document)
    _metadata(document)
    _effort(document, features)
    _thinking(document, features, learned.values("thinking"))
    kept = heal(document, kept, healing)
    if "max_tokens" not in document:
        document["max_tokens"] = ceilings.max_output_tokens or DEFAULT_MAX_TOKENS
    apply_ceilings(document, ceilings)
    if route == "invoke":
        document = {name: value for name, value in document.items() if name in _INVOKE_FIELDS}
        document["anthropic_version"] = INVOKE_VERSION
        if kept:
            document["anthropic_beta"] = kept
    else:
        document["model"] = bedrock_id
    return Translated(orjson.dumps(document), tuple(kept))


def cap(body: bytes, ceilings: Ceilings) -> bytes:
    """A request for Anthropic within an operator's ceilings: the client's own bytes when it is within them already."""
    if ceilings == Ceilings():
        return body
    document: dict[str, Any] = orjson.loads(body)
    return orjson.dumps(document) if apply_ceilings(document, ceilings) else body


def apply_ceilings(document: dict[str, Any], ceilings: Ceilings) -> bool:
    """Lower what is above a ceiling, in place; True when something was."""
    changed = False
    most = ceilings.max_output_tokens
    if most is not None and type(document.get("max_tokens")) is int and document["max_tokens"] > most:
        document["max_tokens"] = most
        changed = True
    thinking = document.get("thinking")
    budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    if type(budget) is not int or not isinstance(thinking, dict):
        return changed
    allowed = ceilings.max_thinking_tokens or budget
    if changed:  # a budget has to stay below max_tokens
        allowed = min(allowed, max(_SMALLEST_BUDGET, document["max_tokens"] - 1))
    if budget > allowed:
        thinking["budget_tokens"] = allowed
        changed = True
    return changed


def _attribution(document: dict[str, Any]) -> None:
    """Take out the block that names the request before: no prefix of a conversation would ever be found in a cache."""
    system = document.get("system")
    if not isinstance(system, list) or not system or not isinstance(system[0], dict):
        return
    if str(system[0].get("text", "")).startswith(_ATTRIBUTION):
        document["system"] = system[1:]
        if not document["system"]:
            del document["system"]


def _unknown_fields(document: dict[str, Any], features: Mapping[str, Any], betas: Sequence[str]) -> set[str]:
    """Fields this model is known not to take."""
    fields = {"cache_control.scope", "tools.*.strict", *_ANTHROPIC_ONLY}
    if features.get("sampling_params") is False:
        fields.update(_SAMPLING)
    if not (features.get("native_structured_output") or features.get("bedrock_native_structured_output_opt_in")):
        fields.add("output_config.format")
    if features and not features.get("tool_search") and not features.get("adaptive_thinking"):
        fields.add("context_management")  # models before 4.5
        fields.add("cache_control.ttl")
    if not any(beta.startswith("tool-examples-") for beta in betas):
        fields.add("tools.*.input_examples")
    if not any(beta.startswith("dangerous-tool-use-") for beta in betas):
        fields.add("safeguards")
    return fields


def _forced_tool(document: dict[str, Any]) -> str | None:
    choice = document.get("tool_choice")
    return choice.get("name") if isinstance(choice, dict) and choice.get("type") == "tool" else None


def _server_tools(document: dict[str, Any], learned: frozenset[str]) -> set[str]:
    """Take out tools that run at Anthropic; returns their names."""
    tools = document.get("tools")
    if not isinstance(tools, list):
        return set()
    kept, removed = [], set()
    for tool in tools:
        kind = tool.get("type") if isinstance(tool, dict) else None
        if isinstance(kind, str) and (kind in learned or not kind.startswith(_CLIENT_TOOLS)):
            removed.add(str(tool.get("name")))
        else:
            kept.append(tool)
    if removed and kept:
        document["tools"] = kept
    elif removed:
        del document["tools"]
        document.pop("tool_choice", None)
    return removed


def _plain_tools(document: dict[str, Any]) -> None:
    """`custom: {…}` around a tool's fields is a spelling that Bedrock does not know."""
    for tool in document.get("tools") or ():
        inner = tool.get("custom") if isinstance(tool, dict) else None
        if isinstance(inner, dict):
            del tool["custom"]
            tool.update({name: value for name, value in inner.items() if name not in tool})


def _fine_grained(document: dict[str, Any], betas: list[str], *, allowed: bool) -> list[str]:
    """Models that are only on the invoke route know eager tool streaming as a beta, not as a field."""
    eager = False
    for tool in document.get("tools") or ():
        if isinstance(tool, dict) and "eager_input_streaming" in tool:
            eager = bool(tool.pop("eager_input_streaming")) or eager
    return [*betas, _FINE_GRAINED] if eager and allowed and _FINE_GRAINED not in betas else betas


def _metadata(document: dict[str, Any]) -> None:
    """Bedrock takes few characters in metadata; Claude Code's user id is JSON. Its hash still tells users apart."""
    metadata = document.get("metadata")
    if not isinstance(metadata, dict):
        document.pop("metadata", None)
        return
    user_id = metadata.get("user_id")
    if isinstance(user_id, str):
        document["metadata"] = {"user_id": hashlib.sha256(user_id.encode()).hexdigest()}
    else:
        del document["metadata"]


def _effort(document: dict[str, Any], features: Mapping[str, Any]) -> None:
    """Lower an effort above the model's ceiling on Bedrock, of the request and of single messages."""
    ceiling = features.get("effort_ceiling")
    if ceiling not in _EFFORTS:
        return
    for place in (document, *(m for m in document.get("messages") or () if isinstance(m, dict))):
        config = place.get("output_config")
        effort = config.get("effort") if isinstance(config, dict) else None
        if isinstance(config, dict) and effort in _EFFORTS and _EFFORTS.index(effort) > _EFFORTS.index(ceiling):
            config["effort"] = ceiling


def _thinking(document: dict[str, Any], features: Mapping[str, Any], learned: frozenset[str]) -> None:
    """The kind of thinking the model knows: the other one is an error."""
    thinking = document.get("thinking")
    if not isinstance(thinking, dict):
        return
    kind = thinking.get("type")
    only_adaptive = "adaptive" in learned or features.get("sampling_params") is False
    knows_adaptive = "enabled" not in learned and (not features or bool(features.get("adaptive_thinking")))
    if kind == "enabled" and only_adaptive:
        thinking["type"] = "adaptive"
        thinking.pop("budget_tokens", None)
    elif kind == "adaptive" and not knows_adaptive:
        most = document.get("max_tokens")
        budget = (most if type(most) is int else DEFAULT_MAX_TOKENS) - 1
        if budget < _SMALLEST_BUDGET:
            del document["thinking"]
            return
        document["thinking"] = {"type": "enabled", "budget_tokens": budget}
