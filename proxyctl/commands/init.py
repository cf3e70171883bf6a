"""`proxyctl init`: a starter .env with real secrets."""

import os
from pathlib import Path
from typing import Annotated

import typer

from proxyctl.command import register
from proxyctl.context import Cli
from proxyctl.errors import UsageError

TEMPLATE = """\
# Settings of the proxyctl daemon. Keep this file secret: whoever has it can sign in and read stored credentials.
# Use it with: proxyctl serve --env-file {path}
PROXY_KEY_HASHER_SECRET={hasher}
PROXY_JWT_SECRET={jwt}
PROXY_LOCAL_ENCRYPTION_KEY={encryption}
PROXY_ADMIN_USERNAME=admin
# In single quotes: Docker Compose would take the dollar signs for variables.
PROXY_ADMIN_PASSWORD_HASH='{password_hash}'
# PROXY_DATABASE_URL=postgresql+asyncpg://user:password@host/proxyctl
# PROXY_PLAN_API_KEY=your Anthropic API key, for clients that bring no login of their own
"""


def register_commands(app: typer.Typer) -> None:
    @register(app, "init", can_rehearse=False)
    def init(
        cli: Cli,
        path: Annotated[Path, typer.Argument(help="The file to write.")] = Path(".env"),
        force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    ) -> None:
        """Write a starter .env with generated secrets. The admin's password is hashed, and printed once."""
        import secrets

        from daemon.security.passwords import hash_password

        if path.exists() and not force:
            raise UsageError(
                f"{path} exists, nothing was written", hint="--force replaces it, its secrets are lost then"
            )
        password = secrets.token_urlsafe(15)
        text = TEMPLATE.format(
            path=path,
            hasher=secrets.token_urlsafe(48),
            jwt=secrets.token_urlsafe(48),
            encryption=secrets.token_hex(32),
            password_hash=hash_password(password),
        )
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        cli.tell(f"Wrote {path} (mode 0600). The password of admin, shown once:")
        typer.echo(password)
