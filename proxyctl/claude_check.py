"""What Claude Code on this machine would do: which address, which credential, and what is in the gateway's way.

Precedence is that of Claude Code 2.1, as observed: the `env` of a settings file goes over the shell's variables; of the
files, managed settings go over the project's local ones, those over the project's, those over the user's. A token goes
out as `Authorization`, an API key as `x-api-key`, a helper's key as both unless one of them is there.
"""

import os
import shutil
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.core.identity import looks_like_access_key, mask
from proxyctl.claude_settings import Invalid, parse
from proxyctl.context import Cli
from proxyctl.credentials import access_key_account, find_stored
from proxyctl.errors import CliError
from proxyctl.findings import Finding

_MANAGED = {"darwin": "/Library/Application Support/ClaudeCode/managed-settings.json"}
_OTHER_WAYS = ("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY")
_SECRETS = ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY", "ANTHROPIC_CUSTOM_HEADERS")
_SETUP = "proxyctl claude setup --server URL --key-file FILE"


@dataclass(frozen=True, slots=True)
class Machine:
    """What is in force for Claude Code here. `sources` says of each variable where it comes from."""

    variables: Mapping[str, str]
    sources: Mapping[str, str]
    helper: str | None
    files: tuple[Finding, ...] = field(default=())

    def origin(self, name: str) -> str:
        return f"{name} (from {self.sources.get(name, 'nowhere')})"

    @property
    def base(self) -> str:
        return self.variables.get("ANTHROPIC_BASE_URL", "").rstrip("/")

    @property
    def access_key(self) -> str | None:
        """The access key that would reach the gateway, in the order in which it looks."""
        _, _, in_path = self.base.partition("/ak/")
        headers = dict(
            line.split(":", 1)
            for line in self.variables.get("ANTHROPIC_CUSTOM_HEADERS", "").splitlines()
            if line.count(":")
        )
        named = next((value.strip() for name, value in headers.items() if name.strip().lower() == "x-proxy-key"), None)
        candidates = (in_path, named, *(self.variables.get(name) for name in reversed(_SECRETS[:2])))
        return next((found for found in candidates if found and found.startswith("ak_")), None)


def machine(environment: Mapping[str, str], home: Path, project: Path) -> Machine:
    """Read the settings files that Claude Code would read when it is started in `project`."""
    own = Path(environment.get("CLAUDE_CONFIG_DIR") or home / ".claude")
    places = [
        own / "settings.json",
        project / ".claude" / "settings.json",
        project / ".claude" / "settings.local.json",
        Path(_MANAGED.get(sys.platform, "/etc/claude-code/managed-settings.json")),
    ]
    variables, sources = dict(environment), dict.fromkeys(environment, "the shell")
    helper: str | None = None
    files = []
    for path in dict.fromkeys(places):
        settings = _read(path)
        if isinstance(settings, Finding):
            files.append(settings)
            continue
        if settings is None:
            continue
        env = settings.get("env", {})
        given = {name: str(value) for name, value in env.items()} if isinstance(env, dict) else {}
        variables |= given
        sources |= dict.fromkeys(given, str(path))
        helper = settings.get("apiKeyHelper", helper)
        files.append(_mode(path, given))
    return Machine(variables, sources, helper, tuple(files))


def judge(here: Machine) -> list[Finding]:
    """What can be seen without a call."""
    return [*here.files, _provider(here), _address(here), _credential(here)]


def examine(cli: Cli) -> list[Finding]:
    """All that can be found: the files, what is in force, and whether the gateway agrees."""
    here = machine(os.environ, Path.home(), Path.cwd())
    findings = [_program(), *judge(here)]
    address = next(finding for finding in findings if finding.name == "address")
    if address.status == "failed":
        return [*findings, Finding("gateway", "skipped", "needs the address")]
    return [*findings, _gateway(cli, here)]


def _program() -> Finding:
    found = shutil.which("claude")
    if found is None:
        return Finding("claude", "warning", "no claude on the PATH", "npm install -g @anthropic-ai/claude-code")
    return Finding("claude", "ok", found)


def _gateway(cli: Cli, here: Machine) -> Finding:
    """Ask for the key's usage: that needs a key which is known, and goes no further than the gateway."""
    base, key = here.base.partition("/ak/")[0], here.access_key
    try:
        if key is None:  # a helper has it: ours can be looked up, another one is not run from here
            stored = find_stored(access_key_account(base))
            key = stored.secret if stored else None
        client = cli.new_client(key, server=base)
        answer = client.raw("GET", "/api/oauth/usage" if key else "/healthz", None)
    except CliError as error:
        return Finding("gateway", "failed", error.message, error.hint)
    if answer.status_code == 200:
        return Finding("gateway", "ok", f"{base} {'knows the key' if key else 'answers'}")
    if answer.status_code == 401 and key:
        fix = "ask who gave you the key; it may be revoked, expired or of another gateway"
        return Finding("gateway", "failed", f"{base} does not know {mask(key)}", fix)
    return Finding("gateway", "failed", f"{base} answers {answer.status_code}", "is it the gateway?  proxyctl doctor")


def _read(path: Path) -> dict[str, Any] | Finding | None:
    try:
        settings = parse(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeError) as error:
        return Finding("settings", "failed", f"{path} cannot be read: {error}", f"mend {path}")
    if isinstance(settings, Invalid):
        return Finding("settings", "failed", f"{path}: {settings}; Claude Code ignores all of it", f"mend {path}")
    return settings


def _mode(path: Path, env: Mapping[str, str]) -> Finding:
    wide = stat.S_IMODE(path.stat().st_mode) & 0o077
    if wide and (any(env.get(name) for name in _SECRETS) or "/ak/" in env.get("ANTHROPIC_BASE_URL", "")):
        return Finding("settings", "warning", f"{path} holds a key and can be read by others", f"chmod 600 {path}")
    return Finding("settings", "ok", str(path))


def _provider(here: Machine) -> Finding:
    on = [name for name in _OTHER_WAYS if here.variables.get(name, "0").lower() not in ("", "0", "false")]
    if on:
        told = ", ".join(here.origin(name) for name in on)
        return Finding("provider", "failed", f"Claude Code goes past the gateway: {told}", f"unset {' '.join(on)}")
    return Finding("provider", "ok", "the Anthropic API, which the gateway is")


def _address(here: Machine) -> Finding:
    if not here.base:
        return Finding(
            "address", "failed", "ANTHROPIC_BASE_URL is not set: Claude Code does not ask the gateway", _SETUP
        )
    shown = here.base.partition("/ak/")[0]
    where = f"{shown}, {here.origin('ANTHROPIC_BASE_URL')}"
    if not shown.startswith(("http://", "https://")):
        return Finding("address", "failed", f"{where}: expected http:// or https://", _SETUP)
    if here.base.endswith("/v1"):
        return Finding("address", "failed", f"{where} ends in /v1", "take /v1 away: Claude Code adds it")
    shell = os.environ.get("ANTHROPIC_BASE_URL", "").rstrip("/")
    if shell and shell != here.base:
        fix = "unset ANTHROPIC_BASE_URL      or run proxyctl claude setup again"
        return Finding("address", "warning", f"{where}; the shell has another one, which is not used", fix)
    return Finding("address", "ok", where)


def _credential(here: Machine) -> Finding:
    token, api_key = here.variables.get("ANTHROPIC_AUTH_TOKEN"), here.variables.get("ANTHROPIC_API_KEY")
    key, by_url = here.access_key, "/ak/" in here.base
    if key is None and here.helper:
        if token:
            fix = "remove it, or the apiKeyHelper"
            return Finding("credential", "failed", f"{here.origin('ANTHROPIC_AUTH_TOKEN')} hides apiKeyHelper", fix)
        return Finding("credential", "ok", f"apiKeyHelper: {here.helper}")
    if key is None:
        return Finding("credential", "failed", "no access key would be sent", _SETUP)
    if not looks_like_access_key(key):
        detail = f"{mask(key)} is no whole access key: expected ak_ and 49 letters and digits"
        return Finding("credential", "failed", detail, "copy it again, or: proxyctl keys rotate …")
    if by_url and token and token.startswith("ak_"):
        fix = "remove ANTHROPIC_AUTH_TOKEN: it takes the place of your own Claude login"
        return Finding("credential", "warning", "an access key in the address, and one as the token", fix)
    if by_url and here.helper:
        fix = "remove apiKeyHelper: its key takes the place of your own Claude login"
        return Finding("credential", "warning", "an access key in the address, and an apiKeyHelper", fix)
    if api_key and not api_key.startswith("ak_"):
        fix = "unset ANTHROPIC_API_KEY      unless it shall pay for the plan"
        return Finding("credential", "warning", f"{here.origin('ANTHROPIC_API_KEY')} goes out beside {mask(key)}", fix)
    how = "in the address, your own Claude login beside it" if by_url else "as the credential"
    return Finding("credential", "ok", f"{mask(key)} {how}")
