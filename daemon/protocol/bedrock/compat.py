"""What Bedrock does not take: known rules, and rules learned from its own error messages.

A rule names a beta or a field. Betas and fields that only mean something together leave together: half a pair is an
error of its own.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["beta", "field", "tool", "thinking", "profile", "route"]
ANY_BETA = "*"  # an error that names no beta: only those that are known to be taken go out from then on
NO_BETA = "**"  # that was not enough, and which of them it is nobody says: none goes out from then on

# Source: live tests and price data of gateways, measured in 2026; what changes since is learned.
_ACCEPTED_BETAS = frozenset(
    (
        "claude-code-20250219",
        "compact-2026-01-12",
        "computer-use-2025-01-24",
        "computer-use-2025-11-24",
        "context-1m-2025-08-07",
        "context-management-2025-06-27",
        "dangerous-tool-use-2026-09-03",
        "effort-2025-11-24",
        "fine-grained-tool-streaming-2025-05-14",
        "interleaved-thinking-2025-05-14",
        "mid-conversation-output-config-2026-07-01",
        "mid-conversation-system-2026-04-07",
        "mid-conversation-tool-changes-2026-07-01",
        "structured-outputs-2025-12-15",
        "thinking-binding-controls-2026-08-01",
        "thinking-display-updates-2026-08-18",
        "thinking-token-count-2026-05-13",
        "tool-examples-2025-10-29",
        "tool-search-tool-2025-10-19",
    )
)
_REJECTED_BETAS = (
    "advisor-tool-",
    "cache-diagnosis-",
    "code-execution-",
    "extended-cache-ttl-",
    "fallback-credit-2026-07-01",
    "fast-mode-",
    "files-api-",
    "mcp-client-",
    "oauth-",
    "per-turn-control-",
    "prompt-caching-scope-",
    "redact-thinking-",
    "server-side-fallback-",
    "skills-",
    "token-efficient-tools-",
    "web-fetch-",
    "web-search-",
)
_RENAMED_BETAS = {"advanced-tool-use-2025-11-20": "tool-search-tool-2025-10-19"}
# A beta's prefix, and the fields that mean nothing without it.
PAIRS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("cache-diagnosis-", ("diagnostics",)),
    ("code-execution-", ("container",)),
    ("context-management-", ("context_management",)),
    ("dangerous-tool-use-", ("safeguards",)),
    ("fallback-credit-", ("fallbacks",)),
    ("fast-mode-", ("speed",)),
    ("mcp-client-", ("mcp_servers",)),
    ("per-turn-control-", ("messages.*.output_config",)),
    ("prompt-caching-scope-", ("cache_control.scope",)),
    ("server-side-fallback-", ("fallbacks",)),
    ("thinking-binding-controls-", ("thinking.block_binding",)),
    ("thinking-display-updates-", ("thinking.display",)),
    ("tool-examples-", ("tools.*.input_examples",)),
)
_ESSENTIAL = frozenset(
    (
        "anthropic_version",
        "content",
        "data",
        "id",
        "input",
        "max_tokens",
        "messages",
        "model",
        "name",
        "role",
        "signature",
        "source",
        "text",
        "thinking",
        "tool_use_id",
        "type",
    )
)
_EXTRA = re.compile(r"([A-Za-z_][\w.]*): Extra inputs are not permitted")
_BETA_VALUES = re.compile(r"Unexpected value\(s\) (.+?) for the [`']?anthropic-beta", re.DOTALL)
_TOOL_TYPE = re.compile(r"tool type '([\w.-]{1,100})' is not supported")
_WRONG_PROFILE = re.compile(r"model identifier is invalid|on-demand throughput isn.t supported", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing a model behind one provider does not take."""

    kind: Kind
    value: str


@dataclass(frozen=True, slots=True)
class Learned:
    """All rules learned for one model in one region."""

    rules: frozenset[Rule] = frozenset()

    def values(self, kind: Kind) -> frozenset[str]:
        return frozenset(rule.value for rule in self.rules if rule.kind == kind)


def learn(message: str, *, bedrock_id: str) -> frozenset[Rule]:
    """The rules that an error message teaches; empty when it names nothing that could be left out."""
    rules: set[Rule] = set()
    for path in _EXTRA.findall(message):
        field = _pattern(path)
        if field is not None:
            rules.add(Rule("field", field))
    named = _BETA_VALUES.search(message)
    if named:
        rules |= {Rule("beta", beta) for beta in re.findall(r"[\w.-]+", named[1])}
    elif "invalid beta flag" in message:
        rules.add(Rule("beta", ANY_BETA))
    rules |= {Rule("tool", kind) for kind in _TOOL_TYPE.findall(message)}
    if "thinking.type.enabled" in message and "not supported" in message:
        rules.add(Rule("thinking", "adaptive"))
    elif "adaptive thinking is not supported" in message:
        rules.add(Rule("thinking", "enabled"))
    if _WRONG_PROFILE.search(message):
        rules.add(Rule("profile", bedrock_id))
    if "metadata contains a value" in message:
        rules.add(Rule("field", "metadata"))
    return frozenset(rules)


def harder(rules: frozenset[Rule], used: frozenset[Rule]) -> frozenset[Rule]:
    """What is left to try when an error teaches what a request went by already."""
    if rules and rules <= used and Rule("beta", ANY_BETA) in rules:
        return frozenset((Rule("beta", NO_BETA),))
    return rules


def translate_betas(betas: Iterable[str], learned: Learned) -> tuple[list[str], set[str]]:
    """Betas for Bedrock in their order, and fields whose beta was left out."""
    rejected = learned.values("beta")
    kept: list[str] = []
    orphans: set[str] = set()
    for beta in betas:
        name = _RENAMED_BETAS.get(beta, beta)
        known_bad = name.startswith(_REJECTED_BETAS) or name in rejected or NO_BETA in rejected
        if known_bad or (ANY_BETA in rejected and name not in _ACCEPTED_BETAS):
            orphans |= {field for prefix, fields in PAIRS if name.startswith(prefix) for field in fields}
        elif name not in kept:
            kept.append(name)
    return kept, orphans


def without_partners(betas: Iterable[str], fields: Iterable[str]) -> list[str]:
    """Betas but for those all of whose fields have been taken out."""
    gone = set(fields)
    return [
        beta
        for beta in betas
        if not any(beta.startswith(prefix) and gone.issuperset(partners) for prefix, partners in PAIRS)
    ]


def strip(document: dict[str, Any], fields: Iterable[str]) -> None:
    """Take fields out of a request, in place. `*` stands for each item of a list."""
    for field in sorted(fields):
        if field.startswith("cache_control."):
            name = field.partition(".")[2]
            for control in cache_controls(document):
                control.pop(name, None)
        else:
            _strip(document, field.split("."))


def cache_controls(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every `cache_control` object: of the request, of system blocks, tools, and content blocks at any depth."""
    places: list[Any] = [document, document.get("system"), document.get("tools"), document.get("messages")]
    while places:
        place = places.pop()
        if isinstance(place, list):
            places.extend(place)
        elif isinstance(place, dict):
            control = place.get("cache_control")
            if isinstance(control, dict):
                yield control
            if place is not document:
                places.append(place.get("content"))


def _pattern(path: str) -> str | None:
    """The field a validation error names, without positions; None when a request makes no sense without it.

    The names of union members stand in these paths (`tools.0.custom.strict`); `strip` passes over them.
    """
    parts = ["*" if part.isdigit() else part for part in path.split(".") if part]
    if not parts or parts[-1] in _ESSENTIAL or parts == ["tools"] or parts == ["system"] or parts[-1] == "*":
        return None
    if "cache_control" in parts[:-1]:
        return f"cache_control.{parts[-1]}"
    return ".".join(parts)[:256]


def _strip(place: Any, parts: list[str]) -> None:
    part, rest = parts[0], parts[1:]
    if part == "*":
        for item in place if isinstance(place, list) else ():
            if rest:
                _strip(item, rest)
    elif isinstance(place, dict):
        if part in place and not rest:
            del place[part]
            return
        if part in place and rest:
            _strip(place[part], rest)
            if place[part] == {}:
                del place[part]
        elif rest:  # the name of a union member, which is not in the document
            _strip(place, rest)
