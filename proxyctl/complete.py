"""What a shell offers after TAB. Names come from the daemon: a second at most, kept for a minute, silent on failure."""

import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from proxyctl.client import AdminClient

FORMATS = ("table", "json", "yaml", "csv", "name")
_SECONDS = 1.0
_KEPT_SECONDS = 60.0
_MOST = 500


def formats(incomplete: str) -> list[str]:
    return _beginning(FORMATS, incomplete)


def profiles(incomplete: str) -> list[str]:
    return _beginning(_silently(lambda: list(_read_profiles())), incomplete)


def users(ctx: typer.Context, incomplete: str) -> list[str]:
    return _offered(ctx, incomplete, "users", lambda c: [user["name"] for user in _first(c, "/admin/users")])


def keys(ctx: typer.Context, incomplete: str) -> list[str]:
    """Keys as USER/NAME, and by their prefixes."""

    def ask(client: "AdminClient") -> list[str]:
        found = _first(client, "/admin/access-keys")
        return [f"{key['user_name']}/{key['name']}" for key in found] + [
            key["key_prefix"].removesuffix("…") for key in found
        ]

    return _offered(ctx, incomplete, "keys", ask)


def tokens(ctx: typer.Context, incomplete: str) -> list[str]:
    return _offered(ctx, incomplete, "tokens", lambda c: [token["name"] for token in _first(c, "/admin/tokens")])


def models(ctx: typer.Context, incomplete: str) -> list[str]:
    return _offered(
        ctx, incomplete, "models", lambda c: sorted({row["claude_model"] for row in _first(c, "/admin/model-mappings")})
    )


def _first(client: "AdminClient", path: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = client.get(path, limit=_MOST)["items"]
    return items


def _read_profiles() -> Iterable[str]:
    from proxyctl.profiles import read

    return read().profiles


def _offered(ctx: typer.Context, incomplete: str, noun: str, ask: "Callable[[AdminClient], list[str]]") -> list[str]:
    def names() -> list[str]:
        cli = _cli(ctx)
        path = _kept_at(noun, cli.account)
        kept = _kept(path)
        if kept is not None:
            return kept
        found = ask(cli.client)
        from proxyctl.profiles import write_private

        write_private(path, json.dumps(found))
        return found

    return _beginning(_silently(names), incomplete)


def _cli(ctx: typer.Context) -> Any:
    """The run as far as it is typed: the global options before and after the sub-command count."""
    from proxyctl.context import Cli, Options

    given: dict[str, Any] = {}
    for params in (ctx.find_root().params, ctx.params):
        given |= {name: params[name] for name in Options.__slots__ if params.get(name) is not None}
    return Cli(
        Options(**given | {"timeout": _SECONDS, "no_input": True, "dry_run": None, "verbose": None, "debug": None})
    )


def _kept_at(noun: str, account: str) -> Path:
    import hashlib

    import platformdirs

    name = hashlib.sha256(account.encode()).hexdigest()[:16]
    return Path(platformdirs.user_cache_dir("proxyctl", appauthor=False)) / f"{noun}-{name}.json"


def _kept(path: Path) -> list[str] | None:
    if not path.exists() or time.time() - path.stat().st_mtime > _KEPT_SECONDS:
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return [str(name) for name in found] if isinstance(found, list) else None


def _silently(ask: Callable[[], list[str]]) -> list[str]:
    """A shell that completes is no place for errors; PROXY_DEBUG shows them."""
    try:
        return ask()
    except Exception:  # a completion that fails offers nothing
        if os.environ.get("PROXY_DEBUG"):
            raise
        return []


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
