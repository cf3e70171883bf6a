"""What Claude Code on this machine would do: which address, which credential, and what is in the gateway's way.

Precedence is that of Claude Code 2.1, as observed: the `env` of a settings file goes over the shell's variables; of the
files, managed settings go over the project's local ones, those over the project's, those over the user's. A token goes
out as `Authorization`, an API key as `x-api-key`, a helper's key as both unless one of them is there.
"""

import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from daemon.core.identity import Conflict, KeyFound, NoKey, find_access_key, looks_like_access_key, mask
from proxyctl.claude_settings import Invalid, kept_for, parse, user_settings
from proxyctl.client import AdminClient, is_local
from proxyctl.context import Cli
from proxyctl.credentials import access_key_account, find_stored
from proxyctl.errors import CliError
from proxyctl.findings import Finding
from proxyctl.output import without_keys

_MANAGED = Path(
    "/Library/Application Support/ClaudeCode/managed-settings.json"
    if sys.platform == "darwin"
    else "/etc/claude-code/managed-settings.json"
)
_OTHER_WAYS = ("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY")
_TOKEN, _API_KEY, _HEADERS = "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY", "ANTHROPIC_CUSTOM_HEADERS"
_BASE_URL = "ANTHROPIC_BASE_URL"
_TELL = "tell who runs the gateway: proxyctl doctor there says more"
_SETUP = "proxyctl claude setup --server URL --key-file FILE"


@dataclass(frozen=True, slots=True)
class Machine:
    """What is in force for Claude Code here. `sources` says of each variable which file it comes from, if any."""

    shell: Mapping[str, str]
    variables: Mapping[str, str]
    sources: Mapping[str, Path]
    helper: object
    files: tuple[Finding, ...]

    def origin(self, name: str) -> str:
        return f"{name} (from {self.sources.get(name, 'the shell')})"

    def without(self, *names: str) -> str:
        """How to take variables away, where they are."""
        inherited = [name for name in names if name not in self.sources]
        steps = [f"unset {' '.join(inherited)}"] if inherited else []
        steps += [f"remove env.{name} from {self.sources[name]}" for name in names if name in self.sources]
        return "      ".join(steps)

    @property
    def base(self) -> str:
        return self.variables.get(_BASE_URL, "").strip().rstrip("/")

    @property
    def server(self) -> str:
        """The gateway's address: no key, no name or password."""
        bare = self.base.partition("/ak/")[0]
        scheme, _, rest = bare.rpartition("://")
        return f"{scheme}://{rest.rpartition('@')[2]}" if scheme else ""

    def access_key(self) -> KeyFound | NoKey | Conflict:
        """The access key that would reach the gateway, as the gateway looks for it."""
        lines = self.variables.get(_HEADERS, "").splitlines()
        named = [line.split(":", 1) for line in lines if ":" in line]
        named += [["x-api-key", self.variables[_API_KEY]]] if self.variables.get(_API_KEY) else []
        named += [["authorization", f"Bearer {self.variables[_TOKEN]}"]] if self.variables.get(_TOKEN) else []
        headers = [(name.strip().lower().encode(), value.strip().encode()) for name, value in named]
        in_path = self.base.partition("/ak/")[2].partition("/")[0]
        return find_access_key(in_path or None, headers)


def machine(environment: Mapping[str, str], home: Path, project: Path) -> Machine:
    """Read the settings files that Claude Code would read when it is started in `project`."""
    folder = project / ".claude"
    places = (user_settings(environment, home), folder / "settings.json", folder / "settings.local.json", _MANAGED)
    variables: dict[str, str] = dict(environment)
    sources: dict[str, Path] = {}
    helper: object = None
    files = []
    for path in dict.fromkeys(places):
        settings = _read(path)
        if isinstance(settings, Finding):
            files.append(settings)
        elif settings is not None:
            env = {name: str(value) for name, value in (settings.get("env") or {}).items()}
            variables |= env
            sources |= dict.fromkeys(env, path)
            helper = settings.get("apiKeyHelper", helper)
            files.append(_mode(path, env))
    return Machine(environment, variables, sources, helper, tuple(files))


def judge(here: Machine) -> list[Finding]:
    """What can be seen without a call."""
    return [*here.files, _provider(here), _address(here), _credential(here)]


def examine(cli: Cli, here: Machine) -> list[Finding]:
    """All that can be found: the program, what is in force, and whether the gateway agrees."""
    judged = judge(here)
    failed = {finding.name for finding in judged if finding.status == "failed"}
    needed = next((name for name in ("address", "credential") if name in failed), None)
    if needed:
        return [_program(), *judged, Finding("gateway", "skipped", f"needs the {needed}")]
    return [_program(), *judged, *_gateway(cli, here)]


def _program() -> Finding:
    found = shutil.which("claude")
    if found is None:
        return Finding("claude", "warning", "no claude on the PATH", "npm install -g @anthropic-ai/claude-code")
    return Finding("claude", "ok", found)


def _gateway(cli: Cli, here: Machine) -> Iterator[Finding]:
    """Ask for the key's usage, which goes no further than the gateway, and for the models, which does."""
    found, server = here.access_key(), here.server
    key = found.raw if isinstance(found, KeyFound) else None
    if key is None and kept_for(here.helper) == server:
        stored = find_stored(access_key_account(server))
        if stored is None:
            fix = f"proxyctl claude setup --api-key-helper --server {server}"
            yield Finding("gateway", "failed", f"no access key is kept for {server}", fix)
            return
        key = stored.secret
    try:
        client = cli.new_client(key, server=server, allow_http=True)
        known = client.raw("GET", "/api/oauth/usage" if key else "/healthz", None)
        yield _known(server, key, known.status_code)
        if known.status_code == 200 and key is not None:
            yield _served(here, client)
    except CliError as error:
        fix = "is the address right, and this machine on the company's network?  who gave you the key knows"
        yield Finding("gateway", "failed", error.message, fix)


def _known(server: str, key: str | None, status: int) -> Finding:
    if status == 200 and key is None:
        return Finding("gateway", "ok", f"{server} answers; the key of another program's helper was not tried")
    if status == 200:
        return Finding("gateway", "ok", f"{server} knows the key")
    if status == 401 and key is not None:
        fix = "ask who gave you the key: it may be revoked, expired or of another gateway"
        return Finding("gateway", "failed", f"{server} does not know {mask(key)}", fix)
    fix = "is the address that of the gateway?  who gave you the key knows"
    return Finding("gateway", "failed", f"{server} answers {status}", fix)


def _served(here: Machine, client: AdminClient) -> Finding:
    """Whether somebody serves the key: the list of models costs nothing, and needs what a request needs."""
    if "/ak/" in here.base:
        return Finding("service", "skipped", "not tried: it needs your own Claude login")
    answer = client.raw("GET", "/v1/models", None)
    if answer.status_code == 200:
        return Finding("service", "ok", "models are listed for this key")
    try:
        reason = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        reason = f"HTTP {answer.status_code}"
    # A provider may be back in a minute, or Amazon Bedrock serve meanwhile; a credential does not come by itself.
    passing = answer.status_code >= 500 and "no credential" not in reason
    return Finding(
        "service", "warning" if passing else "failed", f"models are not listed: {without_keys(reason)}", _TELL
    )


def _read(path: Path) -> dict[str, Any] | Finding | None:
    try:
        settings = parse(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeError) as error:
        return Finding("settings", "failed", f"{path} cannot be read: {error}", "Claude Code cannot read it either")
    if isinstance(settings, Invalid):
        return Finding("settings", "failed", f"{path}: {settings}; Claude Code ignores all of it", f"correct {path}")
    if not isinstance(settings.get("env"), dict | None):
        return Finding("settings", "failed", f"{path}: env: expected an object", f"correct {path}")
    return settings


def _mode(path: Path, env: Mapping[str, str]) -> Finding:
    wide = stat.S_IMODE(path.stat().st_mode) & 0o077 and path != _MANAGED
    if wide and (any(env.get(name) for name in (_TOKEN, _API_KEY, _HEADERS)) or "/ak/" in env.get(_BASE_URL, "")):
        return Finding("settings", "warning", f"{path} holds a key and can be read by others", f"chmod 600 {path}")
    return Finding("settings", "ok", str(path))


def _provider(here: Machine) -> Finding:
    on = [name for name in _OTHER_WAYS if here.variables.get(name, "0").lower() not in ("", "0", "false")]
    if on:
        told = ", ".join(here.origin(name) for name in on)
        return Finding("provider", "failed", f"Claude Code goes past the gateway: {told}", here.without(*on))
    return Finding("provider", "ok", "the Anthropic API, which the gateway is")


def _address(here: Machine) -> Finding:
    if not here.base:
        return Finding("address", "failed", f"{_BASE_URL} is not set: the gateway is not asked", _SETUP)
    try:
        parts = urlsplit(here.base)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host or " " in here.base or parts.scheme not in ("http", "https"):
        return Finding("address", "failed", f"{here.origin(_BASE_URL)} is not http(s)://host[:port]", _SETUP)
    where = f"{here.server}, {here.origin(_BASE_URL)}"
    if parts.username or parts.password:
        return Finding(
            "address", "failed", f"{where} holds a name or a password, which the gateway does not take", _SETUP
        )
    if here.base.endswith("/v1"):
        return Finding("address", "failed", f"{where} ends in /v1", "take /v1 away: Claude Code adds it")
    if parts.scheme == "http" and not is_local(host):
        return Finding("address", "warning", f"{where}: plain HTTP shows the key to the network", "https://…")
    if here.shell.get(_BASE_URL, "").strip().rstrip("/") not in ("", here.base):
        return Finding("address", "warning", f"{where}; that of the shell is not used", f"unset {_BASE_URL}")
    return Finding("address", "ok", where)


def _credential(here: Machine) -> Finding:
    token, found = here.variables.get(_TOKEN, ""), here.access_key()
    if isinstance(found, Conflict):
        fix = "keep one of: the key in the address, in x-proxy-key, as the token, as the API key"
        return Finding("credential", "failed", "two different access keys would be sent; the gateway refuses that", fix)
    if isinstance(found, NoKey):
        return _without_key(here)
    key, by_url = found.raw, "/ak/" in here.base
    if not looks_like_access_key(key) or token != token.strip():
        detail = f"{mask(key)} is no whole access key: a letter is wrong or missing, or there is something around it"
        return Finding("credential", "failed", detail, "copy it again, or ask for a new one")
    if by_url and token.startswith("ak_"):
        detail = "an access key in the address, and as the token, where it takes the place of your Claude login"
        return Finding("credential", "warning", detail, here.without(_TOKEN))
    if by_url and here.helper is not None:
        detail = "an apiKeyHelper beside the key in the address takes the place of your Claude login"
        return Finding("credential", "warning", detail, "remove apiKeyHelper from the settings")
    if here.variables.get(_API_KEY) and not here.variables[_API_KEY].startswith("ak_"):
        detail = f"{here.origin(_API_KEY)} goes out beside {mask(key)}, and is what the plan is asked with"
        return Finding("credential", "warning", detail, here.without(_API_KEY))
    how = "in the address, beside your own Claude login (claude /login)" if by_url else "as the credential"
    return Finding("credential", "ok", f"{mask(key)} {how}")


def _without_key(here: Machine) -> Finding:
    if here.helper is None:
        return Finding("credential", "failed", "no access key would be sent", _SETUP)
    if not isinstance(here.helper, str):
        return Finding("credential", "failed", "apiKeyHelper: expected a command", _SETUP)
    if here.variables.get(_TOKEN):
        return Finding("credential", "failed", f"{here.origin(_TOKEN)} hides apiKeyHelper", here.without(_TOKEN))
    return Finding("credential", "ok", f"apiKeyHelper: {without_keys(here.helper)}")
