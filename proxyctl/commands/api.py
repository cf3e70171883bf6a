"""`proxyctl api`: any call of the admin API, and `proxyctl version`."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from proxyctl.command import register
from proxyctl.context import Cli
from proxyctl.errors import CliError, UsageError

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def register_commands(app: typer.Typer) -> None:
    @register(app, "api")
    def api(
        cli: Cli,
        method: Annotated[str, typer.Argument(help=", ".join(METHODS) + ".", autocompletion=lambda: list(METHODS))],
        path: Annotated[str, typer.Argument(help="Such as /admin/users?limit=5.")],
        data: Annotated[str | None, typer.Option("--data", "-d", help="A JSON body, @FILE, or @- for stdin.")] = None,
        include: Annotated[bool, typer.Option("--include", "-i", help="Print status and headers too.")] = False,
        curl: Annotated[
            bool, typer.Option("--curl", help="Print the same call for curl, without the token; make none.")
        ] = False,
    ) -> None:
        """Call the admin API with your sign-in. The answer goes to standard output as it is.

        Example: proxyctl api GET '/admin/users?limit=5'

        Example: proxyctl api POST /admin/users -d '{"name": "alice"}' --curl
        """
        wanted = method.upper()
        if wanted not in METHODS:
            raise UsageError(f"method {method!r}: expected {', '.join(METHODS)}")
        if not path.startswith("/") or path.startswith("//"):
            raise UsageError(f"path {path!r}: expected /admin/…", hint="proxyctl daemon openapi  lists all paths")
        body = _body(data)
        if curl:
            typer.echo(_curl(cli.server, wanted, path, body))
            return
        if cli.dry_run and wanted != "GET":
            typer.echo(f"{wanted} {path} {_shown(body)}".rstrip())
            return
        answer = cli.client.raw(wanted, path, body)
        if include:
            sys.stdout.write(f"HTTP {answer.status_code} {answer.reason_phrase}\n")
            sys.stdout.writelines(f"{name}: {value}\n" for name, value in answer.headers.items())
            sys.stdout.write("\n")
        sys.stdout.write(answer.text.rstrip("\n") + "\n" if answer.text else "")
        if answer.status_code >= 300:
            from proxyctl.client import BY_STATUS

            raise BY_STATUS.get(answer.status_code, CliError)(
                f"HTTP {answer.status_code}", request_id=answer.headers.get("request-id")
            )


def _shown(body: bytes | None) -> str:
    from proxyctl.client import without_secrets

    return "" if body is None else json.dumps(without_secrets(json.loads(body)), ensure_ascii=False)


def _body(data: str | None) -> bytes | None:
    if data is None:
        return None
    try:
        if data == "@-":
            body = sys.stdin.buffer.read()
        else:
            body = Path(data[1:]).read_bytes() if data.startswith("@") else data.encode()
        json.loads(body)
    except OSError as error:
        raise UsageError(f"--data {data}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"--data is not JSON: {error}") from error
    return body


def _curl(server: str, method: str, path: str, body: bytes | None) -> str:
    """The token comes from the environment: in a command line every user of the machine could read it."""
    parts = ["curl", "--request", method, server.rstrip("/") + path]
    line = " ".join(shlex.quote(part) for part in parts) + ' --header "authorization: Bearer $PROXY_ADMIN_TOKEN"'
    if body is not None:
        line += f" --header 'content-type: application/json' --data {shlex.quote(_shown(body))}"
    return line
