"""`proxyctl claude`: Claude Code on this machine."""

import os
import re
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from proxyctl.claude_settings import (
    LARGEST,
    Invalid,
    helper_command,
    is_ours,
    kept_for,
    merge,
    user_settings,
    variables,
)
from proxyctl.command import new_group, register
from proxyctl.context import Cli
from proxyctl.errors import AuthError, CliError, ExitCode, UsageError
from proxyctl.findings import print_findings
from proxyctl.output import column

group = new_group("Claude Code on this machine.")


@group.callback()
def claude() -> None:
    """Claude Code on this machine."""


Settings = Annotated[
    Path | None, typer.Option("--settings", help="The settings file. [default: ~/.claude/settings.json]")
]


@register(group, "setup")
def setup(
    cli: Cli,
    key_file: Annotated[
        str | None, typer.Option("--key-file", help="Read the access key from a file, or - for stdin.")
    ] = None,
    from_env: Annotated[
        str | None, typer.Option("--from-env", help="Take the access key from this environment variable.")
    ] = None,
    settings: Settings = None,
    own_login: Annotated[
        bool,
        typer.Option("--own-login/--gateway-login", help="Who pays for the plan: your login, or the gateway's."),
    ] = False,
    api_key_helper: Annotated[
        bool, typer.Option("--api-key-helper", help="Keep the key in the keyring; the settings name `claude key`.")
    ] = False,
    insecure_storage: Annotated[
        bool, typer.Option("--insecure-storage", help="With --api-key-helper: a file of mode 0600, not the keyring.")
    ] = False,
) -> None:
    """Send Claude Code to the gateway. Its address and your access key are merged into its settings.

    All other settings stay. The file as it was before the first time is kept beside it. No admin token is needed.

    Example: proxyctl claude setup --server https://proxy.example --key-file key.txt

    Example: proxyctl claude setup --server https://proxy.example --api-key-helper      (asks for the key)
    """
    from daemon.core.identity import mask

    if api_key_helper and own_login:
        raise UsageError("--api-key-helper and --own-login exclude each other: a helper's key takes the login's place")
    if insecure_storage and not api_key_helper:
        raise UsageError("--insecure-storage goes with --api-key-helper")
    server = _server(cli)
    if cli.setting("server").source == "built in":
        cli.tell(f"No --server: Claude Code will ask {server}.")
    key = _access_key(cli, key_file, from_env)
    file = user_settings(os.environ, Path.home()) if settings is None else settings.expanduser()
    target = Path(os.path.realpath(file))  # a link stays, what it points to is written
    before = _text(target)
    helper = helper_command(_program(), server) if api_key_helper else None
    wanted = variables(None if api_key_helper else key, server, own_login=own_login)
    merged = merge(before or "", wanted, helper)
    if isinstance(merged, Invalid):
        raise CliError(f"{target}: {merged}; the file was left as it is", hint="correct it, then run this again")
    kept = _keep(cli, server, key, insecure=insecure_storage) if api_key_helper else ()
    changed = (*kept, *merged.changed)
    if merged.changed and not cli.dry_run:
        _write(target, merged.text, before, is_secret=not api_key_helper)
        if not api_key_helper:
            _forget(kept_for(merged.helper))
    result = "unchanged" if not changed else "created" if before is None else "updated"
    shown = {f"env.{name}": value for name, value in wanted.items()} | {"apiKeyHelper": helper}
    for name in merged.changed:
        value = shown[name]
        does = f"remove {name}" if value is None else f"set {name} to {value.replace(key, mask(key))}"
        cli.tell(f"would {does}" if cli.dry_run else does)
    if cli.printer.form or cli.options.query:
        document = {"result": result, "path": str(target), "changed": changed, "dry_run": cli.dry_run}
        cli.printer.item(document, [column("result"), column("path")], name="path")
    cli.tell(f"{target} {'would be ' if cli.dry_run and changed else ''}{result}.")
    if changed and not cli.dry_run:
        cli.tell("Whether it works: proxyctl claude check")


@register(group, "check")
def check(cli: Cli) -> None:
    """Say what is wrong with Claude Code's settings here. Exit 1 if anything is.

    Reads the settings files that Claude Code reads, and asks the gateway whether it knows the key. No admin token is
    needed.

    Example: cd my-project && proxyctl claude check
    """
    from proxyctl.claude_check import examine, machine

    findings = examine(cli, machine(os.environ, Path.home(), Path.cwd()))
    print_findings(cli.printer, findings)
    if any(finding.status == "failed" for finding in findings):
        raise typer.Exit(ExitCode.FAILED)


@register(group, "key")
def print_key(cli: Cli) -> None:
    """Print the access key that is kept for a gateway. It is the apiKeyHelper that
    `claude setup --api-key-helper` makes.

    Example: proxyctl claude key --server https://proxy.example
    """
    from proxyctl.credentials import access_key_account, find_stored

    server = _server(cli, allow_http=True)  # nothing is sent
    stored = find_stored(access_key_account(server))
    if stored is None:
        raise AuthError(
            f"no access key is kept for {server}", hint=f"proxyctl claude setup --api-key-helper --server {server}"
        )
    sys.stdout.write(f"{stored.secret}\n")


def _forget(server: str | None) -> None:
    """The key that a helper had which is not there any more."""
    from proxyctl.credentials import access_key_account, forget_token

    if server is not None:
        forget_token(access_key_account(server))


def _keep(cli: Cli, server: str, key: str, *, insecure: bool) -> tuple[str, ...]:
    """Keep the key for our helper; what changed by that."""
    from proxyctl.credentials import access_key_account, find_stored, store_token

    account = access_key_account(server)
    stored = find_stored(account)
    if stored is not None and stored.secret == key and not insecure:
        return ()
    if cli.dry_run:
        cli.tell(f"would keep the access key in {'a file of mode 0600' if insecure else 'the keyring'}")
    else:
        place = store_token(account, key, insecure=insecure, noun="access key", instead="leave --api-key-helper out")
        cli.tell(f"The access key is in {place}.")
    return () if stored is not None and stored.secret == key else ("access key",)


def _program() -> str:
    """How Claude Code, with a PATH of its own, finds this program."""
    beside = Path(sys.executable).with_name("proxyctl")
    return str(beside) if beside.exists() else shutil.which("proxyctl") or "proxyctl"


def _server(cli: Cli, *, allow_http: bool = False) -> str:
    from proxyctl.client import checked_server

    allowed = bool(allow_http or cli.options.allow_http or os.environ.get("PROXY_ALLOW_HTTP"))
    server = checked_server(cli.server, allow_http=allowed)
    if server.endswith("/v1"):
        raise UsageError("--server ends with /v1, which Claude Code adds itself", hint=server.removesuffix("/v1"))
    if "/ak/" in server:
        raise UsageError("--server holds an access key", hint="give the address alone, and the key with --key-file")
    return server


def _access_key(cli: Cli, key_file: str | None, from_env: str | None) -> str:
    from daemon.core.identity import looks_like_access_key, mask
    from proxyctl.credentials import read_secret_file

    if key_file and from_env:
        raise UsageError("--key-file and --from-env exclude each other")
    if key_file:
        key = read_secret_file(key_file)
    elif from_env:
        key = os.environ.get(from_env, "")
    elif cli.interactive:
        import getpass

        key = getpass.getpass("Access key: ")
    else:
        raise UsageError("no access key: nobody can be asked", hint="--key-file PATH, - for stdin, or --from-env NAME")
    key = key.strip()
    if re.fullmatch("ak_[0-9A-Za-z]{49}", key) and not looks_like_access_key(key):
        raise UsageError(f"{mask(key)} is mistyped: its checksum is wrong", hint="copy it again, whole")
    if not looks_like_access_key(key):
        raise UsageError("that is no access key: expected ak_ and 49 letters and digits, copied whole")
    return key


def _text(path: Path) -> str | None:
    """What the file holds, None when there is none. One that may not be written is refused here."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
            raise CliError(f"{path} is no file of settings: too large, or not a file; it was left as it is")
        if not status.st_mode & stat.S_IWUSR:
            raise CliError(f"{path} is read-only; it was left as it is", hint=f"chmod u+w {path}")
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise CliError(f"{path} is not UTF-8 (byte {error.start}); it was left as it is") from error
    except OSError as error:
        raise CliError(f"{path} cannot be read: {error.strerror}") from error


def _write(path: Path, text: str, before: str | None, *, is_secret: bool) -> None:
    """Replace the file at once, whole; first keep what it held, unless that came from us.

    It keeps its mode, but for a file with a key in it, which is for nobody else.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = 0o600 if before is None or is_secret else stat.S_IMODE(path.stat().st_mode)
        if before is not None and not is_ours(before):
            _replace(path.with_name(f"{path.name}.backup"), before, 0o600)
        _replace(path, text, mode)
    except OSError as error:
        raise CliError(f"{path} cannot be written: {error.strerror}; it was left as it is") from error


def _replace(path: Path, text: str, mode: int) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
