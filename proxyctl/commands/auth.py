"""`proxyctl auth`: signing in and out."""

import sys
from typing import Annotated

import typer

from proxyctl.command import new_group, register
from proxyctl.context import Cli
from proxyctl.errors import AuthError, UsageError
from proxyctl.output import column

group = new_group("Sign in to a daemon, see who you are.")


@register(group, "login", can_rehearse=False)
def login(
    cli: Cli,
    username: Annotated[str, typer.Option("--username", help="Admin's name.")] = "admin",
    password_file: Annotated[
        str | None, typer.Option("--password-file", help="Read the password from a file, or -.")
    ] = None,
    print_token: Annotated[bool, typer.Option("--print-token", help="Print the token instead of storing it.")] = False,
    insecure_storage: Annotated[
        bool, typer.Option("--insecure-storage", help="Store it in a file of mode 0600, not in the keyring.")
    ] = False,
) -> None:
    """Sign in for 30 minutes and keep the token in the system's keyring.

    A CI job has neither terminal nor keyring: give it a service token in PROXY_ADMIN_TOKEN (proxyctl tokens create).

    Example: proxyctl auth login --username admin
    """
    from proxyctl.credentials import check_keyring, read_secret_file, store_token

    if not password_file and not cli.interactive:
        raise UsageError("no password: nobody can be asked", hint="--password-file PATH, or - for standard input")
    if not print_token and not insecure_storage:
        check_keyring()
    if password_file:
        password = read_secret_file(password_file)
    else:
        import getpass

        password = getpass.getpass(f"Password of {username} at {cli.server}: ")
    session = cli.new_client(None).login(username, password)
    if print_token:
        sys.stdout.write(session["access_token"] + "\n")
        return
    place = store_token(cli.account, session["access_token"], insecure=insecure_storage)
    cli.tell(f"Signed in to {cli.server} as {username} until {session['expires_at']}; the token is in {place}.")


@register(group, "logout", can_rehearse=False)
def logout(cli: Cli) -> None:
    """Forget the token that is kept for this daemon."""
    from proxyctl.credentials import forget_token

    cli.tell(f"Signed out of {cli.server}." if forget_token(cli.account) else "There was nothing to forget.")


@register(group, "status")
def auth_status(cli: Cli) -> None:
    """Which daemon, which identity, and until when. Where the token came from, too."""
    session = cli.client.get("/admin/auth/session")
    assert cli.token is not None
    document = {"server": cli.server, "profile": cli.profile.value, "source": cli.token.source, **session}
    fields = ("server", "profile", "username", "role", "source", "expires_at")
    cli.printer.item(document, [column(field) for field in fields], name="username")


@register(group, "token")
def show_token(
    cli: Cli, reveal: Annotated[bool, typer.Option("--reveal", help="Print it to a terminal too.")] = False
) -> None:
    """Print the current token, for curl. Refuses a terminal unless --reveal."""
    if cli.token is None:
        raise AuthError("not signed in", hint="proxyctl auth login")
    if sys.stdout.isatty() and not reveal:
        raise UsageError("the token would stay on the screen", hint="--reveal, or pipe it")
    sys.stdout.write(cli.token.secret + "\n")
