"""Claude Code's settings file as text: merging our keys into it, and nothing else. No file is touched here."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HELPER = "claude key"
LARGEST = 4 << 20  # characters; what Claude Code itself writes stays below a few kilobytes


@dataclass(frozen=True, slots=True)
class Merged:
    """The file's new text, the names of the keys that differ from before, and the helper of before."""

    text: str
    changed: tuple[str, ...]
    helper: object = None


@dataclass(frozen=True, slots=True)
class Invalid:
    """Why the text is left alone; `line` and `column` count from 1."""

    reason: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.reason}"


def variables(key: str | None, server: str, *, own_login: bool) -> dict[str, str | None]:
    """The variables that send Claude Code to the gateway; None means that the variable must not be there.

    With `own_login` the Authorization header stays free for the developer's own Claude login, so the key goes into
    the URL; else it is the token. Without a key a helper has it, which a token would hide. A credential that was left
    from before would go out beside the key.
    """
    base = server.rstrip("/")
    if key is None:
        return {"ANTHROPIC_BASE_URL": base, "ANTHROPIC_AUTH_TOKEN": None}
    if own_login:
        return {"ANTHROPIC_BASE_URL": f"{base}/ak/{key}", "ANTHROPIC_AUTH_TOKEN": None}
    return {"ANTHROPIC_BASE_URL": base, "ANTHROPIC_AUTH_TOKEN": key}


def helper_command(program: str, server: str) -> str:
    """The `apiKeyHelper` that prints the access key which this machine keeps for a gateway."""
    return f"{shlex.quote(program)} {_HELPER} --server {shlex.quote(server)}"


def kept_for(helper: object) -> str | None:
    """The gateway whose key a helper of ours prints; None for anybody else's."""
    try:
        words = shlex.split(helper) if isinstance(helper, str) else []
    except ValueError:
        return None
    ours = len(words) == 5 and " ".join(words[1:3]) == _HELPER and words[3] == "--server"
    return words[4] if ours else None


def is_ours(text: str) -> bool:
    """Whether settings point to a gateway already: they hold an access key, or a helper of ours."""
    settings = parse(text)
    if isinstance(settings, Invalid) or not isinstance(env := settings.get("env") or {}, dict):
        return False
    has_key = str(env.get("ANTHROPIC_AUTH_TOKEN")).startswith("ak_") or "/ak/" in str(env.get("ANTHROPIC_BASE_URL"))
    return has_key or kept_for(settings.get("apiKeyHelper")) is not None


def user_settings(environment: Mapping[str, str], home: Path) -> Path:
    """The user's settings file, where Claude Code looks for it."""
    return Path(environment.get("CLAUDE_CONFIG_DIR") or home / ".claude") / "settings.json"


def merge(text: str, wanted: Mapping[str, str | None], helper: str | None = None) -> Merged | Invalid:
    """The settings with `wanted` in their `env`; other keys keep their values and their order.

    `helper` becomes the `apiKeyHelper`; without one, ours from before goes and another one stays. A text that would not
    change is given back as it is, to the byte.
    """
    settings = parse(text)
    if isinstance(settings, Invalid):
        return settings
    env = {} if settings.get("env") is None else settings["env"]
    if not isinstance(env, dict):
        return Invalid("env: expected an object", *_place(text, max(0, text.find('"env"'))))
    changed = tuple(f"env.{name}" for name, value in wanted.items() if env.get(name) != value)
    before = settings.get("apiKeyHelper")
    if before != helper and (helper is not None or kept_for(before) is not None):
        changed += ("apiKeyHelper",)
        settings.pop("apiKeyHelper", None)
        settings |= {} if helper is None else {"apiKeyHelper": helper}
    if not changed:
        return Merged(text, (), before)
    merged = {name: value for name, value in env.items() if wanted.get(name, "") is not None}
    merged |= {name: value for name, value in wanted.items() if value is not None}
    settings["env"] = merged
    return Merged(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", changed, before)


def parse(text: str) -> dict[str, Any] | Invalid:
    """The settings of a file; an empty one has none.

    JSON with comments is refused: they would be lost, and they are somebody's.
    """
    if len(text) > LARGEST:
        return Invalid(f"more than {LARGEST} characters", 1, 1)
    bare = text.removeprefix("\ufeff")
    if not bare.strip():
        return {}
    try:
        settings = json.loads(bare, object_pairs_hook=_once, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        start = bare[error.pos : error.pos + 2]
        comment = start in ("//", "/*")
        return Invalid("a comment, which JSON does not have" if comment else error.msg, error.lineno, error.colno)
    except RecursionError:
        return Invalid("nested too deeply", 1, 1)
    except ValueError as error:
        return Invalid(str(error), 1, 1)
    if not isinstance(settings, dict):
        return Invalid("expected an object", 1, 1)
    return settings


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different: of a doubled one, a value would be lost."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _place(text: str, position: int) -> tuple[int, int]:
    return text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
