"""`proxyctl claude`: Claude Code on this machine."""

import os
import stat
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from proxyctl.claude_settings import LARGEST, Invalid, merge, variables
from proxyctl.command import new_group, register
from proxyctl.context import Cli
from proxyctl.errors import CliError, UsageError
from proxyctl.output import column

group = new_group("Claude Code on this machine.")


@group.callback()
def claude() -> None:
    """Claude Code on this machine."""


@register(group, "setup")
def setup(
    cli: Cli,
    key_file: Annotated[
        str | None, typer.Option("--key-file", help="Read the access key from a file, or - for stdin.")
    ] = None,
    from_env: Annotated[
        str | None, typer.Option("--from-env", help="Take the access key from this environment variable.")
    ] = None,
    settings: Annotated[
        Path, typer.Option("--settings", help="The settings file. [default: ~/.claude/settings.json]")
    ] = Path("~/.claude/settings.json"),
    own_login: Annotated[
        bool,
        typer.Option("--own-login/--gateway-login", help="Who pays for the plan: your login, or the gateway's."),
    ] = False,
) -> None:
    """Send Claude Code to the gateway: merge its address and your access key into its settings.

    All other settings stay. The file as it was is kept beside it. No admin token is needed.

    Example: proxyctl claude setup --server https://proxy.example --key-file key.txt
    """
    from daemon.core.identity import mask

    server = _server(cli)
    key = _access_key(cli, key_file, from_env)
    target = Path(os.path.realpath(settings.expanduser()))  # a link stays, what it points to is written
    before = _text(target)
    merged = merge(before or "", variables(key, server, own_login=own_login))
    if isinstance(merged, Invalid):
        raise CliError(f"{target}: {merged}; the file was left as it is", hint="mend it, then run this again")
    result = "unchanged" if not merged.changed else "created" if before is None else "updated"
    if cli.dry_run:
        shown = variables(mask(key), server, own_login=own_login)
        for name in merged.changed:
            cli.tell(f"would remove env.{name}" if shown[name] is None else f"would set env.{name} to {shown[name]}")
    elif merged.changed:
        _write(target, merged.text, before)
    if cli.printer.form or cli.options.query:
        document = {"result": result, "path": str(target), "changed": merged.changed, "dry_run": cli.dry_run}
        cli.printer.item(document, [column("result"), column("path")], name="path")
    cli.tell(f"{target} {'would be ' if cli.dry_run and merged.changed else ''}{result}.")


def _server(cli: Cli) -> str:
    from proxyctl.client import checked_server

    allowed = bool(cli.options.allow_http or os.environ.get("PROXY_ALLOW_HTTP"))
    server = checked_server(cli.server, allow_http=allowed)
    if server.endswith("/v1"):
        raise UsageError("--server ends with /v1, which Claude Code adds itself", hint=server.removesuffix("/v1"))
    if "/ak/" in server:
        raise UsageError("--server holds an access key", hint="give the address alone, and the key with --key-file")
    return server


def _access_key(cli: Cli, key_file: str | None, from_env: str | None) -> str:
    from daemon.core.identity import looks_like_access_key
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
    if not looks_like_access_key(key.strip()):
        raise UsageError("that is no access key: expected ak_ and 49 letters and digits, copied whole")
    return key.strip()


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


def _write(path: Path, text: str, before: str | None) -> None:
    """Replace the file at once, whole, with the mode it had; first keep what it held."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = 0o600 if before is None else stat.S_IMODE(path.stat().st_mode)
        if before is not None:
            _replace(path.with_name(f"{path.name}.backup"), before, mode)
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
